//! Small worlds, explored to their end; and whether the explorer sees what is planted in them.

use trialbay_sim::explore::{Bounds, Change, Findings, explore};

const WORLD: Bounds = Bounds {
    nodes: 3,
    ballots: 2,
    slots: 0,
    crashes: 0,
    duplicates: 0,
    fetches: 0,
    master_ticks: 0,
    states_max: 4_000_000,
};

#[test]
fn one_campaign_of_three_nodes_breaks_no_rule_in_any_order() {
    holds(Bounds { ballots: 1, ..WORLD }, None, 10_705, 66_581);
}

#[test]
fn two_campaigns_an_update_and_a_crash_of_two_nodes_break_no_rule_in_any_order() {
    holds(Bounds { nodes: 2, slots: 1, crashes: 1, ..WORLD }, None, 66_897, 285_928);
}

#[test]
fn two_campaigns_of_two_nodes_that_both_crash_break_no_rule_in_any_order() {
    holds(Bounds { nodes: 2, crashes: 2, ..WORLD }, None, 60_856, 296_236);
}

#[test]
fn a_duplicate_breaks_no_rule_in_any_order() {
    holds(Bounds { nodes: 2, slots: 1, duplicates: 1, ..WORLD }, None, 7_611, 31_914);
}

#[test]
fn a_late_heartbeat_and_catch_up_break_no_rule_in_any_order() {
    holds(Bounds { nodes: 2, fetches: 1, master_ticks: 1, ..WORLD }, None, 25_949, 105_510);
}

#[test]
fn harmless_changes_break_no_rule() {
    holds(Bounds { ballots: 1, ..WORLD }, Some(Change::AcceptanceRepeated), 7_881, 52_137);
    holds(Bounds { nodes: 2, crashes: 1, ..WORLD }, Some(Change::NothingLost), 13_945, 60_662);
}

#[test]
fn an_engine_that_hears_too_early_that_its_disk_is_done_is_seen() {
    is_seen(Change::PersistedBeforeSync, WORLD, 1, "n1 prepares 1.n1, and its disk has promised only 0.n0");
}

#[test]
fn a_restart_that_forgets_promises_is_seen() {
    is_seen(
        Change::PromiseForgotten,
        Bounds { crashes: 1, ..WORLD },
        7,
        "n3 promises 1.n1, and took part in 2.n2 before (P2)",
    );
}

#[test]
fn a_restart_that_forgets_the_nodes_own_promise_is_seen() {
    is_seen(Change::OwnPromiseForgotten, Bounds { crashes: 1, ..WORLD }, 4, "used 1.n1 before (C2)");
}

#[test]
fn a_restart_that_forgets_an_accepted_entry_is_seen() {
    is_seen(Change::EntryForgotten, Bounds { crashes: 1, ..WORLD }, 12, "(I1)");
}

#[test]
fn an_acceptance_that_is_counted_twice_is_seen() {
    is_seen(Change::AcceptanceForged, WORLD, 6, "applies master(n1) in s1, where None is chosen (M3)");
}

/// Explores all of it: so many states and transitions, for ever the same.
fn holds(bounds: Bounds, change: Option<Change>, states: usize, transitions: u64) {
    let findings = explore(bounds, change, &mut |_| {});
    assert_eq!(findings.failure, None);
    assert!(findings.is_complete, "{findings:?}");
    assert_eq!((findings.states, findings.transitions), (states, transitions));
}

fn is_seen(change: Change, bounds: Bounds, steps: usize, story: &str) {
    let Findings { failure, .. } = explore(bounds, Some(change), &mut |_| {});
    let failure = failure.expect("a planted bug is seen");
    assert!(failure.story.contains(story), "{failure}");
    assert_eq!(failure.steps.len(), steps, "{failure}");
}
