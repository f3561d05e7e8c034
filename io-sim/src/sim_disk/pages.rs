//! Bytes of which most were never written: those read as zeros and cost nothing.

use std::ops::Range;

/// The unit in which memory is spent.
pub(super) const PAGE_BYTES: usize = 4096;

/// The bytes of one file, sparse.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    /// `None` is a hole. Ends with the last page that was written.
    pages: Vec<Option<Box<[u8; PAGE_BYTES]>>>,
    len: u64,
}

/// The part of a range that lies within one page.
struct Piece {
    page: usize,
    within: Range<usize>,
    /// Where these bytes are in the range.
    of_range: Range<usize>,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where the last page ends that was ever written; the file may be shorter or longer.
    pub(super) fn written_end(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    /// Whether some of these bytes are in a hole.
    pub(super) fn has_hole_in(&self, offset: u64, len: usize) -> bool {
        pieces(offset, len).any(|piece| self.page(piece.page).is_none())
    }

    /// The numbers of the pages that are no holes.
    pub(super) fn written_pages(&self) -> Vec<u64> {
        let pages = self.pages.iter().enumerate();
        pages.filter_map(|(number, page)| page.as_ref().map(|_| number as u64)).collect()
    }

    /// Fills `out` with what is at `offset`, and says how much of that is within the file; the rest is zeros.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        for piece in pieces(offset, out.len()) {
            match self.page(piece.page) {
                Some(page) => out[piece.of_range].copy_from_slice(&page[piece.within]),
                None => out[piece.of_range].fill(0),
            }
        }
        let within = self.len.saturating_sub(offset);
        usize::try_from(within).map_or(out.len(), |within| within.min(out.len()))
    }

    /// Makes the file longer if need be.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for piece in pieces(offset, bytes.len()) {
            if piece.page >= self.pages.len() {
                self.pages.resize_with(piece.page + 1, || None);
            }
            let page = self.pages[piece.page].get_or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[piece.within].copy_from_slice(&bytes[piece.of_range]);
        }
        self.grow(offset + bytes.len() as u64);
    }

    /// Makes the file at least this long.
    pub(super) fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// What is cut off reads as zeros if the file grows again.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.written_end() {
            let (last, kept) = place_of(len);
            self.pages.truncate(if kept == 0 { last } else { last + 1 });
            if kept > 0
                && let Some(Some(page)) = self.pages.get_mut(last)
            {
                page[kept..].fill(0);
            }
        }
        self.len = len;
    }

    /// Changes one bit; the byte must be within the file.
    pub(super) fn flip(&mut self, offset: u64, bit: u64) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        self.write(offset, &[byte[0] ^ 1 << (bit % 8)]);
    }

    fn page(&self, number: usize) -> Option<&[u8; PAGE_BYTES]> {
        self.pages.get(number)?.as_deref()
    }
}

fn place_of(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("simulated files are small");
    (offset / PAGE_BYTES, offset % PAGE_BYTES)
}

fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let (page, start) = place_of(offset + done as u64);
        let count = (PAGE_BYTES - start).min(len - done);
        let piece = Piece { page, within: start..start + count, of_range: done..done + count };
        done += count;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn it_reads_as_a_plain_vector_of_bytes_does() {
        let mut rng = Rng::new(1, 1);
        for _ in 0..50 {
            let (mut pages, mut plain) = (Pages::default(), Vec::new());
            for _ in 0..40 {
                let at = rng.below(4 * PAGE_BYTES as u64);
                let len = rng.below(2 * PAGE_BYTES as u64) as usize;
                match rng.below(3) {
                    0 => {
                        pages.set_len(at);
                        plain.resize(at as usize, 0);
                    }
                    1 => {
                        pages.grow(at);
                        plain.resize(plain.len().max(at as usize), 0);
                    }
                    _ if len > 0 => {
                        let bytes: Vec<u8> = (0..len).map(|_| rng.any() as u8).collect();
                        pages.write(at, &bytes);
                        plain.resize(plain.len().max(at as usize + len), 0);
                        plain[at as usize..at as usize + len].copy_from_slice(&bytes);
                    }
                    _ => {}
                }
                assert_eq!(pages.len(), plain.len() as u64);
                let from = rng.below(4 * PAGE_BYTES as u64) as usize;
                let mut out = vec![7; len];
                let read = pages.read(from as u64, &mut out);
                assert_eq!(out[..read], plain.get(from..plain.len().min(from + len)).unwrap_or_default()[..]);
                assert!(out[read..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn what_was_never_written_costs_nothing() {
        let mut pages = Pages::default();
        pages.grow(8 << 20);
        assert_eq!((pages.len(), pages.written_end()), (8 << 20, 0));
        pages.write(5000, &[1]);
        assert_eq!(pages.written_pages(), [1]);
        assert!(!pages.has_hole_in(4096, 4096) && pages.has_hole_in(4095, 2));
        pages.set_len(4096);
        assert_eq!(pages.written_end(), 4096);
        assert!(pages.written_pages().is_empty());
    }
}
