//! The store of a node's role, and what becomes of it when the role changes.
//!
//! A witness has a store without data, in a file of its own, so that it never passes for one that has them. The log of a node
//! that changes its role need not go back to where the store of its new role stands:
//!
//! * that of a node with data begins where these are durable, and from there its new store as a witness can begin, too;
//! * a witness removes nothing of its log, so what the data lack is there, unless the witness has taken a head. Then
//!   nothing can be made of the log that the new store could go on from, and the start is refused: the node would silently
//!   give up its vote.

use std::io;
use std::sync::Arc;

use super::error::NodeError;
use super::home::Home;
use crate::home_disk::HomeDisk;
use crate::identity::Identity;
use crate::store::{self, Head, Store, StoreError, StorePlace};

/// The store of a role.
pub(super) struct RoleStore {
    pub(super) place: StorePlace,
    pub(super) store: Store,
    /// The store of the role that the node had before is ahead of this one.
    pub(super) is_behind: bool,
}

/// Opens the store of this node as a witness, or as one that has the data.
pub(super) fn open(
    disk: &Arc<dyn HomeDisk>,
    home: &Home,
    identity: &Identity,
    is_witness: bool,
    options: store::Options,
) -> Result<RoleStore, NodeError> {
    let place_as = |is_witness: bool| {
        let options = store::Options { keeps_data: !is_witness, ..options };
        StorePlace::new(disk.clone(), home.store_path(&identity.name, is_witness), identity.clone(), options)
    };
    let (place, other) = (place_as(is_witness), place_as(!is_witness));
    let mut store = place.open()?;
    place.tidy_head(store.applied().0)?;
    if !exists(&other)? {
        return Ok(RoleStore { place, store, is_behind: false });
    }
    let before = other.open()?;
    let mut is_behind = before.applied().0 > store.applied().0;
    if is_behind && is_witness {
        go_on_from(&before, &place, &mut store)?;
        is_behind = false;
    }
    before.close()?;
    Ok(RoleStore { place, store, is_behind })
}

/// Has a witness's store begin where that of the data stands: with a head of that slot, which for a witness is empty.
fn go_on_from(before: &Store, place: &StorePlace, store: &mut Store) -> Result<(), NodeError> {
    let snapshot = before.reader().snapshot()?;
    let head = Head { entries: 0, ..snapshot.head()? };
    let admin = snapshot.admin().record();
    let not_begun = |why: String| StoreError::Damaged { why };
    place.begin_head(head, &admin, place.identity.node)?.finish(0, 0).map_err(|error| not_begun(error.to_string()))?;
    store.install(place).map_err(|error| not_begun(error.to_string()))?;
    tracing::info!(slot = head.slot.0, "this node is a witness now: its store begins where that of its data stands");
    Ok(())
}

fn exists(place: &StorePlace) -> Result<bool, NodeError> {
    match place.disk.open_to_read(&place.path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::Io(error).into()),
    }
}
