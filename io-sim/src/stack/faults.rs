//! Faults, done to the world between two of its steps.

use std::sync::Arc;
use std::time::Duration;

use super::node::Machine;
use super::plan::{StackFault, Who};
use super::world::{CLIENTS_HOST, StackWorld};
use crate::rng::Rng;

/// How long a process that goes on may take until it has found all that waits for it, in milliseconds.
const RESUME_MS: u64 = 4;

/// In which order it finds it, from this stream on: one for each nanosecond.
const RESUME_STREAM: u64 = 1 << 50;

impl StackWorld<'_> {
    /// Does this to whom it concerns now.
    pub(super) fn strike(&mut self, fault: &StackFault) {
        match fault {
            StackFault::Kill(who) => self.each(*who, Self::kill),
            StackFault::PowerCut(who) => self.cut_power(*who),
            StackFault::Wipe(who) => self.each(*who, Self::wipe),
            StackFault::Stop(who) => self.each(*who, |_, machine| machine.ask_to_stop()),
            StackFault::Pause(who) => self.each(*who, Self::pause),
            StackFault::Resume(who) => self.each(*who, Self::resume),
            StackFault::Restart(who) => self.each(*who, Self::restart),
            StackFault::Partition(a, b) => self.pairs(*a, *b, |world, a, b| world.sim.partition(a, b)),
            StackFault::PartitionOneWay(from, to) => {
                self.pairs(*from, *to, |world, from, to| world.sim.partition_oneway(from, to));
            }
            StackFault::Hold(a, b) => self.pairs(*a, *b, |world, a, b| world.sim.hold(a, b)),
            StackFault::Mend(a, b) => self.pairs(*a, *b, |world, a, b| world.sim.release(a, b)),
            StackFault::SyncTakes(who, sync_ms) => self.each(*who, |_, machine| machine.pace.set_sync_ms(*sync_ms)),
            StackFault::FailNextSync(who) => self.each(*who, |world, machine| {
                world.may_fail(machine);
                machine.disk.fail_next_sync(&machine.home());
            }),
            StackFault::FillDisk(who) => self.each(*who, |world, machine| {
                world.may_fail(machine);
                machine.disk.set_full(true);
            }),
            StackFault::FreeDisk(who) => self.each(*who, |_, machine| machine.disk.set_full(false)),
            StackFault::LieAboutSyncs(who) => self.each(*who, |_, machine| machine.disk.set_syncs_lie(true)),
            StackFault::For(fault, time) => {
                let end = self.sim.elapsed() + *time;
                for fault in self.aimed(fault) {
                    self.strike(&fault);
                    let undo = self.undoing(&fault);
                    self.later.extend(undo.into_iter().map(|undo| (end, undo)));
                }
            }
            StackFault::ClockRate(who, ppm) => {
                let now = self.now();
                self.each(*who, |_, machine| machine.clock.with(|clock| clock.set_rate(now, *ppm)));
            }
        }
    }

    /// The network, the disks and the clocks are as they should be, and every node runs.
    pub(super) fn heal(&mut self) {
        self.strike(&StackFault::Resume(Who::Nodes));
        self.strike(&StackFault::Mend(Who::Everyone, Who::Everyone));
        self.each(Who::Nodes, |_, machine| machine.disk.mend());
        self.strike(&StackFault::SyncTakes(Who::Nodes, self.plan.sync_ms));
        self.strike(&StackFault::ClockRate(Who::Nodes, 0));
        self.strike(&StackFault::Restart(Who::Nodes));
    }

    /// The same fault for each node that it hits now: who is master may have changed when it ends.
    fn aimed(&self, fault: &StackFault) -> Vec<StackFault> {
        let each = |who: Who, aim: &dyn Fn(Who) -> StackFault| {
            self.machines(who).iter().map(|machine| aim(Who::Node(machine.id))).collect()
        };
        let pairs = |a: Who, b: Who, aim: &dyn Fn(Who, Who) -> StackFault| {
            let (from, to) = (self.machines(a), self.machines(b));
            let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (a.id, b.id))).filter(|(a, b)| a != b);
            pairs.map(|(a, b)| aim(Who::Node(a), Who::Node(b))).collect()
        };
        match fault {
            StackFault::Kill(who) => each(*who, &StackFault::Kill),
            StackFault::Pause(who) => each(*who, &StackFault::Pause),
            StackFault::Wipe(who) => each(*who, &StackFault::Wipe),
            StackFault::Stop(who) => each(*who, &StackFault::Stop),
            StackFault::FillDisk(who) => each(*who, &StackFault::FillDisk),
            StackFault::FailNextSync(who) => each(*who, &StackFault::FailNextSync),
            StackFault::PowerCut(who @ (Who::Master | Who::Slave)) => each(*who, &StackFault::PowerCut),
            StackFault::SyncTakes(who, time) => each(*who, &|who| StackFault::SyncTakes(who, *time)),
            StackFault::Partition(a, b) => pairs(*a, *b, &StackFault::Partition),
            StackFault::PartitionOneWay(a, b) => pairs(*a, *b, &StackFault::PartitionOneWay),
            StackFault::Hold(a, b) => pairs(*a, *b, &StackFault::Hold),
            other => vec![other.clone()],
        }
    }

    /// What undoes a fault.
    fn undoing(&self, fault: &StackFault) -> Vec<StackFault> {
        match fault {
            // Who made up the majority then is not known any more. A start too many does no harm.
            StackFault::PowerCut(Who::Majority) => vec![StackFault::Restart(Who::Nodes)],
            StackFault::Kill(who)
            | StackFault::PowerCut(who)
            | StackFault::Wipe(who)
            | StackFault::Stop(who)
            | StackFault::FailNextSync(who) => vec![StackFault::Restart(*who)],
            // A node ends when its disk is full.
            StackFault::FillDisk(who) => vec![StackFault::FreeDisk(*who), StackFault::Restart(*who)],
            StackFault::SyncTakes(who, _) => vec![StackFault::SyncTakes(*who, self.plan.sync_ms)],
            StackFault::Partition(a, b) | StackFault::PartitionOneWay(a, b) | StackFault::Hold(a, b) => {
                vec![StackFault::Mend(*a, *b)]
            }
            StackFault::Pause(who) => vec![StackFault::Resume(*who)],
            StackFault::Restart(_)
            | StackFault::Resume(_)
            | StackFault::Mend(..)
            | StackFault::FreeDisk(_)
            | StackFault::LieAboutSyncs(_)
            | StackFault::ClockRate(..)
            | StackFault::For(..) => Vec::new(),
        }
    }

    fn kill(&mut self, machine: &Arc<Machine>) {
        machine.disk.kill();
        self.bury(machine);
    }

    /// What it still does has no effect until it goes on: nobody hears of it, and its clock stands still.
    fn pause(&mut self, machine: &Arc<Machine>) {
        machine.clock.stop(self.now());
        for other in self.hosts(Who::Everyone).iter().filter(|other| **other != machine.name) {
            self.sim.hold(machine.name.as_str(), other.as_str());
        }
    }

    /// It finds the messages of one host after the other, in any order.
    fn resume(&mut self, machine: &Arc<Machine>) {
        machine.clock.go_on();
        let mut rng = Rng::new(self.plan.seed, RESUME_STREAM.wrapping_add(self.now()));
        let others = (1..=self.plan.nodes).filter(|other| *other != machine.id).map(Who::Node);
        for other in others.chain([Who::Clients]) {
            let at = self.sim.elapsed() + Duration::from_millis(rng.below(RESUME_MS));
            self.later.push((at, StackFault::Mend(Who::Node(machine.id), other)));
        }
    }

    /// All at once: what one machine still sent did not come from another that had no power any more.
    fn cut_power(&mut self, who: Who) {
        let now = self.now();
        self.each(who, |_, machine| machine.disk.power_cut());
        self.each(who, |world, machine| {
            machine.clock.with(|clock| clock.reboot(now));
            world.bury(machine);
        });
        if self.machines.iter().all(|machine| machine.handle().is_none()) {
            self.all_power_is_cut();
        }
    }

    fn wipe(&mut self, machine: &Arc<Machine>) {
        machine.disk.wipe();
        self.certificate.wiped(machine);
        self.bury(machine);
    }

    /// Takes a process from its host. The disk is dead to it already: what it still does as it goes has no effect there.
    fn bury(&mut self, machine: &Arc<Machine>) {
        machine.is_dying();
        machine.clock.go_on();
        self.sim.crash(machine.name.as_str());
        machine.died();
        self.examine(machine);
    }

    fn restart(&mut self, machine: &Arc<Machine>) {
        if !self.sim.is_host_running(machine.name.as_str()) {
            self.sim.bounce(machine.name.as_str());
        }
    }

    fn each(&mut self, who: Who, mut act: impl FnMut(&mut Self, &Arc<Machine>)) {
        for machine in self.machines(who) {
            act(self, &machine);
        }
    }

    fn pairs(&mut self, a: Who, b: Who, act: impl Fn(&mut Self, &str, &str)) {
        for a in self.hosts(a) {
            for b in self.hosts(b).iter().filter(|b| **b != a) {
                act(self, &a, b);
            }
        }
    }

    fn machines(&self, who: Who) -> Vec<Arc<Machine>> {
        let mut machines = self.machines.iter();
        match who {
            Who::Node(id) => machines.filter(|machine| machine.id == id).cloned().collect(),
            Who::Master => machines.find(|machine| machine.is_master()).cloned().into_iter().collect(),
            Who::Slave => {
                let mut running = machines.filter(|machine| machine.handle().is_some());
                running.find(|machine| !machine.is_master()).cloned().into_iter().collect()
            }
            Who::Majority => {
                let master = self.machines.iter().position(|machine| machine.is_master()).unwrap_or(0);
                let count = self.machines.len();
                let from_master = (0..self.plan.majority()).map(|next| (master + next) % count);
                from_master.map(|index| self.machines[index].clone()).collect()
            }
            Who::Nodes | Who::Everyone => self.machines.clone(),
            Who::Clients => Vec::new(),
        }
    }

    fn hosts(&self, who: Who) -> Vec<String> {
        let mut hosts: Vec<_> = self.machines(who).iter().map(|machine| machine.name.clone()).collect();
        if matches!(who, Who::Clients | Who::Everyone) {
            hosts.push(CLIENTS_HOST.to_owned());
        }
        hosts
    }
}
