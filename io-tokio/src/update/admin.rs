//! What a node keeps beside its keys, and how updates change it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::nursery::{CLUSTERS_MAX, CONFIG_PREFIX, ClusterConfig, Interval, NurseryUpdate, Routing, too_long};
use crate::wire::{Malformed, Reader, Writer};

/// All that is kept of this kind, in bytes.
pub const ADMIN_BYTES_MAX: usize = 1 << 20;

/// All that is kept beside the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    interval: Interval,
    routing: Option<Routing>,
    entries: BTreeMap<Bytes, Bytes>,
}

impl Routing {
    /// A tree of these clusters that is as low as can be.
    fn of(flat: &[(Bytes, Option<Bytes>)]) -> Option<Self> {
        match flat {
            [] => None,
            [(name, _)] => Some(Self::Cluster(name.clone())),
            _ => {
                let (left, right) = flat.split_at(flat.len() / 2);
                let separator = left.last()?.1.clone()?;
                Some(Self::Branch { left: Box::new(Self::of(left)?), separator, right: Box::new(Self::of(right)?) })
            }
        }
    }

    /// With the border between two neighbours moved, or a cluster that is new put beside one that is there.
    fn changed(&self, left: &Bytes, separator: &Bytes, right: &Bytes) -> Result<Self, String> {
        let mut flat = self.flat();
        let place = |name: &Bytes| {
            let mut places = flat.iter().enumerate().filter(|(_, (found, _))| found == name).map(|(place, _)| place);
            match (places.next(), places.next()) {
                (place, None) => Ok(place),
                _ => Err("a cluster that has several parts of the keys cannot be changed like this"),
            }
        };
        match (place(left)?, place(right)?) {
            (Some(at), Some(next)) if next == at + 1 => flat[at].1 = Some(separator.clone()),
            (Some(at), None) => {
                let behind = flat[at].1.replace(separator.clone());
                flat.insert(at + 1, (right.clone(), behind));
            }
            (None, Some(at)) => flat.insert(at, (left.clone(), Some(separator.clone()))),
            (Some(_), Some(_)) => return Err("the two clusters are not neighbours".to_owned()),
            (None, None) => return Err("neither cluster is known".to_owned()),
        }
        let borders: Vec<_> = flat.iter().filter_map(|(_, separator)| separator.as_ref()).collect();
        if !borders.is_sorted_by(|one, next| one < next) {
            return Err("the separator is not between its neighbours".to_owned());
        }
        if flat.len() > CLUSTERS_MAX {
            return Err("there are too many clusters".to_owned());
        }
        Self::of(&flat).ok_or_else(|| "there is no cluster".to_owned())
    }
}

impl Admin {
    /// Which keys this cluster has; all, until it is told.
    pub fn interval(&self) -> &Interval {
        &self.interval
    }

    /// Which cluster has which keys.
    pub fn routing(&self) -> Option<&Routing> {
        self.routing.as_ref()
    }

    /// The configurations of clusters, by their ids. Entries that are none are left out.
    pub fn configs(&self) -> impl Iterator<Item = (&[u8], ClusterConfig)> {
        let with_prefix = self.entries.range(Bytes::from_static(CONFIG_PREFIX)..);
        with_prefix
            .map_while(|(key, value)| Some((key.strip_prefix(CONFIG_PREFIX)?, value)))
            .filter_map(|(id, value)| ClusterConfig::decode(&mut Reader(value.clone())).ok().map(|config| (id, config)))
    }

    /// Does an update.
    ///
    /// # Errors
    /// When it makes no sense here; nothing is changed then.
    pub(crate) fn update(&mut self, update: &NurseryUpdate) -> Result<(), String> {
        let mut changed = self.clone();
        match update {
            NurseryUpdate::AdminSet { key, value: Some(value) } => {
                changed.entries.insert(key.clone(), value.clone());
            }
            NurseryUpdate::AdminSet { key, value: None } => {
                changed.entries.remove(key);
            }
            NurseryUpdate::SetInterval(interval) => changed.interval = interval.clone(),
            NurseryUpdate::SetRouting(routing) => changed.routing = Some(routing.clone()),
            NurseryUpdate::SetRoutingDelta { left, separator, right } => {
                let routing = self.routing.as_ref().ok_or("there is no routing yet")?;
                changed.routing = Some(routing.changed(left, separator, right)?);
            }
        }
        let len = changed.encode().len();
        if len > ADMIN_BYTES_MAX {
            return Err(format!("{len} bytes beside the keys are over the limit of {ADMIN_BYTES_MAX}"));
        }
        *self = changed;
        Ok(())
    }

    /// The same bytes; none when there is nothing to keep.
    pub(crate) fn record(&self) -> Bytes {
        if *self == Self::default() { Bytes::new() } else { self.encode().into() }
    }

    /// The bytes that the store and heads keep: interval, routing if there is one (bool first), entries (count first).
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.interval.encode(&mut out);
        out.bool(self.routing.is_some());
        if let Some(routing) = &self.routing {
            routing.encode(&mut out);
        }
        Writer::len(&mut out, self.entries.len());
        for (key, value) in &self.entries {
            out.string(key);
            out.string(value);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(Bytes::copy_from_slice(bytes));
        let interval = Interval::decode(&mut reader)?;
        let routing = if reader.bool()? { Some(Routing::decode(&mut reader)?) } else { None };
        let count = reader.length()?;
        let entries: Result<_, Malformed> = (0..count).map(|_| Ok((reader.string()?, reader.string()?))).collect();
        let entries = entries?;
        let (len, max) = (reader.0.len(), 0);
        if len > 0 { Err(too_long("record", len, max)) } else { Ok(Self { interval, routing, entries }) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::nursery::NodeAddress;
    use super::*;

    fn routing(names: &str) -> Routing {
        let flat: Vec<_> = names.split(' ').map(|part| Bytes::copy_from_slice(part.as_bytes())).collect();
        let pairs: Vec<_> = flat.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned())).collect();
        Routing::of(&pairs).unwrap()
    }

    #[test]
    fn a_delta_moves_a_border_or_adds_a_neighbour_and_nothing_else() {
        for (before, delta, after) in [
            ("a k b", "a m b", Ok("a m b")),
            ("a", "a m b", Ok("a m b")),
            ("b", "a m b", Ok("a m b")),
            ("a k b p c", "b m x", Ok("a k b m x p c")),
            ("a k b p c", "x m c", Err("the separator is not between its neighbours")),
            ("a k b p c", "x q c", Ok("a k b p x q c")),
            ("a k b p c", "a q b", Err("the separator is not between its neighbours")),
            ("a k b p c", "a m c", Err("the two clusters are not neighbours")),
            ("a k b", "b m a", Err("the two clusters are not neighbours")),
            ("a k b", "x m y", Err("neither cluster is known")),
            ("a k b p a", "a m x", Err("a cluster that has several parts of the keys cannot be changed like this")),
        ] {
            let [left, separator, right] =
                std::array::from_fn(|at| Bytes::copy_from_slice(delta.split(' ').nth(at).unwrap().as_bytes()));
            let changed = routing(before).changed(&left, &separator, &right);
            assert_eq!(changed, after.map(routing).map_err(str::to_owned), "{before}: {delta}");
        }
    }

    #[test]
    fn what_is_kept_survives_its_bytes_and_is_bounded() {
        let mut admin = Admin::default();
        assert_eq!(Admin::decode(&admin.encode()), Ok(admin.clone()));
        let address = NodeAddress { name: "n1".into(), addresses: vec!["10.0.0.1".into(), "::1".into()], port: 4000 };
        let config = ClusterConfig { nodes: vec![address] };
        let interval = Interval { public: (Some("b".into()), None), private: (None, Some("d".into())) };
        for update in [
            NurseryUpdate::SetInterval(interval),
            NurseryUpdate::SetRouting(routing("a k b p c")),
            NurseryUpdate::set_config(b"a", &config),
            NurseryUpdate::AdminSet { key: "nursery.cluster.odd".into(), value: Some("no config".into()) },
        ] {
            admin.update(&update).unwrap();
        }
        let bytes = admin.encode();
        assert_eq!(Admin::decode(&bytes), Ok(admin.clone()));
        for len in 0..bytes.len() {
            assert!(Admin::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(Admin::decode(&[&bytes[..], b"x"].concat()).is_err());
        assert_eq!(admin.configs().collect::<Vec<_>>(), [(&b"a"[..], config)]);
        let large = NurseryUpdate::AdminSet { key: "k".into(), value: Some(vec![0; ADMIN_BYTES_MAX].into()) };
        let before = admin.clone();
        assert!(admin.update(&large).is_err());
        assert_eq!(admin, before);
    }
}
