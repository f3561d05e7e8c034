//! What a seed makes of a run: the cluster, its surroundings, and which families of faults strike, and how often.

use std::time::Duration;

use trialbay_engine::Limits;

use crate::rng::Rng;

/// A millisecond of simulated time.
pub const MS: u64 = 1_000_000;
/// A second of simulated time.
pub const S: u64 = 1_000 * MS;

/// Nodes' leases. Everything else is scaled to it.
pub const LEASE: u64 = 400 * MS;

/// A family of faults that strike at moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// A process is killed: what it had not synced is lost in part. It starts again soon.
    Kill,
    /// A process is killed between two actions of one step.
    KillBetweenActions,
    /// A process stands still for a while; its clock does not.
    Pause,
    /// Nodes are cut in two groups.
    Partition,
    /// What one node sends to some others is lost, not what they send to it.
    OneWay,
    /// Connections break and come back.
    Disconnect,
    /// A disk is slow for a while.
    SlowDisk,
    /// A clock changes its rate, within the bound.
    ClockRate,
    /// The operator stops a node, which starts again.
    Stop,
    /// A node loses its whole disk. One at a time.
    Wipe,
    /// A node's log loses a record. One at a time.
    Damage,
    /// All nodes lose power at once.
    PowerCut,
    /// Logs lose what the store has passed.
    Trim,
}

/// All families.
pub const FAMILIES: [Family; 13] = [
    Family::Kill,
    Family::KillBetweenActions,
    Family::Pause,
    Family::Partition,
    Family::OneWay,
    Family::Disconnect,
    Family::SlowDisk,
    Family::ClockRate,
    Family::Stop,
    Family::Wipe,
    Family::Damage,
    Family::PowerCut,
    Family::Trim,
];

/// How messages fare on a link that works.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// The shortest delay.
    pub delay_min: u64,
    /// The longest usual delay.
    pub delay_max: u64,
    /// How likely a message is lost.
    pub drop: f64,
    /// How likely it arrives twice.
    pub duplicate: f64,
    /// How likely it is overtaken.
    pub reorder: f64,
    /// How likely it takes up to seconds.
    pub spike: f64,
    /// How likely a copy arrives much later, whatever became of the connection and of the receiver meanwhile.
    pub stale: f64,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that made it.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u16,
    /// The bound on clock rates.
    pub drift_ppm: u32,
    /// The engine's limits: often tiny, so that every path that a limit opens is walked.
    pub limits: Limits,
    /// How long faults strike.
    pub chaos: u64,
    /// The network.
    pub network: NetworkPlan,
    /// The shortest sync.
    pub sync_min: u64,
    /// The longest usual sync.
    pub sync_max: u64,
    /// The longest usual time to apply what is decided.
    pub apply_max: u64,
    /// The mean time between two strikes of each family that strikes at all.
    pub strikes: Vec<(Family, u64)>,
    /// How many clients.
    pub clients: u64,
    /// The longest time a client thinks between two operations.
    pub think_max: u64,
    /// The mean time between two durable commits of a store.
    pub checkpoint: u64,
    /// Whether a durable commit of the store waits until the log holds everything that is in it.
    pub checkpoint_after_log: bool,
    /// Whether all nodes start at once, or one after the other.
    pub staggered_start: bool,
    /// Whether nodes lose their memory whatever the others remember, as long as one does: beyond what the cluster
    /// tolerates, so it need not go on, but it must not go wrong.
    pub reckless: bool,
}

impl Plan {
    /// What `seed` makes, with so many nodes if given.
    pub fn new(seed: u64, nodes: Option<u16>) -> Self {
        let rng = &mut Rng::new(seed, 1);
        let drawn = rng.pick(&[3, 3, 3, 3, 5, 5, 5, 7, 2, 4, 1]).unwrap_or(3);
        let delay_min = rng.magnitude(20_000, 2 * MS);
        let network = NetworkPlan {
            delay_min,
            delay_max: delay_min + rng.magnitude(50_000, 20 * MS),
            drop: some(rng, 0.001, 0.1),
            duplicate: some(rng, 0.001, 0.1),
            reorder: some(rng, 0.001, 0.3),
            spike: some(rng, 0.000_1, 0.02),
            stale: some(rng, 0.000_1, 0.02),
        };
        let sync_min = rng.magnitude(20_000, 2 * MS);
        Self {
            seed,
            nodes: nodes.unwrap_or(drawn),
            drift_ppm: u32::try_from(rng.magnitude(100, 50_000)).unwrap_or(100),
            limits: limits(rng),
            chaos: rng.between(4, 14) * S,
            network,
            sync_min,
            sync_max: sync_min + rng.magnitude(50_000, 10 * MS),
            apply_max: rng.magnitude(10_000, 5 * MS),
            strikes: FAMILIES
                .into_iter()
                .filter_map(|family| {
                    let mean = rng.magnitude(300 * MS, 10 * S);
                    rng.chance(0.5).then_some((family, mean))
                })
                .collect(),
            clients: rng.magnitude(1, 16),
            think_max: rng.magnitude(MS, 100 * MS),
            checkpoint: rng.magnitude(50 * MS, 5 * S),
            checkpoint_after_log: rng.chance(0.5),
            staggered_start: rng.chance(0.5),
            reckless: rng.chance(0.1),
        }
    }

    /// With all those faults that bring planted bugs to light soon.
    #[must_use]
    pub fn harsher(mut self) -> Self {
        for family in [Family::Kill, Family::Partition, Family::ClockRate, Family::Wipe] {
            match self.strikes.iter_mut().find(|(known, _)| *known == family) {
                Some((_, mean)) => *mean = (*mean).min(3 * S),
                None => self.strikes.push((family, 3 * S)),
            }
        }
        self
    }

    /// The lease.
    pub fn lease(&self) -> Duration {
        Duration::from_nanos(LEASE)
    }
}

fn some(rng: &mut Rng, low: f64, high: f64) -> f64 {
    let rate = rng.rate(low, high);
    if rng.chance(0.5) { rate } else { 0.0 }
}

fn limits(rng: &mut Rng) -> Limits {
    if rng.chance(0.3) {
        return Limits::default();
    }
    let undecided_max = Duration::from_millis(rng.between(1_000, 5_000));
    let mut size = |low, high| usize::try_from(rng.magnitude(low, high)).unwrap_or(1);
    Limits {
        in_flight_slots_max: size(1, 64) as u64,
        in_flight_bytes_max: size(64, 1 << 20),
        batch_bytes_max: size(1, 1 << 16),
        queued_requests_max: size(1, 1_000),
        queued_bytes_max: size(20, 1 << 20),
        // A piece of catch-up takes a round trip: with less, a run would be over before the log is.
        message_bytes_max: size(512, 1 << 16),
        cache_bytes_max: size(1, 1 << 20),
        cache_slots_max: size(1, 1_000) as u64,
        undecided_max,
        queued_reads_max: size(1, 1_000),
    }
}
