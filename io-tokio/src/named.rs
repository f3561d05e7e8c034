//! Named fields: the self-describing values in which the client protocol carries statistics.
//!
//! ```text
//! field   i32 kind, string name, payload
//! 1       i32
//! 2       i64
//! 3       f64, as its bits
//! 4       string
//! 5       i32 count, that many fields
//! ```

#[cfg(any(feature = "server", test))]
use crate::wire::Writer;
use crate::wire::{Malformed, Reader};

/// Lists within lists.
const DEPTH_MAX: usize = 8;

const INT: i32 = 1;
const LONG: i32 = 2;
const FLOAT: i32 = 3;
const TEXT: i32 = 4;
const LIST: i32 = 5;

/// A value with a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: FieldValue,
}

/// What a named field holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FieldValue {
    Int(i32),
    Long(i64),
    Float(f64),
    Text(String),
    List(Vec<Field>),
}

impl Field {
    /// Appends the bytes of this field.
    #[cfg(any(feature = "server", test))]
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let kind = match &self.value {
            FieldValue::Int(_) => INT,
            FieldValue::Long(_) => LONG,
            FieldValue::Float(_) => FLOAT,
            FieldValue::Text(_) => TEXT,
            FieldValue::List(_) => LIST,
        };
        out.i32(kind);
        out.string(self.name.as_bytes());
        match &self.value {
            FieldValue::Int(value) => out.i32(*value),
            FieldValue::Long(value) => out.i64(*value),
            FieldValue::Float(value) => out.i64(value.to_bits().cast_signed()),
            FieldValue::Text(value) => out.string(value.as_bytes()),
            FieldValue::List(fields) => {
                Writer::len(out, fields.len());
                fields.iter().for_each(|field| field.encode(out));
            }
        }
    }

    /// Reads one field off the front of `reader`.
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        Self::decode_within(reader, DEPTH_MAX)
    }

    fn decode_within(reader: &mut Reader, depth: usize) -> Result<Self, Malformed> {
        let kind = reader.i32()?;
        let name = text(reader)?;
        let value = match kind {
            INT => FieldValue::Int(reader.i32()?),
            LONG => FieldValue::Long(reader.i64()?),
            FLOAT => FieldValue::Float(f64::from_bits(reader.i64()?.cast_unsigned())),
            TEXT => FieldValue::Text(text(reader)?),
            LIST if depth == 0 => {
                let (len, max) = (DEPTH_MAX as u64 + 1, DEPTH_MAX as u64);
                return Err(Malformed::TooLong { what: "nesting of named fields", len, max });
            }
            LIST => {
                // The bytes run out before a false count does.
                let count = reader.length()?;
                let fields: Result<_, _> = (0..count).map(|_| Self::decode_within(reader, depth - 1)).collect();
                FieldValue::List(fields?)
            }
            tag => return Err(Malformed::UnknownTag { what: "named field", tag: tag.into() }),
        };
        Ok(Self { name, value })
    }
}

fn text(reader: &mut Reader) -> Result<String, Malformed> {
    Ok(String::from_utf8_lossy(&reader.string()?).into_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn field(name: &str, value: FieldValue) -> Field {
        Field { name: name.to_owned(), value }
    }

    /// Example 22 of the original's byte examples.
    #[test]
    fn the_bytes_are_those_of_the_client_protocol() {
        let mut bytes = Vec::new();
        field("start", FieldValue::Float(1.0)).encode(&mut bytes);
        assert_eq!(bytes, b"\x03\0\0\0\x05\0\0\0start\0\0\0\0\0\0\xf0\x3f");
    }

    #[test]
    fn every_kind_survives_its_bytes_and_every_cut_is_truncated() {
        let list = vec![
            field("i", FieldValue::Int(-1)),
            field("l", FieldValue::Long(i64::MIN)),
            field("f", FieldValue::Float(f64::MAX)),
            field("t", FieldValue::Text("x".to_owned())),
            field("e", FieldValue::List(Vec::new())),
        ];
        let whole = field("all", FieldValue::List(list));
        let mut bytes = Vec::new();
        whole.encode(&mut bytes);
        let decode = |bytes: &[u8]| Field::decode(&mut Reader(Bytes::copy_from_slice(bytes)));
        assert_eq!(decode(&bytes), Ok(whole));
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), Err(Malformed::Truncated), "cut at {len}");
        }
    }

    #[test]
    fn a_tower_of_lists_is_refused() {
        let tower = b"\x05\0\0\0\0\0\0\0\x01\0\0\0".repeat(1_000_000);
        let refused = Field::decode(&mut Reader(tower.into())).unwrap_err();
        assert_eq!(refused, Malformed::TooLong { what: "nesting of named fields", len: 9, max: 8 });
    }
}
