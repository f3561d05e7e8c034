//! Links between nodes: connections that break and come back, cuts, delays, losses.

use std::collections::BTreeMap;

use trialbay_engine::codec::{decode_message, encode_message};
use trialbay_engine::{Event, Message, NodeId};
use xxhash_rust::xxh3::xxh3_64;

use super::{Happening, World};
use crate::check::{Checked, violation};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::scenario::condition::kind_of;
use crate::scenario::draw::stream;
use crate::scenario::{MS, Network as Plan, S};
use crate::trace::What;

/// By how much a message may be late that nothing holds back.
pub(super) const SPIKE_MAX: u64 = 2 * S;

/// The state of all links.
#[derive(Debug)]
pub(crate) struct Network {
    plan: Plan,
    /// By way: its noise.
    ways: BTreeMap<(NodeId, NodeId), Way>,
    pairs: BTreeMap<(NodeId, NodeId), Pair>,
    /// The chance of connections made and broken.
    pub(crate) connections: Rng,
    sent: u64,
}

/// From one node to another.
#[derive(Debug)]
struct Way {
    rng: Rng,
    /// How many cuts lie on it.
    cuts: u32,
    /// Nothing arrives before.
    clogged_until: u64,
    /// When the last message arrives.
    last_arrival: u64,
}

#[derive(Debug, Default)]
struct Pair {
    /// Counts connections made and broken.
    epoch: u64,
    linked: bool,
}

impl Network {
    pub(crate) fn new(nodes: u16, plan: &Plan, seed: u64) -> Self {
        let ids = || (1..=nodes).map(NodeId);
        let ways = ids().flat_map(|a| ids().filter(move |b| a != *b).map(move |b| (a, b)));
        let way = |(a, b): (NodeId, NodeId)| {
            let rng = Rng::new(seed, stream::WAY + u64::from(a.0) * 100 + u64::from(b.0));
            ((a, b), Way { rng, cuts: 0, clogged_until: 0, last_arrival: 0 })
        };
        let pairs = ways.clone().filter(|(a, b)| a < b).map(|pair| (pair, Pair::default()));
        Self {
            plan: plan.clone(),
            pairs: pairs.collect(),
            ways: ways.map(way).collect(),
            connections: Rng::new(seed, stream::CONNECTIONS),
            sent: 0,
        }
    }

    pub(crate) fn cut(&mut self, pairs: &[(NodeId, NodeId)]) {
        for pair in pairs {
            if let Some(way) = self.ways.get_mut(pair) {
                way.cuts += 1;
            }
        }
    }

    pub(crate) fn mend(&mut self, pairs: &[(NodeId, NodeId)]) {
        for pair in pairs {
            if let Some(way) = self.ways.get_mut(pair) {
                way.cuts = way.cuts.saturating_sub(1);
            }
        }
    }

    pub(crate) fn clog(&mut self, pairs: &[(NodeId, NodeId)], until: u64) {
        for pair in pairs {
            if let Some(way) = self.ways.get_mut(pair) {
                way.clogged_until = way.clogged_until.max(until);
            }
        }
    }

    /// Nothing is cut any more, nothing is lost, and what is late already holds up nothing that follows.
    pub(crate) fn heal(&mut self) {
        for way in self.ways.values_mut() {
            (way.cuts, way.clogged_until, way.last_arrival) = (0, 0, 0);
        }
        let plan = &mut self.plan;
        (plan.drop, plan.duplicate, plan.reorder, plan.spike, plan.stale) = (0.0, 0.0, 0.0, 0.0, 0.0);
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.ways.get(&(from, to)).is_some_and(|way| way.cuts > 0)
    }

    /// Whether these can all talk to each other.
    pub(crate) fn is_whole(&self, nodes: &[NodeId], now: u64) -> bool {
        let among = |a: &NodeId, b: &NodeId| nodes.contains(a) && nodes.contains(b);
        self.ways.iter().all(|((a, b), way)| !among(a, b) || way.cuts == 0 && way.clogged_until <= now)
            && self.pairs.iter().all(|((a, b), pair)| !among(a, b) || pair.linked)
    }

    fn pair(&mut self, a: NodeId, b: NodeId) -> &mut Pair {
        self.pairs.entry((a.min(b), a.max(b))).or_default()
    }

    /// After which delays copies of a message that is sent now arrive: none when it is lost.
    fn delays(&mut self, from: NodeId, to: NodeId, now: u64) -> Vec<u64> {
        let plan = &self.plan;
        let Some(way) = self.ways.get_mut(&(from, to)) else { return Vec::new() };
        let rng = &mut way.rng;
        if rng.chance(plan.drop) {
            return Vec::new();
        }
        let copies = 1 + u64::from(rng.chance(plan.duplicate));
        let mut delays = Vec::with_capacity(2);
        for _ in 0..copies {
            let mut delay = rng.between(plan.delay_min.0, plan.delay_max.0);
            if rng.chance(plan.spike) {
                delay += rng.magnitude(10 * MS, SPIKE_MAX);
            }
            let mut at = (now + delay).max(way.clogged_until);
            if !rng.chance(plan.reorder) {
                at = at.max(way.last_arrival);
                way.last_arrival = at;
            }
            delays.push(at - now);
        }
        delays
    }

    /// After which delay a copy arrives that outlives connections and lives, if there is one.
    fn stale_delay(&mut self, from: NodeId, to: NodeId) -> Option<u64> {
        let way = self.ways.get_mut(&(from, to))?;
        way.rng.chance(self.plan.stale).then(|| way.rng.magnitude(MS, 10 * S))
    }
}

impl World {
    /// A node orders a message sent.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, message: Message) -> Checked {
        self.ledger.sent(from, &message, self.now, self.event)?;
        self.bounds.sent(from, &message)?;
        self.message_sent();
        self.count_message(&message);
        self.note_message(from, to, &message);
        let mut bytes = Vec::new();
        encode_message(&message, &mut bytes);
        self.trace(1, u64::from(from.0) << 16 | u64::from(to.0), xxh3_64(&bytes));
        if decode_message(&bytes) != Ok(message.clone()) {
            return violation("K13", format!("{message:?} does not survive its bytes"));
        }
        self.network.sent += 1;
        let id = self.network.sent;
        let kind = kind_of(&message);
        self.tell(|| What::Sent { id, from, to, kind: kind.into(), text: format!("{message:?}") });
        if let Some(delay) = self.network.stale_delay(from, to) {
            self.schedule(delay, Happening::Deliver { id, from, to, epoch: None, message: message.clone() });
            self.mark("stale copies");
        }
        let link = self.node(from).process.as_ref().and_then(|process| process.links.get(&to).copied());
        let epoch = self.network.pair(from, to).epoch;
        // The way's chance is used up whether the message gets through or not.
        let delays = self.network.delays(from, to, self.now);
        let lost = match link {
            Some(link) if link == epoch && self.network.is_cut(from, to) => Some("meets a cut"),
            Some(link) if link == epoch && delays.is_empty() => Some("is lost"),
            Some(link) if link == epoch => None,
            _ => Some("has no connection"),
        };
        if let Some(why) = lost {
            self.mark("messages lost");
            self.tell(|| What::Lost { id, from, to, why: format!("{kind} {why}").into() });
            return Ok(());
        }
        for delay in delays {
            let message = message.clone();
            self.schedule(delay, Happening::Deliver { id, from, to, epoch: Some(epoch), message });
        }
        Ok(())
    }

    pub(crate) fn deliver(
        &mut self,
        id: u64,
        from: NodeId,
        to: NodeId,
        epoch: Option<u64>,
        message: Message,
    ) -> Checked {
        if epoch.is_some_and(|epoch| self.network.pair(from, to).epoch != epoch) || self.network.is_cut(from, to) {
            let kind = kind_of(&message);
            self.tell(|| What::Lost { id, from, to, why: format!("{kind} meets a cut or a broken connection").into() });
            return Ok(());
        }
        self.tell(|| What::Delivered { id });
        self.bounds.delivered(to, &message);
        if self.mutant == Some(Mutant::AcceptanceCountedTwice)
            && let Message::Accepted { ballot, upto, .. } = message
        {
            self.forge_acceptance(from, to, ballot, upto)?;
        }
        self.step(to, Event::Received { from, message })
    }

    pub(crate) fn dial(&mut self, a: NodeId, b: NodeId) -> Checked {
        if self.network.pair(a, b).linked {
            return Ok(());
        }
        let both_up = self.node(a).is_up() && self.node(b).is_up();
        if !both_up || self.network.is_cut(a, b) || self.network.is_cut(b, a) {
            let pause = self.network.connections.between(10 * MS, 150 * MS);
            self.schedule(pause, Happening::Dial { a, b });
            return Ok(());
        }
        let pair = self.network.pair(a, b);
        pair.epoch += 1;
        pair.linked = true;
        let epoch = pair.epoch;
        for (node, peer) in [(a, b), (b, a)] {
            let delay = self.network.connections.magnitude(10_000, 20 * MS);
            let life = self.node(node).life;
            self.schedule(delay, Happening::LinkUp { node, life, peer, epoch });
        }
        Ok(())
    }

    pub(crate) fn link_up(&mut self, node: NodeId, peer: NodeId, epoch: u64) -> Checked {
        if self.network.pair(node, peer).epoch != epoch {
            return Ok(());
        }
        if let Some(process) = &mut self.node(node).process {
            process.links.insert(peer, epoch);
        }
        self.step(node, Event::Connected(peer))
    }

    pub(crate) fn link_down(&mut self, node: NodeId, peer: NodeId, epoch: u64) -> Checked {
        let Some(process) = &mut self.node(node).process else { return Ok(()) };
        if process.links.get(&peer) != Some(&epoch) {
            return Ok(());
        }
        process.links.remove(&peer);
        self.step(node, Event::Disconnected(peer))
    }

    pub(crate) fn break_if_cut(&mut self, a: NodeId, b: NodeId) -> Checked {
        if self.network.is_cut(a, b) || self.network.is_cut(b, a) {
            self.disconnect(a, b);
        }
        Ok(())
    }

    /// Breaks a connection: what is on its way is lost, and each end notices in its own time.
    pub(crate) fn disconnect(&mut self, a: NodeId, b: NodeId) {
        let pair = self.network.pair(a, b);
        if !pair.linked {
            return;
        }
        let epoch = pair.epoch;
        pair.epoch += 1;
        pair.linked = false;
        for (node, peer) in [(a, b), (b, a)] {
            let delay = self.network.connections.magnitude(10_000, 500 * MS);
            let life = self.node(node).life;
            self.schedule(delay, Happening::LinkDown { node, life, peer, epoch });
        }
        let pause = self.network.connections.magnitude(MS, 300 * MS);
        self.schedule(pause, Happening::Dial { a: a.min(b), b: a.max(b) });
    }

    fn count_message(&mut self, message: &Message) {
        self.mark(match message {
            Message::Canvass { .. } => "canvass messages",
            Message::Prepare { .. } => "prepare messages",
            Message::Nak { .. } => "naks",
            Message::Gap { .. } => "gaps",
            Message::Resign { .. } => "resign messages",
            Message::Fetch { .. } => "fetches",
            Message::Gone { .. } => "logs gone",
            Message::Recall { .. } => "recall messages",
            _ => "other messages",
        });
    }

    /// A planted bug: an acceptance arrives in another node's name as well.
    fn forge_acceptance(
        &mut self,
        from: NodeId,
        to: NodeId,
        ballot: trialbay_engine::Ballot,
        upto: trialbay_engine::Slot,
    ) -> Checked {
        let other = self.ids().into_iter().find(|id| *id != from && *id != to);
        let Some((other, status)) = other.and_then(|other| Some((other, self.node(other).status()?))) else {
            return Ok(());
        };
        let message = Message::Accepted { ballot, incarnation: status.incarnation, votes: true, upto };
        self.step(to, Event::Received { from: other, message })
    }
}
