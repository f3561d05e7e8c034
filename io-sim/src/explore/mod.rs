//! Exhaustive exploration of small worlds: the shipping engine in every order of everything that can happen.
//!
//! A world is a few nodes (engine, disk, book), the letters on their way between them, and bounds. Breadth first, every
//! step that a state allows is taken: any letter arrives, a disk syncs any number of the batches that wait, a clock jumps to
//! its next deadline, a client asks a serving master for an update, a node crashes, losing any suffix of what was not
//! synced, and starts again. Values are applied at once. After every step the books are compared: one value chosen per
//! slot (I1), nothing else applied (I2, M3), one value per ballot (I3), no promise or acceptance against an earlier one
//! (P2, A1), none that is not durable (P1, A3, C2), no ballot used twice (C2), nobody blamed, no engine halted or in
//! panic. The books are kept outside the engines and survive restarts. All nodes vote from the beginning on; births and
//! wiped nodes are the swarm's business.
//!
//! # What is in a state, and why merging states loses nothing
//!
//! * A node is its [`Engine::digest`](trialbay_engine::Engine::digest), its disk, and its book. Two engines of the same
//!   digest answer the same events with the same actions but for chance and clocks: the lease of these worlds is 8 ns,
//!   which leaves no room for jitter, and a clock moves only by jumps to deadlines, whose distances are in the digest.
//!   `asked_at` in letters counts from the beginning of the mastership.
//! * The disk is what recovery makes of its durable records, and the records that wait, in their batches.
//! * The book holds everything durable that was ever accepted, so that what was chosen once is known for ever.
//! * States are compared by all their bytes; only nodes by a digest, of 128 bits.
//!
//! # What is left out, and why that hides no broken rule
//!
//! * *Loss* needs no step: a letter that never arrives is lost. So a letter whose arrival changes nothing is not
//!   delivered: what can happen without it can happen beside it.
//! * *Stale answers* are dropped: an answer to a ballot that its receiver does not lead any more and has promised durably
//!   is never looked at again (`Catalogue::is_stale`).
//! * *Disks of nodes that cannot crash any more*, unless they are masters, sync at once: what a sync sets free are
//!   letters, and those may be as late as they like. A master's disk takes its time, for its sync also counts.
//! * *Names*: with b ballots only the first b nodes campaign. Whoever owns ballots in another world can be renamed, in
//!   order, to these. (Names have no other meaning here, but for whom a node that is behind asks next.)
//!
//! # What is not covered
//!
//! * *Leases.* A slave's clock runs until what it granted is over before anything else happens to it, so no lease
//!   ever keeps a candidate away. Promises are as free as they can be, and leases are not shown to hold.
//! * *A canvass takes no time*: one peer answers at once or nobody does. A campaign on an answer that is out of
//!   date is a campaign that came later and whose letters are lost; rule P4 is asked again with `Prepare`.
//! * Connections break only when a node crashes; resignations, heads, reads and reconfigurations do not happen.
//! * Whatever is beyond the bounds: a step that would break one is not taken.

mod book;
mod catalogue;
mod change;
pub mod cli;
mod disk;
mod node;
mod visited;
mod world;

use std::fmt;

pub use change::Change;

use book::Broken;
use visited::Visited;
use world::{State, Step, Visit, World};

/// How small a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Nodes, all of them voters; at most 8.
    pub nodes: u8,
    /// Campaigns, and so ballots.
    pub ballots: u8,
    /// Updates that clients ask for, each in a slot of its own.
    pub slots: u8,
    /// Nodes that crash, each once.
    pub crashes: u8,
    /// Messages that arrive once more than they were sent.
    pub duplicates: u8,
    /// Questions that nodes which are behind ask for what they missed.
    pub fetches: u8,
    /// Deadlines that masters see come: heartbeats beyond those that mastership begins with.
    pub master_ticks: u8,
    /// Stop after so many states.
    pub states_max: usize,
}

/// What an exploration found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Different states.
    pub states: usize,
    /// Steps taken, those included that led to known states.
    pub transitions: u64,
    /// Steps that led to a state that was known already.
    pub repeated: u64,
    /// All states that so many steps lead to were found, and all steps from those before them were taken.
    pub depth: usize,
    /// Whether nothing is left to find within the bounds.
    pub is_complete: bool,
    /// Different states of a node, disk and books included.
    pub node_states: usize,
    /// Different messages.
    pub messages: usize,
    /// Bytes of memory that the states took.
    pub memory: usize,
    /// The shortest way to a broken rule, if one was found.
    pub failure: Option<Failure>,
}

/// A way to a broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rule, and how it was broken.
    pub story: String,
    /// What happened, step by step.
    pub steps: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BROKEN: {}", self.story)?;
        (1..).zip(&self.steps).try_for_each(|(number, step)| writeln!(f, "{number:>4}. {step}"))
    }
}

/// Explores the world within `bounds`, with `change` planted.
pub fn explore(bounds: Bounds, change: Option<Change>, progress: &mut dyn FnMut(&Findings)) -> Findings {
    let mut world = World::new(bounds, change);
    let mut frontier = Frontier { visited: Visited::new(), at: 0, transitions: 0, broken: None };
    let first = world.first();
    frontier.visited.insert(&first, 0);
    let mut depth = 0;
    let mut level_end = 1;
    while frontier.at < frontier.visited.count() && frontier.broken.is_none() {
        if frontier.visited.count() >= bounds.states_max {
            break;
        }
        if frontier.at == level_end {
            depth += 1;
            level_end = frontier.visited.count();
            progress(&frontier.findings(&world, depth));
        }
        let state = frontier.visited.state(frontier.at);
        world.for_each_step(&state, &mut frontier);
        frontier.at += usize::from(frontier.broken.is_none());
    }
    let mut findings = frontier.findings(&world, depth);
    findings.failure = frontier.broken.take().map(|(step, story)| frontier.tell(&mut world, step, story));
    findings
}

struct Frontier {
    visited: Visited,
    /// The state whose steps are taken.
    at: usize,
    transitions: u64,
    broken: Option<(Step, Broken)>,
}

impl Visit for Frontier {
    fn visit(&mut self, step: Step, next: Result<State, Broken>) -> bool {
        self.transitions += 1;
        match next {
            Ok(state) => {
                self.visited.insert(&state, self.at);
                true
            }
            Err(broken) => {
                self.broken = Some((step, broken));
                false
            }
        }
    }
}

impl Frontier {
    fn findings(&self, world: &World, depth: usize) -> Findings {
        let states = self.visited.count();
        Findings {
            states,
            transitions: self.transitions,
            repeated: (self.transitions + 1).saturating_sub(states as u64),
            depth,
            is_complete: self.at == states,
            node_states: world.catalogue.node_count(),
            messages: world.catalogue.letter_count(),
            memory: self.visited.memory(),
            failure: None,
        }
    }

    /// The steps from the first state to the one whose `last` step broke a rule.
    fn tell(&self, world: &mut World, last: Step, story: Broken) -> Failure {
        let mut way = vec![self.at];
        while way.last() != Some(&0) {
            way.extend(way.last().map(|number| self.visited.parent(*number)));
        }
        way.reverse();
        let mut steps: Vec<String> = Vec::new();
        for pair in way.windows(2) {
            let (before, after) = (self.visited.state(pair[0]), self.visited.state(pair[1]));
            let mut search = Search { after: &after, found: None };
            world.for_each_step(&before, &mut search);
            steps.extend(search.found.map(|step| world.tell(step, &before, Some(&after))));
        }
        steps.push(world.tell(last, &self.visited.state(self.at), None));
        Failure { story, steps }
    }
}

/// Looks for the step that leads to a state.
struct Search<'a> {
    after: &'a State,
    found: Option<Step>,
}

impl Visit for Search<'_> {
    fn visit(&mut self, step: Step, next: Result<State, Broken>) -> bool {
        if next.as_ref() == Ok(self.after) {
            self.found = Some(step);
        }
        self.found.is_none()
    }
}
