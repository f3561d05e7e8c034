//! The books on campaigns: a master proposes only what the promises of a quorum allow (rules C3 to C5).
//!
//! Which of the promises that were sent a candidate went by only it knows. So every quorum that it may have gone by is
//! kept in mind, and each proposal rules some of them out; when none is left, no quorum allows what it proposed.

use std::collections::BTreeMap;

use trialbay_engine::{Ballot, NodeId, Slot, SlotEntry, Value};

use super::{Checked, violation};

/// What a node had accepted.
pub type Accepted = BTreeMap<Slot, (Ballot, Value)>;

/// The books.
#[derive(Debug, Default)]
pub struct Campaigns {
    quorum: usize,
    campaigns: BTreeMap<Ballot, Campaign>,
}

/// Phase 1 of one ballot.
#[derive(Debug, Default)]
struct Campaign {
    /// The end of the candidate's decided prefix when it asked first.
    decided_upto: Option<Slot>,
    /// By node that promised, the candidate included: what it had accepted.
    promises: BTreeMap<NodeId, Accepted>,
    /// The quorums that allow everything that was proposed so far, from the first proposal on.
    viable: Option<Vec<Vec<NodeId>>>,
}

impl Campaigns {
    /// Empty books of a cluster of `nodes`.
    pub fn new(nodes: u16) -> Self {
        Self { quorum: usize::from(nodes / 2 + 1), campaigns: BTreeMap::new() }
    }

    /// The owner of `ballot` asks for promises, having accepted this above its decided prefix.
    pub fn prepared(&mut self, ballot: Ballot, decided_upto: Slot, own: Accepted) {
        let campaign = self.campaigns.entry(ballot).or_default();
        campaign.decided_upto = campaign.decided_upto.or(Some(decided_upto));
        campaign.promises.entry(ballot.node).or_insert(own);
    }

    /// Above which slot the owner of `ballot` wants to know what was accepted; `None` when it never asked.
    pub fn decided_upto(&self, ballot: Ballot) -> Option<Slot> {
        self.campaigns.get(&ballot)?.decided_upto
    }

    /// `from` promises `ballot`, having accepted this.
    pub fn promised(&mut self, from: NodeId, ballot: Ballot, accepted: &[SlotEntry]) {
        let campaign = self.campaigns.entry(ballot).or_default();
        let accepted = accepted.iter().map(|found| (found.slot, (found.entry.ballot, found.entry.value.clone())));
        campaign.promises.entry(from).or_insert_with(|| accepted.collect());
    }

    /// The owner of `ballot` proposes `value` in `slot`.
    ///
    /// # Errors
    /// K1: fewer than a quorum promised, or no quorum's promises allow it.
    pub fn proposed(&mut self, ballot: Ballot, slot: Slot, value: &Value) -> Checked {
        let quorum = self.quorum;
        if quorum == 1 {
            // Of the one voter nobody hears a `Prepare`: it asks nobody.
            return Ok(());
        }
        let campaign = self.campaigns.entry(ballot).or_default();
        let promises = &campaign.promises;
        let viable = campaign.viable.get_or_insert_with(|| {
            let nodes: Vec<NodeId> = promises.keys().copied().collect();
            let subsets = (0..1u32 << nodes.len()).filter(|subset| subset.count_ones() as usize >= quorum);
            let members = |subset: u32| {
                let chosen = nodes.iter().enumerate().filter(|(index, _)| subset >> index & 1 == 1);
                chosen.map(|(_, node)| *node).collect::<Vec<_>>()
            };
            subsets.map(members).filter(|quorum| quorum.contains(&ballot.node)).collect()
        });
        if viable.is_empty() {
            let who: Vec<_> = promises.keys().collect();
            return violation("K1", format!("{ballot} proposes, and was promised by {who:?} only"));
        }
        let highest = |quorum: &[NodeId]| {
            let found = quorum.iter().filter_map(|node| promises.get(node)?.get(&slot));
            found.max_by_key(|(ballot, _)| *ballot).map(|(_, value)| value.clone())
        };
        viable.retain(|quorum| highest(quorum).is_none_or(|found| found == *value));
        if viable.is_empty() {
            return violation(
                "K1",
                format!(
                    "{ballot} proposes {value:?} in {slot}, and every quorum that promised had accepted something else"
                ),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use trialbay_engine::Entry;

    use super::*;

    const OWN: Ballot = Ballot { round: 9, node: NodeId(1) };

    fn value(text: &str) -> Value {
        Value::batch([text.as_bytes()])
    }

    fn accepted(round: u64, text: &str) -> SlotEntry {
        let ballot = Ballot { round, node: NodeId(2) };
        SlotEntry { slot: Slot(5), entry: Entry { ballot, value: value(text) } }
    }

    fn campaigns() -> Campaigns {
        let mut campaigns = Campaigns::new(3);
        campaigns.prepared(OWN, Slot(4), Accepted::new());
        campaigns
    }

    #[test]
    fn without_promises_of_a_quorum_nothing_may_be_proposed() {
        assert_eq!(campaigns().proposed(OWN, Slot(5), &value("a")).unwrap_err().checker, "K1");
    }

    #[test]
    fn the_value_of_the_highest_ballot_in_some_quorum_must_be_proposed() {
        for (proposed, is_allowed) in [("old", true), ("new", true), ("mine", false)] {
            let mut campaigns = campaigns();
            campaigns.promised(NodeId(2), OWN, &[accepted(3, "old")]);
            campaigns.promised(NodeId(3), OWN, &[accepted(4, "new")]);
            assert_eq!(campaigns.proposed(OWN, Slot(5), &value(proposed)).is_ok(), is_allowed, "{proposed}");
        }
    }

    #[test]
    fn all_proposals_must_be_allowed_by_one_and_the_same_quorum() {
        let mut campaigns = campaigns();
        let other = |text| SlotEntry { slot: Slot(6), ..accepted(3, text) };
        campaigns.promised(NodeId(2), OWN, &[accepted(3, "a"), other("c")]);
        campaigns.promised(NodeId(3), OWN, &[accepted(4, "b"), other("c")]);
        assert!(campaigns.proposed(OWN, Slot(5), &value("a")).is_ok());
        assert!(campaigns.proposed(OWN, Slot(6), &value("d")).is_err());
    }
}
