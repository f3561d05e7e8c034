//! What there is to see of a run for who watches it: calls, faults, and what each node says of itself.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use trialbay_engine::NodeId;

use super::node::Machine;
use crate::check::history::{Ask, Response};
use crate::trace::{NodeState, Outcome, Recorder, What};

/// The longest piece of a call or an answer that is shown.
const SHOWN_CHARS: usize = 120;

/// Who watches a run. Clones share it.
#[derive(Clone)]
pub(super) struct Watch(Rc<RefCell<Inner>>);

struct Inner {
    recorder: Recorder,
    events: u64,
    seen: Vec<NodeState>,
}

impl Watch {
    pub(super) fn new(recorder: Recorder, nodes: u16) -> Self {
        let seen = vec![NodeState::default(); usize::from(nodes)];
        Self(Rc::new(RefCell::new(Inner { recorder, events: 0, seen })))
    }

    /// Something happened.
    pub(super) fn tell(&self, at: u64, what: impl FnOnce() -> What) {
        let mut inner = self.0.borrow_mut();
        inner.events += 1;
        let event = inner.events;
        inner.recorder.record(at, event, what);
    }

    /// Tells of each node that is not as it was when it was last looked at.
    pub(super) fn look(&self, at: u64, machines: &[Arc<Machine>]) {
        if !self.0.borrow().recorder.is_on() {
            return;
        }
        for (index, machine) in machines.iter().enumerate() {
            let state = state(machine);
            if self.0.borrow().seen[index] != state {
                self.0.borrow_mut().seen[index] = state.clone();
                let node = NodeId(machine.id);
                self.tell(at, || What::Stepped { node, cause: "it says so".to_owned(), state });
            }
        }
    }
}

fn state(machine: &Machine) -> NodeState {
    let Some(handle) = machine.handle() else { return NodeState::default() };
    let master = handle.master_name();
    let number = master.as_deref().and_then(|name| name.strip_prefix('n')?.parse().ok()).map(NodeId);
    // Whether its lease holds only its own host can tell: that is where its clock is.
    let is_master = number == Some(NodeId(machine.id));
    NodeState {
        up: true,
        role: if is_master { "master" } else { "slave" }.into(),
        master: number,
        applied: handle.applied().0,
        votes: true,
        ..NodeState::default()
    }
}

pub(super) fn asked(ask: &Ask) -> String {
    match ask {
        Ask::Update { update, .. } => shortened(format!("{update:?}")),
        Ask::Read { query, .. } => shortened(format!("{query:?}")),
    }
}

pub(super) fn told(response: &Response) -> String {
    shortened(format!("{response:?}"))
}

pub(super) fn outcome(response: &Response) -> Outcome {
    match response {
        Response::Updated(_) | Response::Read(_) => Outcome::Ok,
        Response::Refused => Outcome::Refused,
        Response::Unknown => Outcome::Unknown,
    }
}

fn shortened(text: String) -> String {
    if text.chars().count() <= SHOWN_CHARS { text } else { text.chars().take(SHOWN_CHARS).collect() }
}
