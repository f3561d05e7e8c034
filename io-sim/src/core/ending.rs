//! After the faults: a majority is healed, and must go on (K9), agree (K11), fall quiet (K10), and explain what clients saw.

use trialbay_engine::{NodeId, Slot};

use super::network::SPIKE_MAX;
use super::{Happening, World};
use crate::check::model::Model;
use crate::check::{Checked, history, violation};
use crate::scenario::{Budget, MS};

/// How long the cluster has, after the faults end, to acknowledge an update, in leases.
const PROGRESS_LEASES: u64 = 12;
/// How long clients go on after the faults end, in leases.
const CALM_LEASES: u64 = 20;
/// How long nodes have, after the last request, to become equal, in leases.
const QUIET_LEASES: u64 = 8;
/// Clients that go on after the faults end.
const PROBES: u16 = 2;

/// What is known about the time after the faults.
#[derive(Debug)]
pub(crate) struct Ending {
    healed_at: Option<u64>,
    pub(crate) first_progress: Option<u64>,
    pub(crate) clients_end: bool,
    /// The nodes that work for good after the faults end.
    healed: Vec<NodeId>,
    masters_in_calm: u64,
    /// Since the first update after the faults, or since the last request.
    messages: u64,
    /// Since the first update after the faults.
    requests: u64,
    /// When that was, and how many slots were decided then.
    progressed: Option<(u64, Slot)>,
    /// The clients have ended, and what they started must do so, too.
    pub(crate) settling: bool,
}

impl Ending {
    pub(crate) fn new(nodes: Vec<NodeId>) -> Self {
        Self {
            healed_at: None,
            first_progress: None,
            clients_end: false,
            healed: nodes,
            masters_in_calm: 0,
            messages: 0,
            requests: 0,
            progressed: None,
            settling: false,
        }
    }

    /// A client asks for something.
    pub(super) fn asked(&mut self) {
        self.requests += 1;
    }
}

impl World {
    fn leases(&self, count: u64) -> u64 {
        count * self.scenario.cluster.lease.0
    }

    pub(super) fn became_master(&mut self) {
        self.mark("masters");
        self.bounds.became_master();
        // What was sent before the faults ended may be as late as this, and is heard then.
        let late = if self.scenario.network.spike > 0.0 { SPIKE_MAX } else { 0 };
        let grace = self.leases(PROGRESS_LEASES) + late;
        if self.ending.healed_at.is_some_and(|at| self.now > at + grace) {
            self.ending.masters_in_calm += 1;
        }
    }

    pub(super) fn message_sent(&mut self) {
        self.mark("messages");
        self.ending.messages += 1;
    }

    /// Ends all faults. A majority works from now on; the other nodes may stay as broken as they are.
    pub(super) fn heal(&mut self) -> Checked {
        self.calm = true;
        self.ending.healed_at = Some(self.now);
        self.network.heal();
        self.pending.stop();
        let mut ids = self.scenario.voters();
        let learners = self.ids().split_off(ids.len());
        self.healing_rng.shuffle(&mut ids);
        let all_vote = ids.iter().all(|id| self.remembers(*id));
        let majority = ids.len() / 2 + 1;
        let leaves_some = self.scenario.leave_broken && all_vote && self.healing_rng.chance(0.7);
        // What a witness skipped with a head, only nodes with the data have: those that are left may not be among them.
        let has_all = self.scenario.cluster.witnesses == 0 || !self.counters.contains_key("heads installed");
        let broken = ids.split_off(if leaves_some && has_all { majority } else { ids.len() });
        ids.extend(learners);
        self.fault(broken.clone(), None, format!("faults end; {ids:?} work, {broken:?} do not"));
        for id in self.ids() {
            self.node(id).set_disk_full(false);
            self.node(id).disk.mend();
            if let Some(process) = &mut self.node(id).process {
                process.dies_after = None;
            }
            self.schedule(0, Happening::Resume { node: id });
        }
        for id in &ids {
            self.node(*id).slow_until = 0;
            self.schedule(0, Happening::Start { node: *id });
            // Who is still stopping does not stay away.
            self.stopped_for.entry(*id).and_modify(|down| *down = 0);
        }
        for id in &broken {
            self.leave_broken(*id, &ids)?;
        }
        ids.sort_unstable();
        self.ending.healed = ids;
        for probe in 0..PROBES {
            self.add_probe(probe);
        }
        let calm = self.leases(CALM_LEASES);
        self.schedule(calm, Happening::Settle);
        Ok(())
    }

    fn leave_broken(&mut self, id: NodeId, healed: &[NodeId]) -> Checked {
        let away: Vec<_> = healed.iter().map(|other| (id, *other)).collect();
        let back: Vec<_> = healed.iter().map(|other| (*other, id)).collect();
        match self.healing_rng.below(4) {
            0 => {
                self.node(id).dead = true;
                self.crash(id, false)?;
            }
            1 => {
                self.cut(away, None);
                self.cut(back, None);
            }
            2 => self.cut(away, None),
            _ => self.cut(back, None),
        }
        Ok(())
    }

    /// Faults ended long ago: was there progress (K9)?
    pub(super) fn settle(&mut self) -> Checked {
        self.ending.clients_end = true;
        self.check_load()?;
        self.ending.messages = 0;
        self.ending.settling = true;
        let quiet = self.leases(QUIET_LEASES);
        self.schedule(quiet, Happening::End);
        if self.scenario.budget != Budget::Tolerable {
            return Ok(());
        }
        let healed_at = self.ending.healed_at.unwrap_or(0);
        match self.ending.first_progress {
            Some(at) if at <= healed_at + self.leases(PROGRESS_LEASES) => Ok(()),
            Some(at) => violation(
                "K9",
                format!("the first update after the faults took {} ms; {}", (at - healed_at) / MS, self.describe()),
            ),
            None => violation("K9", format!("no update was acknowledged after the faults; {}", self.describe())),
        }
    }

    /// The time that was given is over: what clients saw until now must make sense.
    pub(super) fn stop(&mut self) -> Checked {
        self.ended = true;
        history::check(&self.operations, &self.ledger.certificate()).map(drop)
    }

    pub(super) fn check_end(&mut self) -> Checked {
        self.ids().into_iter().try_for_each(|id| self.check_log_size(id))?;
        let log = self.ledger.certificate();
        let stats = history::check(&self.operations, &log)?;
        *self.counters.entry("slots").or_default() += log.len() as u64;
        *self.counters.entry("operations checked").or_default() += stats.updates + stats.reads + stats.relaxed_reads;
        for (what, most) in &self.scenario.at_most {
            let count = self.counters.get(what.as_str()).copied().unwrap_or(0);
            if count > *most {
                return violation("K10", format!("{count} {what}, and {most} at most were expected"));
            }
        }
        if self.scenario.budget != Budget::Tolerable {
            return Ok(());
        }
        // A preferred node may have waited until now to claim mastership.
        if self.ending.masters_in_calm > u64::from(self.scenario.cluster.preferred > 0) {
            let masters = self.ending.masters_in_calm;
            return violation("K9", format!("{masters} new masters although nothing fails; {}", self.describe()));
        }
        self.bounds.idles(self.ending.messages, QUIET_LEASES)?;
        self.check_stores(&log)
    }

    /// The first update after the faults is acknowledged: from now on load is measured.
    pub(super) fn progressed(&mut self) {
        let decided = self.decided();
        (self.ending.messages, self.ending.requests) = (0, 0);
        self.ending.progressed = Some((self.now, decided));
    }

    /// K10: what was asked for since then costs no more messages than it may.
    fn check_load(&self) -> Checked {
        let Some((at, before)) = self.ending.progressed else { return Ok(()) };
        if self.scenario.budget != Budget::Tolerable {
            return Ok(());
        }
        let leases = (self.now - at).div_ceil(self.scenario.cluster.lease.0);
        let slots = before.distance_to(self.decided());
        self.bounds.works(self.ending.messages, leases, slots, self.ending.requests)
    }

    fn decided(&self) -> Slot {
        let up = self.nodes.iter().filter_map(|node| node.process.as_ref());
        up.map(|process| process.engine.decided_upto()).max().unwrap_or(Slot::ZERO)
    }

    /// K11: all stores are equal. K5: they hold what the log gives, on the reference model.
    fn check_stores(&self, log: &[history::Certified]) -> Checked {
        let is_whole = self.ending.healed.len() == self.nodes.len();
        let healed = self.nodes.iter().filter(|node| self.ending.healed.contains(&node.id));
        let healed: Vec<_> = healed.filter(|node| !self.scenario.is_witness(node.id)).collect();
        let stores: Vec<_> =
            healed.iter().filter_map(|node| node.process.as_ref().map(|process| &process.store)).collect();
        let level = stores.len() == healed.len()
            && stores.iter().all(|store| *store == stores[0])
            && stores[0].applied >= Slot(log.len() as u64);
        if !level {
            return violation("K11", format!("stores differ after the faults; {}", self.describe()));
        }
        if is_whole && !self.scenario.voters().iter().all(|voter| self.ledger.votes(*voter)) {
            return violation("K9", format!("a node never got its vote back; {}", self.describe()));
        }
        let mut model = Model::default();
        for certified in log {
            for command in certified.value.commands().map_while(Result::ok) {
                if let Ok(command) = trialbay::update::decode_command(command) {
                    let _ = model.run(&command.update);
                }
            }
        }
        if *model.map() != stores[0].map.keys {
            return violation("K5", "the stores hold something else than the log gives".to_owned());
        }
        Ok(())
    }

    /// How every node is, for the story of a failure.
    pub(super) fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| match node.status() {
            None => format!("{} down", node.id),
            Some(status) => format!(
                "{} {:?}{} promised {} accepted {} decided {} applied {}{}{}",
                node.id,
                status.role,
                if node.paused { " (paused)" } else { "" },
                status.promised,
                status.accepted_upto,
                status.decided_upto,
                status.applied_upto,
                if status.votes { "" } else { ", no vote" },
                if status.catching_up { ", catching up" } else { "" },
            ),
        });
        format!("healed {:?}; {}", self.ending.healed, nodes.collect::<Vec<_>>().join("; "))
    }
}
