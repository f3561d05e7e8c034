//! `replay`, `timeline`.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use trialbay_engine::NodeId;
use trialbay_sim::campaign::story;
use trialbay_sim::recording;
use trialbay_sim::scenario::{Condition, S, Span};
use trialbay_sim::trace::lines::{Filter, Lines, Predicate, States, WIDTH};
use trialbay_sim::trace::timeline::{Header, html};
use trialbay_sim::trace::{Entry, Recorder, What};

use super::Subject;
use super::subject::Ready;

pub(super) fn replay(
    subject: &Subject,
    around: Option<&str>,
    until: Option<&str>,
    node: Option<&str>,
    legend: bool,
) -> Result<bool, String> {
    if legend {
        println!("{}", Lines::legend());
    }
    let ready = subject.ready()?;
    let within = around.map(str::parse::<Span>).transpose()?.map(|at| Filter::around(at.0));
    let until = until.map(str::parse::<Condition>).transpose()?.map(predicate);
    let node = node.map(number).transpose()?;
    if let Some(node) = node.filter(|node| node.0 > ready.scenario.cluster.nodes) {
        return Err(format!("there is no {node}: the cluster has n1 to n{}", ready.scenario.cluster.nodes));
    }
    let has_end = until.is_some();
    let filter = Filter { within, until, node };
    let nodes: Vec<NodeId> = (1..=ready.scenario.cluster.nodes).map(NodeId).collect();
    let lines = Rc::new(RefCell::new(Lines::new(&nodes, WIDTH, filter)));
    let listing = Rc::clone(&lines);
    let report = ready.play(Recorder::new(move |entry| {
        for line in listing.borrow_mut().push(&entry) {
            println!("{line}");
        }
    }))?;
    println!("{}", story(&ready.label, ready.seed, &report));
    if has_end && !lines.borrow().is_done() {
        eprintln!("trialbay-sim: what `--until` waits for never came");
    }
    if lines.borrow().is_empty() {
        let seconds = report.at as f64 / S as f64;
        eprintln!("trialbay-sim: nothing that was asked for happened in the {seconds:.3} s of this run");
    }
    Ok(report.violation.is_none())
}

pub(super) fn recording(dir: &Path) -> Result<bool, String> {
    let replayed = recording::replay(dir, &mut |line| println!("{line}"));
    let replayed = replayed.map_err(|error| format!("{}: {error}", dir.display()))?;
    println!("{replayed}");
    Ok(replayed.is_faithful())
}

pub(super) fn timeline(subject: &Subject) -> Result<bool, String> {
    let ready = subject.ready()?;
    let entries = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&entries);
    let report = ready.play(Recorder::new(move |entry| seen.borrow_mut().push(entry)))?;
    // A rule that was found broken at the end stands where it broke.
    entries.borrow_mut().sort_by_key(|entry| (entry.at, entry.event));
    let Ready { label, scenario, seed, .. } = ready;
    let (title, nodes) = (scenario.title.clone(), (1..=scenario.cluster.nodes).map(NodeId).collect());
    let verdict = report.violation.as_ref().map_or("pass".to_owned(), |broken| format!("FAIL {}", broken.checker));
    let command = |name: &str| (name.to_owned(), format!("trialbay-sim {name} {label} --seed {seed}"));
    let header = Header {
        title,
        seed,
        verdict,
        is_good: report.violation.is_none(),
        trace_hash: report.trace_hash,
        nodes,
        commands: vec![command("replay"), command("shrink")],
    };
    print!("{}", html(&header, &entries.borrow()));
    Ok(report.violation.is_none())
}

fn number(name: &str) -> Result<NodeId, String> {
    let number = name.strip_prefix('n').and_then(|number| number.parse().ok());
    number.map(NodeId).ok_or_else(|| format!("`{name}` is no node: write n1, n2 and so on"))
}

/// What the trace shows of a condition.
fn predicate(condition: Condition) -> Predicate<'static> {
    let mut count = 0;
    Box::new(move |entry: &Entry, states: &States| {
        let is_counted = match (&condition, &entry.what) {
            (Condition::Message { kind, way, .. }, What::Sent { kind: sent, from, to, .. }) => {
                sent == kind && way.is_none_or(|way| way == (*from, *to))
            }
            (Condition::Acknowledged(_), What::Responded { outcome, .. }) => {
                *outcome == trialbay_sim::trace::Outcome::Ok
            }
            _ => false,
        };
        count += u64::from(is_counted);
        match &condition {
            Condition::Master(who) => states.iter().any(|(id, state)| {
                who.is_none_or(|who| who == *id) && state.role == "master" && state.lease_left_ms.is_some()
            }),
            Condition::Decided(slot) => states.values().any(|state| state.decided >= *slot),
            Condition::Applied(id, slot) => states.get(id).is_some_and(|state| state.applied >= *slot),
            Condition::Down(id) => states.get(id).is_some_and(|state| !state.up),
            Condition::Acknowledged(nth) | Condition::Message { nth, .. } => count >= *nth,
        }
    })
}
