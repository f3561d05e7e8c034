//! How a run goes: load and faults, then everything is mended, then the load ends, and at last everything is checked.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::panic;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use turmoil::Sim;

use super::certificate::Certificate;
use super::clients::{self, History};
use super::node::{Ended, Machine};
use super::plan::{StackFault, StackPlan, Who};
use super::trace::Trace;
use super::verdict;
use super::watch::Watch;
use crate::check::Violation;
use crate::check::outage::Outage;
use crate::rng::Rng;
use crate::trace::{Recorder, What};

/// The host that the clients are on.
pub(super) const CLIENTS_HOST: &str = "clients";

/// One step of the world.
const STEP: Duration = Duration::from_millis(1);

/// The stream of the network's chance.
const NETWORK_STREAM: u64 = 1;

/// Segments that a connection holds, and connections that a listener has not accepted yet.
const TCP_CAPACITY: usize = 4_096;

/// What a run showed.
#[derive(Clone, Debug)]
pub struct StackReport {
    /// A hash of every message, call, and disk operation, with its time.
    pub trace: u64,
    /// How many of those there were.
    pub entries: u64,
    /// How long it took in simulated time.
    pub simulated: Duration,
    /// When updates were acknowledged.
    pub acknowledged_at: Vec<Duration>,
    /// Calls, by what the clients were told.
    pub calls: Calls,
    /// Slots of the decided log.
    pub slots: u64,
    /// The heads that nodes took: who, and of which slot.
    pub heads: BTreeSet<(u16, u64)>,
    /// The rules that were broken, in the order in which it was found out.
    pub violations: Vec<Violation>,
}

/// Calls, by what the clients were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// They happened.
    pub answered: u64,
    /// They did not happen.
    pub refused: u64,
    /// They may have happened.
    pub unknown: u64,
}

/// The world between two steps.
pub(super) struct StackWorld<'a> {
    pub(super) plan: &'a StackPlan,
    pub(super) sim: Sim<'static>,
    pub(super) machines: Vec<Arc<Machine>>,
    pub(super) certificate: Certificate,
    pub(super) history: History,
    outage: Outage,
    pub(super) violations: Vec<Violation>,
    trace: Trace,
    watch: Watch,
    /// What is to be done, and when, to end what was done before.
    pub(super) later: Vec<(Duration, StackFault)>,
    /// A node that does not run is started: one may have been stopping when it was to start again.
    pub(super) restarts_all: bool,
    stop_clients: Rc<Cell<bool>>,
    /// The nodes that have a reason to end by themselves.
    may_fail: BTreeSet<u16>,
    heads: BTreeSet<(u16, u64)>,
    panics: u64,
}

/// Plays a whole run.
pub fn run(plan: &StackPlan) -> StackReport {
    run_watched(plan, Recorder::default())
}

/// Plays a whole run, and has what happens told to `recorder`.
pub fn run_watched(plan: &StackPlan, recorder: Recorder) -> StackReport {
    count_panics();
    let mut world = StackWorld::new(plan, Watch::new(recorder, plan.nodes));
    let mut faults: Vec<_> = plan.faults.iter().filter(|(at, _)| *at < plan.chaos).collect();
    faults.sort_by_key(|(at, _)| *at);
    let mut faults: VecDeque<_> = faults.into();
    while world.sim.elapsed() < plan.chaos {
        while let Some((_, fault)) = faults.pop_front_if(|(at, _)| *at <= world.sim.elapsed()) {
            world.do_to(fault);
        }
        world.do_what_is_due();
        world.step();
    }
    world.trace.note(world.now(), "heal", &[]);
    world.heal();
    world.restarts_all = true;
    while world.sim.elapsed() < plan.chaos + plan.calm {
        world.step();
    }
    world.stop_clients.set(true);
    verdict::reach(&mut world);
    world.report()
}

impl<'a> StackWorld<'a> {
    fn new(plan: &'a StackPlan, watch: Watch) -> Self {
        let trace = Trace::default();
        let mut sim = turmoil::Builder::new()
            .epoch(SystemTime::UNIX_EPOCH)
            .rng_seed(Rng::new(plan.seed, NETWORK_STREAM).any())
            .tick_duration(STEP)
            .simulation_duration(Duration::MAX)
            .min_message_latency(Duration::from_millis(plan.message_ms.0))
            .max_message_latency(Duration::from_millis(plan.message_ms.1))
            .tcp_capacity(TCP_CAPACITY)
            .build();
        let machines: Vec<_> = (1..=plan.nodes).map(|id| Arc::new(Machine::new(plan, id, &trace))).collect();
        for machine in &machines {
            let host = machine.clone();
            sim.host(machine.name.as_str(), move || {
                let host = host.clone();
                async move {
                    host.live().await;
                    Ok(())
                }
            });
        }
        let stop_clients = Rc::new(Cell::new(false));
        let history = History::new(watch.clone());
        let clients =
            clients::run(plan.clone(), machines.clone().into(), history.clone(), trace.clone(), stop_clients.clone());
        sim.client(CLIENTS_HOST, async move {
            clients.await;
            Ok(())
        });
        let certificate = Certificate::new(machines.iter().map(|machine| &**machine));
        Self {
            plan,
            sim,
            machines,
            certificate,
            history,
            outage: Outage::default(),
            violations: Vec::new(),
            trace,
            watch,
            later: Vec::new(),
            restarts_all: false,
            stop_clients,
            may_fail: BTreeSet::new(),
            heads: BTreeSet::new(),
            panics: PANICS.get(),
        }
    }

    /// The simulated time, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_nanos()).expect("runs are shorter than centuries")
    }

    /// Lets a millisecond go by, and looks at what it did. True when all clients have ended.
    pub(super) fn step(&mut self) -> bool {
        if self.restarts_all {
            self.strike(&StackFault::Restart(Who::Nodes));
        }
        let clients_ended = self.sim.step();
        for machine in &self.machines {
            if let Err(violation) = self.certificate.look(machine, || self.history.event()) {
                self.violations.push(violation);
            }
            let head = machine.handle().and_then(|handle| handle.head());
            self.heads.extend(head.map(|slot| (machine.id, slot.0)));
            if let Some(handle) = machine.handle().filter(|_| machine.is_master()) {
                self.violations.extend(self.outage.serves(&machine.name, handle.applied()).err());
            }
            let Some(ended) = machine.take_ended().filter(|ended| *ended != Ended::AsAsked) else { continue };
            self.trace.note(self.now(), "ended", machine.name.as_bytes());
            if let Some(why) = ended.wrong(|| machine.disk.is_full() || self.may_fail.remove(&machine.id)) {
                let story = format!("{} ended by itself at {:?}: {why}", machine.name, self.sim.elapsed());
                self.violations.push(Violation { checker: "K13", story, event: None });
            }
        }
        self.watch.look(self.now(), &self.machines);
        let panics = PANICS.get();
        if panics > std::mem::replace(&mut self.panics, panics) {
            let story = format!("something panicked at {:?} (see the output)", self.sim.elapsed());
            self.violations.push(Violation { checker: "K13", story, event: None });
        }
        match clients_ended {
            Ok(ended) => ended,
            Err(error) => {
                self.violations.push(Violation {
                    checker: "K13",
                    story: format!("a host failed: {error}"),
                    event: None,
                });
                true
            }
        }
    }

    /// Nothing that was durable is gone (K6).
    pub(super) fn examine(&mut self, machine: &Machine) {
        self.violations.extend(self.certificate.examine(machine).err());
    }

    /// No process is left: what is on the disks is all there is (K12).
    pub(super) fn all_power_is_cut(&mut self) {
        let disks: Result<Vec<_>, _> = self.machines.iter().map(|machine| self.certificate.left(machine)).collect();
        let log = self.certificate.log();
        let outcome = disks.and_then(|disks| self.outage.begins(&self.history.operations(), &log, &disks));
        self.violations.extend(outcome.err());
    }

    /// This node may end by itself: its disk is about to fail.
    pub(super) fn may_fail(&mut self, machine: &Machine) {
        self.may_fail.insert(machine.id);
    }

    fn do_to(&mut self, fault: &StackFault) {
        self.trace.note(self.now(), "fault", format!("{fault:?}").as_bytes());
        self.watch.tell(self.now(), || What::Fault { text: format!("{fault:?}"), nodes: Vec::new(), until: None });
        self.strike(fault);
    }

    fn do_what_is_due(&mut self) {
        let now = self.sim.elapsed();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Duration, StackFault)> = due;
        for (_, fault) in due {
            self.do_to(&fault);
        }
    }

    fn report(self) -> StackReport {
        for Violation { checker, story, .. } in &self.violations {
            let (checker, story) = ((*checker).into(), story.clone());
            self.watch.tell(self.now(), || What::Violation { checker, story });
        }
        for machine in &self.machines {
            self.trace.note(self.now(), &machine.name, &machine.disk.image_hash().to_le_bytes());
        }
        StackReport {
            trace: self.trace.digest(),
            entries: self.trace.entries(),
            simulated: self.sim.elapsed(),
            acknowledged_at: self.history.acknowledged_at(),
            calls: verdict::calls(&self.history.operations()),
            slots: self.certificate.log().len() as u64,
            heads: self.heads,
            violations: self.violations,
        }
    }
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the panics of this thread from now on, on which the whole world runs. tokio catches those of a task.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}
