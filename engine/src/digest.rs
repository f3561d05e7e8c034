//! A number for a node's whole protocol state, for those who explore what could happen and must know a state again.

use core::hash::Hash as _;

use xxhash_rust::xxh3::Xxh3;

use crate::engine::{Engine, Mastership};

impl Engine {
    /// A digest of all that decides what this node will do, between two steps. Two engines of one configuration with the
    /// same digest answer the same events with the same actions, but for the shift of their clocks and for chance.
    ///
    /// * Time counts from now: of an instant only how far off it is, or how long ago it was, is hashed. Whoever compares
    ///   nodes by this must translate `asked_at` in the answers to heartbeats to the clock of the node at hand.
    /// * Batches of records count from the last durable one on.
    /// * What feeds only the pauses between canvasses is left out: the random stream, and the count of vain canvasses. A
    ///   lease below 64 ns leaves nothing to either: no pause is longer than 0 then, and no jitter.
    pub fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        self.halted.hash(&mut hasher);
        self.timers.digest(self.now, &mut hasher);
        self.log.hash(&mut hasher);
        self.disk.digest(&mut hasher);
        self.acceptor.hash(&mut hasher);
        self.grant.digest(self.now, &mut hasher);
        self.franchise.hash(&mut hasher);
        match &self.mastership {
            Mastership::Slave => 0.hash(&mut hasher),
            Mastership::Campaigning(campaign) => (1, campaign).hash(&mut hasher),
            Mastership::Master(master) => {
                2.hash(&mut hasher);
                master.digest(self.now, &mut hasher);
            }
        }
        self.hand_over.digest(self.now, &mut hasher);
        self.catch_up.hash(&mut hasher);
        self.connected.hash(&mut hasher);
        (self.ballot_seen, self.store_paused).hash(&mut hasher);
        hasher.digest128()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::time::Duration;

    use crate::{Actions, Ballot, Config, Engine, Event, Incarnation, Instant, Memory, Message, NodeId, Recovered};

    #[test]
    fn a_digest_is_the_same_whenever_the_same_happened() {
        assert_eq!(engine(0, 1, &[]).digest(), engine(5_000, 2, &[]).digest());
        let prepare = [received(1)];
        assert_eq!(engine(0, 1, &prepare).digest(), engine(5_000, 2, &prepare).digest());
    }

    #[test]
    fn a_digest_tells_apart_what_was_promised_and_whether_that_is_durable() {
        let persisted = Event::Persisted(crate::PersistId(1));
        let all = [
            engine(0, 1, &[]),
            engine(0, 1, &[received(1)]),
            engine(0, 1, &[received(1), persisted]),
            engine(0, 1, &[received(2)]),
            engine(0, 1, &[received(1), received(2)]),
            engine(0, 1, &[Event::StopRequested]),
        ];
        let digests: alloc::collections::BTreeSet<u128> = all.iter().map(Engine::digest).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn a_digest_tells_apart_how_far_off_a_timer_is() {
        let (mut early, late) = (engine(0, 1, &[]), engine(0, 1, &[]));
        early.step(early.now + Duration::from_nanos(1), Event::Ticked, &mut Actions::new());
        assert_ne!(early.digest(), late.digest());
    }

    fn received(round: u64) -> Event {
        let ballot = Ballot { round, node: NodeId(2) };
        Event::Received { from: NodeId(2), message: Message::Prepare { ballot, decided_upto: crate::Slot::ZERO } }
    }

    /// Node 1 of three, started at `start`, to which this happened once it had waited out its restart.
    fn engine(start: u64, seed: u64, happened: &[Event]) -> Engine {
        let lease = Duration::from_nanos(8);
        let voters: Vec<NodeId> = [1, 2, 3].map(NodeId).into();
        let config = Config { lease, clock_drift_ppm: 0, ..Config::new(NodeId(1), voters) };
        let memory = Memory { incarnation: Incarnation(1), votes: true, genesis: Vec::new() };
        let recovered = Recovered { memory: Some(memory), ..Recovered::blank() };
        let mut engine = Engine::new(Instant(start), config, recovered, seed);
        let now = Instant(start) + lease;
        engine.step(now, Event::Ticked, &mut Actions::new());
        happened.iter().for_each(|event| engine.step(now, event.clone(), &mut Actions::new()));
        engine
    }
}
