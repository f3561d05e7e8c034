//! The way from a client's connection into the node: updates go to the driver, reads go straight to the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use trialbay_engine::{Instant, NodeId, Refusal, Slot};

use super::room::Room;
use super::serving::Serving;
pub use crate::client::{HeadView, LogView, NodeStatus, PeerView};
use crate::clock::Clock;
use crate::config::Reads;
use crate::consistency::Consistency;
use crate::extensions::Extensions;
use crate::store::{Maintenance, NotMaintained, Snapshot, StoreError, StoreReader};
use crate::tally::{Series, Totals};
pub use crate::update::UpdateResult;
use crate::update::{Limits, Update, encode_command};
use crate::watched;

/// How long the driver may take to answer a question about itself before the node counts as stuck.
const DRIVER_ANSWER_MAX: Duration = Duration::from_secs(2);

/// A handle on a running node. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle(pub(super) Arc<Shared>);

/// Why an update was not done, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateRefused {
    /// Did not happen.
    #[error("this node is not the master")]
    NotMaster {
        /// The master's name, as far as this node knows.
        master: Option<String>,
    },
    /// Did not happen: the configuration of the cluster says so.
    #[error("{node} is configured read-only")]
    ReadOnly {
        /// This node's name.
        node: String,
    },
    /// Did not happen.
    #[error("the queue of updates is full: try again later")]
    Overloaded,
    /// Did not happen.
    #[error(
        "the disk is nearly full ({free_mib} MiB are free, {reserve_mib} MiB are kept): make room, or delete; \
         reads and deletes go on"
    )]
    DiskFull {
        /// What is free.
        free_mib: u64,
        /// What is not filled.
        reserve_mib: u64,
    },
    /// Did not happen.
    #[error("the node is stopping")]
    Stopping,
    /// Did not happen, and never will.
    #[error("{why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
    /// May have happened, or may happen yet.
    #[error("mastership was lost before the update was decided: its outcome is unknown")]
    OutcomeUnknown,
}

/// What whoever calls a function that is not there is told.
pub(crate) fn function_not_found(name: &[u8]) -> String {
    format!("User function {:?} could not be found", String::from_utf8_lossy(&name[..name.len().min(64)]))
}

/// Why a read was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReadRefused {
    /// A `Consistent` read on a node that is not (provably) the master.
    #[error("this node is not the master")]
    NotMaster {
        /// The master's name, as far as this node knows.
        master: Option<String>,
    },
    /// This node has not applied the slot that the read asks for.
    #[error("store not fresh enough")]
    NotFreshEnough,
    /// This node keeps no data.
    #[error("{node} is a witness, which keeps no data: read from another node")]
    Witness {
        /// This node's name.
        node: String,
    },
    /// The queue of reads is full.
    #[error("the queue of reads is full: try again later")]
    Overloaded,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why another node did not become master when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropRefused {
    /// This node is the only voter.
    #[error("drop master not supported for singletons")]
    Alone,
    /// The others are not in a state to take over. This node is the master still.
    #[error("no other node can take over, and this one serves on: {why}")]
    NobodyAble {
        /// What keeps each of them.
        why: String,
    },
    /// This node is no master any more, and nobody else is yet.
    #[error("this node has handed over, and has not heard of another master yet; see the status of the others")]
    NobodyTookOver,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Why nothing was done for the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaintenanceRefused {
    /// It would keep the cluster from being served.
    #[error("Operation cannot be performed on master node")]
    OnMaster,
    /// Not now.
    #[error(transparent)]
    NotNow(#[from] NotMaintained),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// What a connection asks of the driver.
pub(crate) enum Ask {
    /// Do this update.
    Update { command: Bytes, reply: oneshot::Sender<Result<UpdateResult, UpdateRefused>> },
    /// From which slot on may a `Consistent` read be served?
    QuorumRead { reply: oneshot::Sender<Result<Slot, Refusal>> },
    /// Let another node be master.
    Drop { reply: oneshot::Sender<Result<(), DropRefused>> },
    /// How are you?
    Status { reply: oneshot::Sender<NodeStatus> },
    /// Do this for the store.
    Maintain { what: Maintenance, reply: oneshot::Sender<Result<(), MaintenanceRefused>> },
    /// Hand over and stop.
    Stop,
}

/// What the driver and all connections share.
pub(crate) struct Shared {
    pub(crate) cluster_id: String,
    pub(crate) node: NodeId,
    pub(crate) names: BTreeMap<NodeId, String>,
    pub(crate) reads: Reads,
    pub(crate) limits: Limits,
    pub(crate) extensions: Extensions,
    pub(crate) is_witness: bool,
    pub(crate) read_only: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: StoreReader,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) serving: Serving,
    /// The master's node id; 0 (which no configuration allows) when unknown.
    pub(crate) master: AtomicU32,
    /// The applied slot, for those who wait for it.
    pub(crate) applied: watched::Receiver<Slot>,
    pub(crate) room: Arc<Room>,
    /// How many updates of this node's clients each slot had. Written by the store's writer.
    pub(crate) harvest: Arc<Series>,
}

impl NodeHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// This node's name.
    pub fn node_name(&self) -> &str {
        &self.0.names[&self.0.node]
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.0.cluster_id
    }

    /// The master's name, if this node knows of one whose lease has not run out.
    pub fn master_name(&self) -> Option<String> {
        let master = self.0.master.load(Ordering::Acquire);
        let master = NodeId(u16::try_from(master).expect("the driver stores node ids only"));
        self.0.names.get(&master).cloned()
    }

    /// Whether this node is the master and its lease has not run out.
    pub fn is_serving(&self) -> bool {
        self.0.serving.is_on(self.0.clock.now())
    }

    /// Does an update: proposes it and waits until it is decided and applied.
    ///
    /// # Errors
    /// Each says whether the update happened. The wait is bounded, as for clients.
    pub async fn update(&self, update: &Update) -> Result<UpdateResult, UpdateRefused> {
        let invalid = |why: String| UpdateRefused::Invalid { why };
        update.check(&self.0.limits).map_err(|broken| invalid(broken.to_string()))?;
        if let Some(name) = self.unknown_function(&update.functions()) {
            return Err(invalid(function_not_found(name)));
        }
        self.propose(encode_command(update)).await
    }

    /// The first of these user functions that the program does not have. What calls it must not be proposed: every node would
    /// stop at it.
    pub(crate) fn unknown_function<'n>(&self, names: &'n [Bytes]) -> Option<&'n Bytes> {
        names.iter().find(|name| !self.0.extensions.has_function(name))
    }

    /// The user functions and hooks that the program has added.
    pub(crate) fn extensions(&self) -> &Extensions {
        &self.0.extensions
    }

    /// Proposes an update (the bytes of a command, see `update.rs`) that was checked, and waits until it is decided and applied.
    ///
    /// # Errors
    /// Each says whether the update happened. The wait is bounded: a master that loses its majority answers
    /// `OutcomeUnknown` after about two leases.
    pub(crate) async fn propose(&self, command: Bytes) -> Result<UpdateResult, UpdateRefused> {
        if let Some(refused) = self.refuses_updates() {
            return Err(refused);
        }
        if !self.is_serving() {
            return Err(UpdateRefused::NotMaster { master: self.master_name() });
        }
        self.0.room.admit(&command)?;
        let (reply, outcome) = oneshot::channel();
        self.0.asks.send(Ask::Update { command, reply }).await.map_err(|_| UpdateRefused::Stopping)?;
        // The driver drops the sender only when the whole node goes down, with the update in any state.
        outcome.await.unwrap_or(Err(UpdateRefused::OutcomeUnknown))
    }

    /// A snapshot of the store that is as fresh as asked.
    ///
    /// # Errors
    /// When this node cannot give that guarantee now.
    pub async fn snapshot(&self, consistency: Consistency) -> Result<Snapshot, ReadRefused> {
        if self.0.is_witness && consistency != Consistency::Consistent {
            // Rule E3. For consistent reads the master's name is the better answer.
            return Err(ReadRefused::Witness { node: self.node_name().to_owned() });
        }
        match consistency {
            Consistency::NoGuarantees => Ok(self.0.store.snapshot()?),
            Consistency::AtLeast(slot) => {
                let snapshot = self.0.store.snapshot()?;
                let fresh = u64::try_from(slot).unwrap_or(0) <= snapshot.applied()?.0;
                if fresh { Ok(snapshot) } else { Err(ReadRefused::NotFreshEnough) }
            }
            Consistency::Consistent => match self.0.reads {
                Reads::Lease => {
                    // Rule R1: the lease is looked at before what is read is fixed, and again after.
                    let first = self.0.serving.look().ok_or_else(|| self.not_master())?;
                    let snapshot = self.0.store.snapshot()?;
                    let held = self.0.serving.held_since(first, self.0.clock.now());
                    if held { Ok(snapshot) } else { Err(self.not_master()) }
                }
                Reads::Quorum => self.quorum_snapshot().await,
            },
        }
    }

    /// Why no update of a client is done here, if that is so.
    pub(crate) fn refuses_updates(&self) -> Option<UpdateRefused> {
        self.0.read_only.then(|| UpdateRefused::ReadOnly { node: self.node_name().to_owned() })
    }

    /// The last slot that the store has applied.
    pub fn applied(&self) -> Slot {
        self.0.applied.get()
    }

    /// Now, on this node's clock.
    pub(crate) fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// How many updates of this node's clients each slot had.
    pub(crate) fn harvest(&self) -> Totals {
        self.0.harvest.totals()
    }

    /// The slot of the head that this node took last, if it took one since it started.
    pub fn head(&self) -> Option<Slot> {
        self.0.store.head()
    }

    /// How the node is; `None` when its driver does not answer in time.
    pub async fn status(&self) -> Option<NodeStatus> {
        let (reply, status) = oneshot::channel();
        tokio::time::timeout(DRIVER_ANSWER_MAX, async {
            self.0.asks.send(Ask::Status { reply }).await.ok()?;
            status.await.ok()
        })
        .await
        .ok()
        .flatten()
    }

    /// Has another node become master, if this one is; waits until it has. The wait is bounded, by four leases.
    ///
    /// # Errors
    /// When no other node could, with what kept it.
    pub async fn drop_master(&self) -> Result<(), DropRefused> {
        let (reply, outcome) = oneshot::channel();
        self.0.asks.send(Ask::Drop { reply }).await.map_err(|_| DropRefused::Stopping)?;
        outcome.await.unwrap_or(Err(DropRefused::Stopping))
    }

    /// Makes durable all that the store has applied, which lets the node remove log that it keeps for the store.
    ///
    /// # Errors
    /// When it is not possible now.
    pub async fn flush_store(&self) -> Result<(), MaintenanceRefused> {
        self.maintain(Maintenance::Flush).await
    }

    /// Gives back what the store's file does not need. That may take long; this node neither applies anything nor answers reads
    /// until it is done, nor does it become master. A master therefore refuses.
    ///
    /// # Errors
    /// When it is not possible now, or not on this node.
    pub async fn compact_store(&self) -> Result<(), MaintenanceRefused> {
        self.maintain(Maintenance::Compact).await
    }

    /// Removes log that nobody needs, beyond the budget that is kept for others. Nodes do so by themselves; what holds it up is
    /// at most that the store is not durable yet. Gives the steps that are still to be waited for: none.
    ///
    /// # Errors
    /// When it is not possible now.
    pub async fn collapse_log(&self) -> Result<u32, MaintenanceRefused> {
        self.flush_store().await.map(|()| 0)
    }

    /// Whether this node takes itself for the master, inside its lease or not.
    pub(crate) fn is_master(&self) -> bool {
        self.0.master.load(Ordering::Acquire) == u32::from(self.0.node.0)
    }

    async fn maintain(&self, what: Maintenance) -> Result<(), MaintenanceRefused> {
        let (reply, outcome) = oneshot::channel();
        self.0.asks.send(Ask::Maintain { what, reply }).await.map_err(|_| MaintenanceRefused::Stopping)?;
        outcome.await.unwrap_or(Err(MaintenanceRefused::Stopping))
    }

    /// Asks the node to hand over mastership and stop. Returns at once.
    pub async fn stop(&self) {
        // A closed channel means that the node has stopped already.
        let _ = self.0.asks.send(Ask::Stop).await;
    }

    async fn quorum_snapshot(&self) -> Result<Snapshot, ReadRefused> {
        let (reply, slot) = oneshot::channel();
        self.0.asks.send(Ask::QuorumRead { reply }).await.map_err(|_| ReadRefused::Stopping)?;
        let slot = match slot.await {
            Ok(Ok(slot)) => slot,
            Ok(Err(Refusal::NotMaster { .. } | Refusal::OutcomeUnknown)) => return Err(self.not_master()),
            Ok(Err(Refusal::Overloaded)) => return Err(ReadRefused::Overloaded),
            Ok(Err(Refusal::Stopping)) | Err(_) => return Err(ReadRefused::Stopping),
        };
        self.0.applied.wait_for(|applied| applied >= slot).await.map_err(|_| ReadRefused::Stopping)?;
        Ok(self.0.store.snapshot()?)
    }

    fn not_master(&self) -> ReadRefused {
        ReadRefused::NotMaster { master: self.master_name() }
    }
}
