//! Reading a backup, which anything may have happened to.

use std::io::{self, Read};

use bytes::Bytes;
use serde::Serialize;

use super::{BLOCK, MAGIC, TRAILER, VERSION};
use crate::store::{CHUNK_BYTES_MAX, digest, entries};
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
    let mut parts = Parts { from, read: 0, begun: 0, checksum: 0 };
    let mut manifest = parts.header()?;
    let (mut found, mut seed, mut last_key) = (0, 0, None);
    loop {
        parts.begin();
        match parts.u8()? {
            BLOCK => {
                let bytes = parts.string(CHUNK_BYTES_MAX)?;
                parts.end()?;
                for entry in entries(&bytes) {
                    let (key, _) = entry.map_err(|_| parts.damaged("a block ends inside an entry"))?;
                    if last_key.as_deref().is_some_and(|last: &[u8]| key <= last) {
                        return Err(parts.damaged("keys are out of order"));
                    }
                    last_key = Some(Bytes::copy_from_slice(key));
                    found += 1;
                }
                seed = digest(seed, &bytes);
            }
            TRAILER => {
                let (all, expected) = (parts.u64()?, parts.u64()?);
                parts.end()?;
                if (all, expected) != (found, seed) || all != manifest.entries {
                    return Err(parts.damaged("a block is missing or twice there"));
                }
                break;
            }
            _ => return Err(parts.damaged("it is neither a block nor the end")),
        }
    }
    parts.begin();
    if parts.from.read(&mut [0]).map_err(BackupError::Io)? > 0 {
        return Err(parts.damaged("something follows the end"));
    }
    manifest.bytes = parts.read;
    Ok(manifest)
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
    fn header(&mut self) -> Result<Manifest, BackupError> {
        let magic = self.bytes(MAGIC.len()).map_err(|error| match error {
            BackupError::Truncated(_) => BackupError::NotABackup,
            other => other,
        })?;
        if magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let version = self.u32()?;
        if version != VERSION {
            return Err(BackupError::Version(version));
        }
        let (slot, hash, entries) = (self.u64()?, self.u64()?, self.u64()?);
        let cluster_id = self.string(CLUSTER_ID_BYTES_MAX)?;
        let admin = self.string(ADMIN_BYTES_MAX)?;
        self.end()?;
        if !admin.is_empty() && Admin::decode(&admin).is_err() {
            return Err(self.damaged("what is kept beside the keys makes no sense"));
        }
        let cluster_id = String::from_utf8_lossy(&cluster_id).into_owned();
        Ok(Manifest { cluster_id, slot, history_hash: format!("{hash:016x}"), entries, bytes: 0 })
    }

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
