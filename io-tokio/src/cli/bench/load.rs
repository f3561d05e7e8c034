//! What the clients of a bench do: which operations, on which keys, with which values.

use std::str::FromStr;

use bytes::Bytes;

use crate::client::reply::{Payload, Shape};
use crate::client::request::Command;
use crate::wire::{Reader, Writer as _};

/// What every key begins with.
const KEY_PREFIX: &[u8] = b"bench-";

/// Bytes from which values are cut, beside the size of one value.
const POOL_BYTES: usize = 64 << 10;

/// Tags of the client protocol's updates.
const SEQUENCE_TAG: i32 = 5;
const SET_TAG: i32 = 1;

/// What the operations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    Set,
    Get,
    /// Each request in flight has a key of its own, and expects the value that it wrote before.
    TestAndSet,
    Sequence,
    /// So many reads to so many writes, in random order.
    Ratio {
        reads: u32,
        writes: u32,
    },
}

impl Mix {
    pub(super) fn reads(self) -> bool {
        match self {
            Self::Get => true,
            Self::Ratio { reads, .. } => reads > 0,
            Self::Set | Self::TestAndSet | Self::Sequence => false,
        }
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ratio = || {
            let (reads, writes) = text.split_once(':')?;
            let (reads, writes) = (reads.parse::<u16>().ok()?, writes.parse::<u16>().ok()?);
            (reads > 0 || writes > 0).then_some(Self::Ratio { reads: reads.into(), writes: writes.into() })
        };
        match text {
            "set" => Ok(Self::Set),
            "get" => Ok(Self::Get),
            "test-and-set" => Ok(Self::TestAndSet),
            "sequence" => Ok(Self::Sequence),
            _ => ratio().ok_or_else(|| "choose set, get, test-and-set, sequence, or READS:WRITES, as 9:1".to_owned()),
        }
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Set => f.write_str("set"),
            Self::Get => f.write_str("get"),
            Self::TestAndSet => f.write_str("test-and-set"),
            Self::Sequence => f.write_str("sequence"),
            Self::Ratio { reads, writes } => write!(f, "{reads}:{writes}"),
        }
    }
}

/// The keys of a bench: a prefix and a number of fixed width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) count: usize,
    /// Bytes of each.
    pub(super) size: usize,
}

impl Keys {
    pub(super) fn new(count: u32, size: usize) -> Result<Self, String> {
        let size_min = KEY_PREFIX.len() + count.to_string().len();
        if size < size_min {
            return Err(format!("{count} keys need a --key-size of {size_min} at least"));
        }
        Ok(Self { count: count as usize, size })
    }

    pub(super) fn key(&self, number: usize) -> Vec<u8> {
        let mut key = vec![b'0'; self.size];
        self.write(number, &mut key);
        key
    }

    /// Writes a key over `key`, which holds another.
    fn write(&self, number: usize, key: &mut [u8]) {
        key[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
        let mut rest = number;
        for digit in key[KEY_PREFIX.len()..].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
    }
}

/// What all lanes share.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) mix: Mix,
    pub(super) keys: Keys,
    pub(super) value_size: usize,
    pub(super) sequence_size: usize,
    pub(super) seed: u64,
    /// Values are slices of this: random bytes, so that compression gains nothing.
    pool: Bytes,
}

impl Load {
    pub(super) fn new(mix: Mix, keys: Keys, value_size: usize, sequence_size: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let pool: Vec<u8> =
            (0..(POOL_BYTES + value_size).div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { mix, keys, value_size, sequence_size, seed, pool: pool.into() }
    }

    /// One of the values.
    pub(super) fn value(&self, number: usize) -> Bytes {
        let start = number % POOL_BYTES;
        self.pool.slice(start..start + self.value_size)
    }
}

/// A request in flight, as far as its reply is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Get,
    Set,
    Sequence,
    /// With the place in `Requests::held` of what its key holds.
    TestAndSet(usize),
}

impl Operation {
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Get => Shape::Text,
            Self::Set | Self::Sequence => Shape::Unit,
            Self::TestAndSet(_) => Shape::OptionText,
        }
    }

    pub(super) fn is_update(self) -> bool {
        !matches!(self, Self::Get)
    }
}

/// Makes the requests of one lane.
pub(super) struct Requests {
    load: Load,
    random: Random,
    key: Vec<u8>,
    /// For each key of the lane's own: what it holds as far as is known, and what was last sent.
    held: Vec<(Option<Bytes>, Bytes)>,
    /// The number of the lane's first key of its own.
    own_first: usize,
    /// Places in `held` with no request in flight.
    free: Vec<usize>,
}

impl Requests {
    pub(super) fn new(load: &Load, lane: usize, window: usize) -> Self {
        Self {
            random: Random(load.seed ^ (lane as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            key: load.keys.key(0),
            held: vec![(None, Bytes::new()); window],
            own_first: lane * window,
            free: (0..window).collect(),
            load: load.clone(),
        }
    }

    /// Appends the next request to `out`.
    pub(super) fn write_next(&mut self, out: &mut Vec<u8>) -> Operation {
        match self.load.mix {
            Mix::Set => self.write_set(out),
            Mix::Get => self.write_get(out),
            Mix::Sequence => self.write_sequence(out),
            Mix::TestAndSet => self.write_test_and_set(out),
            Mix::Ratio { reads, writes } => {
                if self.random.below((reads + writes) as usize) < reads as usize {
                    self.write_get(out)
                } else {
                    self.write_set(out)
                }
            }
        }
    }

    fn write_set(&mut self, out: &mut Vec<u8>) -> Operation {
        self.choose_key();
        out.i32(Command::Set.word());
        out.string(&self.key);
        out.string(&self.choose_value());
        Operation::Set
    }

    fn write_get(&mut self, out: &mut Vec<u8>) -> Operation {
        self.choose_key();
        out.i32(Command::Get.word());
        // Consistent.
        out.push(0);
        out.string(&self.key);
        Operation::Get
    }

    fn write_sequence(&mut self, out: &mut Vec<u8>) -> Operation {
        out.i32(Command::Sequence.word());
        let len = 8 + self.load.sequence_size * (12 + self.load.keys.size + self.load.value_size);
        out.len(len);
        out.i32(SEQUENCE_TAG);
        out.len(self.load.sequence_size);
        for _ in 0..self.load.sequence_size {
            self.choose_key();
            out.i32(SET_TAG);
            out.string(&self.key);
            out.string(&self.choose_value());
        }
        Operation::Sequence
    }

    fn write_test_and_set(&mut self, out: &mut Vec<u8>) -> Operation {
        let place = self.free.pop().expect("no more requests are in flight than the window has places");
        self.load.keys.write(self.own_first + place, &mut self.key);
        let wanted = self.choose_value();
        out.i32(Command::TestAndSet.word());
        out.string(&self.key);
        out.option_string(self.held[place].0.as_deref());
        out.option_string(Some(&wanted));
        self.held[place].1 = wanted;
        Operation::TestAndSet(place)
    }

    /// Learns from the reply to an operation that succeeded. Whether it did what it was meant to do.
    pub(super) fn succeeded(&mut self, operation: Operation, payload: &[u8]) -> bool {
        let Operation::TestAndSet(place) = operation else {
            return true;
        };
        let previous = Payload(Reader(Bytes::copy_from_slice(payload))).option_text().unwrap_or_default();
        self.free.push(place);
        let (held, sent) = &mut self.held[place];
        let is_as_expected = previous == *held;
        *held = if is_as_expected { Some(sent.clone()) } else { previous };
        is_as_expected
    }

    /// Takes back an operation that failed, or whose reply never came.
    pub(super) fn failed(&mut self, operation: Operation) {
        if let Operation::TestAndSet(place) = operation {
            self.free.push(place);
        }
    }

    fn choose_key(&mut self) {
        let number = self.random.below(self.load.keys.count);
        self.load.keys.write(number, &mut self.key);
    }

    fn choose_value(&mut self) -> Bytes {
        self.load.value(self.random.below(POOL_BYTES))
    }
}

/// A small generator (splitmix64): the same seed gives the same load.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(mix: Mix) -> Load {
        Load::new(mix, Keys::new(100, 12).unwrap(), 20, 3, 7)
    }

    #[test]
    fn a_mix_is_a_word_or_a_ratio() {
        for text in ["set", "get", "test-and-set", "sequence", "9:1", "0:1", "1:0"] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
        for text in ["", "sets", "9", "9:", ":", "0:0", "-1:1", "1:2:3"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_have_the_size_asked_for_and_are_distinct() {
        let keys = Keys::new(1000, 10).unwrap();
        assert_eq!(keys.key(0), b"bench-0000");
        assert_eq!(keys.key(999), b"bench-0999");
        assert!(Keys::new(1000, 9).is_err());
    }

    #[test]
    fn a_ratio_gives_about_that_many_reads() {
        let mut requests = Requests::new(&load("9:1".parse().unwrap()), 0, 1);
        let reads = (0..10_000).filter(|_| matches!(requests.write_next(&mut Vec::new()), Operation::Get)).count();
        assert!((8_800..9_200).contains(&reads), "{reads}");
    }

    #[test]
    fn a_sequence_is_what_the_codec_of_updates_reads() {
        let mut out = Vec::new();
        Requests::new(&load(Mix::Sequence), 0, 1).write_next(&mut out);
        let mut reader = Reader(out.into());
        assert_eq!(reader.i32(), Ok(Command::Sequence.word()));
        let mut body = Reader(reader.string().unwrap());
        assert!(reader.0.is_empty());
        let crate::update::Update::Sequence(updates) = crate::update::Update::decode(&mut body).unwrap() else {
            panic!("not a sequence")
        };
        assert!(body.0.is_empty());
        assert_eq!(updates.len(), 3);
    }

    #[test]
    fn test_and_set_expects_what_it_wrote_or_was_told() {
        let mut requests = Requests::new(&load(Mix::TestAndSet), 0, 1);
        let write = |requests: &mut Requests| {
            let mut out = Vec::new();
            let operation = requests.write_next(&mut out);
            let mut reader = Reader(Bytes::from(out).slice(4..));
            reader.string().unwrap();
            (operation, reader.option_string().unwrap(), reader.option_string().unwrap())
        };
        let (operation, expected, first) = write(&mut requests);
        assert_eq!(expected, None);
        assert!(requests.succeeded(operation, &[0]));
        let (operation, expected, _) = write(&mut requests);
        assert_eq!(expected, first);
        assert!(!requests.succeeded(operation, &[1, 1, 0, 0, 0, b'x']), "another value was there");
        let (operation, expected, _) = write(&mut requests);
        assert_eq!(expected.as_deref(), Some(&b"x"[..]));
        requests.failed(operation);
        assert_eq!(write(&mut requests).1, expected);
    }
}
