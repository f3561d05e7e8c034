//! What each key was when: one list of versions per key, and the search for a slot that explains a read.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::query::{Query, QueryResult, Scan};

/// Every value that every key ever had.
#[derive(Debug, Default)]
pub(super) struct Versions(BTreeMap<Bytes, Vec<Version>>);

/// What a key is from one slot on, up to its next version. Every list begins with "absent" in slot 0.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// The slot that made it so.
    pub(super) slot: u64,
    /// `None`: there is no such key.
    pub(super) value: Option<Bytes>,
    /// The operation that made it so.
    pub(super) by: Option<usize>,
}

/// What must be true of one key in the slot that explains a read.
#[derive(Clone, Debug)]
pub(super) struct Need<'a> {
    pub(super) key: &'a Bytes,
    pub(super) want: Want<'a>,
    /// What the key was when.
    pub(super) versions: &'a [Version],
}

/// What a read says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want<'a> {
    /// It has this value; `None`: it is absent.
    Is(Option<&'a Bytes>),
    /// It is there, with whatever value.
    Exists,
}

/// Why no slot explains a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    /// The need (by its place) that cannot be met in the rest of the window.
    pub(super) need: usize,
    /// The rest begins (seen in the direction of the search) with this slot.
    pub(super) at: u64,
    /// The need that leaves nothing before that slot; `None`: that is where the window begins.
    pub(super) because_of: Option<usize>,
}

static NEVER: [Version; 1] = [Version { slot: 0, value: None, by: None }];

impl Versions {
    /// In `slot`, `by` made `key` what it is.
    pub(super) fn record(&mut self, key: &Bytes, slot: u64, value: Option<&Bytes>, by: usize) {
        let version = Version { slot, value: value.cloned(), by: Some(by) };
        match self.0.get_mut(key) {
            Some(versions) => match versions.last_mut() {
                // Nobody sees a state between two commands of one slot.
                Some(last) if last.slot == slot => *last = version,
                Some(_) | None => versions.push(version),
            },
            None => {
                self.0.insert(key.clone(), vec![NEVER[0].clone(), version]);
            }
        }
    }

    /// What must be true in the slot that explains this result.
    ///
    /// # Errors
    /// When no state of any store could give it; says why.
    pub(super) fn needs<'a>(&'a self, query: &'a Query, result: &'a QueryResult) -> Result<Vec<Need<'a>>, String> {
        match (query, result) {
            (Query::Get { key }, QueryResult::Value(value)) => Ok(vec![self.need(key, Want::Is(value.as_ref()))]),
            (Query::Exists { key }, QueryResult::Exists(true)) => Ok(vec![self.need(key, Want::Exists)]),
            (Query::Exists { key }, QueryResult::Exists(false)) => Ok(vec![self.need(key, Want::Is(None))]),
            (Query::MultiGet { keys }, QueryResult::Values(values)) if keys.len() == values.len() => {
                let wants = values.iter().map(|value| Want::Is(value.as_ref()));
                Ok(keys.iter().zip(wants).map(|(key, want)| self.need(key, want)).collect())
            }
            (Query::Range(_) | Query::PrefixKeys { .. }, QueryResult::Keys(keys)) => {
                self.needs_of_scan(query, keys.iter().map(|key| (key, Want::Exists)).collect())
            }
            (Query::RangeEntries(_) | Query::RevRangeEntries(_), QueryResult::Entries(entries)) => {
                self.needs_of_scan(query, entries.iter().map(|(key, value)| (key, Want::Is(Some(value)))).collect())
            }
            _ => Err("that is no answer to such a question".to_string()),
        }
    }

    fn need<'a>(&'a self, key: &'a Bytes, want: Want<'a>) -> Need<'a> {
        Need { key, want, versions: self.0.get(key).map_or(&NEVER[..], Vec::as_slice) }
    }

    /// Each listed key must be as it is listed, and every other key in the part that the list covers must be absent.
    fn needs_of_scan<'a>(
        &'a self,
        query: &'a Query,
        mut listed: Vec<(&'a Bytes, Want<'a>)>,
    ) -> Result<Vec<Need<'a>>, String> {
        let Some((mut part, is_descending)) = query.scan() else { return Ok(Vec::new()) };
        if is_descending {
            listed.reverse();
        }
        if !listed.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err("its keys are not in order".to_string());
        }
        if let Some((outside, _)) = listed.iter().find(|(key, _)| !part.contains(key)) {
            return Err(format!("\"{}\" is outside what was asked for", outside.escape_ascii()));
        }
        let max = part.max.unwrap_or(usize::MAX);
        if listed.len() > max {
            return Err(format!("{} keys are more than the {max} that were asked for", listed.len()));
        }
        if listed.len() == max {
            narrow(&mut part, is_descending, &listed);
        }
        let mut listed = listed.into_iter().peekable();
        let mut needs = Vec::with_capacity(listed.len());
        for (key, versions) in part.of(&self.0) {
            while let Some((unknown, want)) = listed.next_if(|(next, _)| *next < key) {
                needs.push(Need { key: unknown, want, versions: &NEVER });
            }
            let want = listed.next_if(|(next, _)| *next == key).map_or(Want::Is(None), |(_, want)| want);
            needs.push(Need { key, want, versions });
        }
        needs.extend(listed.map(|(key, want)| Need { key, want, versions: &NEVER }));
        Ok(needs)
    }
}

impl Need<'_> {
    /// The first slot of a window in which this is met.
    fn first(&self, from: u64, upto: u64) -> Option<u64> {
        let begin = self.versions.partition_point(|version| version.slot <= from).saturating_sub(1);
        let mut window = self.versions[begin..].iter().take_while(|version| version.slot <= upto);
        window.find(|version| self.is_met_by(version)).map(|version| version.slot.max(from))
    }

    /// The last slot of a window in which this is met.
    fn last(&self, from: u64, upto: u64) -> Option<u64> {
        let end = self.versions.partition_point(|version| version.slot <= upto);
        let mut until = upto;
        for version in self.versions[..end].iter().rev() {
            if self.is_met_by(version) {
                return Some(until);
            }
            // What is before this version ends in the slot before it.
            until = version.slot.checked_sub(1).filter(|slot| *slot >= from)?;
        }
        None
    }

    pub(super) fn is_met_by(&self, version: &Version) -> bool {
        match self.want {
            Want::Is(value) => version.value.as_ref() == value,
            Want::Exists => version.value.is_some(),
        }
    }
}

/// The first slot of a window in which all needs are met at once.
///
/// Costs a look at each key per leap over slots in which one of them is not met, so in practice two.
pub(super) fn earliest(needs: &[Need<'_>], from: u64, upto: u64) -> Result<u64, Stuck> {
    leap(needs, from, |need, at| need.first(at, upto))
}

/// The last slot of a window in which all needs are met at once.
pub(super) fn latest(needs: &[Need<'_>], from: u64, upto: u64) -> Result<u64, Stuck> {
    leap(needs, upto, |need, at| need.last(from, at))
}

/// Goes round all needs, each time to the `next` slot at which this one is met, until a whole round moved nothing.
fn leap<'a>(needs: &[Need<'a>], start: u64, next: impl Fn(&Need<'a>, u64) -> Option<u64>) -> Result<u64, Stuck> {
    let (mut at, mut because_of) = (start, None);
    let (mut need, mut met) = (0, 0);
    while met < needs.len() {
        let found = next(&needs[need], at).ok_or(Stuck { need, at, because_of })?;
        met += 1;
        if found != at {
            (at, because_of, met) = (found, Some(need), 1);
        }
        need = (need + 1) % needs.len();
    }
    Ok(at)
}

/// A full list covers no more than the way to its last key.
fn narrow(part: &mut Scan, is_descending: bool, listed: &[(&Bytes, Want<'_>)]) {
    match (listed.first(), listed.last()) {
        (Some((first, _)), _) if is_descending => part.first = Bound::Included(Bytes::clone(first)),
        (_, Some((last, _))) => part.last = Bound::Included(Bytes::clone(last)),
        // It covers nothing.
        (_, None) => (part.first, part.last) = (Bound::Excluded(Bytes::new()), Bound::Included(Bytes::new())),
    }
}
