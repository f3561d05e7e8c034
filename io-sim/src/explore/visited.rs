//! The states that were found, in the order in which they were found: a set, a queue and a family tree at once.

use xxhash_rust::xxh3::xxh3_64;

use super::world::{Spent, State};

/// Exact: states are compared by all their bytes, not by a hash.
pub(super) struct Visited {
    bytes: Vec<u8>,
    /// Where each state begins in `bytes`.
    starts: Vec<u64>,
    parents: Vec<u32>,
    /// Open addressing: the number of a state plus one and half of its hash, or 0.
    table: Vec<u64>,
    scratch: Vec<u8>,
}

impl Visited {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            starts: Vec::new(),
            parents: Vec::new(),
            table: vec![0; 1 << 16],
            scratch: Vec::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + 8 * self.starts.capacity() + 4 * self.parents.capacity() + 8 * self.table.capacity()
    }

    /// Notes `state`; `false` if it is known.
    pub(super) fn insert(&mut self, state: &State, parent: usize) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(state, &mut scratch);
        let place = self.find(&scratch);
        let is_new = self.table[place] == 0;
        if is_new {
            let number = self.starts.len() as u64 + 1;
            self.table[place] = number << 32 | xxh3_64(&scratch) >> 32;
            self.starts.push(self.bytes.len() as u64);
            self.parents.push(u32::try_from(parent).expect("states are numbered in 32 bits"));
            self.bytes.extend_from_slice(&scratch);
            if self.starts.len() * 3 > self.table.len() * 2 {
                self.grow();
            }
        }
        self.scratch = scratch;
        is_new
    }

    pub(super) fn state(&self, number: usize) -> State {
        decode(self.slice(number))
    }

    pub(super) fn parent(&self, number: usize) -> usize {
        self.parents[number] as usize
    }

    /// Where in the table `bytes` are, or would be.
    fn find(&self, bytes: &[u8]) -> usize {
        let hash = xxh3_64(bytes);
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let found = self.table[place];
            let same = found as u32 == (hash >> 32) as u32;
            if found == 0 || same && self.slice((found >> 32) as usize - 1) == bytes {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    fn slice(&self, number: usize) -> &[u8] {
        let end = self.starts.get(number + 1).map_or(self.bytes.len(), |end| *end as usize);
        &self.bytes[self.starts[number] as usize..end]
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        let mask = self.table.len() - 1;
        for number in 0..self.starts.len() {
            let hash = xxh3_64(self.slice(number));
            let mut place = hash as usize & mask;
            while self.table[place] != 0 {
                place = (place + 1) & mask;
            }
            self.table[place] = (number as u64 + 1) << 32 | hash >> 32;
        }
    }
}

/// Six bytes of bounds, the number of nodes, the nodes, the letters as differences; numbers in groups of seven bits.
fn encode(state: &State, out: &mut Vec<u8>) {
    let Spent { ballots, requests, master_ticks, duplicates, fetches, crashed } = state.spent;
    out.extend([ballots, requests, master_ticks, duplicates, fetches, crashed]);
    put(state.nodes.len() as u32, out);
    state.nodes.iter().for_each(|node| put(*node, out));
    let mut last = 0;
    for letter in &state.letters {
        put(letter - last, out);
        last = *letter;
    }
}

fn decode(bytes: &[u8]) -> State {
    let [ballots, requests, master_ticks, duplicates, fetches, crashed, rest @ ..] = bytes else {
        unreachable!("what was encoded begins with six bytes of bounds");
    };
    let mut rest = rest;
    let spent = Spent {
        ballots: *ballots,
        requests: *requests,
        master_ticks: *master_ticks,
        duplicates: *duplicates,
        fetches: *fetches,
        crashed: *crashed,
    };
    let nodes = (0..take(&mut rest)).map(|_| take(&mut rest)).collect();
    let mut letters = Vec::new();
    let mut last = 0;
    while !rest.is_empty() {
        last += take(&mut rest);
        letters.push(last);
    }
    State { nodes, letters, spent }
}

fn put(mut number: u32, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> u32 {
    let mut number = 0;
    let mut shift = 0;
    while let Some((first, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u32::from(first & 0x7f) << shift;
        shift += 7;
        if first & 0x80 == 0 {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_kept_as_they_are_and_each_once() {
        let mut visited = Visited::new();
        let states: Vec<State> = (0..100_000).map(state).collect();
        assert!(states.iter().zip(0..).all(|(state, parent)| visited.insert(state, parent)));
        assert!(!states.iter().any(|state| visited.insert(state, 0)));
        assert_eq!(visited.count(), states.len());
        assert!((0..).zip(&states).all(|(number, state)| visited.state(number) == *state));
        assert_eq!(visited.parent(99_999), 99_999);
    }

    fn state(number: u32) -> State {
        let spent = Spent { ballots: (number % 3) as u8, crashed: 5, ..Spent::default() };
        let letters = (0..number % 4).map(|letter| letter * 127 + number).collect();
        State { nodes: vec![number, u32::MAX - number, 0], letters, spent }
    }
}
