//! Lies, each planted by hand in one honest history.

use bytes::Bytes;
use trialbay::update::{Failure, Outcome, Update, encode_command};
use trialbay_engine::{Slot, Value};

use crate::check::exact;
use crate::check::history::{Ask, Certified, Freshness, Operation, Response, Stats, check};
use crate::check::query::{Query, QueryResult, Scan};

const CONSISTENT: Freshness = Freshness::Consistent { by_lease: true };

type History = (Vec<Operation>, Vec<Certified>);

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn set(key: &'static str, value: &'static str) -> Update {
    Update::Set { key: text(key), value: text(value) }
}

fn updated(previous: &'static str) -> Response {
    Response::Updated(Ok(Outcome::Previous(Some(text(previous)))))
}

fn value(value: &'static str) -> Response {
    Response::Read(QueryResult::Value(Some(text(value))))
}

fn entries(entries: &[(&'static str, &'static str)]) -> Response {
    Response::Read(QueryResult::Entries(entries.iter().map(|(key, value)| (text(key), text(value))).collect()))
}

fn update(client: u64, update: Update, events: (u64, u64), response: Response) -> Operation {
    let ask = Ask::Update { command: encode_command(&update), update };
    Operation { client, ask, invoked: events.0, response: Some((events.1, response)), applied: None }
}

fn read(client: u64, query: Query, freshness: Freshness, events: (u64, u64), response: Response) -> Operation {
    let ask = Ask::Read { query, freshness };
    let applied = (freshness != CONSISTENT).then_some(Slot(3));
    Operation { client, ask, invoked: events.0, response: Some((events.1, response)), applied }
}

fn slot(commands: &[&Operation], chosen_at: u64) -> Certified {
    let bytes = commands.iter().map(|operation| match &operation.ask {
        Ask::Update { command, .. } => command.as_ref(),
        Ask::Read { .. } => panic!("a read is no command"),
    });
    Certified { value: Value::batch(bytes), chosen_at }
}

/// Both keys become 1 in slot 1 and 2 in slot 2, in which "c" appears too; then "a" becomes 3 in slot 3.
fn honest() -> History {
    let done = || Response::Updated(Ok(Outcome::Done));
    let get = |key| Query::Get { key: text(key) };
    let test_and_set = Update::TestAndSet { key: text("a"), expected: Some(text("2")), wanted: Some(text("3")) };
    let operations = vec![
        update(1, Update::Sequence(vec![set("a", "1"), set("b", "1")]), (1, 4), done()),
        update(1, Update::Sequence(vec![set("a", "2"), set("b", "2")]), (5, 12), done()),
        update(4, set("c", "2"), (5, 13), done()),
        read(2, get("a"), CONSISTENT, (6, 8), value("1")),
        read(2, Query::RangeEntries(Scan::all()), CONSISTENT, (9, 14), entries(&[("a", "2"), ("b", "2"), ("c", "2")])),
        update(1, test_and_set, (15, 18), updated("2")),
        update(4, set("a", "never"), (15, 17), Response::Refused),
        read(3, get("b"), Freshness::NoGuarantees, (19, 20), value("1")),
        read(3, get("a"), Freshness::AtLeast(Slot(2)), (21, 22), value("2")),
        read(2, get("a"), CONSISTENT, (23, 24), value("3")),
    ];
    let log =
        vec![slot(&[&operations[0]], 3), slot(&[&operations[1], &operations[2]], 10), slot(&[&operations[5]], 16)];
    (operations, log)
}

/// Plants a lie; `in_sight`: those who know nothing of the log see it, too.
#[track_caller]
fn caught(checker: &str, story: &[&str], in_sight: bool, lie: impl FnOnce(&mut History)) {
    let mut history = honest();
    lie(&mut history);
    let violation = check(&history.0, &history.1).expect_err("it is a lie");
    assert_eq!(violation.checker, checker, "{}", violation.story);
    for part in story {
        assert!(violation.story.contains(part), "{part:?} is missing in: {}", violation.story);
    }
    assert_eq!(exact::explain(&history.0).is_none(), in_sight);
}

fn answer(history: &mut History, operation: usize, response: Response) {
    history.0[operation].response.as_mut().expect("all are answered").1 = response;
}

#[test]
fn the_honest_history_is_believed() {
    let (operations, log) = honest();
    let stats = Stats { commands: 4, updates: 4, reads: 3, relaxed_reads: 2, unknown_that_happened: 0 };
    assert_eq!(check(&operations, &log), Ok(stats));
    assert!(exact::explain(&operations).is_some());
}

#[test]
fn an_update_of_unknown_outcome_may_have_happened_or_not() {
    let (mut operations, mut log) = honest();
    operations[5].response = None;
    let stats = Stats { commands: 4, updates: 3, reads: 3, relaxed_reads: 2, unknown_that_happened: 1 };
    assert_eq!(check(&operations, &log), Ok(stats));
    assert!(exact::explain(&operations).is_some());
    log.pop();
    operations.pop();
    operations[5].response = Some((18, Response::Unknown));
    assert!(check(&operations, &log).is_ok());
    assert!(exact::explain(&operations).is_some());
}

#[test]
fn a_value_before_may_be_untold_but_not_made_up() {
    let (mut operations, log) = honest();
    operations[5].response = Some((18, Response::Updated(Ok(Outcome::PreviousUntold))));
    assert!(check(&operations, &log).is_ok());
    assert!(exact::explain(&operations).is_some());
}

#[test]
fn a_stale_read_is_caught() {
    let story = ["operation 9 (client 2: get \"a\"", "told \"2\"", "from slot 3 (operation 5", "was \"3\" from slot 3"];
    caught("K4", &story, true, |history| answer(history, 9, value("2")));
}

#[test]
fn a_lost_acknowledged_write_is_caught() {
    let story = ["operation 2 (client 4: set \"c\" = \"2\"", "acknowledged", "none of the log's 3 slots"];
    caught("K8", &story, false, |history| history.1[1] = slot(&[&history.0[1]], 10));
}

#[test]
fn a_doubled_write_is_caught() {
    let story = ["operation 2 (client 4: set \"c\" = \"2\"", "happened twice, in slots 2 and 4"];
    caught("K8", &story, false, |history| history.1.push(slot(&[&history.0[2]], 20)));
}

#[test]
fn a_write_that_was_refused_and_happened_is_caught() {
    let story = ["operation 6 (client 4: set \"a\" = \"never\"", "was refused, and happened in slot 4"];
    caught("K8", &story, false, |history| history.1.push(slot(&[&history.0[6]], 30)));
}

#[test]
fn a_range_that_mixes_two_slots_is_caught_though_each_key_is_right_by_itself() {
    let story = ["operation 4", "no slot has both", "\"a\"", "\"b\"", "\"1\" from slot 1", "\"2\" from slot 2"];
    for mix in [[("a", "1"), ("b", "2"), ("c", "2")], [("a", "2"), ("b", "1"), ("c", "2")]] {
        caught("K4", &story, true, |history| answer(history, 4, entries(&mix)));
    }
    // Without the log nobody can tell in which order what ran at the same time was done.
    caught("K4", &["no slot has both", "\"c\" \"2\""], false, |history| {
        answer(history, 4, entries(&[("a", "1"), ("b", "1"), ("c", "2")]));
    });
    caught("K4", &["no slot has both", "\"c\" absent"], false, |history| {
        answer(history, 4, entries(&[("a", "2"), ("b", "2")]));
    });
}

#[test]
fn a_read_between_two_commands_of_one_slot_is_caught() {
    // An order of all operations explains it, but no slot does.
    let query = Query::MultiGet { keys: vec![text("c"), text("b")] };
    let told = Response::Read(QueryResult::Values(vec![None, Some(text("2"))]));
    caught("K4", &["no slot has both \"b\" \"2\" and \"c\" absent"], false, |history| {
        history.0[4] = read(2, query, CONSISTENT, (9, 14), told);
    });
}

#[test]
fn a_key_that_nobody_wrote_is_caught() {
    let story = ["\"bb\" is not \"2\" in any of these: it was absent from slot 0", "It never was \"2\""];
    let ghost = [("a", "2"), ("b", "2"), ("bb", "2"), ("c", "2")];
    caught("K4", &story, true, |history| answer(history, 4, entries(&ghost)));
}

#[test]
fn a_list_that_no_state_could_give_is_caught() {
    let cases = [
        (Scan::all(), &[("b", "2"), ("a", "2"), ("c", "2")][..], "not in order"),
        (Scan::all(), &[("a", "2"), ("a", "2"), ("b", "2"), ("c", "2")], "not in order"),
        (Scan { max: Some(1), ..Scan::all() }, &[("a", "2"), ("b", "2")], "more than the 1"),
        (Scan::prefix(&text("b"), None), &[("a", "2"), ("b", "2")], "\"a\" is outside"),
    ];
    for (scan, listed, story) in cases {
        caught("K4", &["operation 4", story], true, |history| {
            history.0[4] = read(2, Query::RangeEntries(scan), CONSISTENT, (9, 14), entries(listed));
        });
    }
}

#[test]
fn a_wrong_response_of_an_update_is_caught() {
    let story = ["operation 5", "told done, \"1\" before", "gives done, \"2\" before in slot 3"];
    caught("K4", &story, true, |history| answer(history, 5, updated("1")));
    let failed = Response::Updated(Err(Failure::NotFound { key: text("c") }));
    caught("K4", &["told no key \"c\"", "gives done"], true, |history| answer(history, 2, failed));
}

#[test]
fn a_read_from_the_future_is_caught() {
    let story = ["operation 3", "to slot 1, the last that was chosen when it ended", "It became \"2\" from slot 2"];
    // Its writer had been invoked, so without the log nobody can tell.
    caught("K4", &story, false, |history| answer(history, 3, value("2")));
    caught("K4", &["operation 3", "It became \"3\" from slot 3"], true, |history| answer(history, 3, value("3")));
}

#[test]
fn time_that_goes_back_from_one_read_to_the_next_is_caught() {
    let story = ["operation 4 (client 2: get \"a\"", "from slot 2 (operation 3", "stands there, and had ended"];
    let get = |told, events| read(2, Query::Get { key: text("a") }, CONSISTENT, events, value(told));
    caught("K4", &story, true, |history| {
        history.0[1].response = Some((30, Response::Unknown));
        history.0[2].response = Some((31, Response::Unknown));
        (history.0[3], history.0[4]) = (get("2", (10, 11)), get("1", (12, 14)));
    });
}

#[test]
fn a_log_out_of_real_time_order_is_caught() {
    let story = ["operation 5", "stands in slot 1, which was chosen at event 3, before it was asked for"];
    caught("K4", &story, false, |history| {
        let last = history.1[2].value.clone();
        history.1[2].value = std::mem::replace(&mut history.1[0].value, last);
    });
    let story = ["operation 0", "acknowledged when the log was chosen up to slot 0, and stands in slot 1"];
    caught("K4", &story, false, |history| history.1[0].chosen_at = 9);
}

#[test]
fn a_command_that_nobody_asked_for_is_caught() {
    let stranger = update(9, set("a", "x"), (1, 2), Response::Unknown);
    caught("K8", &["slot 4 holds a command that no client asked for"], false, |history| {
        history.1.push(slot(&[&stranger], 30));
    });
    caught("K8", &["slot 4 holds bytes that are no batch"], false, |history| {
        history.1.push(Certified { value: Value::Commands(text("junk")), chosen_at: 30 });
    });
}

#[test]
fn a_relaxed_read_of_what_its_node_did_not_have_is_caught() {
    let story = ["operation 8", "from slot 2 to slot 2", "It became \"3\" from slot 3"];
    caught("K4", &story, false, |history| {
        answer(history, 8, value("3"));
        history.0[8].applied = Some(Slot(2));
    });
    let story = ["operation 8", "from slot 2 to slot 3", "It became \"1\" from slot 1"];
    caught("K4", &story, false, |history| answer(history, 8, value("1")));
    let story = ["operation 8", "from slot 2 to slot 1", "there is none"];
    caught("K4", &story, false, |history| history.0[8].applied = Some(Slot(1)));
    caught("K4", &["operation 7", "It never was \"x\""], true, |history| answer(history, 7, value("x")));
}

#[test]
fn a_history_that_cannot_be_checked_is_said_to_be_one() {
    let story = ["cannot tell operation 2 (client 4: set \"c\" = \"2\"", "from operation 6", "names the operation"];
    caught("history", &story, false, |history| history.0[6].ask = history.0[2].ask.clone());
    let story = ["operation 3", "answered before it was asked"];
    caught("history", &story, true, |history| history.0[3].response = Some((5, value("1"))));
    caught("history", &["operation 3"], true, |history| answer(history, 3, updated("1")));
}
