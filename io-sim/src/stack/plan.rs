//! What a run is: a cluster, its load, and what goes wrong when.

use std::time::Duration;

use trialbay::config::Reads;
use trialbay::node::NodeOptions;

use crate::mutant::Bugs;

/// A whole run. Two runs of equal plans are the same in every message and every byte on disk.
#[derive(Clone, Debug)]
pub struct StackPlan {
    /// What all chance comes from.
    pub seed: u64,
    /// How many nodes, numbered from 1.
    pub nodes: u16,
    /// How many clients, each with one call at a time under way.
    pub clients: u16,
    /// How many of them stay with one node, whatever that says of itself, mostly read, and soon ask again.
    pub loyal: u16,
    /// How many keys they share.
    pub keys: u64,
    /// Bytes added to each value, at most.
    pub padding_max: u64,
    /// How long a client rests between two calls, from and to, in milliseconds.
    pub rest_ms: (u64, u64),
    /// How long a client waits for a call.
    pub call_max: Duration,
    /// The nodes' lease.
    pub lease: Duration,
    /// The bound on clock rates that the nodes go by, in millionths.
    pub clock_drift_ppm: u32,
    /// How the nodes make consistent reads safe.
    pub reads: Reads,
    /// How long a message is under way, from and to, in whole milliseconds.
    pub message_ms: (u64, u64),
    /// How long a sync takes, from and to, in whole milliseconds.
    pub sync_ms: (u64, u64),
    /// How long a store goes without being made durable.
    pub store_age_max: Duration,
    /// How long a segment of the log grows, and how many bytes of old ones are kept.
    pub log_bytes: (u64, u64),
    /// How long faults may come. Then everything is mended and every node started.
    pub chaos: Duration,
    /// How long the load goes on after that.
    pub calm: Duration,
    /// How long the cluster may take then, without load, until all nodes hold the same.
    pub converge_max: Duration,
    /// What is planted in the nodes.
    pub bugs: Bugs,
    /// What goes wrong, and when, in any order. What comes after `chaos` does not happen.
    pub faults: Vec<(Duration, StackFault)>,
}

/// What can go wrong, or be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackFault {
    /// The processes die. The system lives on, and no write is lost.
    Kill(Who),
    /// The power of the machines fails, all at once, and takes what was not synced. Their clocks begin anew.
    PowerCut(Who),
    /// The processes end and the disks are emptied.
    Wipe(Who),
    /// The processes are asked to stop, and hand over.
    Stop(Who),
    /// The processes stand still: no message leaves them or reaches them, and their clocks show what they showed. When they
    /// go on, they find that time has passed. Not to be combined with one-way partitions.
    Pause(Who),
    /// The processes go on.
    Resume(Who),
    /// The processes start, where none runs.
    Restart(Who),
    /// No message passes between these.
    Partition(Who, Who),
    /// No message passes from the first to the second.
    PartitionOneWay(Who, Who),
    /// Messages between these stay where they are. Not to be combined with one-way partitions.
    Hold(Who, Who),
    /// Messages pass again between these, and those that were held arrive.
    Mend(Who, Who),
    /// Syncs take this long from now on, from and to, in milliseconds.
    SyncTakes(Who, (u64, u64)),
    /// The next sync fails.
    FailNextSync(Who),
    /// The disks are full.
    FillDisk(Who),
    /// The disks have room again.
    FreeDisk(Who),
    /// Syncs return success and do nothing, from now on. Beyond what a cluster can bear: it must be found out.
    LieAboutSyncs(Who),
    /// The other fault, and after this time what undoes it, for those whom it hit: a dead node starts again, a cut is mended.
    For(Box<StackFault>, Duration),
    /// The clocks run this much too fast, in millionths; negative: too slow.
    ClockRate(Who, i64),
}

/// Whom a fault hits, found when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This node.
    Node(u16),
    /// The node that takes itself for the master; nobody when there is none.
    Master,
    /// The master and the first others, as few as make a majority.
    Majority,
    /// The first running node that does not take itself for the master.
    Slave,
    /// Every node.
    Nodes,
    /// The clients.
    Clients,
    /// Every node, and the clients.
    Everyone,
}

impl StackPlan {
    /// A healthy cluster of three under light load.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            clients: 4,
            loyal: 0,
            keys: 20,
            padding_max: 0,
            rest_ms: (0, 20),
            call_max: Duration::from_secs(5),
            lease: Duration::from_millis(800),
            clock_drift_ppm: 10_000,
            reads: Reads::Lease,
            message_ms: (1, 5),
            sync_ms: (1, 4),
            store_age_max: NodeOptions::STORE_AGE_MAX,
            log_bytes: (64 << 20, 1 << 30),
            chaos: Duration::from_secs(8),
            calm: Duration::from_secs(4),
            converge_max: Duration::from_secs(20),
            bugs: Bugs::NONE,
            faults: Vec::new(),
        }
    }

    /// How few nodes are a majority.
    pub(super) fn majority(&self) -> usize {
        usize::from(self.nodes / 2 + 1)
    }

    /// The same with one more fault.
    #[must_use]
    pub fn and(mut self, at: Duration, fault: StackFault) -> Self {
        self.faults.push((at, fault));
        self
    }
}
