//! Who must agree. Every question about majorities is asked here, and nowhere else.

use alloc::vec::Vec;

use crate::ids::NodeId;

/// The voters of a cluster and the rule for how many of them must agree: a majority. Who is not among them is never
/// counted (rule E1). Zones will be asked here too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    voters: Vec<NodeId>,
    size: usize,
}

impl Quorum {
    /// # Panics
    /// When there is no voter, or one is named twice.
    pub fn new(mut voters: Vec<NodeId>) -> Self {
        voters.sort_unstable();
        assert!(!voters.is_empty(), "a cluster has at least one voter");
        assert!(voters.windows(2).all(|pair| pair[0] != pair[1]), "a voter is named twice: {voters:?}");
        let size = voters.len() / 2 + 1;
        Self { voters, size }
    }

    /// The planted bug of that name.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn of_half(self) -> Self {
        Self { size: (self.voters.len() / 2).max(1), ..self }
    }

    /// All voters, in order.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Whether this node is a voter.
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.binary_search(&node).is_ok()
    }

    /// How many voters make a quorum: floor(n / 2) + 1.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether any two quorums still share a voter when one voter that is in both is left out: so it is when the number
    /// of voters is even, for then a majority is one more than it would have to be.
    pub fn overlaps_without_one(&self) -> bool {
        2 * (self.size() - 1) > self.voters.len() - 1
    }

    /// Whether those voters for which `agrees` holds make a quorum.
    pub fn agrees(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        self.voters.iter().filter(|voter| agrees(**voter)).count() >= self.size()
    }

    /// The largest value that a quorum has reached, each voter's own being `reached(voter)`.
    pub fn reached_by<T: Copy + Ord>(&self, reached: impl Fn(NodeId) -> T) -> T {
        let mut values: Vec<T> = self.voters.iter().map(|voter| reached(*voter)).collect();
        values.sort_unstable_by(|a, b| b.cmp(a));
        values[self.size() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(n: u16) -> Quorum {
        Quorum::new((0..n).map(NodeId).collect())
    }

    #[test]
    fn any_two_quorums_of_up_to_seven_voters_share_a_voter() {
        for n in 1..=7 {
            let quorum = quorum(n);
            let quorums: Vec<u32> =
                (0..1u32 << n).filter(|set| quorum.agrees(|voter| set >> voter.0 & 1 == 1)).collect();
            assert!(!quorums.is_empty());
            for a in &quorums {
                assert!(quorums.iter().all(|b| a & b != 0), "{n} voters");
            }
        }
    }

    #[test]
    fn quorums_overlap_without_one_voter_exactly_when_it_is_said() {
        for n in 1..=7 {
            let quorum = quorum(n);
            let quorums: Vec<u32> =
                (0..1u32 << n).filter(|set| quorum.agrees(|voter| set >> voter.0 & 1 == 1)).collect();
            let with_first = || quorums.iter().filter(|set| **set & 1 == 1);
            let overlap = with_first().all(|a| with_first().all(|b| a & b & !1 != 0));
            assert_eq!(quorum.overlaps_without_one(), overlap, "{n} voters");
        }
    }

    #[test]
    fn a_majority_and_no_less_is_a_quorum() {
        for (n, size) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
            let quorum = quorum(n);
            assert_eq!(quorum.size(), size);
            assert!(quorum.agrees(|voter| usize::from(voter.0) < size));
            assert!(!quorum.agrees(|voter| usize::from(voter.0) < size - 1));
        }
    }

    #[test]
    fn what_a_quorum_has_reached_is_what_that_many_voters_have_reached() {
        for n in 1..=5u16 {
            let quorum = quorum(n);
            for code in 0..4u32.pow(u32::from(n)) {
                let reached = |voter: NodeId| code / 4u32.pow(u32::from(voter.0)) % 4;
                let expected = (0..4).rev().find(|level| quorum.agrees(|voter| reached(voter) >= *level));
                assert_eq!(Some(quorum.reached_by(reached)), expected, "{n} voters, {code}");
            }
        }
    }
}
