//! The reference model: what every command means, on a plain ordered map. It shares no code with the store.

use std::collections::BTreeMap;

use bytes::Bytes;
use trialbay::update::{Failure, Outcome, Update, UpdateResult};

use super::query::{Query, QueryResult, Scan};

/// How much of each list of keys the message of a failed `AssertRange` shows, in bytes.
const SHOWN_BYTES_MAX: usize = 256;

/// The key space.
#[derive(Clone, Debug, Default)]
pub struct Model {
    map: BTreeMap<Bytes, Bytes>,
    /// What the last update wrote.
    written: Vec<Written>,
}

#[derive(Clone, Debug)]
struct Written {
    key: Bytes,
    before: Option<Bytes>,
    after: Option<Bytes>,
}

impl Model {
    /// Runs one update: all of it, or nothing when it fails.
    pub fn run(&mut self, update: &Update) -> UpdateResult {
        self.written.clear();
        let result = self.perform(update);
        if result.is_err() {
            while let Some(undone) = self.written.pop() {
                self.put(undone.key, undone.before);
            }
        }
        result
    }

    /// The keys that the last update wrote, each with its new value, or deleted, in that order. One that it wrote twice
    /// comes twice.
    pub fn written(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.written.iter().map(|written| (&written.key, written.after.as_ref()))
    }

    /// All keys and their values.
    pub fn map(&self) -> &BTreeMap<Bytes, Bytes> {
        &self.map
    }

    /// The value of `key`.
    pub fn get(&self, key: &Bytes) -> Option<Bytes> {
        self.map.get(key).cloned()
    }

    /// What a read gives in this state.
    pub fn read(&self, query: &Query) -> QueryResult {
        match query {
            Query::Get { key } => QueryResult::Value(self.get(key)),
            Query::Exists { key } => QueryResult::Exists(self.map.contains_key(key)),
            Query::MultiGet { keys } => QueryResult::Values(keys.iter().map(|key| self.get(key)).collect()),
            Query::Range(scan) => self.keys(scan),
            Query::PrefixKeys { prefix, max } => self.keys(&Scan::prefix(prefix, *max)),
            Query::RangeEntries(scan) => Self::entries(scan, scan.of(&self.map)),
            Query::RevRangeEntries(scan) => Self::entries(scan, scan.of(&self.map).rev()),
        }
    }

    fn keys(&self, scan: &Scan) -> QueryResult {
        let keys = scan.of(&self.map).map(|(key, _)| key.clone());
        QueryResult::Keys(keys.take(scan.max.unwrap_or(usize::MAX)).collect())
    }

    fn entries<'a>(scan: &Scan, found: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> QueryResult {
        let entries = found.map(|(key, value)| (key.clone(), value.clone()));
        QueryResult::Entries(entries.take(scan.max.unwrap_or(usize::MAX)).collect())
    }

    /// What this leaves behind when it fails is undone by who called.
    fn perform(&mut self, update: &Update) -> UpdateResult {
        match update {
            Update::Nop => Ok(Outcome::Done),
            Update::Set { key, value } => {
                self.write(key, Some(value));
                Ok(Outcome::Done)
            }
            Update::Delete { key } => {
                self.exists(key).then_some(()).ok_or_else(|| Failure::NotFound { key: key.clone() })?;
                self.write(key, None);
                Ok(Outcome::Done)
            }
            Update::TestAndSet { key, expected, wanted } => {
                let before = self.get(key);
                if before == *expected {
                    self.write(key, wanted.as_ref());
                }
                Ok(Outcome::Previous(before))
            }
            Update::Replace { key, wanted } => Ok(Outcome::Previous(self.write(key, wanted.as_ref()))),
            Update::DeletePrefix { prefix } => {
                let doomed: Vec<Bytes> = self.with_prefix(prefix).cloned().collect();
                for key in &doomed {
                    self.write(key, None);
                }
                Ok(Outcome::Deleted(u32::try_from(doomed.len()).unwrap_or(u32::MAX)))
            }
            Update::Assert { key, expected } => holds(self.map.get(key) == expected.as_ref(), || key.clone()),
            Update::AssertExists { key } => holds(self.exists(key), || key.clone()),
            Update::AssertRange { prefix, keys } => {
                let mut expected: Vec<&Bytes> = keys.iter().collect();
                expected.sort();
                let is_exact = self.with_prefix(prefix).eq(expected.iter().copied());
                holds(is_exact, || range_message(&expected, self.with_prefix(prefix)))
            }
            Update::Sequence(updates) => {
                updates.iter().try_for_each(|update| self.perform(update).map(drop))?;
                Ok(Outcome::Done)
            }
            // No client of a simulation asks for it.
            Update::UserFunction { .. } | Update::Nursery(_) => {
                Err(Failure::Undecodable { why: "not in the model".to_owned() })
            }
        }
    }

    fn exists(&self, key: &Bytes) -> bool {
        self.map.contains_key(key)
    }

    fn with_prefix(&self, prefix: &Bytes) -> impl Iterator<Item = &Bytes> {
        Scan::prefix(prefix, None).of(&self.map).map(|(key, _)| key)
    }

    /// Gives the value before.
    fn write(&mut self, key: &Bytes, value: Option<&Bytes>) -> Option<Bytes> {
        let before = self.put(key.clone(), value.cloned());
        self.written.push(Written { key: key.clone(), before: before.clone(), after: value.cloned() });
        before
    }

    fn put(&mut self, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        match value {
            Some(value) => self.map.insert(key, value),
            None => self.map.remove(&key),
        }
    }
}

/// Whether a client that was told `told` was told what the update gave. An old value may be kept from it.
pub(super) fn agrees(told: &UpdateResult, given: &UpdateResult) -> bool {
    let untold = matches!((told, given), (Ok(Outcome::PreviousUntold), Ok(Outcome::Previous(Some(_)))));
    untold || told == given
}

fn holds(condition: bool, message: impl FnOnce() -> Bytes) -> UpdateResult {
    if condition { Ok(Outcome::Done) } else { Err(Failure::AssertionFailed { message: message() }) }
}

fn range_message<'a>(expected: &[&Bytes], found: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let (expected, found) = (shown(expected.iter().copied(), b"; "), shown(found, b","));
    [b"ContainsExactly [ \"", expected.as_slice(), b"\" ] actual: ", found.as_slice()].concat().into()
}

/// A list of keys that stays short however many and long they are.
fn shown<'a>(keys: impl Iterator<Item = &'a Bytes>, separator: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (place, key) in keys.enumerate() {
        text.extend_from_slice(if place == 0 { b"" } else { separator });
        let room = SHOWN_BYTES_MAX.saturating_sub(text.len());
        text.extend_from_slice(&key[..key.len().min(room)]);
        if text.len() >= SHOWN_BYTES_MAX {
            text.extend_from_slice(b"...");
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::ops::Bound;
    use std::sync::Arc;

    use proptest::prelude::*;
    use trialbay::extensions::Extensions;
    use trialbay::store::{KeyValue, apply_command};
    use trialbay::update::{Admin, encode_command};

    use super::*;

    /// The map that production's function works on here.
    #[derive(Debug, Default)]
    struct Production(BTreeMap<Bytes, Bytes>, Arc<Admin>);

    impl KeyValue for Production {
        type Error = Infallible;

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
            Ok(self.0.get(key).cloned())
        }
        fn contains(&self, key: &[u8]) -> Result<bool, Infallible> {
            Ok(self.0.contains_key(key))
        }
        fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, Infallible> {
            Ok(self.0.get(key).is_some_and(|found| found == value))
        }
        fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, Infallible> {
            let mut keys = self.0.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
            Ok(keys.next().map(|(key, _)| key.clone()))
        }
        fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
            self.0.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            Ok(())
        }
        fn remove(&mut self, key: &[u8]) -> Result<(), Infallible> {
            self.0.remove(key);
            Ok(())
        }
        fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, Infallible> {
            let before = self.0.len();
            self.0.retain(|key, _| !key.starts_with(prefix));
            Ok((before - self.0.len()) as u64)
        }
        fn admin(&self) -> &Arc<Admin> {
            &self.1
        }
        fn set_admin(&mut self, admin: Arc<Admin>) {
            self.1 = admin;
        }
    }

    /// Few and short keys, so that they meet, with bytes at the end of the order, and beyond any plain letter.
    fn text() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0x00), Just(0xff)], 0..3).prop_map(Bytes::from)
    }

    fn any_update() -> impl Strategy<Value = Update> {
        let option = || prop::option::of(text());
        let leaf = prop_oneof![
            4 => (text(), text()).prop_map(|(key, value)| Update::Set { key, value }),
            1 => text().prop_map(|key| Update::Delete { key }),
            2 => (text(), option(), option())
                .prop_map(|(key, expected, wanted)| Update::TestAndSet { key, expected, wanted }),
            1 => Just(Update::Nop),
            1 => (text(), option()).prop_map(|(key, expected)| Update::Assert { key, expected }),
            1 => text().prop_map(|key| Update::AssertExists { key }),
            1 => (text(), prop::collection::vec(text(), 0..4))
                .prop_map(|(prefix, keys)| Update::AssertRange { prefix, keys }),
            2 => text().prop_map(|prefix| Update::DeletePrefix { prefix }),
            2 => (text(), option()).prop_map(|(key, wanted)| Update::Replace { key, wanted }),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Update::Sequence))
    }

    fn in_production(update: &Update, store: &mut Production) -> UpdateResult {
        apply_command(encode_command(update), store, &Extensions::new()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn model_and_production_agree_on_any_updates(updates in prop::collection::vec(any_update(), 1..12)) {
            let (mut model, mut production) = (Model::default(), Production::default());
            for update in &updates {
                let before = model.map.clone();
                prop_assert_eq!(model.run(update), in_production(update, &mut production), "{:?}", update);
                prop_assert_eq!(&model.map, &production.0, "{:?}", update);
                let mut with_what_it_wrote = before;
                for (key, value) in model.written() {
                    match value {
                        Some(value) => with_what_it_wrote.insert(key.clone(), value.clone()),
                        None => with_what_it_wrote.remove(key),
                    };
                }
                prop_assert_eq!(&with_what_it_wrote, &model.map, "{:?}", update);
            }
        }
    }

    #[test]
    fn model_and_production_give_the_same_message_of_a_failed_range_however_long_it_is() {
        for length in (1..60).chain([124, 125, 126, 127, 128, 129, 253, 254, 255, 256, 257, 300]) {
            for count in 1..12 {
                let key = |n: usize| Bytes::from([vec![b'k'; length], n.to_string().into_bytes()].concat());
                let (mut model, mut production) = (Model::default(), Production::default());
                for n in 0..count {
                    let set = Update::Set { key: key(n), value: Bytes::new() };
                    assert_eq!(model.run(&set), in_production(&set, &mut production));
                }
                let keys = (1..count + 1).rev().map(key).collect();
                let assertion = Update::AssertRange { prefix: Bytes::from("k"), keys };
                let told = model.run(&assertion);
                assert!(told.is_err());
                assert_eq!(told, in_production(&assertion, &mut production), "{count} keys of {length}");
            }
        }
    }

    #[test]
    fn reads_give_what_is_there_in_their_order_and_no_more_than_asked_for() {
        let mut model = Model::default();
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let entry = |key, value| (text(key), text(value));
        for (key, value) in [("a", "1"), ("b", "2"), ("b1", "3"), ("c", "4")] {
            model.run(&Update::Set { key: text(key), value: text(value) }).unwrap();
        }
        let scan = |max| Scan { first: Bound::Excluded(text("a")), last: Bound::Included(text("c")), max };
        let cases = [
            (Query::Get { key: text("b") }, QueryResult::Value(Some(text("2")))),
            (Query::Get { key: text("x") }, QueryResult::Value(None)),
            (Query::Exists { key: text("b") }, QueryResult::Exists(true)),
            (Query::Exists { key: text("x") }, QueryResult::Exists(false)),
            (
                Query::MultiGet { keys: vec![text("c"), text("x"), text("a"), text("c")] },
                QueryResult::Values(vec![Some(text("4")), None, Some(text("1")), Some(text("4"))]),
            ),
            (Query::Range(scan(None)), QueryResult::Keys(vec![text("b"), text("b1"), text("c")])),
            (Query::Range(scan(Some(0))), QueryResult::Keys(vec![])),
            (Query::RangeEntries(scan(Some(2))), QueryResult::Entries(vec![entry("b", "2"), entry("b1", "3")])),
            (Query::RevRangeEntries(scan(Some(2))), QueryResult::Entries(vec![entry("c", "4"), entry("b1", "3")])),
            (Query::PrefixKeys { prefix: text("b"), max: None }, QueryResult::Keys(vec![text("b"), text("b1")])),
            (Query::PrefixKeys { prefix: text("b"), max: Some(1) }, QueryResult::Keys(vec![text("b")])),
        ];
        for (query, expected) in cases {
            assert_eq!(model.read(&query), expected, "{query:?}");
        }
    }
}
