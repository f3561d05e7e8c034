//! What all clients of a test saw, and whether one store that loses and doubles nothing can have answered so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use trialbay::client::ClientError;

use crate::register::{NEVER, Outcome, Read, Swap, Write, check_chain, check_register};

/// The record of a test, kept in memory by its clients.
pub struct History {
    started: Instant,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    registers: BTreeMap<String, Vec<Write>>,
    chains: BTreeMap<String, Vec<Swap>>,
    reads: BTreeMap<String, Vec<Read>>,
    /// Keys that were set once, if they were.
    inserts: BTreeMap<String, Write>,
    /// Invocation and end of all that was acknowledged.
    acknowledged: Vec<(u64, u64)>,
    violations: Vec<String>,
    report: Report,
}

/// How the calls of a test ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Updates that were acknowledged.
    pub done: usize,
    /// Updates that did not happen.
    pub did_not_happen: usize,
    /// Updates of which nobody knows.
    pub unknown: usize,
    /// Reads that were answered.
    pub reads: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, did_not_happen, unknown, reads } = self;
        write!(f, "{done} updates acknowledged, {did_not_happen} did not happen, {unknown} unknown; {reads} reads")
    }
}

impl Default for History {
    fn default() -> Self {
        Self { started: Instant::now(), calls: Mutex::default() }
    }
}

impl History {
    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("a test takes less than centuries")
    }

    /// Records that a register was set.
    pub fn wrote(&self, key: &str, value: u64, invoked: u64, result: &Result<(), ClientError>) {
        let write = self.write(value, invoked, outcome(result));
        let mut calls = self.calls();
        calls.count(&write);
        calls.registers.entry(key.to_owned()).or_default().push(write);
    }

    /// Records a sequence that set a key which nobody else sets, on condition that it was absent, and two registers.
    pub fn inserted(&self, key: &str, pair: [&str; 2], value: u64, invoked: u64, result: &Result<(), ClientError>) {
        let write = self.write(value, invoked, outcome(result));
        let mut calls = self.calls();
        if let Err(ClientError::AssertionFailed { .. }) = result {
            calls.violations.push(format!("{key} was there before its only writer set it: its sequence came twice"));
        }
        calls.count(&write);
        calls.inserts.insert(key.to_owned(), write);
        for register in pair {
            calls.registers.entry(register.to_owned()).or_default().push(write);
        }
    }

    /// Records a test-and-set, which gives the value before, or an error.
    pub fn swapped(
        &self,
        key: &str,
        expected: Option<u64>,
        wanted: u64,
        invoked: u64,
        result: Result<Option<u64>, ClientError>,
    ) {
        let outcome = match &result {
            Ok(found) if *found == expected => Outcome::Done,
            Ok(_) => Outcome::DidNotHappen,
            Err(_) => outcome(&result),
        };
        let write = self.write(wanted, invoked, outcome);
        let mut calls = self.calls();
        calls.count(&write);
        calls.chains.entry(key.to_owned()).or_default().push(Swap { expected, write });
        if let (Ok(found), Outcome::DidNotHappen) = (result, outcome) {
            calls.read(key, Read { value: found, invoked, ended: write.ended });
        }
    }

    /// Records what a consistent read gave. One that failed says nothing.
    pub fn read(&self, key: &str, invoked: u64, value: Option<u64>) {
        let ended = self.now();
        self.calls().read(key, Read { value, invoked, ended });
    }

    /// Records what cannot be.
    pub fn violated(&self, what: String) {
        self.calls().violations.push(what);
    }

    /// How long after `since` the first update was acknowledged that was not under way by then.
    pub fn resumed(&self, since: u64) -> Option<Duration> {
        let calls = self.calls();
        let recent = calls.acknowledged.iter().rev().take_while(|(_, ended)| *ended >= since);
        let first = recent.filter(|(invoked, _)| *invoked >= since).map(|(_, ended)| *ended).min();
        first.map(|ended| Duration::from_nanos(ended - since))
    }

    /// How many updates were acknowledged between two moments.
    pub fn acknowledged(&self, from: u64, upto: u64) -> usize {
        self.calls().acknowledged.iter().filter(|(_, ended)| (from..=upto).contains(ended)).count()
    }

    /// How the calls ended so far.
    pub fn report(&self) -> Report {
        self.calls().report.clone()
    }

    /// The keys that were set and read, without those that were set once.
    pub fn keys(&self) -> BTreeSet<String> {
        let calls = self.calls();
        calls.registers.keys().chain(calls.chains.keys()).cloned().collect()
    }

    /// Judges the history, given that all keys were read at its end, and which of those that are set once are there.
    ///
    /// # Panics
    /// When there is anything wrong with it, with all that is.
    pub fn check(&self, present: &BTreeMap<String, u64>) {
        let mut calls = self.calls();
        let Calls { registers, chains, reads, inserts, violations, .. } = &mut *calls;
        let reads_of = |key: &String| reads.get(key).map_or(&[][..], Vec::as_slice);
        for (key, writes) in registers.iter() {
            violations.extend(check_register(writes, reads_of(key)).err().map(|why| format!("{key}: {why}")));
        }
        for (key, swaps) in chains.iter() {
            let last = reads_of(key).iter().max_by_key(|read| read.invoked).and_then(|read| read.value);
            violations.extend(check_chain(swaps, reads_of(key), last).err().map(|why| format!("{key}: {why}")));
        }
        for (key, write) in inserts.iter() {
            match (write.outcome, present.get(key)) {
                (Outcome::Done, None) => violations.push(format!("{key} was acknowledged, and is lost")),
                (Outcome::DidNotHappen, Some(_)) => violations.push(format!("{key} is there, and did not happen")),
                (_, Some(value)) if *value != write.value => violations.push(format!("{key} has another value")),
                (Outcome::Done | Outcome::DidNotHappen | Outcome::Unknown, _) => {}
            }
        }
        violations.extend(present.keys().filter(|key| !inserts.contains_key(*key)).map(|key| format!("{key}: whose?")));
        let count = violations.len();
        violations.truncate(20);
        assert!(count == 0, "{count} violations in {}:\n{}", calls.report, calls.violations.join("\n"));
    }

    fn write(&self, value: u64, invoked: u64, outcome: Outcome) -> Write {
        let ended = if outcome == Outcome::Unknown { NEVER } else { self.now() };
        Write { value, invoked, ended, outcome }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().expect("no client panics while it records")
    }
}

impl Calls {
    fn count(&mut self, write: &Write) {
        match write.outcome {
            Outcome::Done => {
                self.report.done += 1;
                self.acknowledged.push((write.invoked, write.ended));
            }
            Outcome::DidNotHappen => self.report.did_not_happen += 1,
            Outcome::Unknown => self.report.unknown += 1,
        }
    }

    fn read(&mut self, key: &str, read: Read) {
        self.report.reads += 1;
        self.reads.entry(key.to_owned()).or_default().push(read);
    }
}

fn outcome<T>(result: &Result<T, ClientError>) -> Outcome {
    use trialbay::client::Happened;
    match result {
        Ok(_) => Outcome::Done,
        Err(error) => match error.happened() {
            Happened::No => Outcome::DidNotHappen,
            Happened::Unknown => Outcome::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "own/1 was acknowledged, and is lost")]
    fn a_lost_insert_is_a_violation() {
        let history = History::default();
        history.inserted("own/1", ["left", "right"], 1, history.now(), &Ok(()));
        history.check(&BTreeMap::new());
    }

    #[test]
    #[should_panic(expected = "came twice")]
    fn an_insert_that_finds_itself_is_a_violation() {
        let history = History::default();
        let refused = ClientError::AssertionFailed { message: bytes::Bytes::new() };
        history.inserted("own/1", ["left", "right"], 1, history.now(), &Err(refused));
        history.check(&BTreeMap::new());
    }

    #[test]
    fn only_what_began_after_a_crash_tells_that_writes_resumed() {
        let history = History::default();
        let before = history.now();
        let crash = before + 1;
        std::hint::spin_loop();
        history.wrote("r", 1, before, &Ok(()));
        assert_eq!(history.resumed(crash), None);
        history.wrote("r", 2, history.now(), &Ok(()));
        assert!(history.resumed(crash).is_some());
        assert_eq!(history.acknowledged(0, history.now()), 2);
        history.read("r", history.now(), Some(2));
        history.check(&BTreeMap::new());
    }
}
