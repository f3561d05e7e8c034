//! Chunks: the entries of a head, some at a time.
//!
//! A chunk holds consecutive entries in the order of their keys, each as length of the key (`u32`, little-endian), key,
//! length of the value (`u32`), value.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::error::StoreError;
use super::range::{Direction, KeyRange};
use super::reader::Snapshot;
use crate::update::UPDATE_BYTES_CEILING;

/// A chunk is complete once it has this many bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// No chunk is longer: its last entry came with one update.
pub const CHUNK_BYTES_MAX: usize = CHUNK_BYTES + UPDATE_BYTES_CEILING;

/// Consecutive entries of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How many they are.
    pub entries: u64,
    /// The entries.
    pub bytes: Bytes,
    /// The last of their keys; `None` in a chunk without entries, which is the end.
    pub last_key: Option<Bytes>,
}

/// What a chunk is not, and should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk ends inside an entry")]
pub(super) struct Malformed;

impl Snapshot {
    /// The entries behind the key `after` (`None`: from the first one), until they are [`CHUNK_BYTES`] long.
    ///
    /// # Errors
    /// When the store is closed or cannot be read.
    pub fn chunk(&self, after: Option<&Bytes>) -> Result<Chunk, StoreError> {
        let range = KeyRange { first: after.cloned(), first_inclusive: after.is_none(), ..KeyRange::all() };
        let (mut entries, mut bytes, mut last_key) = (0, Vec::new(), None);
        for entry in self.range(&range, Direction::Ascending)? {
            let (key, value) = entry?;
            for part in [&key, &value] {
                bytes.extend_from_slice(&u32::try_from(part.len()).expect("updates are shorter").to_le_bytes());
                bytes.extend_from_slice(part);
            }
            entries += 1;
            last_key = Some(key);
            if bytes.len() >= CHUNK_BYTES {
                break;
            }
        }
        Ok(Chunk { entries, bytes: bytes.into(), last_key })
    }
}

/// The digest of all chunks so far, from the one of those before.
pub fn digest(before: u64, chunk: &[u8]) -> u64 {
    xxh3_64_with_seed(chunk, before)
}

/// The keys and values in a chunk that came from elsewhere.
pub(super) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let entry = part(&mut bytes).and_then(|key| Some((key, part(&mut bytes)?)));
        if entry.is_none() {
            bytes = &[];
        }
        Some(entry.ok_or(Malformed))
    })
}

fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_cut_anywhere_but_between_entries_is_malformed() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (key, value) in [("", ""), ("a", "one"), ("bc", "")] {
            for part in [key, value] {
                bytes.extend((part.len() as u32).to_le_bytes());
                bytes.extend(part.as_bytes());
            }
            ends.push(bytes.len());
        }
        for end in 0..=bytes.len() {
            let read = entries(&bytes[..end]).collect::<Result<Vec<_>, _>>();
            assert_eq!(read.is_ok(), ends.contains(&end), "{end}");
        }
        assert_eq!(entries(&bytes).nth(1), Some(Ok((&b"a"[..], &b"one"[..]))));
        assert_eq!(entries(&[0xff; 9]).collect::<Vec<_>>(), [Err(Malformed)]);
    }
}
