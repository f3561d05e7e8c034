use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use trialbay_engine::NodeId;

use super::lines::{Filter, Lines, WIDTH};
use super::timeline::{Header, html};
use super::{Entry, NodeState, Recorder, What, synthetic};

const N2: NodeId = NodeId(2);

fn header(nodes: u16) -> Header {
    Header {
        title: "an acknowledged write survives </title><script>".to_owned(),
        seed: 0x5eed_9c41,
        verdict: "FAIL K4".to_owned(),
        is_good: false,
        trace_hash: 0x7f3a_0000_1234_5678,
        nodes: (1..=nodes).map(NodeId).collect(),
        commands: vec![("replay".to_owned(), "trialbay-sim replay storm --seed 1592630337".to_owned())],
    }
}

fn listing(nodes: u16, width: usize, filter: Filter<'_>, entries: &[Entry]) -> Vec<String> {
    let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    let mut lines = Lines::new(&ids, width, filter);
    entries.iter().flat_map(|entry| lines.push(entry)).collect()
}

/// The text of the script element with this id.
fn script<'a>(page: &'a str, id: &str) -> &'a str {
    let opening = format!("<script type=\"application/json\" id=\"{id}\">");
    let (_, after) = page.split_once(&opening).unwrap();
    after.split_once("</script>").unwrap().0
}

#[test]
fn a_trace_survives_json() {
    for (nodes, clients) in [(3, 2), (5, 4)] {
        let entries = synthetic::trace(11, nodes, clients, 3_000);
        let json = serde_json::to_string(&entries).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Entry>>(&json).unwrap(), entries);
        let plain: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        let kinds: BTreeSet<_> = plain.iter().filter_map(|entry| entry["is"].as_str()).collect();
        assert_eq!(kinds.len(), 10, "the trace has one of everything: {kinds:?}");
    }
}

#[test]
fn entries_are_built_only_for_those_who_watch() {
    let mut off = Recorder::default();
    off.record(1, 1, || unreachable!("nobody watches"));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&seen);
    let mut on = Recorder::new(move |entry| sink.borrow_mut().push(entry));
    on.record(7, 2, || What::Delivered { id: 3 });
    assert!(!off.is_on() && on.is_on());
    assert_eq!(*seen.borrow(), [Entry { at: 7, event: 2, what: What::Delivered { id: 3 } }]);
}

#[test]
fn the_page_contains_the_whole_trace_and_nothing_ends_its_scripts_early() {
    let entries = synthetic::trace(7, 3, 2, 400);
    assert!(matches!(&entries.last().unwrap().what, What::Violation { story, .. } if story.contains("</script>")));
    let page = html(&header(3), &entries);
    assert_eq!(serde_json::from_str::<Vec<Entry>>(script(&page, "run-entries")).unwrap(), entries);
    let shown: serde_json::Value = serde_json::from_str(script(&page, "run-header")).unwrap();
    assert_eq!(shown["title"], header(3).title);
    assert_eq!((&shown["seed"], &shown["hash"]), (&"1592630337".into(), &"7f3a000012345678".into()));
    assert_eq!(page.matches("</script>").count(), 3, "one for the header, the entries and the code");
    assert_eq!(page.matches("</title>").count(), 1);
}

#[test]
fn the_page_asks_the_network_for_nothing() {
    let page = html(&header(3), &synthetic::trace(7, 3, 2, 50));
    for word in ["http:", "https:", "//cdn", "src=", "@import", "url(", "fetch(", "XMLHttpRequest", "{{"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn an_empty_trace_is_a_page_too() {
    assert_eq!(script(&html(&header(3), &[]), "run-entries"), "[]");
}

#[test]
fn every_entry_but_an_arrival_has_a_line_that_fits() {
    for nodes in 3..=7 {
        let entries = synthetic::trace(5, nodes, 3, 2_000);
        let lines = listing(nodes, WIDTH, Filter::default(), &entries);
        let events = entries.iter().filter(|entry| !matches!(entry.what, What::Delivered { .. })).count();
        let names = events.div_ceil(50);
        assert_eq!(lines.len(), usize::from(nodes) + names + events);
        for line in lines.iter().filter(|line| !line.contains("VIOLATION")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}

#[test]
fn a_listing_shows_what_changed_where() {
    let entries = synthetic::trace(3, 3, 1, 70);
    let lines = listing(3, WIDTH, Filter::default(), &entries[15..]);
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn only_a_second_before_and_after_is_shown() {
    let entries = synthetic::trace(3, 3, 2, 3_000);
    let within = Filter::around(2_000_000_000);
    assert_eq!((within.start, within.end), (1_000_000_000, 3_000_000_000));
    assert_eq!(Filter::around(5).start, 0);
    let lines = listing(3, WIDTH, Filter { within: Some(within), ..Filter::default() }, &entries);
    let times: Vec<f64> = lines.iter().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    assert!(!times.is_empty() && times.iter().all(|second| (1.0..3.0).contains(second)));
    let before = entries.iter().rev().find_map(|entry| match &entry.what {
        What::Stepped { node: N2, state, .. } if entry.at < 1_000_000_000 => Some(state.decided),
        _ => None,
    });
    assert!(lines[1].contains(&format!("decided {}", before.unwrap())), "the states come first: {}", lines[1]);
}

#[test]
fn a_listing_ends_at_the_moment_asked_for() {
    let entries = synthetic::trace(3, 3, 2, 2_000);
    let ten = |state: &NodeState| state.decided >= 10;
    let until: super::lines::Predicate<'_> = Box::new(|_, states| states.values().any(ten));
    let lines = listing(3, WIDTH, Filter { until: Some(until), ..Filter::default() }, &entries);
    assert!(lines.last().unwrap().contains("d10"), "{:?}", lines.last());
    assert_eq!(lines.iter().filter(|line| line.contains("d10")).count(), 1);
}

#[test]
fn a_listing_of_one_node_shows_no_other_nodes_steps() {
    let entries = synthetic::trace(3, 5, 2, 2_000);
    let lines = listing(5, 400, Filter { node: Some(N2), ..Filter::default() }, &entries);
    let is_about_n2 = |entry: &&Entry| match &entry.what {
        What::Stepped { node, .. } | What::Synced { node, .. } => *node == N2,
        What::Sent { from, to, .. } | What::Lost { from, to, .. } => *from == N2 || *to == N2,
        What::Fault { nodes, .. } => nodes.is_empty() || nodes.contains(&N2),
        What::Noted { node, .. } => node.is_none_or(|node| node == N2),
        What::Violation { .. } => true,
        _ => false,
    };
    let expected = entries.iter().filter(is_about_n2).count();
    assert!(expected > 100);
    assert_eq!(lines.len(), 5 + expected.div_ceil(50) + expected);
}
