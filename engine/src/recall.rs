//! Whose votes count. A node that lost (part of) its log may have promised and accepted things that it does not know of
//! any more. Were it to vote, what a quorum decided could be undone. So it begins a new life without a vote, follows the
//! master as a reader of the log, and regains its vote when nothing that it may have forgotten matters any more:
//!
//! * **V1** Every vote names the incarnation that gave it, and counts only if that is the voter's newest.
//! * **V2** The node asks *all* other voters. Each drops what it counted of the earlier life before it answers. The
//!   node then promises the highest ballot that any of them knows: a candidate has its ballot on disk before it asks
//!   for promises, so nothing that the earlier life promised lies above it.
//! * **V3** It votes once its decided prefix covers the highest slot that any of them accepted: whatever was chosen
//!   with the earlier life's acceptance was accepted by another voter as well, so it is decided and known by then.
//!   With an even number of voters it may vote before that: any quorum that this node is in has a voter beside it that
//!   knows what was chosen, and of two nodes the one that is left could decide nothing more without the vote of the
//!   other. But such a vote is lent, for this run only: the node answers no `Recall` with it, or a second node that is
//!   wiped before the first has caught up would take two empty memories for the cluster's.
//! * **V4** At a cluster's birth all memories are empty and there is nothing to recall. One node alone, the lowest of the
//!   voters, may say so: when all others told it that they are blank, it begins another life and asks again. If the same
//!   lives are blank still, then all were at the moment in between, and whatever comes after begins with them: it notes
//!   their incarnations, the genesis, and tells of it once that is durable. A node that finds its own in a genesis votes.
//!   Were everybody allowed to, or one answer enough, a node with an old answer could begin a second history with a node
//!   that was wiped after it had a part in the first.
//!
//! Answers of nodes without a vote are worth nothing (but for V4): when a majority was wiped, the cluster refuses to go on.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bincode::{Decode, Encode};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use crate::disk_queue::{DiskQueue, Due};
use crate::engine::{Engine, Mastership, ROUND_MAX};
use crate::ids::{Ballot, Incarnation, NodeId, Slot};
use crate::message::Message;
use crate::quorum::Quorum;
use crate::record::{Record, Recovered};
use crate::timers::Timer;

/// This node's right to vote, and what it knows of the others'.
#[derive(Clone, Debug, Hash, Encode, Decode)]
pub(crate) struct Franchise {
    pub(crate) incarnation: Incarnation,
    /// Whether this node's votes count: because it remembers, or lent (rule V3).
    pub(crate) votes: bool,
    /// Whether what this life promised and accepted, and all that mattered of its earlier ones, is in this log.
    pub(crate) remembers: bool,
    /// The promise on which the vote will be lent is on its way to the disk.
    lending: bool,
    genesis: Vec<(NodeId, Incarnation)>,
    /// Whether this life is on disk. Until then nobody hears of it: a crash would begin another, and whoever counted on
    /// this one would wait for it for ever.
    pub(crate) born: bool,
    /// Each peer's newest life, as far as known.
    known: BTreeMap<NodeId, Incarnation>,
    /// The peers' lives that were all blank when this one began.
    blank_before: Vec<(NodeId, Incarnation)>,
    /// The latest answer of each peer to `Recall`.
    answers: BTreeMap<NodeId, Answer>,
    /// The record that gives the vote back is on its way to the disk, with this genesis. Nobody hears of a birth before it
    /// is durable (rule V4).
    regaining: Option<Vec<(NodeId, Incarnation)>>,
}

/// What the answers allow.
enum Regain {
    /// To vote, with this record, and this ballot promised.
    Vote(Record, Ballot),
    /// To vote in this run, with this ballot promised.
    Lend(Ballot),
    /// To ask whether these lives, all blank, are blank still.
    AskAgain(Vec<(NodeId, Incarnation)>),
}

/// One peer's answer to `Recall`.
#[derive(Clone, Copy, Debug, Hash, Encode, Decode)]
pub(crate) struct Answer {
    pub(crate) incarnation: Incarnation,
    pub(crate) votes: bool,
    pub(crate) blank: bool,
    pub(crate) promised: Ballot,
    pub(crate) accepted_upto: Slot,
}

impl Franchise {
    pub(crate) fn new(recovered: &Recovered, rng: &mut ChaCha8Rng, disk: &mut DiskQueue) -> Self {
        let (incarnation, votes, genesis) = match &recovered.memory {
            Some(memory) => (memory.incarnation, memory.votes, memory.genesis.clone()),
            None => {
                let incarnation = Incarnation(rng.next_u64());
                disk.record(Record::MemoryBegan(incarnation));
                disk.when_durable(Due::Born);
                (incarnation, false, Vec::new())
            }
        };
        Self {
            incarnation,
            votes,
            remembers: votes,
            lending: false,
            genesis,
            born: recovered.memory.is_some(),
            known: BTreeMap::new(),
            blank_before: Vec::new(),
            answers: BTreeMap::new(),
            regaining: None,
        }
    }

    /// Whether a vote of `from`, given in this incarnation, counts (rule V1).
    ///
    /// Ask this only of a vote for the current ballot: a late message to an earlier run of this node may come from a life
    /// that is over. Of a voter of which nothing is known yet the first vote tells its life, so that hearing later of this
    /// life costs it no vote; if that vote came late, the next one has the voter asked.
    pub(crate) fn counts(&mut self, from: NodeId, incarnation: Incarnation) -> bool {
        *self.known.entry(from).or_insert(incarnation) == incarnation
    }

    /// What the answers so far allow, if anything.
    fn regained(&self, me: NodeId, quorum: &Quorum, blank: bool, decided_upto: Slot) -> Option<Regain> {
        let voters = quorum.voters();
        let incarnation = self.incarnation;
        let answers: Option<Vec<(NodeId, Answer)>> = (voters.iter().filter(|voter| **voter != me))
            .map(|voter| Some((*voter, *self.answers.get(voter)?)))
            .collect();
        if self.genesis.contains(&(me, incarnation)) {
            let genesis = self.genesis.clone();
            return Some(Regain::Vote(Record::VoteRegained { incarnation, genesis }, Ballot::ZERO));
        }
        let answers = answers?;
        let founder = voters.first() == Some(&me);
        if founder && blank && answers.iter().all(|(_, answer)| answer.blank && !answer.votes) {
            let mut genesis: Vec<_> = answers.iter().map(|(node, answer)| (*node, answer.incarnation)).collect();
            if genesis != self.blank_before {
                return Some(Regain::AskAgain(genesis));
            }
            genesis.push((me, incarnation));
            genesis.sort_unstable();
            return Some(Regain::Vote(Record::VoteRegained { incarnation, genesis }, Ballot::ZERO));
        }
        let promised = answers.iter().map(|(_, answer)| answer.promised).max()?;
        let accepted_upto = answers.iter().map(|(_, answer)| answer.accepted_upto).max()?;
        if !answers.iter().all(|(_, answer)| answer.votes) {
            None
        } else if decided_upto >= accepted_upto {
            Some(Regain::Vote(Record::VoteRegained { incarnation, genesis: Vec::new() }, promised))
        } else {
            quorum.overlaps_without_one().then_some(Regain::Lend(promised))
        }
    }
}

impl Engine {
    /// A vote came from another life of `from` than the newest one known. Perhaps it was not the vote that came late, but
    /// what was heard of its life before: asks.
    pub(crate) fn ask_for_life(&mut self, from: NodeId) {
        if self.franchise.born {
            self.send(from, Message::Recall { incarnation: self.franchise.incarnation });
        }
    }

    /// Whether this node is a voter, and has to ask the others before it remembers what matters.
    pub(crate) fn lacks_its_vote(&self) -> bool {
        self.quorum.contains(self.config.node) && !self.franchise.remembers
    }

    pub(crate) fn on_born(&mut self) {
        self.franchise.born = true;
        self.send_recall();
    }

    pub(crate) fn send_recall(&mut self) {
        if !self.lacks_its_vote() || !self.franchise.born {
            return;
        }
        self.send_to_others(&Message::Recall { incarnation: self.franchise.incarnation });
        self.timers.set(Timer::Recall, self.now + self.config.lease / 2);
    }

    pub(crate) fn on_recall(&mut self, from: NodeId, incarnation: Incarnation) {
        // Rule V2: first forget what an earlier life said, then answer.
        self.learn_life(from, incarnation);
        if !self.franchise.born {
            return;
        }
        let answer = Message::Recalled {
            asker: incarnation,
            incarnation: self.franchise.incarnation,
            votes: self.franchise.remembers,
            blank: self.is_blank(),
            promised: self.acceptor.promised,
            accepted_upto: self.log.accepted_upto(),
            genesis: self.franchise.genesis.clone().into(),
        };
        self.send(from, answer);
        if self.lacks_its_vote() && !self.franchise.answers.contains_key(&from) {
            // It was not up yet, or not on disk, when it was asked.
            self.ask_for_life(from);
        }
    }

    pub(crate) fn on_recalled(
        &mut self,
        from: NodeId,
        asker: Incarnation,
        answer: Answer,
        genesis: &[(NodeId, Incarnation)],
    ) {
        let impossible = answer.promised.round > ROUND_MAX;
        if asker != self.franchise.incarnation || impossible {
            return;
        }
        self.learn_life(from, answer.incarnation);
        if !self.lacks_its_vote() || !self.quorum.contains(from) {
            return;
        }
        self.franchise.answers.insert(from, answer);
        if genesis.contains(&(self.config.node, self.franchise.incarnation)) {
            self.franchise.genesis = genesis.to_vec();
        }
    }

    fn learn_life(&mut self, of: NodeId, incarnation: Incarnation) {
        if self.franchise.known.insert(of, incarnation) != Some(incarnation) {
            match &mut self.mastership {
                Mastership::Slave => {}
                Mastership::Campaigning(campaign) => campaign.forget(of),
                Mastership::Master(master) => master.forget(of),
            }
        }
    }

    pub(crate) fn regain_vote_if_covered(&mut self) {
        if !self.lacks_its_vote() || self.franchise.regaining.is_some() {
            return;
        }
        let (me, blank) = (self.config.node, self.is_blank());
        let covered = if planted!(self.config, VoteRegainedTooSoon) { Slot(u64::MAX) } else { self.log.decided_upto() };
        let regained = self.franchise.regained(me, &self.quorum, blank, covered);
        let (record, promised) = match regained {
            Some(Regain::Vote(record, promised)) => (record, promised),
            Some(Regain::Lend(promised)) => return self.lend_vote(promised),
            Some(Regain::AskAgain(blank)) => return self.ask_again_in_a_new_life(blank),
            None => return,
        };
        if promised > self.acceptor.promised {
            self.adopt(promised);
        }
        self.disk.record(record.clone());
        if let Record::VoteRegained { incarnation, genesis } = record {
            self.franchise.regaining = Some(genesis);
            self.disk.when_durable(Due::VoteRegained { incarnation });
        }
    }

    fn lend_vote(&mut self, promised: Ballot) {
        if self.franchise.votes || self.franchise.lending {
            return;
        }
        if promised > self.acceptor.promised {
            self.adopt(promised);
        }
        self.franchise.lending = true;
        self.disk.when_durable(Due::VoteLent { incarnation: self.franchise.incarnation });
    }

    /// Rule V4: answers came one by one, and may never have been true at the same time. A new life, of a founder that is
    /// as blank as the last, tells the answers to this asking from all earlier ones.
    fn ask_again_in_a_new_life(&mut self, blank: Vec<(NodeId, Incarnation)>) {
        // The first one was random, and so is the next after it.
        let incarnation = Incarnation(self.franchise.incarnation.0.wrapping_add(1));
        self.franchise.incarnation = incarnation;
        (self.franchise.born, self.franchise.votes, self.franchise.lending) = (false, false, false);
        self.franchise.blank_before = blank;
        self.franchise.answers.clear();
        self.disk.record(Record::MemoryBegan(incarnation));
        self.disk.when_durable(Due::Born);
    }

    pub(crate) fn on_vote_regained(&mut self, incarnation: Incarnation) {
        assert_eq!(incarnation, self.franchise.incarnation, "a node has one life at a time");
        self.franchise.remembers = true;
        self.franchise.genesis = self.franchise.regaining.take().unwrap_or_default();
        self.franchise.answers.clear();
        self.timers.clear(Timer::Recall);
        self.begin_to_vote();
    }

    pub(crate) fn on_vote_lent(&mut self, incarnation: Incarnation) {
        if incarnation == self.franchise.incarnation {
            self.franchise.lending = false;
            self.begin_to_vote();
        }
    }

    fn begin_to_vote(&mut self) {
        if self.franchise.votes {
            return;
        }
        self.franchise.votes = true;
        self.wait_for_master();
        // What was acknowledged without a vote counts from now on, and its master may be waiting for just that.
        let (ballot, upto) = (self.acceptor.promised, self.acceptor.received_upto);
        if ballot.node != self.config.node && self.quorum.contains(ballot.node) {
            self.disk.when_durable(Due::Accepted { ballot, upto });
        }
    }

    /// Whether this node's log has never held anything.
    fn is_blank(&self) -> bool {
        self.acceptor.promised == Ballot::ZERO && self.log.accepted_upto() == Slot::ZERO
    }
}
