//! How a run is shown: the record of what happened, and its two forms, lines for a terminal and a page for a browser.
//!
//! A world hands its entries to a `Recorder`, which builds none of them unless someone watches.

pub mod lines;
mod numbers;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
pub mod timeline;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use trialbay_engine::{Instant, NodeId, Role, Slot, Status};

/// A short text, mostly one that the code contains.
pub type Text = Cow<'static, str>;

/// One thing that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in nanoseconds of simulated time. Entries are in the order of time.
    pub at: u64,
    /// The number of the event of the world in whose course it happened: what shares it, belongs together.
    pub event: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum What {
    /// A node took a step: its engine was told something, or it started, stopped, paused or resumed.
    Stepped {
        /// Who.
        #[serde(with = "numbers")]
        node: NodeId,
        /// What made it take the step, such as the message that it received.
        cause: String,
        /// Its state after the step.
        state: NodeState,
    },
    /// A message left a node.
    Sent {
        /// Names the message within the run.
        id: u64,
        /// The sender.
        #[serde(with = "numbers")]
        from: NodeId,
        /// The receiver.
        #[serde(with = "numbers")]
        to: NodeId,
        /// The name of its variant, such as `Accept`.
        kind: Text,
        /// The whole message in words, its kind included.
        text: String,
    },
    /// A message, or another copy of it, reached its receiver.
    Delivered {
        /// From `Sent`.
        id: u64,
    },
    /// A message, or a copy of it, will not arrive.
    Lost {
        /// From `Sent`.
        id: u64,
        /// Its sender.
        #[serde(with = "numbers")]
        from: NodeId,
        /// Its receiver.
        #[serde(with = "numbers")]
        to: NodeId,
        /// What became of it, and of which message: `Accept meets a cut`.
        why: Text,
    },
    /// A node's disk made records durable.
    Synced {
        /// Whose.
        #[serde(with = "numbers")]
        node: NodeId,
        /// How many of its records are durable now.
        records: u64,
    },
    /// Something went wrong, or right again.
    Fault {
        /// In words.
        text: String,
        /// Whom it concerns; none means all.
        #[serde(with = "numbers", default, skip_serializing_if = "Vec::is_empty")]
        nodes: Vec<NodeId>,
        /// When it ends, in nanoseconds of simulated time. `None`: it is a matter of a moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    },
    /// A client asked for something.
    Invoked {
        /// Which client, from 0.
        client: u64,
        /// Names the operation within the run.
        op: u64,
        /// In words.
        text: String,
    },
    /// A client was told how its operation went, or gave up.
    Responded {
        /// From `Invoked`.
        client: u64,
        /// From `Invoked`.
        op: u64,
        /// In words.
        text: String,
        /// What the client knows now.
        outcome: Outcome,
    },
    /// Anything else that is worth a line.
    Noted {
        /// About whom.
        #[serde(with = "numbers", default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// In words.
        text: String,
    },
    /// A rule was broken.
    Violation {
        /// `K1` to `K16`.
        checker: Text,
        /// What happened.
        story: String,
    },
}

/// What a client knows about an operation that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It did not happen, and never will.
    Refused,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// What there is to see of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeState {
    /// Whether its process lives.
    pub up: bool,
    /// Whether its process stands still.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// What it is doing about mastership: `slave`, `canvassing`, `candidate`, `master` or `halted`.
    pub role: Text,
    /// The highest promised ballot, such as `4.n1`.
    pub promised: String,
    /// The master as it knows it.
    #[serde(with = "numbers", skip_serializing_if = "Option::is_none")]
    pub master: Option<NodeId>,
    /// The last slot with an accepted value, durable or not.
    pub accepted: u64,
    /// The last slot whose accepted value survives a power cut here.
    pub durable: u64,
    /// The end of its decided prefix.
    pub decided: u64,
    /// The end of what its store has applied.
    pub applied: u64,
    /// For how much longer it may serve reads from its store, in milliseconds of its own clock. `None`: it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_left_ms: Option<u64>,
    /// Whether its votes count.
    pub votes: bool,
    /// Whether it is fetching decided entries from a peer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub catching_up: bool,
}

impl NodeState {
    /// The state of a node that is up and runs, at `local` on its own clock, with its log durable up to `durable`.
    pub fn of(status: &Status, local: Instant, durable: Slot) -> Self {
        let left = status.serves_until.filter(|until| *until > local).map(|until| until.since(local));
        Self {
            up: true,
            paused: false,
            role: role_name(status.role).into(),
            promised: status.promised.to_string(),
            master: status.master,
            accepted: status.accepted_upto.0,
            durable: durable.0,
            decided: status.decided_upto.0,
            applied: status.applied_upto.0,
            lease_left_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            votes: status.votes,
            catching_up: status.catching_up,
        }
    }

    /// The state of a node whose process is gone: what its disk holds is all there is.
    pub fn down(durable: Slot) -> Self {
        Self { durable: durable.0, ..Self::default() }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Slave => "slave",
        Role::Canvassing => "canvassing",
        Role::Candidate => "candidate",
        Role::Master => "master",
        Role::Halted => "halted",
    }
}

/// Takes the entries of a run that someone watches.
pub type Sink = Box<dyn FnMut(Entry)>;

/// Where a world puts what happens. Nobody watches by default, and then entries are never built.
#[derive(Default)]
pub struct Recorder(Option<Sink>);

impl Recorder {
    /// Gives each entry to `sink`.
    pub fn new(sink: impl FnMut(Entry) + 'static) -> Self {
        Self(Some(Box::new(sink)))
    }

    /// Whether someone watches.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what happened at this time in the course of this event.
    pub fn record(&mut self, at: u64, event: u64, what: impl FnOnce() -> What) {
        if let Some(sink) = &mut self.0 {
            sink(Entry { at, event, what: what() });
        }
    }
}
