//! From the text of a configuration file to a [`Config`], or to all mistakes in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Place, did_you_mean};
use super::overrides::Overrides;
use super::rules::{
    CLOCK_DRIFT_PPM, CONNECTIONS_MAX, DISK_RESERVE_MIB, KEY_BYTES_MAX, LEASE_MS, LOG_RETENTION_MIB, LOG_SEGMENT_MIB,
    Number, RECORDER_MIB, SETTINGS, UPDATE_BYTES_MAX, VALUE_BYTES_MAX, check_address,
};
use super::{Config, Limits, NODES_MAX, NodeConfig, NodeRole, Reads};
use crate::update;

/// An update that sets one key carries this many bytes beside key and value, at most.
const UPDATE_FRAME_BYTES: usize = 64;

const TOP: &[&str] = &[
    "cluster_id",
    "lease_ms",
    "clock_drift_ppm",
    "reads",
    "disk_reserve_mib",
    "log_segment_mib",
    "log_retention_mib",
    "log_compression",
    "recorder",
    "recorder_mib",
    "read_only",
    "limits",
    "node",
];
const LIMITS: &[&str] = &["key_bytes_max", "value_bytes_max", "update_bytes_max", "connections_max"];
const NODE: &[&str] = &["name", "id", "client", "peer", "client_listen", "peer_listen", "role", "preferred", "home"];

/// Reads a configuration. Relative homes start at `base`.
pub(super) fn config(text: &str, base: &Path, overrides: &Overrides) -> Result<Config, Vec<Mistake>> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, overrides, mistakes: overrides.unknown().collect(), whole: syntax.is_empty() };
    let config = reader.config(table.get_ref(), base);
    for error in syntax {
        let place = error.span().map_or(Place::File, |span| reader.line(&span));
        let why = match error.message() {
            "duplicate key" => "this key is there twice: remove one".to_owned(),
            message => format!("this is not TOML: {}", message.replace('\n', ", ")),
        };
        // What else seems wrong with that line follows from it.
        reader.mistakes.retain(|mistake| mistake.place != place);
        reader.mistake(place, why);
    }
    if reader.mistakes.is_empty() { Ok(config) } else { Err(reader.mistakes) }
}

/// Collects mistakes while it reads; where one is made, the reader goes on with some value, which is then thrown away.
struct Reader<'a> {
    text: &'a str,
    overrides: &'a Overrides,
    mistakes: Vec<Mistake>,
    /// Whether all of the text could be parsed: if not, what is missing may be in the rest.
    whole: bool,
}

type Table<'a> = DeTable<'a>;

/// A table that is never there.
const NO_TABLE: Option<&Table<'static>> = None;

impl Reader<'_> {
    fn config(&mut self, top: &Table<'_>, base: &Path) -> Config {
        self.unknown_keys(top, TOP, "the top of the file, before the first `[`");
        let limits = match top.get("limits").map(|limits| (limits, limits.get_ref())) {
            Some((_, DeValue::Table(limits))) => {
                self.unknown_keys(limits, LIMITS, "the section `[limits]`");
                self.limits(Some(limits))
            }
            Some((limits, other)) => {
                let message = format!("`limits` must be a section, not {}: write `[limits]`", kind(other));
                self.mistake(self.line(&limits.span()), message);
                self.limits(NO_TABLE)
            }
            None => self.limits(NO_TABLE),
        };
        let lease_ms = self.number(Some(top), &LEASE_MS);
        let clock_drift_ppm = self.number(Some(top), &CLOCK_DRIFT_PPM);
        Config {
            cluster_id: self.cluster_id(top),
            lease: Duration::from_millis(lease_ms),
            clock_drift_ppm: u32::try_from(clock_drift_ppm).unwrap_or(u32::MAX),
            reads: self.reads(top),
            disk_reserve_mib: self.number(Some(top), &DISK_RESERVE_MIB),
            log_segment_mib: self.number(Some(top), &LOG_SEGMENT_MIB),
            log_retention_mib: self.number(Some(top), &LOG_RETENTION_MIB),
            log_compression: self.flag(top, "log_compression", true),
            recorder: self.flag(top, "recorder", false),
            recorder_mib: self.number(Some(top), &RECORDER_MIB),
            read_only: self.flag(top, "read_only", false),
            limits,
            nodes: self.nodes(top, base),
        }
    }

    fn cluster_id(&mut self, top: &Table<'_>) -> String {
        let Some((place, id)) = self.setting_text(top, "cluster_id", "cluster_id = \"prod\"") else {
            if self.whole && !top.contains_key("cluster_id") {
                let message = "there is no `cluster_id`: add a line like `cluster_id = \"prod\"` at the top".to_owned();
                self.mistake(Place::File, message);
            }
            return String::new();
        };
        self.name(&place, "cluster_id", &id);
        id
    }

    fn reads(&mut self, top: &Table<'_>) -> Reads {
        let Some((place, reads)) = self.setting_text(top, "reads", "reads = \"lease\"") else {
            return Reads::default();
        };
        match reads.as_str() {
            "lease" => Reads::Lease,
            "quorum" => Reads::Quorum,
            other => {
                let message = format!("`reads` cannot be \"{}\": write \"lease\" or \"quorum\"", other.escape_debug());
                self.mistake(place, message);
                Reads::default()
            }
        }
    }

    /// Something that is so or not. What a node has cannot be overridden.
    fn flag(&mut self, table: &Table<'_>, key: &'static str, default: bool) -> bool {
        let overridden = self.overrides.last(key).filter(|_| SETTINGS.contains(&key));
        let (place, written) = if let Some(found) = overridden {
            (Place::Override(found.from.clone()), found.value.trim().to_owned())
        } else if let Some((key, value)) = table.get_key_value(key) {
            (self.line(&key.span()), self.written(&value.span()))
        } else {
            return default;
        };
        match written.as_str() {
            "true" => true,
            "false" => false,
            other => {
                let message = format!("`{key}` cannot be {}: write true or false", other.escape_debug());
                self.mistake(place, message);
                default
            }
        }
    }

    fn limits(&mut self, table: Option<&Table<'_>>) -> Limits {
        let mistakes = self.mistakes.len();
        let mut number = |spec: &Number| usize::try_from(self.number(table, spec)).expect("no limit is above 4 GiB");
        let updates = update::Limits {
            key_bytes_max: number(&KEY_BYTES_MAX),
            value_bytes_max: number(&VALUE_BYTES_MAX),
            update_bytes_max: number(&UPDATE_BYTES_MAX),
        };
        let connections_max = number(&CONNECTIONS_MAX);
        let needed = updates.key_bytes_max + updates.value_bytes_max + UPDATE_FRAME_BYTES;
        if self.mistakes.len() == mistakes && updates.update_bytes_max < needed {
            let place = [UPDATE_BYTES_MAX.key, VALUE_BYTES_MAX.key, KEY_BYTES_MAX.key].into_iter().find_map(|key| {
                let given = table.and_then(|table| table.get_key_value(key)).map(|(key, _)| self.line(&key.span()));
                self.overrides.last(key).map(|found| Place::Override(found.from.clone())).or(given)
            });
            let message = format!(
                "`update_bytes_max` = {} has no room for the largest key and value: write at least {needed}",
                updates.update_bytes_max
            );
            self.mistake(place.unwrap_or(Place::File), message);
        }
        Limits { updates, connections_max }
    }

    fn nodes(&mut self, top: &Table<'_>, base: &Path) -> Vec<NodeConfig> {
        const EXAMPLE: &str =
            "`[[node]]` with `name = \"n1\"`, `id = 1`, `client = \"host:4000\"` and `peer = \"host:4001\"`";
        let Some(value) = top.get("node") else {
            if self.whole {
                self.mistake(Place::File, format!("there is no node: add for each of them {EXAMPLE}"));
            }
            return Vec::new();
        };
        let place = self.line(&value.span());
        let DeValue::Array(array) = value.get_ref() else {
            let what = kind(value.get_ref());
            self.mistake(
                place,
                format!("`node` must be a list of sections, not {what}: write for each node {EXAMPLE}"),
            );
            return Vec::new();
        };
        if array.is_empty() {
            self.mistake(place.clone(), format!("a cluster needs at least one node: write for each node {EXAMPLE}"));
        }
        if array.len() > NODES_MAX {
            let message = format!("a cluster has at most {NODES_MAX} nodes, not {}: remove some", array.len());
            self.mistake(place, message);
        }
        let mut taken = Taken::default();
        let nodes: Vec<NodeConfig> = array.iter().filter_map(|node| self.node(node, base, &mut taken)).collect();
        if nodes.len() == array.len() && !nodes.is_empty() && nodes.iter().all(|node| node.role != NodeRole::Data) {
            let message = "no node may be master: give one at least `role = \"data\"`".to_owned();
            self.mistake(self.line(&value.span()), message);
        }
        nodes
    }

    fn node(&mut self, node: &Spanned<DeValue<'_>>, base: &Path, taken: &mut Taken) -> Option<NodeConfig> {
        let place = self.line(&node.span());
        let DeValue::Table(table) = node.get_ref() else {
            self.mistake(place, format!("a node must be a section, not {}: write `[[node]]`", kind(node.get_ref())));
            return None;
        };
        self.unknown_keys(table, NODE, "a section `[[node]]`");
        let name = self.required(table, &place, "name", "n1");
        if let Some((place, name)) = &name {
            self.name(place, "name", name);
            self.unique(
                &mut taken.names,
                place,
                name,
                &format!("the name `{}`", name.escape_debug()),
                "names are unique",
            );
        }
        let id = self.node_id(table, &place, taken);
        let mut address = |reader: &mut Self, found: Option<(Place, String)>, key: &str, listens: bool| {
            let (place, address) = found?;
            match check_address(&address, listens) {
                Err(why) => reader.mistake(place, format!("`{key}` = \"{}\" {why}", address.escape_debug())),
                Ok(()) if listens => (),
                Ok(()) => {
                    let what = format!("the address {address}");
                    reader.unique(&mut taken.addresses, &place, &address, &what, "give each its own port or host");
                }
            }
            Some(address)
        };
        let client = self.required(table, &place, "client", "10.0.0.1:4000");
        let client = address(self, client, "client", false);
        let peer = self.required(table, &place, "peer", "10.0.0.1:4001");
        let peer = address(self, peer, "peer", false);
        let client_listen = self.text(table, "client_listen", "client_listen = \"0.0.0.0:4000\"");
        let client_listen = address(self, client_listen, "client_listen", true);
        let peer_listen = self.text(table, "peer_listen", "peer_listen = \"0.0.0.0:4001\"");
        let listen_place = peer_listen.as_ref().map(|(place, _)| place.clone());
        let peer_listen = address(self, peer_listen, "peer_listen", true);
        if let (Some(place), true) = (listen_place, peer_listen == client_listen) {
            self.mistake(place, "`peer_listen` is also `client_listen`: give each its own port".to_owned());
        }
        let role = self.role(table);
        let preferred = self.flag(table, "preferred", false);
        if preferred && role != NodeRole::Data {
            let message = format!("a {} is never master: remove `preferred`", role.name());
            self.mistake(place, message);
        }
        let home = self.home(table, base);
        let (name, client, peer) = (name?.1, client?, peer?);
        Some(NodeConfig { name, id: id?, client, peer, client_listen, peer_listen, role, preferred, home })
    }

    fn node_id(&mut self, table: &Table<'_>, node: &Place, taken: &mut Taken) -> Option<u16> {
        let Some((key, value)) = table.get_key_value("id") else {
            if self.whole {
                self.mistake(node.clone(), "this node has no `id`: add a line like `id = 1`".to_owned());
            }
            return None;
        };
        let place = self.line(&key.span());
        let written = self.written(&value.span());
        let DeValue::Integer(_) = value.get_ref() else {
            let what = kind(value.get_ref());
            self.mistake(place, format!("`id` must be a whole number, not {what}: write `id = 1`"));
            return None;
        };
        let id = integer(value.get_ref()).and_then(|id| u16::try_from(id).ok()).filter(|id| *id != 0);
        match id {
            Some(id) => {
                let rule = "ids are unique, and never given to another node later";
                self.unique(&mut taken.ids, &place, &id, &format!("the id {id}"), rule);
            }
            None => self.mistake(place, format!("`id` = {written} is out of range: write a number from 1 to 65535")),
        }
        id
    }

    fn role(&mut self, table: &Table<'_>) -> NodeRole {
        let Some((place, text)) = self.text(table, "role", "role = \"data\"") else {
            return NodeRole::default();
        };
        NodeRole::ALL.into_iter().find(|role| role.name() == text).unwrap_or_else(|| {
            let message =
                format!("`role` cannot be \"{}\": write \"data\", \"learner\" or \"witness\"", text.escape_debug());
            self.mistake(place, message);
            NodeRole::default()
        })
    }

    fn home(&mut self, table: &Table<'_>, base: &Path) -> Option<PathBuf> {
        let (place, home) = self.text(table, "home", "home = \"/var/lib/trialbay/n1\"")?;
        if home.is_empty() {
            self.mistake(place, "`home` is empty: write a directory, like \"/var/lib/trialbay/n1\"".to_owned());
        }
        Some(base.join(home))
    }

    /// A number that may be overridden; its default where there is none, or a mistake.
    fn number(&mut self, table: Option<&Table<'_>>, spec: &Number) -> u64 {
        let Number { key, unit, min, max, default } = spec;
        let (place, written, number) = if let Some(found) = self.overrides.last(key) {
            let number = found.value.trim().replace('_', "").parse().ok();
            (Place::Override(found.from.clone()), found.value.escape_debug().to_string(), number)
        } else if let Some((name, value)) = table.and_then(|table| table.get_key_value(*key)) {
            let place = self.line(&name.span());
            if !value.get_ref().is_integer() {
                let what = kind(value.get_ref());
                let message = format!("`{key}` must be a whole number ({unit}), not {what}: write `{key} = {default}`");
                self.mistake(place, message);
                return *default;
            }
            (place, self.written(&value.span()), integer(value.get_ref()))
        } else {
            return *default;
        };
        match number {
            Some(number) if (*min..=*max).contains(&number) => number,
            _ => {
                // Of the file only whole numbers come this far; what is none comes from elsewhere.
                let digits = written.strip_prefix('-').unwrap_or(&written);
                let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
                let problem = match (&place, is_whole) {
                    (Place::Override(_), false) => "no whole number",
                    _ => "out of range",
                };
                let message = format!("`{key}` = {written} is {problem}: write a number from {min} to {max} ({unit})");
                self.mistake(place, message);
                *default
            }
        }
    }

    /// A text that may be overridden.
    fn setting_text(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<(Place, String)> {
        match self.overrides.last(key) {
            Some(found) => Some((Place::Override(found.from.clone()), found.value.clone())),
            None => self.text(table, key, example),
        }
    }

    /// A text that a node must have.
    fn required(&mut self, table: &Table<'_>, node: &Place, key: &str, example: &str) -> Option<(Place, String)> {
        let example = format!("{key} = \"{example}\"");
        if self.whole && !table.contains_key(key) {
            self.mistake(node.clone(), format!("this node has no `{key}`: add a line like `{example}`"));
        }
        self.text(table, key, &example)
    }

    fn text(&mut self, table: &Table<'_>, key: &str, example: &str) -> Option<(Place, String)> {
        let (name, value) = table.get_key_value(key)?;
        let place = self.line(&name.span());
        match value.get_ref() {
            DeValue::String(text) => Some((place, text.clone().into_owned())),
            other => {
                let message = format!("`{key}` must be a text in quotes, not {}: write `{example}`", kind(other));
                self.mistake(place, message);
                None
            }
        }
    }

    fn name(&mut self, place: &Place, key: &str, name: &str) {
        const RULE: &str = "write letters, digits, `_`, `.`, `:` and `-`";
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let message = if name.is_empty() {
            format!("`{key}` is empty: {RULE}")
        } else if name.len() > 165 {
            format!("`{key}` has {} characters: write at most 165", name.len())
        } else if let Some(c) = name.chars().find(|c| !allowed(*c)) {
            format!("`{key}` = \"{}\" has a `{}` in it: {RULE} only", name.escape_debug(), c.escape_debug())
        } else {
            return;
        };
        self.mistake(place.clone(), message);
    }

    fn unique<T: PartialEq + Clone>(
        &mut self,
        taken: &mut Vec<(T, Place)>,
        at: &Place,
        value: &T,
        what: &str,
        rule: &str,
    ) {
        match taken.iter().find(|(other, _)| other == value) {
            Some((_, Place::Line(line))) => {
                self.mistake(at.clone(), format!("{what} is already used on line {line}: {rule}"));
            }
            _ => taken.push((value.clone(), at.clone())),
        }
    }

    fn unknown_keys(&mut self, table: &Table<'_>, known: &[&str], here: &str) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let elsewhere = [
                (TOP, "at the top of the file"),
                (LIMITS, "in the section `[limits]`"),
                (NODE, "in a section `[[node]]`"),
            ]
            .into_iter()
            .find_map(|(keys, place)| keys.contains(&name.as_ref()).then_some(place));
            let hint = match (elsewhere, did_you_mean(name, known.iter().copied())) {
                (Some(place), _) => format!("its place is {place}"),
                (None, Some(meant)) => format!("did you mean `{meant}`?"),
                (None, None) => format!("{here} has {}", known.join(", ")),
            };
            self.mistake(self.line(&key.span()), format!("unknown key `{}`: {hint}", name.escape_debug()));
        }
    }

    fn mistake(&mut self, place: Place, message: String) {
        self.mistakes.push(Mistake { place, message });
    }

    fn line(&self, span: &std::ops::Range<usize>) -> Place {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        Place::Line(before.iter().filter(|byte| **byte == b'\n').count() + 1)
    }

    fn written(&self, span: &std::ops::Range<usize>) -> String {
        self.text.get(span.clone()).unwrap_or_default().to_owned()
    }
}

/// What nodes before this one have, and where.
#[derive(Default)]
struct Taken {
    names: Vec<(String, Place)>,
    ids: Vec<(u16, Place)>,
    addresses: Vec<(String, Place)>,
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
