//! Backups: the store at one slot, in a file that needs no node to be checked.
//!
//! ```text
//! header   magic "TBAYBKUP" 8, version u32 (1), slot u64, history hash u64, entries u64, cluster id (u32 length, bytes),
//!          what is kept beside the keys (u32 length, bytes as in the store), checksum u32
//! block    1 u8, u32 length, entries as in `store/chunk.rs`, checksum u32
//! trailer  2 u8, entries u64, digest u64, checksum u32
//! ```
//! Integers are little-endian. Each checksum is CRC32C over its part of the file up to there. Blocks follow each other in the
//! order of their keys; the digest is that of heads, XXH3 over the entries of each block, seeded with the one of those before.

mod read;
mod restore;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::store::{Chunk, Head, Snapshot, StoreError, digest};
use crate::wire::Writer as _;

pub(crate) use self::read::BackupReader;
pub use self::read::{BackupError, Manifest, verify};
pub use self::restore::{NotRestored, restore};

const MAGIC: &[u8; 8] = b"TBAYBKUP";
const VERSION: u32 = 1;
const BLOCK: u8 = 1;
const TRAILER: u8 = 2;

/// What a block has beside its entries, in bytes.
const BLOCK_FRAME_BYTES: u64 = 1 + 4 + 4;
const TRAILER_BYTES: u64 = 1 + 8 + 8 + 4;

/// The bytes of a backup, a piece at a time. The snapshot is held until it is dropped.
pub(crate) struct Backup {
    snapshot: Snapshot,
    state: State,
    entries: u64,
    digest: u64,
    _permit: OwnedSemaphorePermit,
}

enum State {
    Header(Vec<u8>),
    /// Behind this key.
    Blocks(Option<Bytes>),
    Done,
}

impl Backup {
    /// Walks over the snapshot once, and gives the backup and its length in bytes. Lets others run in between.
    pub(crate) async fn begin(
        snapshot: Snapshot,
        cluster_id: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Self, u64), StoreError> {
        let header = header(snapshot.head()?, cluster_id, &snapshot.admin().record());
        let mut len = header.len() as u64 + TRAILER_BYTES;
        let mut after = None;
        loop {
            let Chunk { bytes, last_key, .. } = snapshot.chunk(after.as_ref())?;
            if last_key.is_none() {
                break;
            }
            len += bytes.len() as u64 + BLOCK_FRAME_BYTES;
            after = last_key;
            tokio::task::yield_now().await;
        }
        Ok((Self { snapshot, state: State::Header(header), entries: 0, digest: 0, _permit: permit }, len))
    }

    /// The next piece; `None` behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Header(header) => {
                self.state = State::Blocks(None);
                Ok(Some(header))
            }
            State::Blocks(after) => {
                let chunk = self.snapshot.chunk(after.as_ref())?;
                if chunk.last_key.is_none() {
                    let mut trailer = vec![TRAILER];
                    trailer.i64(self.entries.cast_signed());
                    trailer.i64(self.digest.cast_signed());
                    return Ok(Some(checked(trailer)));
                }
                self.entries += chunk.entries;
                self.digest = digest(self.digest, &chunk.bytes);
                self.state = State::Blocks(chunk.last_key);
                let mut block = Vec::with_capacity(chunk.bytes.len() + 9);
                block.push(BLOCK);
                block.string(&chunk.bytes);
                Ok(Some(checked(block)))
            }
            State::Done => Ok(None),
        }
    }
}

fn header(head: Head, cluster_id: &str, admin: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.i32(VERSION.cast_signed());
    for number in [head.slot.0, head.hash.0, head.entries] {
        bytes.i64(number.cast_signed());
    }
    bytes.string(cluster_id.as_bytes());
    bytes.string(admin);
    checked(bytes)
}

/// One hash for all that a store holds: the digest of its entries, in chunks as they ever are, and what is kept beside them.
pub(crate) fn content_hash(entries: u64, admin: &[u8]) -> u64 {
    if admin.is_empty() { entries } else { digest(entries, admin) }
}

/// With its checksum.
fn checked(mut part: Vec<u8>) -> Vec<u8> {
    part.extend_from_slice(&crc32c::crc32c(&part).to_le_bytes());
    part
}
