//! Links between nodes: connections that break and come back, cuts, delays, losses.

use std::collections::BTreeMap;

use trialbay_engine::codec::{decode_message, encode_message};
use trialbay_engine::{Event, Message, NodeId};
use xxhash_rust::xxh3::xxh3_64;

use crate::ledger::{Checked, violation};
use crate::mutant::Mutant;
use crate::plan::{MS, NetworkPlan, S};
use crate::rng::Rng;
use crate::world::{Happening, World};

/// The state of all links.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) plan: NetworkPlan,
    pub(crate) rng: Rng,
    /// How many cuts lie on the way from one node to another.
    cuts: BTreeMap<(NodeId, NodeId), u32>,
    pairs: BTreeMap<(NodeId, NodeId), Pair>,
    /// When the last message from one node to another arrives.
    last_arrival: BTreeMap<(NodeId, NodeId), u64>,
}

#[derive(Debug, Default)]
struct Pair {
    /// Counts connections made and broken.
    epoch: u64,
    linked: bool,
}

impl Network {
    pub(crate) fn new(nodes: u16, plan: NetworkPlan, rng: Rng) -> Self {
        let ids = (1..=nodes).map(NodeId);
        let pairs = ids.clone().flat_map(|a| ids.clone().filter(move |b| a < *b).map(move |b| (a, b)));
        Self {
            plan,
            rng,
            cuts: BTreeMap::new(),
            pairs: pairs.map(|pair| (pair, Pair::default())).collect(),
            last_arrival: BTreeMap::new(),
        }
    }

    pub(crate) fn cut(&mut self, pairs: &[(NodeId, NodeId)]) {
        for pair in pairs {
            *self.cuts.entry(*pair).or_default() += 1;
        }
    }

    pub(crate) fn mend(&mut self, pairs: &[(NodeId, NodeId)]) {
        for pair in pairs {
            if let Some(cuts) = self.cuts.get_mut(pair) {
                *cuts = cuts.saturating_sub(1);
            }
        }
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|cuts| *cuts > 0)
    }

    fn pair(&mut self, a: NodeId, b: NodeId) -> &mut Pair {
        self.pairs.entry((a.min(b), a.max(b))).or_default()
    }
}

impl World {
    /// A node orders a message sent.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, message: Message) -> Checked {
        self.ledger.sent(from, &message, self.now, self.event)?;
        self.message_sent();
        self.count_message(&message);
        let mut bytes = Vec::new();
        encode_message(&message, &mut bytes);
        self.trace(1, u64::from(from.0) << 16 | u64::from(to.0), xxh3_64(&bytes));
        if decode_message(&bytes) != Ok(message.clone()) {
            return violation("K13", format!("{message:?} does not survive its bytes"));
        }
        self.say(|| format!("{from} -> {to}  {message:?}"));
        let network = &mut self.network;
        if network.rng.chance(network.plan.stale) {
            let delay = network.rng.magnitude(MS, 10 * S);
            self.schedule(delay, Happening::Deliver { from, to, epoch: None, message: message.clone() });
            self.mark("stale copies");
        }
        let link = self.node(from).links.get(&to).copied();
        let network = &mut self.network;
        let epoch = network.pair(from, to).epoch;
        if link != Some(epoch) || network.is_cut(from, to) || network.rng.chance(network.plan.drop) {
            self.mark("messages lost");
            return Ok(());
        }
        let copies = 1 + u64::from(network.rng.chance(network.plan.duplicate));
        for _ in 0..copies {
            let network = &mut self.network;
            let mut delay = network.rng.between(network.plan.delay_min, network.plan.delay_max);
            if network.rng.chance(network.plan.spike) {
                delay += network.rng.magnitude(10 * MS, 2 * S);
            }
            let mut at = self.now + delay;
            if !network.rng.chance(network.plan.reorder) {
                let last = network.last_arrival.entry((from, to)).or_default();
                at = at.max(*last);
                *last = at;
            }
            let message = message.clone();
            self.schedule(at - self.now, Happening::Deliver { from, to, epoch: Some(epoch), message });
        }
        Ok(())
    }

    pub(crate) fn deliver(&mut self, from: NodeId, to: NodeId, epoch: Option<u64>, message: Message) -> Checked {
        if epoch.is_some_and(|epoch| self.network.pair(from, to).epoch != epoch) || self.network.is_cut(from, to) {
            return Ok(());
        }
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
            let pause = self.network.rng.between(10 * MS, 150 * MS);
            self.schedule(pause, Happening::Dial { a, b });
            return Ok(());
        }
        let pair = self.network.pair(a, b);
        pair.epoch += 1;
        pair.linked = true;
        let epoch = pair.epoch;
        for (node, peer) in [(a, b), (b, a)] {
            let delay = self.network.rng.magnitude(10_000, 20 * MS);
            let life = self.node(node).life;
            self.schedule(delay, Happening::LinkUp { node, life, peer, epoch });
        }
        Ok(())
    }

    pub(crate) fn link_up(&mut self, node: NodeId, peer: NodeId, epoch: u64) -> Checked {
        if self.network.pair(node, peer).epoch != epoch {
            return Ok(());
        }
        self.node(node).links.insert(peer, epoch);
        self.step(node, Event::Connected(peer))
    }

    pub(crate) fn link_down(&mut self, node: NodeId, peer: NodeId, epoch: u64) -> Checked {
        if self.node(node).links.get(&peer) != Some(&epoch) {
            return Ok(());
        }
        self.node(node).links.remove(&peer);
        self.step(node, Event::Disconnected(peer))
    }

    /// Cuts ways for a while. A connection that lies on one breaks after a time, or not before it is over.
    pub(crate) fn cut(&mut self, pairs: Vec<(NodeId, NodeId)>, duration: Option<u64>) {
        self.network.cut(&pairs);
        for (a, b) in &pairs {
            let delay = self.faults_rng.magnitude(10 * MS, 4 * S);
            self.schedule(delay, Happening::Break { a: *a, b: *b });
        }
        if let Some(duration) = duration {
            self.schedule(duration, Happening::Mend { pairs });
        }
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
            let delay = self.network.rng.magnitude(10_000, 500 * MS);
            let life = self.node(node).life;
            self.schedule(delay, Happening::LinkDown { node, life, peer, epoch });
        }
        let pause = self.network.rng.magnitude(MS, 300 * MS);
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
