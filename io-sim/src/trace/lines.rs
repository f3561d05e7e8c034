//! A run as lines: what happened, with a column for each node that shows only what changed there.

use std::collections::BTreeMap;
use std::ops::Range;

use trialbay_engine::NodeId;

use super::{Entry, NodeState, What};

/// The columns that a terminal should have.
pub const WIDTH: usize = 160;
/// Simulated time and event number.
const MARGIN: usize = 19;
/// What the text of what happened has at least.
const TEXT_MIN: usize = 44;
/// With the gap to the next cell.
const CELL: Range<usize> = 13..28;
/// The names of the columns are repeated after so many lines.
const PAGE: u64 = 50;

/// Each node's state after its last step so far.
pub type States = BTreeMap<NodeId, NodeState>;

/// Whether the moment has come, from what has just happened and what it led to.
pub type Predicate<'a> = Box<dyn FnMut(&Entry, &States) -> bool + 'a>;

/// Which lines are shown. By default all.
#[derive(Default)]
pub struct Filter<'a> {
    /// Only what happens in this span of simulated time, in nanoseconds.
    pub within: Option<Range<u64>>,
    /// Nothing after the moment at which this holds.
    pub until: Option<Predicate<'a>>,
    /// Only what concerns this node. A broken rule concerns all.
    pub node: Option<NodeId>,
}

impl Filter<'_> {
    /// The span from a second before `at` to a second after.
    pub fn around(at: u64) -> Range<u64> {
        const SECOND: u64 = 1_000_000_000;
        at.saturating_sub(SECOND)..at.saturating_add(SECOND)
    }
}

/// Makes lines of entries, one at a time, so that a run of any length can be printed while it is played.
pub struct Lines<'a> {
    states: States,
    filter: Filter<'a>,
    width: usize,
    cell: usize,
    shown: u64,
    is_done: bool,
}

impl<'a> Lines<'a> {
    /// For a cluster of these nodes, with lines of at most `width` columns; only the story of a violation is never cut.
    pub fn new(nodes: &[NodeId], width: usize, filter: Filter<'a>) -> Self {
        let room = width.saturating_sub(MARGIN + TEXT_MIN) / nodes.len().max(1);
        Self {
            states: nodes.iter().map(|node| (*node, NodeState::default())).collect(),
            filter,
            width,
            cell: room.clamp(CELL.start, CELL.end - 1),
            shown: 0,
            is_done: false,
        }
    }

    /// What the columns mean.
    pub fn legend() -> &'static str {
        "\
seconds, event, a column for each node, what happened. A node's cell after a step, unchanged numbers left out:
  M4.1 d912 a911 p915 L812   Master (s slave, c canvassing, C candidate, H halted, x down, z paused), promised ballot
                             4.n1, decided, applied and persisted (durable here) up to these slots, 812 ms of lease left
  ·  up, nothing changed     o───>  message sent     o───x  message lost     =  fault     *  synced, or noted
In brackets: what changed besides, or had no room in the cell.
"
    }

    /// Whether the moment to stop at has come: no further entry gives a line.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether no entry has given a line so far.
    pub fn is_empty(&self) -> bool {
        self.shown == 0
    }

    /// The lines for the next entry, preceded by the nodes' states where the listing begins, and by the names of the
    /// columns now and then. An entry without a line of its own, or one that is filtered out, still counts for the states.
    pub fn push(&mut self, entry: &Entry) -> Vec<String> {
        let mut lines = Vec::new();
        if self.is_done {
            return lines;
        }
        let is_shown = self.is_shown(entry);
        if is_shown && self.shown == 0 {
            lines.extend(self.states.iter().map(|(node, state)| format!("{node}: {}", whole(state))));
        }
        if is_shown && self.shown.is_multiple_of(PAGE) {
            lines.push(self.names());
        }
        let before = match &entry.what {
            What::Stepped { node, state, .. } => self.states.insert(*node, state.clone()),
            _ => None,
        };
        if is_shown {
            self.shown += 1;
            lines.push(self.line(entry, &before.unwrap_or_default()));
        }
        self.is_done = self.filter.until.as_mut().is_some_and(|until| until(entry, &self.states));
        lines
    }

    fn is_shown(&self, entry: &Entry) -> bool {
        let concerns = |id: NodeId| match &entry.what {
            What::Stepped { node, .. } | What::Synced { node, .. } => *node == id,
            What::Sent { from, to, .. } | What::Lost { from, to, .. } => *from == id || *to == id,
            What::Fault { nodes, .. } => nodes.is_empty() || nodes.contains(&id),
            What::Noted { node, .. } => node.is_none_or(|node| node == id),
            What::Violation { .. } => true,
            What::Delivered { .. } | What::Invoked { .. } | What::Responded { .. } => false,
        };
        // An arrival is seen in the step that it causes.
        !matches!(entry.what, What::Delivered { .. })
            && self.filter.within.as_ref().is_none_or(|within| within.contains(&entry.at))
            && self.filter.node.is_none_or(concerns)
    }

    fn names(&self) -> String {
        let cells: String = self.states.keys().map(|node| format!("{:<1$}", node.to_string(), self.cell)).collect();
        format!("{:>10} {:>7} {cells}what happened", "seconds", "event")
    }

    fn line(&self, entry: &Entry, before: &NodeState) -> String {
        let (cells, text) = match &entry.what {
            What::Stepped { node, cause, state } => {
                let (cell, besides) = self.stepped(before, state);
                (self.cells(|id| (id == *node).then(|| cell.clone())), format!("{besides}{cause}"))
            }
            What::Sent { from, to, text, .. } => (self.arrow(*from, *to, '>'), format!("{from} → {to} {text}")),
            What::Lost { from, to, why, .. } => (self.arrow(*from, *to, 'x'), format!("{from} → {to} lost: {why}")),
            What::Synced { node, records } => {
                (self.starred(Some(*node)), format!("{node} has {records} durable records"))
            }
            What::Noted { node, text } => (self.starred(*node), text.clone()),
            What::Fault { text, nodes, .. } => {
                let struck = |id| (nodes.is_empty() || nodes.contains(&id)).then(|| "=".repeat(self.cell - 1));
                (self.cells(struck), format!("== {text}"))
            }
            What::Invoked { client, op, text } => (self.starred(None), format!("client {client} asks {op}: {text}")),
            What::Responded { client, op, text, .. } => {
                (self.starred(None), format!("client {client} is told {op}: {text}"))
            }
            What::Violation { checker, story } => {
                return format!("{}\n{}VIOLATION {checker}: {story}", "!".repeat(self.width.min(WIDTH)), when(entry));
            }
            What::Delivered { .. } => (String::new(), String::new()),
        };
        cut(&format!("{}{cells}{text}", when(entry)), self.width)
    }

    fn cells(&self, special: impl Fn(NodeId) -> Option<String>) -> String {
        let cell = |(id, state): (&NodeId, &NodeState)| {
            let usual = if state.paused {
                "z"
            } else if state.up {
                "·"
            } else {
                ""
            };
            let text = special(*id).unwrap_or_else(|| usual.to_owned());
            format!("{text:<0$}", self.cell)
        };
        self.states.iter().map(cell).collect()
    }

    fn starred(&self, node: Option<NodeId>) -> String {
        self.cells(|id| (node == Some(id)).then(|| "*".to_owned()))
    }

    /// An arrow across the columns, from the sender's to the receiver's.
    fn arrow(&self, from: NodeId, to: NodeId, head: char) -> String {
        let column = |node| self.states.keys().position(|id| *id == node).map(|index| index * self.cell);
        let mut drawn: Vec<char> = self.cells(|_| None).chars().collect();
        let (Some(tail), Some(tip)) = (column(from), column(to)) else { return drawn.into_iter().collect() };
        for between in drawn.iter_mut().take(tail.max(tip)).skip(tail.min(tip)) {
            *between = '─';
        }
        (drawn[tail], drawn[tip]) = ('o', head);
        drawn.into_iter().collect()
    }

    /// The cell of a node that took a step, and what has no room there.
    fn stepped(&self, before: &NodeState, now: &NodeState) -> (String, String) {
        let mut cell = if now.up { format!("{}{}", role(now), ballot(now)) } else { "x".to_owned() };
        let mut besides = Vec::new();
        for change in changes(before, now) {
            if cell.len() + 1 + change.len() < self.cell {
                cell = format!("{cell} {change}");
            } else {
                besides.push(change);
            }
        }
        besides.extend(rare_changes(before, now));
        let besides = if besides.is_empty() { String::new() } else { format!("[{}] ", besides.join(" ")) };
        (cell, besides)
    }
}

fn when(entry: &Entry) -> String {
    format!("{:>3}.{:06} {:>7} ", entry.at / 1_000_000_000, entry.at % 1_000_000_000 / 1_000, entry.event)
}

fn role(state: &NodeState) -> char {
    match state.role.as_ref() {
        _ if state.paused => 'z',
        "master" => 'M',
        "slave" => 's',
        "canvassing" => 'c',
        "candidate" => 'C',
        "halted" => 'H',
        _ => '?',
    }
}

/// `4.n1` as `4.1`.
fn ballot(state: &NodeState) -> String {
    state.promised.replace('n', "")
}

fn changes(before: &NodeState, now: &NodeState) -> Vec<String> {
    let numbers =
        [('d', before.decided, now.decided), ('a', before.applied, now.applied), ('p', before.durable, now.durable)];
    let mut changes: Vec<String> =
        numbers.iter().filter(|(_, before, now)| before != now).map(|(name, _, now)| format!("{name}{now}")).collect();
    match (before.lease_left_ms, now.lease_left_ms) {
        // It is another number after every step.
        (_, Some(left)) => changes.push(format!("L{left}")),
        (Some(_), None) => changes.push("L-".to_owned()),
        (None, None) => {}
    }
    changes
}

fn rare_changes(before: &NodeState, now: &NodeState) -> Vec<String> {
    let flags = [
        ("up", before.up, now.up),
        ("paused", before.paused, now.paused),
        ("votes", before.votes, now.votes),
        ("catching up", before.catching_up, now.catching_up),
    ];
    let mut changes: Vec<String> = flags
        .iter()
        .filter(|(_, before, now)| before != now)
        .map(|(name, _, now)| format!("{}{name}", if *now { "+" } else { "-" }))
        .collect();
    if now.up && before.accepted != now.accepted {
        changes.push(format!("accepted {}", now.accepted));
    }
    if now.up && before.role != now.role {
        changes.push(format!("{} → {}", if before.role.is_empty() { "down" } else { &before.role }, now.role));
    }
    changes
}

/// All there is to say about a node.
fn whole(state: &NodeState) -> String {
    if !state.up {
        return format!("down, persisted {}", state.durable);
    }
    let NodeState { role, promised, accepted, decided, applied, durable, .. } = state;
    let mut text = format!(
        "{role}, promised {promised}, decided {decided}, applied {applied}, persisted {durable}, accepted {accepted}"
    );
    let known = [
        state.master.map(|master| format!("master {master}")),
        state.lease_left_ms.map(|left| format!("{left} ms of lease left")),
        state.paused.then(|| "paused".to_owned()),
        (!state.votes).then(|| "no vote".to_owned()),
        state.catching_up.then(|| "catching up".to_owned()),
    ];
    for known in known.into_iter().flatten() {
        text = format!("{text}, {known}");
    }
    text
}

fn cut(line: &str, width: usize) -> String {
    let line = line.trim_end();
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
