//! Whether what clients saw of one key can be explained by one order of events that respects time.
//!
//! All values of a key are different, which makes exact answers cheap. Times are nanoseconds since some start. What
//! was answered happened between its invocation and its end; what was not may have happened at any time after its
//! invocation, or never.

use std::collections::BTreeMap;

/// The end of what was never answered.
pub const NEVER: u64 = u64::MAX;

/// What a client knows of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Done,
    /// It was refused, or could not be done.
    DidNotHappen,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// An update that sets the key to a value whatever was there.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Unlike that of any other write.
    pub value: u64,
    /// When it was called.
    pub invoked: u64,
    /// When it was answered.
    pub ended: u64,
    /// What the answer was.
    pub outcome: Outcome,
}

/// A test-and-set, which is done only if it finds the value that it expects.
#[derive(Clone, Copy, Debug)]
pub struct Swap {
    /// What must be there.
    pub expected: Option<u64>,
    /// What is there after it.
    pub write: Write,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// `None`: there is no such key.
    pub value: Option<u64>,
    /// When it was called.
    pub invoked: u64,
    /// When it was answered.
    pub ended: u64,
}

/// Checks the history of a key that is absent at first and then only set and read.
///
/// A value's *zone* lies between the first end and the last invocation of the calls that wrote or read it. If that end
/// comes first, the value was there for the whole zone; else for some moment of it. So two zones of the first kind
/// must not overlap, and none of the second kind may lie within one of the first. That is sufficient as well (Gibbons
/// and Korach, Testing Shared Memories, 1997).
pub fn check_register(writes: &[Write], reads: &[Read]) -> Result<(), String> {
    let mut zones: BTreeMap<Option<u64>, Zone> = BTreeMap::from([(None, Zone { first_end: 0, last_invoked: 0 })]);
    let written: BTreeMap<u64, &Write> = writes.iter().map(|write| (write.value, write)).collect();
    for write in writes.iter().filter(|write| write.outcome != Outcome::DidNotHappen) {
        let first_end = if write.outcome == Outcome::Done { write.ended } else { NEVER };
        zones.insert(Some(write.value), Zone { first_end, last_invoked: write.invoked });
    }
    for read in reads {
        if let Some(value) = read.value {
            check_source(value, written.get(&value).copied(), read)?;
        }
        let zone = zones.get_mut(&read.value).expect("its write was found");
        zone.first_end = zone.first_end.min(read.ended);
        zone.last_invoked = zone.last_invoked.max(read.invoked);
    }
    let (mut whole, moments): (Vec<_>, Vec<_>) = zones.into_iter().partition(|(_, zone)| zone.is_whole());
    whole.sort_by_key(|(_, zone)| zone.first_end);
    for pair in whole.windows(2) {
        let ((value, zone), (other, next)) = (pair[0], pair[1]);
        if next.first_end < zone.last_invoked {
            return Err(format!("{} was there while {} was: {zone:?}, {next:?}", name(value), name(other)));
        }
    }
    for (value, moment) in moments {
        let before = whole.partition_point(|(_, zone)| zone.first_end < moment.last_invoked);
        // They do not overlap: only the last of those that began before can end after.
        if let Some((other, zone)) = before.checked_sub(1).map(|last| whole[last])
            && moment.first_end < zone.last_invoked
        {
            return Err(format!("{} came and went while {} was there: lost, or old", name(value), name(other)));
        }
    }
    Ok(())
}

/// Checks the history of a key that is absent at first and then only changed by test-and-set, and read. `last` is its
/// value after all of that.
///
/// What is there at the end names the one that made it, which names the value before: this chain is the only order
/// there can be. It must have all swaps that were acknowledged, and none that did not happen; and there must be times
/// for its swaps and for the reads between them.
pub fn check_chain(swaps: &[Swap], reads: &[Read], last: Option<u64>) -> Result<(), String> {
    let by_value: BTreeMap<u64, &Swap> = swaps.iter().map(|swap| (swap.write.value, swap)).collect();
    let mut chain = Vec::new();
    let mut value = last;
    while let Some(found) = value {
        let swap = by_value.get(&found).ok_or_else(|| format!("{} was never written", name(value)))?;
        if swap.write.outcome == Outcome::DidNotHappen {
            return Err(format!("{} happened, and its client heard that it did not", name(value)));
        }
        chain.push(*swap);
        value = swap.expected;
        if chain.len() > swaps.len() {
            return Err("values came back".to_owned());
        }
    }
    chain.reverse();
    let done = swaps.iter().filter(|swap| swap.write.outcome == Outcome::Done).map(|swap| swap.write.value);
    let on_chain: std::collections::BTreeSet<u64> = chain.iter().map(|swap| swap.write.value).collect();
    if let Some(lost) = done.into_iter().find(|value| !on_chain.contains(value)) {
        return Err(format!("{} was acknowledged, and is lost", name(Some(lost))));
    }
    check_times(&chain, reads)
}

/// Gives each swap of the chain, and the reads of what it left, the earliest time that they can have had.
fn check_times(chain: &[&Swap], reads: &[Read]) -> Result<(), String> {
    let mut reads_of: BTreeMap<Option<u64>, Vec<&Read>> = BTreeMap::new();
    for read in reads {
        reads_of.entry(read.value).or_default().push(read);
    }
    let mut now = 0;
    for value in std::iter::once(None).chain(chain.iter().map(|swap| Some(swap.write.value))) {
        if let Some(swap) = value.and_then(|value| chain.iter().find(|swap| swap.write.value == value)) {
            now = now.max(swap.write.invoked);
            if swap.write.outcome == Outcome::Done && now > swap.write.ended {
                return Err(format!("{} came after a later one, or was read before it was there", name(value)));
            }
        }
        let mut after = now;
        for read in reads_of.remove(&value).unwrap_or_default() {
            let at = now.max(read.invoked);
            if at > read.ended {
                return Err(format!("{} was read before it was there", name(value)));
            }
            after = after.max(at);
        }
        now = after;
    }
    match reads_of.keys().next() {
        Some(stray) => Err(format!("{} was read, and never was part of the history", name(*stray))),
        None => Ok(()),
    }
}

fn check_source(value: u64, write: Option<&Write>, read: &Read) -> Result<(), String> {
    let what = name(Some(value));
    match write {
        None => Err(format!("{what} was read, and nobody wrote it")),
        Some(write) if write.outcome == Outcome::DidNotHappen => {
            Err(format!("{what} was read, and its client heard that it did not happen"))
        }
        Some(write) if read.ended < write.invoked => Err(format!("{what} was read before it was written")),
        Some(_) => Ok(()),
    }
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    first_end: u64,
    last_invoked: u64,
}

impl Zone {
    fn is_whole(self) -> bool {
        self.first_end < self.last_invoked
    }
}

fn name(value: Option<u64>) -> String {
    value.map_or("no value".to_owned(), |value| format!("value {value:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, invoked: u64, ended: u64, outcome: Outcome) -> Write {
        Write { value, invoked, ended, outcome }
    }

    fn read(value: Option<u64>, invoked: u64, ended: u64) -> Read {
        Read { value, invoked, ended }
    }

    /// Tries every order of the calls.
    fn has_an_order(writes: &[Write], reads: &[Read]) -> bool {
        fn go(now: Option<u64>, writes: &[Write], reads: &[Read]) -> bool {
            let must = |write: &Write| write.outcome == Outcome::Done;
            if reads.is_empty() && !writes.iter().any(must) {
                return true;
            }
            let end = |write: &Write| if must(write) { write.ended } else { NEVER };
            let first_end = writes.iter().map(end).chain(reads.iter().map(|read| read.ended)).min().unwrap();
            let without = |at: usize| [&writes[..at], &writes[at + 1..]].concat();
            let next_write = (0..writes.len())
                .any(|at| writes[at].invoked <= first_end && go(Some(writes[at].value), &without(at), reads));
            next_write
                || (0..reads.len()).any(|at| {
                    let rest = [&reads[..at], &reads[at + 1..]].concat();
                    reads[at].invoked <= first_end && reads[at].value == now && go(now, writes, &rest)
                })
        }
        let possible: Vec<Write> =
            writes.iter().copied().filter(|write| write.outcome != Outcome::DidNotHappen).collect();
        go(None, &possible, reads)
    }

    /// All intervals with different ends out of `1..=times` for that many calls.
    fn intervals(calls: usize, times: &[u64]) -> Vec<Vec<(u64, u64)>> {
        if calls == 0 {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for (at, &start) in times.iter().enumerate() {
            for &end in &times[at + 1..] {
                let rest: Vec<u64> = times.iter().copied().filter(|time| *time != start && *time != end).collect();
                for mut tail in intervals(calls - 1, &rest) {
                    tail.push((start, end));
                    all.push(tail);
                }
            }
        }
        all
    }

    #[test]
    fn a_register_passes_exactly_when_some_order_of_its_calls_explains_it() {
        let (mut good, mut bad) = (0, 0);
        for spans in intervals(4, &[1, 2, 3, 4, 5, 6, 7, 8]) {
            let at = |call: usize| (spans[call].0, spans[call].1);
            for outcome in [Outcome::Done, Outcome::Unknown, Outcome::DidNotHappen] {
                let writes = [write(1, at(0).0, at(0).1, Outcome::Done), write(2, at(1).0, at(1).1, outcome)];
                for values in [[None, Some(1)], [Some(1), Some(1)], [Some(1), Some(2)], [Some(2), Some(2)], [None; 2]] {
                    let reads = [read(values[0], at(2).0, at(2).1), read(values[1], at(3).0, at(3).1)];
                    let passes = check_register(&writes, &reads).is_ok();
                    assert_eq!(passes, has_an_order(&writes, &reads), "{writes:?} {reads:?}");
                    *(if passes { &mut good } else { &mut bad }) += 1;
                }
            }
        }
        assert!(good > 1_000 && bad > 1_000, "{good} {bad}");
    }

    #[test]
    fn a_chain_has_all_that_was_acknowledged_and_nothing_that_did_not_happen() {
        let swap =
            |expected, value, invoked, ended, outcome| Swap { expected, write: write(value, invoked, ended, outcome) };
        let first = swap(None, 1, 1, 2, Outcome::Done);
        let second = swap(Some(1), 2, 3, 4, Outcome::Unknown);
        let third = swap(Some(2), 3, 5, 6, Outcome::Done);
        let whole = [first, second, third];
        assert_eq!(check_chain(&whole, &[read(Some(2), 4, 6), read(None, 1, 1)], Some(3)), Ok(()));
        assert_eq!(check_chain(&[first, second], &[], Some(1)), Ok(()));

        let lost = check_chain(&whole, &[], Some(2)).unwrap_err();
        assert!(lost.contains("value 3 was acknowledged"), "{lost}");
        let forked = check_chain(&[first, swap(None, 4, 3, 4, Outcome::Done)], &[], Some(4)).unwrap_err();
        assert!(forked.contains("value 1 was acknowledged"), "{forked}");
        let refused = swap(Some(1), 2, 3, 4, Outcome::DidNotHappen);
        assert!(check_chain(&[first, refused], &[], Some(2)).is_err());
        assert!(check_chain(&whole, &[read(Some(1), 7, 8)], Some(3)).is_err(), "old");
        assert!(check_chain(&whole, &[read(Some(3), 3, 4)], Some(3)).is_err(), "too early");
        assert!(check_chain(&whole, &[read(Some(9), 3, 4)], Some(3)).is_err(), "from nowhere");
        assert!(check_chain(&whole, &[], Some(9)).is_err(), "from nowhere");
        let early = swap(Some(2), 3, 1, 2, Outcome::Done);
        assert!(check_chain(&[first, second, early], &[], Some(3)).is_err(), "before the one that it follows");
    }
}
