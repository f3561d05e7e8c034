//! Voters are added and removed one at a time: then every majority of the old ones shares a node with every majority of the
//! new ones, so that nothing that the old ones decided can be missed, whichever nodes have the new configuration already.
//! More at once is refused, and so is the next step before the last one is done: before a master of the new voters has
//! decided something, and with it all that the old ones had. The home remembers the last voters of which this node knows that.

use std::sync::Arc;

use trialbay_engine::NodeId;

use super::error::NodeError;
use super::home::{self, Home};
use crate::home_disk::HomeDisk;
use crate::identity::Identity;
use crate::workers::Workers;

/// A change of voters that is not done: nothing is known to be decided under a master of the new ones yet.
pub(super) struct VotersChange {
    home: std::path::PathBuf,
    disk: Arc<dyn HomeDisk>,
    voters: Vec<NodeId>,
}

/// Refuses voters of which more than one is new or gone.
pub(super) fn check(
    home: &Home,
    disk: Arc<dyn HomeDisk>,
    identity: &Identity,
    mut voters: Vec<NodeId>,
) -> Result<Option<VotersChange>, NodeError> {
    voters.sort_unstable();
    let path = home.path().to_owned();
    let Some(noted) = home.voters(identity)? else {
        // A node that was never here before, or that an older program ran.
        home::note_voters(&*disk, &path, &voters)?;
        return Ok(None);
    };
    if is_one_step(&noted, &voters) {
        Ok((noted != voters).then_some(VotersChange { home: path, disk, voters }))
    } else {
        Err(NodeError::VotersChanged { noted: ids(&noted), ours: ids(&voters), file: path.join("VOTERS") })
    }
}

impl VotersChange {
    /// A master of these voters has decided something: a majority of them has all that was decided before.
    pub(super) fn finish(self, workers: &Workers) {
        workers.spawn(move || match home::note_voters(&*self.disk, &self.home, &self.voters) {
            Ok(()) => tracing::info!(voters = ids(&self.voters), "the voters have changed"),
            Err(error) => tracing::warn!(%error, "that the voters have changed could not be noted"),
        });
    }
}

fn is_one_step(old: &[NodeId], new: &[NodeId]) -> bool {
    let gone = old.iter().filter(|voter| !new.contains(voter)).count();
    let added = new.iter().filter(|voter| !old.contains(voter)).count();
    gone + added <= 1
}

fn ids(voters: &[NodeId]) -> String {
    voters.iter().map(|voter| voter.0.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_voter_more_or_less_is_one_step_and_every_majority_of_the_one_meets_every_one_of_the_other() {
        let sets: Vec<Vec<NodeId>> =
            (1..32_u16).map(|set| (0..5).filter(|node| set >> node & 1 == 1).map(NodeId).collect()).collect();
        let majorities = |voters: &[NodeId]| {
            let voters = voters.to_vec();
            (0..1_u32 << voters.len()).filter(move |set| set.count_ones() as usize > voters.len() / 2)
        };
        let members = |voters: &[NodeId], set: u32| -> Vec<NodeId> {
            voters.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1).map(|(_, node)| *node).collect()
        };
        for old in &sets {
            for new in sets.iter().filter(|new| is_one_step(old, new)) {
                for a in majorities(old) {
                    let a = members(old, a);
                    assert!(
                        majorities(new).all(|b| members(new, b).iter().any(|node| a.contains(node))),
                        "{old:?} {new:?}"
                    );
                }
            }
        }
        let nodes = |ids: &[u16]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        assert!(is_one_step(&nodes(&[1, 2]), &nodes(&[1, 2, 3])) && is_one_step(&nodes(&[1, 2]), &nodes(&[1])));
        assert!(!is_one_step(&nodes(&[1]), &nodes(&[1, 2, 3])));
        assert!(!is_one_step(&nodes(&[1, 2, 3]), &nodes(&[1, 2, 4])), "one for another is two steps");
    }
}
