//! What an update does to the store: one function, the same on every node and in the simulator.
//!
//! Nothing in here may depend on anything but the command and the store. An update runs against an [`Overlay`] of the
//! store, which is written out only if all of it succeeded: a failed sequence has nothing to undo.

use std::sync::Arc;

use bytes::Bytes;

use super::call::{call, charge_assertion};
use super::overlay::{Overlay, after};
use crate::extensions::Extensions;
use crate::update::{Admin, Failure, Outcome, Update, UpdateResult, decode_command};

/// How much of each list of keys the message of a failed `AssertRange` shows, in bytes.
const SHOWN_BYTES_MAX: usize = 256;

/// The ordered map that updates change.
pub trait KeyValue {
    /// Why the map cannot be read or written. After one, what was being applied must be thrown away.
    type Error;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Error>;
    /// Whether there is a `key`.
    fn contains(&self, key: &[u8]) -> Result<bool, Self::Error>;
    /// Whether `key` has this value. Copies nothing: the value may be a million times as long as who asks.
    fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, Self::Error>;
    /// The smallest key that is not below `from`.
    fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, Self::Error>;
    /// Sets `key`.
    fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;
    /// Deletes `key`, if it is there.
    fn remove(&mut self, key: &[u8]) -> Result<(), Self::Error>;
    /// Deletes every key that begins with `prefix` and gives their number.
    fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, Self::Error>;
    /// What is kept beside the keys.
    fn admin(&self) -> &Arc<Admin>;
    /// Keeps something else beside the keys.
    fn set_admin(&mut self, admin: Arc<Admin>);

    /// The planted bug that updates of this map have.
    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::PlantedBug> {
        None
    }
}

/// Why an update could be neither done nor found to fail. What was being applied must be thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotApplied<E> {
    /// The map could not be read or written.
    Map(E),
    /// It calls a function that this program does not have, so that it cannot know what the other nodes do.
    UnknownFunction {
        /// The function.
        name: Bytes,
    },
}

impl<E> From<E> for NotApplied<E> {
    fn from(error: E) -> Self {
        Self::Map(error)
    }
}

/// Applies the bytes of one command. Those that are no command change nothing.
///
/// # Errors
/// Those of the map, and functions that are not there; an update that fails is no error but a result.
pub fn apply_command<K: KeyValue>(
    command: Bytes,
    store: &mut K,
    extensions: &Extensions,
) -> Result<UpdateResult, NotApplied<K::Error>> {
    match decode_command(command) {
        Ok(command) => apply(&command.update, store, extensions),
        Err(why) => Ok(Err(Failure::Undecodable { why: why.to_string() })),
    }
}

/// Applies one update wholly, or not at all when it fails.
///
/// # Errors
/// As for [`apply_command`].
pub fn apply<K: KeyValue>(
    update: &Update,
    store: &mut K,
    extensions: &Extensions,
) -> Result<UpdateResult, NotApplied<K::Error>> {
    // By itself, each of these two changes the store in one step, and needs no overlay.
    if let Update::Set { key, value } = update {
        if !store.admin().interval().admits(key) {
            return Ok(Err(Failure::OutsideInterval { key: key.clone() }));
        }
        store.insert(key, value)?;
        return Ok(Ok(Outcome::Done));
    }
    if let Update::DeletePrefix { prefix } = update {
        let count = store.remove_prefix(prefix)?;
        return Ok(Ok(Outcome::Deleted(u32::try_from(count).unwrap_or(u32::MAX))));
    }
    let mut overlay = Overlay::new(store);
    // Old values are for who sent the update by itself; a sequence may have a million, each of megabytes.
    let previous = match update {
        Update::TestAndSet { key, .. } | Update::Replace { key, .. } => Some(overlay.get(key)?),
        _ => None,
    };
    let result = run(update, &mut overlay, extensions)?;
    let result = previous.map_or(result, |previous| Ok(Outcome::Previous(previous)));
    if result.is_ok() || planted!(store.planted(), FailedKept) {
        let changes = overlay.into_changes();
        changes.write_to(store)?;
    }
    Ok(result)
}

/// Runs `update` on the overlay. What a failed one leaves there must be thrown away.
fn run<K: KeyValue>(
    update: &Update,
    overlay: &mut Overlay<'_, K>,
    extensions: &Extensions,
) -> Result<UpdateResult, NotApplied<K::Error>> {
    let outcome = match update {
        Update::Nop => Outcome::Done,
        Update::Set { key, value } => {
            overlay.set(key.clone(), Some(value.clone()));
            Outcome::Done
        }
        Update::Delete { key } => {
            if !overlay.contains(key)? {
                return Ok(Err(Failure::NotFound { key: key.clone() }));
            }
            overlay.set(key.clone(), None);
            Outcome::Done
        }
        Update::TestAndSet { key, expected, wanted } => {
            if overlay.is(key, expected.as_deref())? {
                overlay.set(key.clone(), wanted.clone());
            }
            Outcome::Done
        }
        Update::Replace { key, wanted } => {
            overlay.set(key.clone(), wanted.clone());
            Outcome::Done
        }
        Update::DeletePrefix { prefix } => {
            // Only within a sequence, where nobody learns the number.
            overlay.delete_prefix(prefix);
            Outcome::Done
        }
        Update::Assert { key, expected } => {
            if !overlay.is(key, expected.as_deref())? {
                return Ok(Err(Failure::AssertionFailed { message: key.clone() }));
            }
            Outcome::Done
        }
        Update::AssertExists { key } => {
            if !overlay.contains(key)? {
                return Ok(Err(Failure::AssertionFailed { message: key.clone() }));
            }
            Outcome::Done
        }
        Update::AssertRange { prefix, keys } => {
            let mut passed = 0;
            let asserted = assert_range(prefix, keys, overlay, &mut passed)?;
            if let Err(failure) = charge_assertion(passed, overlay) {
                return Ok(Err(failure));
            }
            if let Err(message) = asserted {
                return Ok(Err(Failure::AssertionFailed { message }));
            }
            Outcome::Done
        }
        Update::Sequence(updates) => {
            for update in updates {
                if let Err(failure) = run(update, overlay, extensions)? {
                    return Ok(Err(failure));
                }
            }
            Outcome::Done
        }
        Update::Nursery(update) => {
            if let Err(why) = overlay.update_admin(update) {
                return Ok(Err(Failure::Illegal { why }));
            }
            Outcome::Done
        }
        Update::UserFunction { name, argument } => {
            let Some(function) = extensions.function_named(name) else {
                return Err(NotApplied::UnknownFunction { name: name.clone() });
            };
            match call(name, function, argument.clone(), overlay)? {
                Ok(result) => Outcome::Returned(result),
                Err(failure) => return Ok(Err(failure)),
            }
        }
    };
    Ok(Ok(outcome))
}

/// Whether exactly `keys` begin with `prefix`; if not, a message that says so. A key given twice is never right, as in
/// the original.
fn assert_range<K: KeyValue>(
    prefix: &[u8],
    keys: &[Bytes],
    overlay: &Overlay<'_, K>,
    passed: &mut u64,
) -> Result<Result<(), Bytes>, K::Error> {
    let mut expected: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
    expected.sort_unstable();
    let mut next = overlay.next_key(prefix, prefix, passed)?;
    for key in &expected {
        match next {
            Some(found) if found == key => next = overlay.next_key(prefix, &after(&found), passed)?,
            Some(_) | None => return range_message(prefix, &expected, overlay).map(Err),
        }
    }
    if next.is_none() { Ok(Ok(())) } else { range_message(prefix, &expected, overlay).map(Err) }
}

/// The original's text, cut short.
fn range_message<K: KeyValue>(prefix: &[u8], expected: &[&[u8]], overlay: &Overlay<'_, K>) -> Result<Bytes, K::Error> {
    let mut message = b"ContainsExactly [ \"".to_vec();
    let mut list = ShortList::new(b"; ");
    for key in expected {
        if !list.push(key) {
            break;
        }
    }
    message.extend(list.text);
    message.extend_from_slice(b"\" ] actual: ");
    let mut list = ShortList::new(b",");
    // No longer than a walk over what the update has written, and the last thing that it does.
    let mut passed = 0;
    let mut next = overlay.next_key(prefix, prefix, &mut passed)?;
    while let Some(key) = next {
        if !list.push(&key) {
            break;
        }
        next = overlay.next_key(prefix, &after(&key), &mut passed)?;
    }
    message.extend(list.text);
    Ok(message.into())
}

/// A list of keys in a message that stays short however many and long they are.
struct ShortList {
    text: Vec<u8>,
    separator: &'static [u8],
    is_first: bool,
}

impl ShortList {
    fn new(separator: &'static [u8]) -> Self {
        Self { text: Vec::new(), separator, is_first: true }
    }

    /// Adds a key; `false` when there is no room for more.
    fn push(&mut self, key: &[u8]) -> bool {
        if !self.is_first {
            self.text.extend_from_slice(self.separator);
        }
        self.is_first = false;
        let room = SHOWN_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&key[..key.len().min(room)]);
        let is_full = self.text.len() >= SHOWN_BYTES_MAX;
        if is_full {
            self.text.extend_from_slice(b"...");
        }
        !is_full
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::ops::Bound;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::extensions::FUNCTION_STEPS_MAX;
    use crate::update::encode_command;
    use crate::update::tests::any_update;

    type Map = BTreeMap<Bytes, Bytes>;

    /// A map that keeps nothing beside its keys.
    static NOTHING_BESIDE: LazyLock<Arc<Admin>> = LazyLock::new(Arc::default);

    impl KeyValue for Map {
        type Error = Infallible;

        fn admin(&self) -> &Arc<Admin> {
            &NOTHING_BESIDE
        }
        fn set_admin(&mut self, _: Arc<Admin>) {
            panic!("no test asks for it")
        }

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
            Ok(BTreeMap::get(self, key).cloned())
        }
        fn contains(&self, key: &[u8]) -> Result<bool, Infallible> {
            Ok(self.contains_key(key))
        }
        fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, Infallible> {
            Ok(BTreeMap::get(self, key).is_some_and(|found| found == value))
        }
        fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, Infallible> {
            let mut range = self.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
            Ok(range.next().map(|(key, _)| key.clone()))
        }
        fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
            BTreeMap::insert(self, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            Ok(())
        }
        fn remove(&mut self, key: &[u8]) -> Result<(), Infallible> {
            BTreeMap::remove(self, key);
            Ok(())
        }
        fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, Infallible> {
            let before = self.len();
            self.retain(|key, _| !key.starts_with(prefix));
            Ok((before - self.len()) as u64)
        }
    }

    /// The plainest thing that can be right: every update works on the map, and a failed one gets the old map back.
    fn reference(update: &Update, map: &mut Map) -> UpdateResult {
        let before = map.clone();
        let put = |map: &mut Map, key: &Bytes, value: &Option<Bytes>| match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
        let outcome = match update {
            Update::Nop => Ok(Outcome::Done),
            Update::Set { key, value } => {
                put(map, key, &Some(value.clone()));
                Ok(Outcome::Done)
            }
            Update::Delete { key } => match BTreeMap::remove(map, key) {
                Some(_) => Ok(Outcome::Done),
                None => Err(Failure::NotFound { key: key.clone() }),
            },
            Update::TestAndSet { key, expected, wanted } => {
                let previous = BTreeMap::get(map, key).cloned();
                if previous == *expected {
                    put(map, key, wanted);
                }
                Ok(Outcome::Previous(previous))
            }
            Update::Replace { key, wanted } => Ok(Outcome::Previous(put(map, key, wanted))),
            Update::DeletePrefix { prefix } => {
                map.retain(|key, _| !key.starts_with(prefix));
                Ok(Outcome::Deleted((before.len() - map.len()) as u32))
            }
            Update::Assert { key, expected } if BTreeMap::get(map, key) == expected.as_ref() => Ok(Outcome::Done),
            Update::AssertExists { key } if map.contains_key(key) => Ok(Outcome::Done),
            Update::Assert { key, .. } | Update::AssertExists { key } => {
                Err(Failure::AssertionFailed { message: key.clone() })
            }
            Update::AssertRange { prefix, keys } => {
                let mut expected = keys.clone();
                expected.sort();
                let found: Vec<Bytes> = map.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                let message = [
                    &b"ContainsExactly [ \""[..],
                    &expected.join(&b"; "[..]),
                    b"\" ] actual: ",
                    &found.join(&b","[..]),
                ];
                let failure = Failure::AssertionFailed { message: message.concat().into() };
                if found == expected { Ok(Outcome::Done) } else { Err(failure) }
            }
            Update::Sequence(updates) => {
                updates.iter().try_for_each(|update| reference(update, map).map(drop)).map(|()| Outcome::Done)
            }
            Update::UserFunction { .. } | Update::Nursery(_) => unreachable!("no test has one here"),
        };
        if outcome.is_err() {
            *map = before;
        }
        outcome
    }

    fn applied(update: &Update, map: &mut Map) -> UpdateResult {
        apply(update, map, &Extensions::new()).unwrap()
    }

    fn map(keys: &[&'static str]) -> Map {
        keys.iter().map(|key| (Bytes::from(*key), Bytes::from("v"))).collect()
    }

    fn set(key: &'static str) -> Update {
        Update::Set { key: Bytes::from(key), value: Bytes::from("v") }
    }

    fn delete_prefix(prefix: &'static str) -> Update {
        Update::DeletePrefix { prefix: Bytes::from(prefix) }
    }

    fn assert_range(prefix: &'static str, keys: &[&'static str]) -> Update {
        Update::AssertRange { prefix: Bytes::from(prefix), keys: keys.iter().map(|key| Bytes::from(*key)).collect() }
    }

    #[test]
    fn a_failed_sequence_changes_nothing_not_even_by_delete_prefix() {
        let mut store = map(&["a", "b"]);
        let missing = Update::Delete { key: Bytes::from("m") };
        let sequence = Update::Sequence(vec![set("c"), delete_prefix("a"), Update::Sequence(vec![set("d"), missing])]);
        assert_eq!(applied(&sequence, &mut store), Err(Failure::NotFound { key: Bytes::from("m") }));
        assert_eq!(store, map(&["a", "b"]));
    }

    #[test]
    fn delete_prefix_takes_what_its_own_sequence_wrote_before_and_leaves_what_it_writes_after() {
        let mut store = map(&["p1", "q"]);
        let sequence = Update::Sequence(vec![set("p2"), delete_prefix("p"), set("p3")]);
        assert_eq!(applied(&sequence, &mut store), Ok(Outcome::Done));
        assert_eq!(store, map(&["p3", "q"]));
    }

    #[test]
    fn assert_range_sees_its_own_sequence_and_takes_its_keys_in_any_order() {
        let start = map(&["p1", "p2", "p3", "q"]);
        let delete = Update::Delete { key: Bytes::from("p2") };
        for (keys, holds) in [
            (&["p1", "p3", "p4"][..], true),
            (&["p4", "p3", "p1"], true),
            (&["p3", "p1", "p4"], true),
            (&["p1", "p2", "p3"], false),
            (&["p1", "p3"], false),
            (&["p1", "p3", "p4", "p5"], false),
            (&["p1", "p1", "p3", "p4"], false),
        ] {
            let sequence = Update::Sequence(vec![set("p4"), delete.clone(), assert_range("p", keys)]);
            assert_eq!(applied(&sequence, &mut start.clone()).is_ok(), holds, "{keys:?}");
        }
        let emptied = Update::Sequence(vec![delete_prefix("p"), assert_range("p", &[]), assert_range("", &["q"])]);
        assert_eq!(applied(&emptied, &mut start.clone()), Ok(Outcome::Done));
    }

    #[test]
    fn the_message_of_a_failed_assert_range_is_short() {
        let long: Vec<Bytes> = (0..2000_u32).map(|i| Bytes::from(vec![b'k'; 10 + i as usize])).collect();
        let mut store: Map = long.iter().map(|key| (key.clone(), Bytes::new())).collect();
        let assertion = Update::AssertRange { prefix: Bytes::new(), keys: long[1..].to_vec() };
        let Err(Failure::AssertionFailed { message }) = applied(&assertion, &mut store) else { panic!("it is wrong") };
        assert!(message.len() < 3 * SHOWN_BYTES_MAX, "{}", message.len());
    }

    /// A map whose values are too long to be copied.
    struct Uncopied(Map);

    impl KeyValue for Uncopied {
        type Error = Infallible;

        fn admin(&self) -> &Arc<Admin> {
            self.0.admin()
        }
        fn set_admin(&mut self, admin: Arc<Admin>) {
            self.0.set_admin(admin);
        }

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
            panic!("the value of {key:?} was copied")
        }
        fn contains(&self, key: &[u8]) -> Result<bool, Infallible> {
            self.0.contains(key)
        }
        fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, Infallible> {
            self.0.has(key, value)
        }
        fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, Infallible> {
            self.0.next_key(from)
        }
        fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
            KeyValue::insert(&mut self.0, key, value)
        }
        fn remove(&mut self, key: &[u8]) -> Result<(), Infallible> {
            KeyValue::remove(&mut self.0, key)
        }
        fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, Infallible> {
            self.0.remove_prefix(prefix)
        }
    }

    #[test]
    fn a_sequence_copies_no_old_value() {
        let mut store = Uncopied(map(&["a", "b"]));
        let (key, is) = (Bytes::from("a"), |value| Some(Bytes::from(value)));
        let sequence = Update::Sequence(vec![
            Update::TestAndSet { key: key.clone(), expected: None, wanted: is("not") },
            Update::Assert { key: key.clone(), expected: is("v") },
            Update::TestAndSet { key: key.clone(), expected: is("v"), wanted: is("w") },
            Update::Replace { key: Bytes::from("b"), wanted: None },
        ]);
        let result = apply(&sequence, &mut store, &Extensions::new());
        assert_eq!((result.unwrap(), store.0), (Ok(Outcome::Done), Map::from([(key, Bytes::from("w"))])));
    }

    #[test]
    fn a_function_sees_the_updates_before_it_and_those_after_it_see_what_it_did() {
        let extensions = Extensions::new().function("move", |transaction, argument| {
            let all = crate::store::KeyRange::prefix(b"p");
            let keys = transaction.keys(&all, 10)?;
            for (key, value) in transaction.entries(&all, 10)? {
                transaction.delete(&key)?;
                transaction.set(&[b"q", &key[..]].concat(), &value)?;
            }
            assert!(transaction.keys(&all, 10)?.is_empty());
            transaction.set(&argument.unwrap_or_default(), &keys.concat())?;
            Ok(None)
        });
        let mut store = map(&["p1", "p2", "o"]);
        let sequence = Update::Sequence(vec![
            set("p3"),
            Update::Delete { key: Bytes::from("p1") },
            Update::UserFunction { name: Bytes::from("move"), argument: Some(Bytes::from("all")) },
            assert_range("q", &["qp2", "qp3"]),
            Update::Assert { key: Bytes::from("all"), expected: Some(Bytes::from("p2p3")) },
        ]);
        assert_eq!(apply(&sequence, &mut store, &extensions), Ok(Ok(Outcome::Done)));
        assert_eq!(store.into_keys().collect::<Vec<_>>(), ["all", "o", "qp2", "qp3"]);
    }

    #[test]
    fn a_function_that_does_not_end_by_itself_fails_and_one_that_is_not_there_is_no_failure() {
        let extensions = Extensions::new().function("read", |transaction, _| {
            loop {
                transaction.get(b"a")?;
            }
        });
        let mut store = map(&["a"]);
        let mut call = |name: &'static str| {
            let update = Update::UserFunction { name: Bytes::from(name), argument: None };
            apply(&Update::Sequence(vec![set("b"), update]), &mut store, &extensions)
        };
        let message = "too many reads and writes".to_owned();
        assert_eq!(call("read"), Ok(Err(Failure::FunctionFailed { message })));
        assert_eq!(call("none"), Err(NotApplied::UnknownFunction { name: Bytes::from("none") }));
        assert_eq!(store, map(&["a"]));
    }

    /// A map that counts how often it was asked for the next key.
    #[derive(Default)]
    struct Walked {
        map: Map,
        asked: std::cell::Cell<usize>,
    }

    impl KeyValue for Walked {
        type Error = Infallible;

        fn admin(&self) -> &Arc<Admin> {
            self.map.admin()
        }
        fn set_admin(&mut self, admin: Arc<Admin>) {
            self.map.set_admin(admin);
        }

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Infallible> {
            KeyValue::get(&self.map, key)
        }
        fn contains(&self, key: &[u8]) -> Result<bool, Infallible> {
            self.map.contains(key)
        }
        fn has(&self, key: &[u8], value: &[u8]) -> Result<bool, Infallible> {
            self.map.has(key, value)
        }
        fn next_key(&self, from: &[u8]) -> Result<Option<Bytes>, Infallible> {
            self.asked.set(self.asked.get() + 1);
            self.map.next_key(from)
        }
        fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
            KeyValue::insert(&mut self.map, key, value)
        }
        fn remove(&mut self, key: &[u8]) -> Result<(), Infallible> {
            KeyValue::remove(&mut self.map, key)
        }
        fn remove_prefix(&mut self, prefix: &[u8]) -> Result<u64, Infallible> {
            self.map.remove_prefix(prefix)
        }
    }

    #[test]
    fn a_range_assertion_walks_once_over_what_its_sequence_wrote() {
        let numbered = |i: u32| Bytes::from(i.to_be_bytes().to_vec());
        let (stored, beyond) = ((0..1_000).map(numbered), (1_000..2_000).map(numbered));
        let map = stored.clone().map(|key| (key, Bytes::from("v"))).collect();
        let mut store = Walked { map, ..Walked::default() };
        let overwritten = stored.clone().map(|key| Update::Set { key, value: Bytes::from("w") });
        let missing = beyond.map(|key| Update::Replace { key, wanted: None });
        let asserted = Update::AssertRange { prefix: Bytes::new(), keys: stored.collect() };
        let sequence = Update::Sequence(overwritten.chain(missing).chain([asserted]).collect());
        assert_eq!(apply(&sequence, &mut store, &Extensions::new()), Ok(Ok(Outcome::Done)));
        assert!(store.asked.get() <= 2_002, "{}", store.asked.get());
    }

    /// Functions `read` and `write`, of a MiB each, and `delete`, which deletes 1,000 keys that are not there.
    fn costly() -> Extensions {
        Extensions::new()
            .function("read", |transaction, _| transaction.get(b"long").map(|_| None))
            .function("write", |transaction, _| transaction.set(b"other", &vec![0; 1 << 20]).map(|()| None))
            .function("delete", |transaction, argument| {
                let first = argument.map_or(0, |argument| u32::from(argument[0]) * 1_000);
                (first..first + 1_000).try_for_each(|i| transaction.delete(&i.to_be_bytes()))?;
                Ok(None)
            })
    }

    fn called(name: &'static str) -> Update {
        Update::UserFunction { name: Bytes::from(name), argument: None }
    }

    #[test]
    fn the_functions_of_a_sequence_share_what_one_update_may_read_and_write() {
        let mut start = Map::from([(Bytes::from("long"), Bytes::from(vec![0; 1 << 20]))]);
        for (name, in_bounds, message) in [("read", 64, "too much was read"), ("write", 63, "too much was written")] {
            let calls = |count| Update::Sequence(vec![called(name); count]);
            assert_eq!(apply(&calls(in_bounds), &mut start.clone(), &costly()), Ok(Ok(Outcome::Done)), "{name}");
            let (before, message) = (start.clone(), message.to_owned());
            let nested = Update::Sequence(vec![set("a"), calls(in_bounds), Update::Sequence(vec![calls(1)])]);
            assert_eq!(apply(&nested, &mut start, &costly()), Ok(Err(Failure::FunctionFailed { message })), "{name}");
            assert_eq!(start, before);
        }
    }

    #[test]
    fn what_ran_out_stays_so_for_a_function_that_does_not_mind() {
        let extensions = Extensions::new().function("stubborn", |transaction, _| {
            for i in 0..100_u8 {
                let _ = transaction.set(&[i], &vec![0; 3 << 20]);
            }
            let _ = transaction.set(b"short", b"v");
            Ok(None)
        });
        let mut store = Map::new();
        assert_eq!(apply(&called("stubborn"), &mut store, &extensions), Ok(Ok(Outcome::Returned(None))));
        assert_eq!(store.len(), 21);
    }

    #[test]
    fn range_assertions_are_charged_for_what_the_functions_before_them_wrote() {
        // 1,000 steps for the call, and 1,000 for each assertion.
        let sequence = |assertions| {
            let assertion = assert_range("", &["a"]);
            Update::Sequence([vec![called("delete")], vec![assertion; assertions]].concat())
        };
        let in_bounds = usize::try_from(FUNCTION_STEPS_MAX).unwrap() / 1_000 - 1;
        let mut store = map(&["a"]);
        assert_eq!(apply(&sequence(in_bounds), &mut store, &costly()), Ok(Ok(Outcome::Done)));
        let message = "too many reads and writes".to_owned();
        let refused = Ok(Err(Failure::FunctionFailed { message }));
        assert_eq!(apply(&sequence(in_bounds + 1), &mut store, &costly()), refused);
        assert_eq!(store, map(&["a"]));
    }

    #[test]
    fn a_function_is_charged_for_deleted_keys_that_it_walks_over() {
        let extensions = costly().function("walk", |transaction, _| {
            let all = crate::store::KeyRange::prefix(b"");
            (0..2_000).try_for_each(|_| transaction.keys(&all, 1).map(drop)).map(|()| None)
        });
        let mut store = map(&["a"]);
        assert_eq!(apply(&called("walk"), &mut store, &extensions), Ok(Ok(Outcome::Returned(None))));
        let message = "too many reads and writes".to_owned();
        let sequence = Update::Sequence(vec![called("delete"), called("walk")]);
        assert_eq!(apply(&sequence, &mut store, &extensions), Ok(Err(Failure::FunctionFailed { message })));
    }

    #[test]
    fn bytes_that_are_no_command_change_nothing_and_say_why() {
        let mut store = map(&["a"]);
        let mut apply_bytes =
            |bytes: &'static [u8]| apply_command(Bytes::from_static(bytes), &mut store, &Extensions::new()).unwrap();
        let why = |why: &str| Err(Failure::Undecodable { why: why.to_string() });
        assert_eq!(apply_bytes(b""), why("the bytes of the command end within its header"));
        assert_eq!(apply_bytes(b"\x09\x00"), why("version 9 of the command format is not known here"));
        assert_eq!(apply_bytes(b"\x01\x00\x0e\x00\x00\x00"), why("the bytes end too early"));
        assert_eq!(store, map(&["a"]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn any_updates_do_what_the_reference_does(updates in prop::collection::vec(any_update(), 1..8)) {
            let (mut store, mut expected) = (Map::new(), Map::new());
            for update in &updates {
                let result = apply_command(encode_command(update), &mut store, &Extensions::new());
                prop_assert_eq!(result.unwrap(), reference(update, &mut expected), "{:?}", update);
                prop_assert_eq!(&store, &expected, "{:?}", update);
            }
        }

        #[test]
        fn any_sequence_does_what_the_reference_does(updates in prop::collection::vec(any_update(), 1..12)) {
            let any_byte = [&b""[..], b"a", b"b", b"ab", b"aa", b"\xff", b"a\xff"];
            let start: Map = any_byte.map(|key| (Bytes::from_static(key), Bytes::from("a"))).into();
            let (mut store, mut expected) = (start.clone(), start);
            let update = Update::Sequence(updates);
            prop_assert_eq!(applied(&update, &mut store), reference(&update, &mut expected));
            prop_assert_eq!(store, expected);
        }
    }
}
