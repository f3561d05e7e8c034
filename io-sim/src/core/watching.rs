//! Situations that checkers wait for, whatever scenario brings them about: all power is cut (K12), a log is damaged and
//! nothing else is wrong (K15).

use trialbay_engine::NodeId;

use super::World;
use super::node::new_scrub;
use crate::check::availability::Standing;
use crate::check::outage::Left;
use crate::check::{Checked, violation};
use crate::scenario::Budget;

impl World {
    /// K12: no process is left, and what is on the disks is all there is.
    pub(super) fn all_power_is_cut(&mut self) -> Checked {
        self.mark("total power cuts");
        let log = self.ledger.certificate();
        let mut disks = Vec::new();
        for node in &self.nodes {
            let found = match new_scrub(node.id).advance(&node.disk) {
                Ok(found) => found,
                Err(error) => return violation("K6", format!("the log of {} makes no sense: {error}", node.id)),
            };
            let is_void = !self.remembers(node.id);
            disks.push(Left::of(node.id.to_string(), &found, node.durable_store.applied, is_void));
        }
        self.outage.begins(&self.operations, &log, &disks)
    }

    /// K15: what damage to one log costs.
    pub(super) fn look_after_the_damaged(&mut self) -> Checked {
        let Some(id) = self.availability.ailing() else { return Ok(()) };
        let standing = self.standing(id);
        self.availability.look(self.now, standing)
    }

    fn standing(&self, ailing: NodeId) -> Standing {
        let plan = &self.scenario.network;
        let is_noisy = plan.drop > 0.0 || plan.spike > 0.0;
        let works = |node: &super::Node| {
            let dies = node.process.as_ref().is_none_or(|process| process.dies_after.is_some());
            !dies && !node.paused && !node.disk_is_troubled && self.now >= node.slow_until
        };
        let others = || self.nodes.iter().filter(|node| node.id != ailing);
        let sound = others().all(|node| works(node) && self.remembers(node.id));
        let asked_to_stop = others().any(|node| self.stopped_for.contains_key(&node.id));
        if self.scenario.budget != Budget::Tolerable || is_noisy || !sound || asked_to_stop {
            return Standing::Disturbed;
        }
        let node = &self.nodes[usize::from(ailing.0) - 1];
        let working: Vec<NodeId> =
            self.nodes.iter().filter(|node| node.id != ailing || node.is_up()).map(|node| node.id).collect();
        if !self.network.is_whole(&working, self.now) {
            return Standing::Disturbed;
        }
        match node.is_up() {
            false if node.dead => Standing::Disturbed,
            false => Standing::Down,
            true if !works(node) => Standing::Disturbed,
            true if self.ledger.votes(ailing) && !node.disk_was_harmed => Standing::Voting,
            true => Standing::Voteless,
        }
    }
}
