//! The books on leases: who granted what to whom, for how long in true time, and who may count on it.
//!
//! A grant binds whatever becomes of its giver's memory (K2), and a master may serve only for as long as grants of a quorum
//! hold whatever the clocks do within their bound (K7).

use std::collections::{BTreeMap, BTreeSet};

use trialbay_engine::{Ballot, NodeId};

use super::{Checked, violation};

/// The books.
#[derive(Debug)]
pub struct Leases {
    quorum: usize,
    /// The shortest true time that a granted lease can last on any clock.
    lease_min: u64,
    /// By node: the ballot to whose owner it granted last, and until when that binds it, in true time.
    grants: BTreeMap<NodeId, (Ballot, u64)>,
    /// Their owners serve nobody any more: a grant that is given after that binds nobody, once the resignation has come.
    resigned: BTreeSet<Ballot>,
}

impl Leases {
    /// Empty books of a cluster of `nodes`, whose leases last at least `lease_min` nanoseconds of true time.
    pub fn new(nodes: u16, lease_min: u64) -> Self {
        Self { quorum: usize::from(nodes / 2 + 1), lease_min, grants: BTreeMap::new(), resigned: BTreeSet::new() }
    }

    /// `from` grants a lease now.
    pub fn granted(&mut self, from: NodeId, ballot: Ballot, now: u64) {
        if self.resigned.contains(&ballot) {
            // It has passed the grant on, and will hear of the resignation.
            self.grants.remove(&from);
        } else {
            self.grants.insert(from, (ballot, now.saturating_add(self.lease_min)));
        }
    }

    /// The owner of `ballot` says that it serves nobody any more.
    pub fn resigned(&mut self, ballot: Ballot) {
        self.resigned.insert(ballot);
        self.grants.retain(|_, (granted, _)| *granted != ballot);
    }

    /// `from` promises `ballot` now.
    ///
    /// # Errors
    /// K2: it granted a lease to another, which has not run out.
    pub fn promised(&self, from: NodeId, ballot: Ballot, now: u64) -> Checked {
        match self.grants.get(&from) {
            Some((granted, until)) if granted.node != ballot.node && now < *until => violation(
                "K2",
                format!("{from} promises {ballot} inside the lease of {granted}, {} us early", (until - now) / 1_000),
            ),
            _ => Ok(()),
        }
    }

    /// `node` counts on its lease in `ballot` until this true time, by its own clock as it runs now.
    ///
    /// # Errors
    /// K7: grants of a quorum may end before.
    pub fn serves(&self, node: NodeId, ballot: Ballot, until: u64) -> Checked {
        let lasts = |(granted, end): &&(Ballot, u64)| *granted == ballot && *end >= until;
        let others = self.grants.iter().filter(|(id, grant)| **id != node && lasts(grant)).count();
        if others + 1 >= self.quorum {
            return Ok(());
        }
        let ends: Vec<u64> =
            self.grants.iter().filter(|(_, (granted, _))| *granted == ballot).map(|(_, (_, end))| *end).collect();
        let early = ends.iter().map(|end| until.saturating_sub(*end)).filter(|early| *early > 0).min().unwrap_or(until);
        violation(
            "K7",
            format!("{node} counts on its lease in {ballot} for {} us longer than a quorum granted", early / 1_000),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);

    fn ballot(node: NodeId) -> Ballot {
        Ballot { round: 1, node }
    }

    #[test]
    fn a_grant_binds_its_giver_until_it_ends_and_towards_all_but_its_owner() {
        let mut leases = Leases::new(3, 100);
        leases.granted(N2, ballot(N1), 50);
        assert_eq!(leases.promised(N2, ballot(NodeId(3)), 149).unwrap_err().checker, "K2");
        assert!(leases.promised(N2, ballot(NodeId(3)), 150).is_ok());
        assert!(leases.promised(N2, ballot(N1), 149).is_ok());
        leases.resigned(ballot(N1));
        assert!(leases.promised(N2, ballot(NodeId(3)), 60).is_ok());
        leases.granted(N2, ballot(N1), 70);
        assert!(leases.promised(N2, ballot(NodeId(3)), 80).is_ok(), "a heartbeat that came late");
        assert_eq!(leases.serves(N1, ballot(N1), 90).unwrap_err().checker, "K7", "and that its owner cannot count on");
    }

    #[test]
    fn a_master_may_count_on_what_a_quorum_granted_and_no_longer() {
        let mut leases = Leases::new(3, 100);
        assert_eq!(leases.serves(N1, ballot(N1), 1).unwrap_err().checker, "K7");
        leases.granted(N2, ballot(N1), 50);
        assert!(leases.serves(N1, ballot(N1), 150).is_ok());
        assert_eq!(leases.serves(N1, ballot(N1), 151).unwrap_err().checker, "K7");
        assert!(Leases::new(1, 100).serves(N1, ballot(N1), u64::MAX).is_ok());
    }
}
