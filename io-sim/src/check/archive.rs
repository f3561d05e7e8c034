//! The bytes of a compressed segment, read as `docs/storage.md` describes them and without a look at the code that writes
//! them, or at the library that compresses.

const INDEX_AT: usize = 536;
const HEADER_BYTES: usize = 512;
const BLOCK_BYTES: usize = 1 << 20;

/// The segment that these bytes are the archive of; `None` when what is before the blocks is damaged. A damaged block is
/// zeros.
pub(super) fn segment_of(archive: &[u8], salt: u32) -> Option<Vec<u8>> {
    let number = |at: usize| archive.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let blocks = number(12)?;
    let front_end = INDEX_AT.checked_add(blocks.checked_mul(8)?)?;
    let sealed = archive.get(..front_end)?;
    let is_front = sealed.starts_with(b"TBAL.tlx\x01\0\0\0") && number(front_end)? == crc32c::crc32c(sealed) as usize;
    let (len, len_high) = (number(16)?, number(20)?);
    if !is_front || len_high > 0 || len < HEADER_BYTES || blocks != (len - HEADER_BYTES).div_ceil(BLOCK_BYTES) {
        return None;
    }
    let mut segment = sealed[24..INDEX_AT].to_vec();
    let mut at = front_end + 4;
    for block in 0..blocks {
        let (packed_len, crc) = (number(INDEX_AT + 8 * block)?, number(INDEX_AT + 8 * block + 4)?);
        let block_len = (len - segment.len()).min(BLOCK_BYTES);
        let numbered = crc32c::crc32c_append(salt, &u32::try_from(block).ok()?.to_le_bytes());
        let packed = archive.get(at..at + packed_len);
        let packed = packed.filter(|packed| crc32c::crc32c_append(numbered, packed) as usize == crc);
        let bytes = packed.and_then(|packed| if packed_len == block_len { Some(packed.to_vec()) } else { lz4(packed) });
        let bytes = bytes.filter(|bytes| bytes.len() == block_len);
        segment.extend_from_slice(&bytes.unwrap_or_else(|| vec![0; block_len]));
        at += packed_len;
    }
    Some(segment)
}

/// The contents of an LZ4 block of at most 1 MiB.
fn lz4(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = packed.iter().copied();
    loop {
        let token = usize::from(rest.next()?);
        let literals = length(token >> 4, &mut rest)?;
        for _ in 0..literals {
            out.push(rest.next()?);
        }
        let Some(low) = rest.next() else { return Some(out) };
        let distance = usize::from(u16::from_le_bytes([low, rest.next()?]));
        let repeated = length(token & 15, &mut rest)? + 4;
        if distance == 0 || out.len() + repeated > BLOCK_BYTES {
            return None;
        }
        for _ in 0..repeated {
            out.push(*out.get(out.len().checked_sub(distance)?)?);
        }
    }
}

fn length(nibble: usize, rest: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut sum = nibble;
    let mut goes_on = nibble == 15;
    while goes_on {
        let more = rest.next()?;
        sum += usize::from(more);
        goes_on = more == 255;
    }
    Some(sum)
}
