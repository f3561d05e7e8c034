//! A damaged log of one node costs that node its vote for a while, and the cluster nothing (K15).
//!
//! While nothing else is wrong: of the updates that clients ask for some is acknowledged within a bound, and the node
//! has its vote again within another one.

use trialbay_engine::NodeId;

use super::{Checked, violation};

/// Whether damage to one node is felt by others.
#[derive(Clone, Debug)]
pub struct Availability {
    /// How long updates may go without an acknowledgement, in nanoseconds.
    update_max: u64,
    /// How long a node that works may be without its vote.
    vote_max: u64,
    ailing: Option<Ailing>,
}

#[derive(Clone, Copy, Debug)]
struct Ailing {
    node: NodeId,
    /// When clients asked first since something was acknowledged, or something else was wrong.
    asked_at: Option<u64>,
    /// Since when the node works, and nothing else is wrong.
    works_since: Option<u64>,
}

/// How the cluster is, apart from the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Something else is wrong.
    Disturbed,
    /// The damaged node is down.
    Down,
    /// It works and has no vote.
    Voteless,
    /// It has its vote.
    Voting,
}

impl Availability {
    /// Of a cluster in which no log was damaged yet.
    pub fn new(update_max: u64, vote_max: u64) -> Self {
        Self { update_max, vote_max, ailing: None }
    }

    /// The log of `node` is damaged.
    pub fn damaged(&mut self, node: NodeId) {
        self.ailing = Some(Ailing { node, asked_at: None, works_since: None });
    }

    /// The node whose log was damaged, and which did not have its vote again yet.
    pub fn ailing(&self) -> Option<NodeId> {
        self.ailing.map(|ailing| ailing.node)
    }

    /// A client asks for an update.
    ///
    /// # Errors
    /// K15: those that were asked for before went without an acknowledgement for too long.
    pub fn asked(&mut self, now: u64) -> Checked {
        let Some(ailing) = &mut self.ailing else { return Ok(()) };
        let waits = now - *ailing.asked_at.get_or_insert(now);
        if waits <= self.update_max {
            return Ok(());
        }
        let node = ailing.node;
        violation("K15", format!("no update was acknowledged for {} ms after {node} was damaged", waits / 1_000_000))
    }

    /// An update is acknowledged.
    pub fn acknowledged(&mut self) {
        if let Some(ailing) = &mut self.ailing {
            ailing.asked_at = None;
        }
    }

    /// How the cluster is now.
    ///
    /// # Errors
    /// K15: the node that was damaged has been without a vote for too long.
    pub fn look(&mut self, now: u64, standing: Standing) -> Checked {
        let Some(ailing) = &mut self.ailing else { return Ok(()) };
        match standing {
            Standing::Disturbed => (ailing.asked_at, ailing.works_since) = (None, None),
            Standing::Down => ailing.works_since = None,
            Standing::Voting => self.ailing = None,
            Standing::Voteless => {
                let works = now - *ailing.works_since.get_or_insert(now);
                if works > self.vote_max {
                    let node = ailing.node;
                    let story = format!("{node} was damaged, and works without a vote for {} ms", works / 1_000_000);
                    return violation("K15", story);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged() -> Availability {
        let mut availability = Availability::new(100, 1_000);
        availability.damaged(NodeId(2));
        availability
    }

    fn is_k15(said: Checked) {
        assert_eq!(said.expect_err("somebody waits for too long").checker, "K15");
    }

    #[test]
    fn updates_are_acknowledged_in_time() {
        let mut availability = damaged();
        assert_eq!(availability.asked(50), Ok(()));
        assert_eq!(availability.asked(150), Ok(()));
        availability.acknowledged();
        assert_eq!(availability.asked(151), Ok(()));
        assert_eq!(availability.asked(251), Ok(()));
        is_k15(availability.asked(252));
    }

    #[test]
    fn the_vote_comes_back_in_time() {
        let mut availability = damaged();
        assert_eq!(availability.look(10, Standing::Down), Ok(()));
        assert_eq!(availability.look(5_000, Standing::Voteless), Ok(()), "it started only now");
        assert_eq!(availability.look(6_000, Standing::Voteless), Ok(()));
        is_k15(availability.look(6_001, Standing::Voteless));
        assert_eq!(availability.look(6_002, Standing::Voting), Ok(()));
        assert_eq!((availability.ailing(), availability.look(9_000, Standing::Voteless)), (None, Ok(())));
    }

    #[test]
    fn while_something_else_is_wrong_nothing_is_asked() {
        let mut availability = damaged();
        assert_eq!(availability.asked(0), Ok(()));
        assert_eq!(availability.look(90, Standing::Voteless), Ok(()));
        assert_eq!(availability.look(95, Standing::Disturbed), Ok(()));
        assert_eq!(availability.asked(150), Ok(()));
        assert_eq!(availability.look(1_500, Standing::Voteless), Ok(()));
        is_k15(availability.asked(251));
    }

    #[test]
    fn without_damage_nothing_is_asked() {
        let mut availability = Availability::new(100, 1_000);
        assert_eq!((availability.asked(0), availability.asked(9_000)), (Ok(()), Ok(())));
        assert_eq!(availability.look(9_000, Standing::Voteless), Ok(()));
    }
}
