//! One node's machine, and the lives of the node on it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use trialbay::extensions::Extensions;
use trialbay::identity::Identity;
use trialbay::node::{NodeHandle, NodeOptions, Roles, RunningNode, Surroundings};
use trialbay::peer::PeerAddress;
use trialbay::update::Limits;
use trialbay::workers::Workers;
use trialbay_engine::NodeId;

use super::home::{DiskPace, SimClock};
use super::network::{SimNetwork, Sockets};
use super::plan::StackPlan;
use super::trace::Trace;
use crate::rng::Rng;
use crate::sim_disk::SimDisk;

/// The cluster's id.
pub(super) const CLUSTER: &str = "stack";

const CLIENT_PORT: u16 = 4000;
const PEER_PORT: u16 = 5000;

/// Streams of chance: this many for each node, from this one on.
const STREAMS: u64 = 1_000;
const STREAMS_PER_NODE: u64 = 10;

/// A machine, which outlives the node that runs on it.
pub(super) struct Machine {
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) disk: SimDisk,
    pub(super) clock: SimClock,
    pub(super) pace: Arc<DiskPace>,
    trace: Trace,
    options: NodeOptions,
    life: Mutex<Life>,
}

/// How a process ended that nobody killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to stop.
    AsAsked,
    /// As if it had been asked, and nobody asked it.
    Unasked,
    /// It gave this reason.
    Failed(String),
}

/// The process that runs on the machine, or ran last.
struct Life {
    /// Counts them.
    number: u64,
    seeds: Rng,
    sockets: Sockets,
    /// While it runs.
    handle: Option<NodeHandle>,
    /// Asks it to stop.
    stop: Option<oneshot::Sender<()>>,
    /// How it ended, if it was not killed.
    ended: Option<Ended>,
}

/// The name of a node, which is its host's.
pub(super) fn name(id: u16) -> String {
    format!("n{id}")
}

/// Where a client finds a node.
pub(super) fn endpoint(id: u16) -> String {
    format!("{0}={0}:{CLIENT_PORT}", name(id))
}

impl Machine {
    pub(super) fn new(plan: &StackPlan, id: u16, trace: &Trace) -> Self {
        let stream = |of: u64| Rng::new(plan.seed, STREAMS + STREAMS_PER_NODE * u64::from(id) + of);
        let disk = SimDisk::new(stream(0));
        Self {
            id,
            name: name(id),
            pace: DiskPace::new(id, disk.clone(), trace.clone(), stream(1), plan.sync_ms),
            disk,
            clock: SimClock::new(stream(2)),
            trace: trace.clone(),
            options: options(plan, id),
            life: Mutex::new(Life {
                number: 0,
                seeds: stream(3),
                sockets: Sockets::default(),
                handle: None,
                stop: None,
                ended: None,
            }),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { cluster_id: CLUSTER.to_owned(), node: NodeId(self.id), name: self.name.clone() }
    }

    pub(super) fn home(&self) -> PathBuf {
        self.options.home.clone()
    }

    /// The file that the store is in.
    pub(super) fn store_path(&self) -> PathBuf {
        self.home().join("db").join(format!("{}.db", self.name))
    }

    /// Runs the node until it is asked to stop or ends by itself.
    pub(super) async fn live(self: Arc<Self>) {
        let (stop, stopped) = oneshot::channel();
        let sockets = Sockets::default();
        let seed = {
            let mut life = self.life();
            life.number += 1;
            life.sockets = sockets.clone();
            life.stop = Some(stop);
            life.ended = None;
            life.seeds.any()
        };
        let surroundings = Surroundings {
            network: SimNetwork::new(sockets.clone(), self.trace.clone()),
            disk: Arc::new(self.disk.for_process()),
            clock: Arc::new(self.clock.clone()),
            workers: Workers::Tasks(self.pace.clone()),
            seed,
        };
        let ended = match RunningNode::start_in(surroundings, self.options.clone()).await {
            Ok(node) => {
                self.life().handle = Some(node.handle().clone());
                let stopped = async {
                    // The world keeps the other end for as long as this lives.
                    let _ = stopped.await;
                };
                node.run_until(stopped).await
            }
            Err(error) => Err(error),
        };
        // The process is over, and with it everything that it had open.
        sockets.close();
        self.disk.kill();
        let mut life = self.life();
        life.handle = None;
        life.ended = Some(match ended {
            Ok(()) if life.stop.is_none() => Ended::AsAsked,
            Ok(()) => Ended::Unasked,
            Err(error) => Ended::Failed(error.to_string()),
        });
    }

    /// The process is about to be taken from its host.
    pub(super) fn is_dying(&self) {
        self.life().sockets.end_together();
    }

    /// The process is gone, and its host runs nothing any more. The disk must be dead to it by now.
    pub(super) fn died(&self) {
        let mut life = self.life();
        life.handle = None;
        life.stop = None;
        life.ended = None;
    }

    pub(super) fn ask_to_stop(&self) {
        if let Some(stop) = self.life().stop.take() {
            // One that has ended by itself does not hear it.
            let _ = stop.send(());
        }
    }

    /// The running node.
    pub(super) fn handle(&self) -> Option<NodeHandle> {
        self.life().handle.clone()
    }

    /// How the process ended, once: `None` while it runs, or when it was killed.
    pub(super) fn take_ended(&self) -> Option<Ended> {
        self.life().ended.take()
    }

    /// How many processes there were, the present one included.
    pub(super) fn lives(&self) -> u64 {
        self.life().number
    }

    /// Whether it takes itself for the master.
    pub(super) fn is_master(&self) -> bool {
        self.handle().and_then(|handle| handle.master_name()).is_some_and(|master| master == self.name)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    /// Why it should not have ended so (K13). `may_fail`: its disk gives it a reason.
    pub(super) fn wrong(self, may_fail: impl FnOnce() -> bool) -> Option<String> {
        match self {
            Self::AsAsked => None,
            Self::Unasked => Some("it says that all is well, and nobody asked it to stop".to_owned()),
            Self::Failed(why) => (!may_fail()).then_some(why),
        }
    }
}

fn options(plan: &StackPlan, id: u16) -> NodeOptions {
    let others = (1..=plan.nodes).filter(|other| *other != id);
    let peer = |id| PeerAddress { node: NodeId(id), name: name(id), address: format!("{}:{PEER_PORT}", name(id)) };
    NodeOptions {
        cluster_id: CLUSTER.to_owned(),
        node: NodeId(id),
        name: name(id),
        peers: others.map(peer).collect(),
        roles: Roles::default(),
        read_only: false,
        client_listen: format!("0.0.0.0:{CLIENT_PORT}"),
        peer_listen: format!("0.0.0.0:{PEER_PORT}"),
        home: PathBuf::from("/home"),
        lease: plan.lease,
        clock_drift_ppm: plan.clock_drift_ppm,
        reads: plan.reads,
        limits: Limits::default(),
        store_age_max: plan.store_age_max,
        disk_reserve_bytes: 1 << 20,
        connections_max: Some(1_000),
        extensions: Extensions::new(),
        log_segment_bytes: plan.log_bytes.0,
        log_retention_bytes: plan.log_bytes.1,
        log_compression: true,
        recorder_bytes_max: None,
        #[cfg(feature = "planted-bugs")]
        planted: plan.bugs.in_node(),
        #[cfg(feature = "planted-bugs")]
        planted_in_engine: plan.bugs.in_engine(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_asked_or_has_a_failing_disk_may_end() {
        assert_eq!(Ended::AsAsked.wrong(|| false), None);
        assert_eq!(Ended::Failed("no room".to_owned()).wrong(|| true), None);
        assert_eq!(Ended::Failed("no room".to_owned()).wrong(|| false), Some("no room".to_owned()));
        for may_fail in [true, false] {
            assert!(Ended::Unasked.wrong(|| may_fail).is_some(), "a disk is no reason to say that all is well");
        }
    }
}
