//! The primitives of the client protocol: little-endian integers, length-prefixed strings, options and lists.

use bytes::{Buf as _, Bytes};

/// Every command word of the client protocol has these bits, and the prologue begins with them.
pub const MAGIC: u32 = 0xb1ff_0000;

/// The one version of the client protocol.
pub const VERSION: i32 = 1;

/// Why bytes cannot be read as what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end before the value does.
    #[error("the bytes end too early")]
    Truncated,
    /// A boolean or the tag of an option is neither 0 nor 1.
    #[error("{0:#04x} is not a boolean")]
    NotABoolean(u8),
    /// A string or list has a negative length.
    #[error("{0} is not a length")]
    NegativeLength(i32),
    /// A string, list or nesting is beyond its limit.
    #[error("{what} of {len} is over the limit of {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A tag that names nothing.
    #[error("{tag} does not name a kind of {what}")]
    UnknownTag {
        /// What the tag should name.
        what: &'static str,
        /// The tag.
        tag: i64,
    },
}

/// Reads primitives off the front of a buffer without copying strings.
#[derive(Clone, Debug)]
pub struct Reader(pub Bytes);

impl Reader {
    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        if self.0.is_empty() { Err(Malformed::Truncated) } else { Ok(self.0.get_u8()) }
    }

    /// 00 or 01.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::NotABoolean(other)),
        }
    }

    /// Four bytes.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        if self.0.len() < 4 { Err(Malformed::Truncated) } else { Ok(self.0.get_i32_le()) }
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        if self.0.len() < 8 { Err(Malformed::Truncated) } else { Ok(self.0.get_i64_le()) }
    }

    /// A count of elements or bytes: an `i32` that is not negative.
    pub fn length(&mut self) -> Result<usize, Malformed> {
        let len = self.i32()?;
        usize::try_from(len).map_err(|_| Malformed::NegativeLength(len))
    }

    /// A length and that many bytes.
    pub fn string(&mut self) -> Result<Bytes, Malformed> {
        let len = self.length()?;
        if self.0.len() < len { Err(Malformed::Truncated) } else { Ok(self.0.split_to(len)) }
    }

    /// A boolean and, if it is true, a string.
    pub fn option_string(&mut self) -> Result<Option<Bytes>, Malformed> {
        if self.bool()? { self.string().map(Some) } else { Ok(None) }
    }
}

/// Writes primitives to the end of a buffer.
pub trait Writer {
    /// One byte: 00 or 01.
    fn bool(&mut self, value: bool);
    /// Four bytes.
    fn i32(&mut self, value: i32);
    /// Eight bytes.
    fn i64(&mut self, value: i64);
    /// The length of something that is kept far below 2 GiB by limits.
    fn len(&mut self, len: usize);
    /// A length and the bytes.
    fn string(&mut self, value: &[u8]);
    /// A boolean and, if it is true, a string.
    fn option_string(&mut self, value: Option<&[u8]>);
}

impl Writer for Vec<u8> {
    fn bool(&mut self, value: bool) {
        self.push(u8::from(value));
    }

    fn i32(&mut self, value: i32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn len(&mut self, len: usize) {
        self.i32(i32::try_from(len).expect("limits keep every length below 2 GiB"));
    }

    fn string(&mut self, value: &[u8]) {
        Writer::len(self, value.len());
        self.extend_from_slice(value);
    }

    fn option_string(&mut self, value: Option<&[u8]>) {
        self.bool(value.is_some());
        if let Some(value) = value {
            self.string(value);
        }
    }
}
