//! What a violation says: operations, keys, slots and values in words.

use trialbay::update::{Failure, Outcome, Update, UpdateResult};

use super::history::{Ask, Floor, Freshness, Operation, Response};
use super::query::{Query, QueryResult, Scan};
use super::versions::{Need, Stuck, Version, Want};

/// How many bytes of a key or value are shown.
const BYTES_MAX: usize = 48;

/// How many elements of a list are shown.
const ELEMENTS_MAX: usize = 8;

/// An operation: its place in the history, its client, what it asked for, when, and what it was told.
pub(super) fn name(index: usize, operation: &Operation) -> String {
    let (client, from) = (operation.client, operation.invoked);
    let asked = match &operation.ask {
        Ask::Update { update: asked, .. } => update(asked),
        Ask::Read { query: asked, freshness } => format!("{}, {}", query(asked), fresh(*freshness)),
    };
    let told = match &operation.response {
        None => format!("from event {from}, unanswered"),
        Some((at, Response::Updated(told))) => format!("events {from} to {at}, told {}", update_result(told)),
        Some((at, Response::Read(told))) => format!("events {from} to {at}, told {}", query_result(told)),
        Some((at, Response::Refused)) => format!("events {from} to {at}, refused"),
        Some((at, Response::Unknown)) => format!("events {from} to {at}, outcome unknown"),
    };
    format!("operation {index} (client {client}: {asked}; {told})")
}

/// Between which slots a consistent read must be explained, and why.
pub(super) fn consistent_bounds(operations: &[Operation], floor: Floor, upto: u64) -> String {
    let from = floor.slot();
    let why = floor.by.map_or("nothing had ended when it began".to_string(), |by| {
        let ended = operations.get(by).map_or("an operation".to_string(), |operation| name(by, operation));
        format!("{ended} stands there, and had ended when it began")
    });
    format!("had to see a state from slot {from} ({why}) to slot {upto}, the last that was chosen when it ended")
}

/// Why no state from slot `from` to slot `upto` explains a read.
pub(super) fn unexplained(needs: &[Need<'_>], stuck: Stuck, from: u64, upto: u64) -> String {
    let need = &needs[stuck.need];
    let (key, wanted) = (bytes(need.key), want(need.want));
    let in_window = window(need.versions, from, upto);
    let was = versions(in_window);
    let story = match stuck.because_of {
        Some(other) if in_window.iter().any(|version| need.is_met_by(version)) => {
            let (other, at) = (&needs[other], stuck.at);
            let (other_key, other_wanted) = (bytes(other.key), want(other.want));
            let other_was = versions(window(other.versions, from, upto));
            format!(
                "no slot has both {other_key} {other_wanted} and {key} {wanted} (the search ended at slot {at}): \
                 {other_key} was {other_was}, and {key} was {was}"
            )
        }
        Some(_) | None => format!("{key} is not {wanted} in any of these: it was {was}"),
    };
    let elsewhere = need.versions.iter().rfind(|version| need.is_met_by(version));
    match elsewhere {
        Some(version) if version.slot > upto || version.slot < from => {
            format!("{story}. It became {wanted} {}", origin(version))
        }
        Some(_) => story,
        None => format!("{story}. It never was {wanted}"),
    }
}

/// The result of an update.
pub(super) fn update_result(result: &UpdateResult) -> String {
    match result {
        Ok(Outcome::Done) => "done".to_string(),
        Ok(Outcome::Previous(value)) => format!("done, {} before", value_or_absent(value.as_deref())),
        Ok(Outcome::Returned(value)) => format!("done, returned {}", value_or_absent(value.as_deref())),
        Ok(Outcome::PreviousUntold) => "done, untold what was before".to_string(),
        Ok(Outcome::Deleted(count)) => format!("done, {count} keys deleted"),
        Err(Failure::NotFound { key }) => format!("no key {}", bytes(key)),
        Err(Failure::AssertionFailed { message }) => format!("assertion failed: {}", bytes(message)),
        Err(Failure::OutsideInterval { key }) => format!("{} is outside the interval", bytes(key)),
        Err(Failure::Illegal { why }) => format!("illegal: {why}"),
        Err(Failure::FunctionFailed { message }) => format!("user function failed: {message}"),
        Err(Failure::Undecodable { why }) => format!("undecodable: {why}"),
    }
}

/// A key, a value, or anything else of bytes.
pub(super) fn bytes(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(BYTES_MAX)].escape_ascii();
    if bytes.len() <= BYTES_MAX { format!("\"{shown}\"") } else { format!("\"{shown}...\" ({} bytes)", bytes.len()) }
}

fn update(asked: &Update) -> String {
    let option = |value: &Option<bytes::Bytes>| value_or_absent(value.as_deref());
    match asked {
        Update::Set { key, value } => format!("set {} = {}", bytes(key), bytes(value)),
        Update::Delete { key } => format!("delete {}", bytes(key)),
        Update::TestAndSet { key, expected, wanted } => {
            format!("test-and-set {} from {} to {}", bytes(key), option(expected), option(wanted))
        }
        Update::Sequence(updates) => format!("sequence [{}]", list(updates.iter().map(update), updates.len())),
        Update::Nop => "nop".to_string(),
        Update::Assert { key, expected } => format!("assert {} is {}", bytes(key), option(expected)),
        Update::AssertExists { key } => format!("assert {} exists", bytes(key)),
        Update::AssertRange { prefix, keys } => {
            let keys = list(keys.iter().map(|key| bytes(key)), keys.len());
            format!("assert exactly [{keys}] begin with {}", bytes(prefix))
        }
        Update::DeletePrefix { prefix } => format!("delete all that begins with {}", bytes(prefix)),
        Update::Nursery(update) => format!("{update:?}"),
        Update::UserFunction { name, argument } => format!("user function {} with {}", bytes(name), option(argument)),
        Update::Replace { key, wanted } => format!("replace {} by {}", bytes(key), option(wanted)),
    }
}

fn query(asked: &Query) -> String {
    match asked {
        Query::Get { key } => format!("get {}", bytes(key)),
        Query::Exists { key } => format!("exists {}", bytes(key)),
        Query::MultiGet { keys } => format!("multi-get [{}]", list(keys.iter().map(|key| bytes(key)), keys.len())),
        Query::Range(asked) => format!("range {}", scan(asked)),
        Query::RangeEntries(asked) => format!("range entries {}", scan(asked)),
        Query::RevRangeEntries(asked) => format!("descending range entries {}", scan(asked)),
        Query::PrefixKeys { prefix, max } => format!("keys that begin with {}{}", bytes(prefix), at_most(*max)),
    }
}

fn scan(asked: &Scan) -> String {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let first = match &asked.first {
        Included(key) => format!("from {}", bytes(key)),
        Excluded(key) => format!("after {}", bytes(key)),
        Unbounded => "from the first".to_string(),
    };
    let last = match &asked.last {
        Included(key) => format!("upto {}", bytes(key)),
        Excluded(key) => format!("below {}", bytes(key)),
        Unbounded => "to the last".to_string(),
    };
    format!("{first} {last}{}", at_most(asked.max))
}

fn at_most(max: Option<usize>) -> String {
    max.map_or(String::new(), |max| format!(", at most {max}"))
}

fn fresh(freshness: Freshness) -> String {
    match freshness {
        Freshness::Consistent { by_lease: true } => "consistent by lease".to_string(),
        Freshness::Consistent { by_lease: false } => "consistent by quorum".to_string(),
        Freshness::AtLeast(slot) => format!("at least slot {}", slot.0),
        Freshness::NoGuarantees => "no guarantees".to_string(),
    }
}

fn query_result(result: &QueryResult) -> String {
    match result {
        QueryResult::Value(value) => value_or_absent(value.as_deref()),
        QueryResult::Exists(exists) => format!("{exists}"),
        QueryResult::Values(values) => {
            format!("[{}]", list(values.iter().map(|value| value_or_absent(value.as_deref())), values.len()))
        }
        QueryResult::Keys(keys) => format!("[{}]", list(keys.iter().map(|key| bytes(key)), keys.len())),
        QueryResult::Entries(entries) => {
            let shown = entries.iter().map(|(key, value)| format!("{} = {}", bytes(key), bytes(value)));
            format!("[{}]", list(shown, entries.len()))
        }
    }
}

fn want(want: Want<'_>) -> String {
    match want {
        Want::Is(value) => value_or_absent(value.map(AsRef::as_ref)),
        Want::Exists => "there".to_string(),
    }
}

fn value_or_absent(value: Option<&[u8]>) -> String {
    value.map_or("absent".to_string(), bytes)
}

/// What a key was from slot `from` to slot `upto`.
fn window(all: &[Version], from: u64, upto: u64) -> &[Version] {
    let begin = all.partition_point(|version| version.slot <= from).saturating_sub(1);
    let end = all.partition_point(|version| version.slot <= upto);
    &all[begin..end.max(begin)]
}

fn versions(window: &[Version]) -> String {
    let shown =
        window.iter().map(|version| format!("{} {}", value_or_absent(version.value.as_deref()), origin(version)));
    list(shown, window.len())
}

fn origin(version: &Version) -> String {
    let by = version.by.map_or(String::new(), |by| format!(" (operation {by})"));
    format!("from slot {}{by}", version.slot)
}

fn list(elements: impl Iterator<Item = String>, count: usize) -> String {
    let mut shown: Vec<String> = elements.take(ELEMENTS_MAX).collect();
    if count > ELEMENTS_MAX {
        shown.push(format!("{} more", count - ELEMENTS_MAX));
    }
    shown.join(", ")
}
