//! Reading a backup, which anything may have happened to.

use std::io::{self, Read};

use bytes::Bytes;
use serde::Serialize;
use trialbay_engine::{HistoryHash, Slot};

use super::{BLOCK, MAGIC, TRAILER, VERSION, content_hash};
use crate::store::{CHUNK_BYTES_MAX, Head, digest, entries};
use crate::update::{ADMIN_BYTES_MAX, Admin};

/// The longest cluster id, in bytes.
const CLUSTER_ID_BYTES_MAX: usize = 64 << 10;

/// What a whole backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The cluster that it is of.
    pub cluster_id: String,
    /// Everything up to this slot is in it.
    pub slot: u64,
    /// The history hash there, in hexadecimal.
    pub history_hash: String,
    /// How many keys it has.
    pub entries: u64,
    /// A hash over keys, values and what is kept beside them, in hexadecimal. Two stores with the same one hold the same.
    pub content_hash: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Why something is not a whole backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// It ends too early.
    #[error("it ends too early, after {0} bytes: make it again")]
    Truncated(u64),
    /// It is something else.
    #[error("it is not a backup")]
    NotABackup,
    /// A format that this version does not know.
    #[error("it has format {0}, this version of trialbay knows {VERSION}: use the version that made it")]
    Version(u32),
    /// It was altered.
    #[error("it is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the part begins that is damaged.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Reads a backup to its end and checks all of it. Blocks.
///
/// # Errors
/// When it is not a whole backup.
pub fn verify(from: impl Read) -> Result<Manifest, BackupError> {
    let mut backup = BackupReader::begin(from)?;
    while backup.next_block()?.is_some() {}
    Ok(backup.manifest())
}

/// A backup that is read from its beginning to its end, and checked on the way.
pub(crate) struct BackupReader<R> {
    parts: Parts<R>,
    cluster_id: String,
    head: Head,
    admin: Vec<u8>,
    entries: u64,
    digest: u64,
    last_key: Option<Bytes>,
    is_whole: bool,
}

impl<R: Read> BackupReader<R> {
    /// Reads the header.
    pub(crate) fn begin(from: R) -> Result<Self, BackupError> {
        let mut parts = Parts { from, read: 0, begun: 0, checksum: 0 };
        let magic = parts.bytes(MAGIC.len()).map_err(|error| match error {
            BackupError::Truncated(_) => BackupError::NotABackup,
            other => other,
        })?;
        if magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let version = parts.u32()?;
        if version != VERSION {
            return Err(BackupError::Version(version));
        }
        let head = Head { slot: Slot(parts.u64()?), hash: HistoryHash(parts.u64()?), entries: parts.u64()? };
        let cluster_id = parts.string(CLUSTER_ID_BYTES_MAX)?;
        let admin = parts.string(ADMIN_BYTES_MAX)?;
        parts.end()?;
        if i64::try_from(head.slot.0).is_err() {
            return Err(parts.damaged("there is no such slot"));
        }
        if !admin.is_empty() && Admin::decode(&admin).is_err() {
            return Err(parts.damaged("what is kept beside the keys makes no sense"));
        }
        let cluster_id = String::from_utf8_lossy(&cluster_id).into_owned();
        Ok(Self { parts, cluster_id, head, admin, entries: 0, digest: 0, last_key: None, is_whole: false })
    }

    /// What it is the head of.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// What is kept beside its keys, if anything is.
    pub(crate) fn admin(&self) -> &[u8] {
        &self.admin
    }

    /// The entries of the next block, whose checksum and order are right; `None` once all of the backup was read and is
    /// whole.
    pub(crate) fn next_block(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let parts = &mut self.parts;
        parts.begin();
        match parts.u8()? {
            BLOCK => {
                let bytes = parts.string(CHUNK_BYTES_MAX)?;
                parts.end()?;
                if bytes.is_empty() {
                    return Err(parts.damaged("a block is empty"));
                }
                for entry in entries(&bytes) {
                    let (key, _) = entry.map_err(|_| parts.damaged("a block ends inside an entry"))?;
                    if self.last_key.as_deref().is_some_and(|last: &[u8]| key <= last) {
                        return Err(parts.damaged("keys are out of order"));
                    }
                    self.last_key = Some(Bytes::copy_from_slice(key));
                    self.entries += 1;
                }
                self.digest = digest(self.digest, &bytes);
                Ok(Some(bytes))
            }
            TRAILER => {
                let (all, expected) = (parts.u64()?, parts.u64()?);
                parts.end()?;
                if (all, expected) != (self.entries, self.digest) || all != self.head.entries {
                    return Err(parts.damaged("a block is missing or twice there"));
                }
                parts.begin();
                if parts.from.read(&mut [0]).map_err(BackupError::Io)? > 0 {
                    return Err(parts.damaged("something follows the end"));
                }
                self.is_whole = true;
                Ok(None)
            }
            _ => Err(parts.damaged("it is neither a block nor the end")),
        }
    }

    /// The digest of all blocks so far.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// What it holds. Only for a backup that was read to its end.
    pub(crate) fn manifest(&self) -> Manifest {
        assert!(self.is_whole, "the end was read");
        Manifest {
            cluster_id: self.cluster_id.clone(),
            slot: self.head.slot.0,
            history_hash: format!("{:016x}", self.head.hash.0),
            entries: self.entries,
            content_hash: format!("{:016x}", content_hash(self.digest, &self.admin)),
            bytes: self.parts.read,
        }
    }
}

/// Reads parts that end with a checksum.
struct Parts<R> {
    from: R,
    read: u64,
    /// Where this part begins.
    begun: u64,
    checksum: u32,
}

impl<R: Read> Parts<R> {
    fn begin(&mut self) {
        (self.begun, self.checksum) = (self.read, 0);
    }

    fn end(&mut self) -> Result<(), BackupError> {
        let expected = self.checksum;
        if self.u32()? == expected { Ok(()) } else { Err(self.damaged("its checksum is another one")) }
    }

    fn u8(&mut self) -> Result<u8, BackupError> {
        Ok(self.bytes(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, BackupError> {
        let bytes = self.bytes(4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn u64(&mut self) -> Result<u64, BackupError> {
        let bytes = self.bytes(8)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    fn string(&mut self, max: usize) -> Result<Vec<u8>, BackupError> {
        let len = self.u32()? as usize;
        if len <= max { self.bytes(len) } else { Err(self.damaged("a length cannot be")) }
    }

    /// Memory grows with what is there, not with what a length says.
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = Vec::new();
        (&mut self.from).take(len as u64).read_to_end(&mut bytes).map_err(BackupError::Io)?;
        self.read += bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        if bytes.len() < len { Err(BackupError::Truncated(self.read)) } else { Ok(bytes) }
    }

    fn damaged(&self, what: &'static str) -> BackupError {
        BackupError::Damaged { at: self.begun, what }
    }
}
