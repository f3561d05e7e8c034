//! Faults, done to the world between two of its steps.

use std::sync::Arc;

use super::node::Machine;
use super::plan::{StackFault, Who};
use super::world::{CLIENTS_HOST, StackWorld};

impl StackWorld<'_> {
    /// Does this to whom it concerns now.
    pub(super) fn strike(&mut self, fault: &StackFault) {
        match fault {
            StackFault::Kill(who) => self.each(*who, Self::kill),
            StackFault::PowerCut(who) => self.cut_power(*who),
            StackFault::Wipe(who) => self.each(*who, Self::wipe),
            StackFault::Stop(who) => self.each(*who, |_, machine| machine.ask_to_stop()),
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
            StackFault::ClockRate(who, ppm) => {
                let now = self.now();
                self.each(*who, |_, machine| machine.clock.with(|clock| clock.set_rate(now, *ppm)));
            }
        }
    }

    /// The network, the disks and the clocks are as they should be, and every node runs.
    pub(super) fn heal(&mut self) {
        self.strike(&StackFault::Mend(Who::Everyone, Who::Everyone));
        self.each(Who::Nodes, |_, machine| machine.disk.set_syncs_lie(false));
        self.strike(&StackFault::FreeDisk(Who::Nodes));
        self.strike(&StackFault::SyncTakes(Who::Nodes, self.plan.sync_ms));
        self.strike(&StackFault::ClockRate(Who::Nodes, 0));
        self.strike(&StackFault::Restart(Who::Nodes));
    }

    fn kill(&mut self, machine: &Arc<Machine>) {
        machine.disk.kill();
        self.bury(machine);
    }

    /// All at once: what one machine still sent did not come from another that had no power any more.
    fn cut_power(&mut self, who: Who) {
        let now = self.now();
        self.each(who, |_, machine| machine.disk.power_cut());
        self.each(who, |world, machine| {
            machine.clock.with(|clock| clock.reboot(now));
            world.bury(machine);
        });
    }

    fn wipe(&mut self, machine: &Arc<Machine>) {
        machine.disk.wipe();
        self.certificate.wiped(machine);
        self.bury(machine);
    }

    /// Takes a process from its host. The disk is dead to it already: what it still does as it goes has no effect there.
    fn bury(&mut self, machine: &Arc<Machine>) {
        machine.is_dying();
        self.sim.crash(machine.name.as_str());
        machine.died();
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
