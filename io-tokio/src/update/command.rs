//! The bytes of a command: what a slot's batch holds for one client update.
//!
//! ```text
//! 0      version   1
//! 1      flags     bit 0: a session follows; the other bits are 0
//! 2..10  client    u64, only with a session
//! 10..18 sequence  u64, only with a session
//! ..     update    as on the client's wire, up to the end
//! ```
//! Integers are little-endian. Sessions are reserved for exactly-once updates: decoded, but not written yet.

use bytes::Bytes;

use super::{NotAnUpdate, Update};
use crate::wire::{Malformed, Reader};

const VERSION: u8 = 1;
const HAS_SESSION: u8 = 1;

/// One update as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who sent it, for clients that want each update done exactly once.
    pub session: Option<Session>,
    /// What to do.
    pub update: Update,
}

/// Names one update of one client for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The client.
    pub client: u64,
    /// Counts that client's updates.
    pub sequence: u64,
}

/// Why bytes are not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACommand {
    /// The bytes end within the header.
    #[error("the bytes of the command end within its header")]
    Truncated,
    /// A version of the format that this node does not know.
    #[error("version {0} of the command format is not known here")]
    Version(u8),
    /// Flags that this node does not know.
    #[error("flags {0:#04x} of the command are not known here")]
    Flags(u8),
    /// The update is not one.
    #[error(transparent)]
    Update(#[from] NotAnUpdate),
    /// Something follows the update.
    #[error("{0} bytes follow the update")]
    TrailingBytes(usize),
}

/// The command for this update.
pub fn encode_command(update: &Update) -> Bytes {
    let mut out = Vec::with_capacity(2 + update.encoded_len());
    out.extend_from_slice(&[VERSION, 0]);
    update.encode(&mut out);
    out.into()
}

/// The command for an update that came as bytes, which must be exactly those that [`Update::decode`] took.
pub fn command_from_raw(update_bytes: &[u8]) -> Bytes {
    [&[VERSION, 0], update_bytes].concat().into()
}

/// The command that `bytes` are, all of them. Strings are not copied.
///
/// # Errors
/// When they are not a command that this node knows.
pub fn decode_command(bytes: Bytes) -> Result<Command, NotACommand> {
    let mut reader = Reader(bytes);
    let truncated = |_: Malformed| NotACommand::Truncated;
    let version = reader.u8().map_err(truncated)?;
    if version != VERSION {
        return Err(NotACommand::Version(version));
    }
    let flags = reader.u8().map_err(truncated)?;
    let session = match flags {
        0 => None,
        HAS_SESSION => Some(Session {
            client: reader.i64().map_err(truncated)?.cast_unsigned(),
            sequence: reader.i64().map_err(truncated)?.cast_unsigned(),
        }),
        unknown => return Err(NotACommand::Flags(unknown)),
    };
    let update = Update::decode(&mut reader)?;
    if reader.0.is_empty() { Ok(Command { session, update }) } else { Err(NotACommand::TrailingBytes(reader.0.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::tests::{any_update, hex};
    use super::*;

    #[test]
    fn a_command_is_a_version_flags_and_the_update() {
        let update = Update::Delete { key: Bytes::from("k") };
        let golden = hex("01 00 02 00 00 00 01 00 00 00 6b");
        assert_eq!(encode_command(&update), golden);
        assert_eq!(command_from_raw(&golden[2..]), golden);
        assert_eq!(decode_command(golden), Ok(Command { session: None, update }));
    }

    #[test]
    fn a_session_is_understood() {
        let bytes = hex("01 01 02 00 00 00 00 00 00 80 03 00 00 00 00 00 00 00 06 00 00 00");
        let session = Some(Session { client: (1 << 63) + 2, sequence: 3 });
        assert_eq!(decode_command(bytes.clone()), Ok(Command { session, update: Update::Nop }));
        for len in 0..18 {
            assert_eq!(decode_command(bytes.slice(..len)), Err(NotACommand::Truncated), "cut at {len}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        assert_eq!(decode_command(hex("02 00 06 00 00 00")), Err(NotACommand::Version(2)));
        assert_eq!(decode_command(hex("01 02 06 00 00 00")), Err(NotACommand::Flags(2)));
        assert_eq!(decode_command(hex("01 00 06 00 00 00 00")), Err(NotACommand::TrailingBytes(1)));
    }

    proptest! {
        #[test]
        fn a_command_survives_its_bytes(update in any_update()) {
            let command = decode_command(encode_command(&update));
            prop_assert_eq!(command, Ok(Command { session: None, update }));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_command(bytes.into());
        }
    }
}
