//! Records of a log, for people and for programs.

use serde_json::{Map, Value, json};
use trialbay_engine::{self as engine, Ballot, Record, SlotEntry};

use super::bytes::Form;
use crate::tlog::Logged;
use crate::update::{NurseryUpdate, Update, decode_command};

/// How records are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) form: Form,
    /// Values in full; otherwise how long they are.
    pub(crate) values: bool,
}

/// What a record or an update says: a word, and named details in order.
struct Said {
    word: &'static str,
    details: Vec<(&'static str, Detail)>,
}

enum Detail {
    Text(String),
    Number(u64),
    Key(Vec<u8>),
    Keys(Vec<Vec<u8>>),
    /// `None`: there is none.
    Value(Option<Vec<u8>>),
    Parts(Vec<Said>),
}

impl Style {
    /// One line of text.
    pub(crate) fn text(self, logged: &Logged) -> String {
        self.line(&of_record(logged))
    }

    /// The same for programs.
    pub(crate) fn json(self, logged: &Logged) -> Map<String, Value> {
        self.object(&of_record(logged))
    }

    fn line(self, said: &Said) -> String {
        let mut line = said.word.to_owned();
        for (name, detail) in &said.details {
            let shown = match detail {
                Detail::Text(text) => text.clone(),
                Detail::Number(number) => number.to_string(),
                Detail::Key(key) => self.form.show(key),
                Detail::Keys(keys) => keys.iter().map(|key| self.form.show(key)).collect::<Vec<_>>().join(" "),
                Detail::Value(None) => "none".to_owned(),
                Detail::Value(Some(value)) if self.values => self.form.show(value),
                Detail::Value(Some(value)) => format!("{} B", value.len()),
                Detail::Parts(parts) => {
                    let parts: Vec<String> = parts.iter().map(|part| self.line(part)).collect();
                    format!("[{}]", parts.join("; "))
                }
            };
            line.push_str(&format!(" {name} {shown}"));
        }
        line
    }

    fn object(self, said: &Said) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("kind".to_owned(), json!(said.word));
        for (name, detail) in &said.details {
            let shown = match detail {
                Detail::Text(text) => json!(text),
                Detail::Number(number) => json!(number),
                Detail::Key(key) => self.form.json(key),
                Detail::Keys(keys) => keys.iter().map(|key| self.form.json(key)).collect(),
                Detail::Value(None) => Value::Null,
                Detail::Value(Some(value)) if self.values => self.form.json(value),
                Detail::Value(Some(value)) => json!({ "bytes": value.len() }),
                Detail::Parts(parts) => parts.iter().map(|part| self.object(part)).collect(),
            };
            object.insert((*name).to_owned(), shown);
        }
        object
    }
}

fn said(word: &'static str, details: Vec<(&'static str, Detail)>) -> Said {
    Said { word, details }
}

fn of_record(logged: &Logged) -> Said {
    use Detail::{Number, Text};
    let ballot = |ballot: &Ballot| ("ballot", Text(ballot.to_string()));
    let hash = |hash: &engine::HistoryHash| ("hash", Text(format!("{hash:?}")));
    match logged {
        Logged::Record(Record::Promised(promised)) => said("promised", vec![ballot(promised)]),
        Logged::Record(Record::Accepted(SlotEntry { slot, entry })) => {
            let value = ("value", Detail::Parts(of_value(&entry.value)));
            said("accepted", vec![("slot", Number(slot.0)), ballot(&entry.ballot), value])
        }
        Logged::Record(Record::Decided { upto, hash: at }) => said("decided", vec![("upto", Number(upto.0)), hash(at)]),
        Logged::Record(Record::MemoryBegan(incarnation)) => {
            said("memory-began", vec![("life", Text(incarnation.to_string()))])
        }
        Logged::Record(Record::VoteRegained { incarnation, genesis }) => {
            let genesis = genesis.iter().map(|(node, life)| {
                said("life", vec![("node", Number(node.0.into())), ("life", Text(life.to_string()))])
            });
            let genesis = ("genesis", Detail::Parts(genesis.collect()));
            said("vote-regained", vec![("life", Text(incarnation.to_string())), genesis])
        }
        Logged::Sealed => said("sealed", vec![]),
        Logged::HeadAnnounced { slot, hash: at } => said("head-announced", vec![("slot", Number(slot.0)), hash(at)]),
        Logged::Damaged { why } => said("damaged", vec![("why", Text(why.clone()))]),
    }
}

fn of_value(value: &engine::Value) -> Vec<Said> {
    match value {
        engine::Value::Noop => vec![said("noop", vec![])],
        engine::Value::MasterChange(node) => vec![said("master-change", vec![("node", Detail::Number(node.0.into()))])],
        engine::Value::Configuration(bytes) => {
            vec![said("configuration", vec![("value", Detail::Value(Some(bytes.to_vec())))])]
        }
        engine::Value::Commands(_) => {
            let command = |command: Result<bytes::Bytes, _>| match command.map(decode_command) {
                Ok(Ok(command)) => of_update(&command.update),
                Ok(Err(why)) => said("undecodable", vec![("why", Detail::Text(why.to_string()))]),
                Err(_) => {
                    said("undecodable", vec![("why", Detail::Text("the batch ends within a command".to_owned()))])
                }
            };
            value.commands().map(command).collect()
        }
    }
}

fn of_update(update: &Update) -> Said {
    let key = |key: &bytes::Bytes| ("key", Detail::Key(key.to_vec()));
    let option = |name, value: &Option<bytes::Bytes>| (name, Detail::Value(value.as_ref().map(|value| value.to_vec())));
    let value = |name, value: &bytes::Bytes| (name, Detail::Value(Some(value.to_vec())));
    let prefix = |prefix: &bytes::Bytes| ("prefix", Detail::Key(prefix.to_vec()));
    match update {
        Update::Set { key: at, value: to } => said("set", vec![key(at), value("value", to)]),
        Update::Delete { key: at } => said("delete", vec![key(at)]),
        Update::TestAndSet { key: at, expected, wanted } => {
            said("test-and-set", vec![key(at), option("expected", expected), option("wanted", wanted)])
        }
        Update::Sequence(updates) => {
            said("sequence", vec![("updates", Detail::Parts(updates.iter().map(of_update).collect()))])
        }
        Update::Nop => said("nop", vec![]),
        Update::Assert { key: at, expected } => said("assert", vec![key(at), option("expected", expected)]),
        Update::AssertExists { key: at } => said("assert-exists", vec![key(at)]),
        Update::AssertRange { prefix: of, keys } => said(
            "assert-range",
            vec![prefix(of), ("keys", Detail::Keys(keys.iter().map(|key| key.to_vec()).collect()))],
        ),
        Update::DeletePrefix { prefix: of } => said("delete-prefix", vec![prefix(of)]),
        Update::Replace { key: at, wanted } => said("replace", vec![key(at), option("wanted", wanted)]),
        Update::Nursery(nursery) => {
            let what = match nursery {
                NurseryUpdate::AdminSet { key: at, value } => {
                    return said("admin-set", vec![key(at), option("value", value)]);
                }
                NurseryUpdate::SetInterval(_) => "the interval",
                NurseryUpdate::SetRouting(_) | NurseryUpdate::SetRoutingDelta { .. } => "the routing",
            };
            said("nursery", vec![("sets", Detail::Text(what.to_owned()))])
        }
        Update::UserFunction { name, argument } => {
            said("user-function", vec![("name", Detail::Key(name.to_vec())), option("argument", argument)])
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trialbay_engine::{Entry, HistoryHash, Incarnation, NodeId, Slot};

    use super::*;
    use crate::update::encode_command;

    fn accepted(value: engine::Value) -> Logged {
        let ballot = Ballot { round: 3, node: NodeId(1) };
        Logged::Record(Record::Accepted(SlotEntry { slot: Slot(7), entry: Entry { ballot, value } }))
    }

    fn both(logged: &Logged, form: Form, values: bool) -> (String, String) {
        let style = Style { form, values };
        (style.text(logged), Value::Object(style.json(logged)).to_string())
    }

    #[test]
    fn records_are_one_line_each_whatever_is_in_them() {
        let set = Update::Set { key: Bytes::from("a\tb"), value: Bytes::from_static(b"\xff\n") };
        let sequence = Update::Sequence(vec![
            Update::Assert { key: "x".into(), expected: None },
            Update::Delete { key: "y".into() },
        ]);
        let commands = [encode_command(&set), encode_command(&sequence), Bytes::from("?")];
        let batch = accepted(engine::Value::batch(commands.iter().map(|command| &command[..])));
        let (text, json) = both(&batch, Form::Plain, false);
        assert_eq!(
            text,
            "accepted slot 7 ballot 3.n1 value [set key a\\tb value 2 B; sequence updates [assert key x expected none; \
             delete key y]; undecodable why version 63 of the command format is not known here]"
        );
        assert!(json.contains(r#"{"key":"a\tb","kind":"set","value":{"bytes":2}}"#), "{json}");
        let (text, json) = both(&batch, Form::Plain, true);
        assert!(text.contains(r"set key a\tb value \xff\n;"), "{text}");
        assert!(json.contains(r#""value":{"hex":"ff0a"}"#), "{json}");
        assert!(both(&batch, Form::Hex, true).0.contains("set key 610962 value ff0a;"));

        let decided = Logged::Record(Record::Decided { upto: Slot(9), hash: HistoryHash(10) });
        let (text, json) = both(&decided, Form::Plain, false);
        assert_eq!(text, "decided upto 9 hash 000000000000000a");
        assert_eq!(json, r#"{"hash":"000000000000000a","kind":"decided","upto":9}"#);
        let regained = Record::VoteRegained { incarnation: Incarnation(1), genesis: vec![(NodeId(2), Incarnation(3))] };
        let (text, _) = both(&Logged::Record(regained), Form::Plain, false);
        assert_eq!(text, "vote-regained life 0000000000000001 genesis [life node 2 life 0000000000000003]");
    }

    #[test]
    fn a_batch_of_any_bytes_is_described() {
        for bytes in [&b""[..], b"\0", b"\xff\xff\xff\xff", b"\x01\0\0\0\x01\x01\0\0\0\0"] {
            let (text, _) = both(&accepted(engine::Value::Commands(Bytes::from_static(bytes))), Form::Plain, true);
            assert!(text.starts_with("accepted slot 7"), "{text}");
        }
    }
}
