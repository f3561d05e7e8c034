//! Replies: their bytes, and which of them end the connection.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backup::Backup;
use crate::node::{DropRefused, MaintenanceRefused, ReadRefused, UpdateRefused};
use crate::store::StoreError;
use crate::update::{Failure, Outcome};
use crate::wire::Writer;

/// The codes that replies begin with. `docs/compatibility.md` says when each is sent.
pub(crate) mod code {
    pub(crate) const OK: i32 = 0;
    pub(crate) const NO_MAGIC: i32 = 0x01;
    pub(crate) const NOT_MASTER: i32 = 0x04;
    pub(crate) const NOT_FOUND: i32 = 0x05;
    pub(crate) const WRONG_CLUSTER: i32 = 0x06;
    pub(crate) const ASSERTION_FAILED: i32 = 0x07;
    pub(crate) const READ_ONLY: i32 = 0x08;
    pub(crate) const OUTSIDE_INTERVAL: i32 = 0x09;
    pub(crate) const GOING_DOWN: i32 = 0x10;
    pub(crate) const NOT_SUPPORTED: i32 = 0x20;
    pub(crate) const NO_LONGER_MASTER: i32 = 0x21;
    pub(crate) const BAD_INPUT: i32 = 0x26;
    pub(crate) const INCONSISTENT_READ: i32 = 0x80;
    pub(crate) const USERFUNCTION_FAILURE: i32 = 0x81;
    pub(crate) const USERHOOK_NOT_FOUND: i32 = 0x82;
    /// Ours: a queue or a budget is full. It did not happen; trying again later is right.
    pub(crate) const OVERLOADED: i32 = 0x90;
    /// Ours: the disk is nearly full. It did not happen.
    pub(crate) const DISK_FULL: i32 = 0x91;
    /// Ours: no other node could become master.
    pub(crate) const NO_SUCCESSOR: i32 = 0x92;
    pub(crate) const MAX_CONNECTIONS: i32 = 0xfe;
    pub(crate) const UNKNOWN_FAILURE: i32 = 0xff;
}

/// A list is encoded in pieces of about this size, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// How many bytes one permit of a [`Budget`] stands for.
const BYTES_PER_PERMIT: usize = 1024;

/// One reply, encoded.
pub(crate) struct Reply {
    /// To be sent one after the other.
    pieces: Vec<Vec<u8>>,
    closes: bool,
    /// What follows the pieces, read as it is sent.
    rest: Option<Backup>,
    /// Given back when the reply has been sent.
    _paid: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("pieces", &self.pieces).field("closes", &self.closes).finish_non_exhaustive()
    }
}

impl Reply {
    /// Success, with a payload.
    pub(crate) fn ok(payload: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(16);
        bytes.i32(code::OK);
        payload(&mut bytes);
        Self::of(bytes)
    }

    /// Success, and nothing to say.
    pub(crate) fn unit() -> Self {
        Self::ok(|_| ())
    }

    /// Success, with a value.
    pub(crate) fn string(value: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(8 + value.len());
        bytes.i32(code::OK);
        bytes.string(value);
        Self::of(bytes)
    }

    /// A refusal or failure; the connection stays open.
    pub(crate) fn error(code: i32, message: impl AsRef<[u8]>) -> Self {
        let mut bytes = Vec::with_capacity(8 + message.as_ref().len());
        bytes.i32(code);
        bytes.string(message.as_ref());
        Self::of(bytes)
    }

    /// The one error that has no message.
    pub(crate) fn no_magic() -> Self {
        Self::of(code::NO_MAGIC.to_le_bytes().to_vec())
    }

    /// The node stops, or its listener does.
    pub(crate) fn going_down() -> Self {
        Self::error(code::GOING_DOWN, "closing socket").and_close()
    }

    /// These very bytes.
    pub(crate) fn raw(bytes: Vec<u8>) -> Self {
        Self::of(bytes)
    }

    /// The same reply, as the last one of its connection.
    pub(crate) fn and_close(mut self) -> Self {
        self.closes = true;
        self
    }

    /// The same reply, and a backup behind it.
    pub(crate) fn and_then(mut self, backup: Backup) -> Self {
        self.rest = Some(backup);
        self
    }

    /// What follows the pieces.
    pub(crate) fn take_rest(&mut self) -> Option<Backup> {
        self.rest.take()
    }

    /// Whether the connection ends after this reply.
    pub(crate) fn closes(&self) -> bool {
        self.closes
    }

    /// How many bytes wait to be sent.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// The number behind the code of a success: the length of a string, the count of a list, or a number. `None` of a
    /// refusal; 0 where nothing follows.
    pub(crate) fn size(&self) -> Option<u32> {
        let (code, rest) = self.pieces.first()?.split_first_chunk::<4>()?;
        let size = || rest.first_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size));
        (i32::from_le_bytes(*code) == code::OK).then(size)
    }

    /// The bytes, to be sent one piece after the other.
    pub(crate) fn pieces(&self) -> &[Vec<u8>] {
        &self.pieces
    }

    /// What became of an update.
    pub(crate) fn of_update(result: Result<Result<Outcome, Failure>, UpdateRefused>) -> Self {
        match result {
            Ok(Ok(Outcome::Done)) => Self::unit(),
            Ok(Ok(Outcome::Previous(value) | Outcome::Returned(value))) => {
                Self::ok(|bytes| bytes.option_string(value.as_deref()))
            }
            Ok(Ok(Outcome::PreviousUntold)) => {
                let message = "too many long values wait to be sent: what this update gave is not told";
                Self::error(code::NO_LONGER_MASTER, message)
            }
            Ok(Ok(Outcome::Deleted(count))) => Self::ok(|bytes| bytes.i32(i32::try_from(count).unwrap_or(i32::MAX))),
            Ok(Err(Failure::NotFound { key })) => Self::error(code::NOT_FOUND, key),
            Ok(Err(Failure::AssertionFailed { message })) => Self::error(code::ASSERTION_FAILED, message),
            Ok(Err(Failure::OutsideInterval { key })) => Self::error(code::OUTSIDE_INTERVAL, key).and_close(),
            Ok(Err(Failure::Illegal { why })) => Self::error(code::BAD_INPUT, why),
            Ok(Err(Failure::FunctionFailed { message })) => {
                Self::error(code::USERFUNCTION_FAILURE, message).and_close()
            }
            Ok(Err(Failure::Undecodable { why })) => Self::error(code::UNKNOWN_FAILURE, why),
            Err(UpdateRefused::NotMaster { master }) => Self::not_master(master.as_deref()),
            // Clients know what it means, and expect a node's name.
            Err(UpdateRefused::ReadOnly { node }) => Self::error(code::READ_ONLY, node).and_close(),
            Err(refused @ UpdateRefused::Overloaded) => Self::error(code::OVERLOADED, refused.to_string()),
            Err(UpdateRefused::Invalid { why }) => Self::error(code::BAD_INPUT, why),
            Err(refused @ UpdateRefused::DiskFull { .. }) => Self::error(code::DISK_FULL, refused.to_string()),
            Err(UpdateRefused::Stopping) => Self::going_down(),
            Err(refused @ UpdateRefused::OutcomeUnknown) => Self::error(code::NO_LONGER_MASTER, refused.to_string()),
        }
    }

    /// Why there is no snapshot to read from.
    pub(crate) fn of_refused_read(refused: &ReadRefused) -> Self {
        match refused {
            ReadRefused::NotMaster { master } => Self::not_master(master.as_deref()),
            ReadRefused::NotFreshEnough => Self::error(code::INCONSISTENT_READ, refused.to_string()),
            ReadRefused::Witness { .. } => Self::error(code::NOT_SUPPORTED, refused.to_string()).and_close(),
            ReadRefused::Overloaded => Self::error(code::OVERLOADED, refused.to_string()),
            ReadRefused::Stopping => Self::going_down(),
            ReadRefused::Store(StoreError::Compacting) => Self::error(code::OVERLOADED, refused.to_string()),
            ReadRefused::Store(_) => Self::error(code::UNKNOWN_FAILURE, refused.to_string()).and_close(),
        }
    }

    /// What became of a wish for another master.
    pub(crate) fn of_drop(result: Result<(), DropRefused>) -> Self {
        match result {
            Ok(()) => Self::unit(),
            Err(refused @ DropRefused::Alone) => Self::error(code::NOT_SUPPORTED, refused.to_string()).and_close(),
            Err(refused @ (DropRefused::NobodyAble { .. } | DropRefused::NobodyTookOver)) => {
                Self::error(code::NO_SUCCESSOR, refused.to_string())
            }
            Err(DropRefused::Stopping) => Self::going_down(),
        }
    }

    /// What became of something that was to be done for the store.
    pub(crate) fn of_maintenance<T>(done: Result<T, MaintenanceRefused>, payload: impl FnOnce(&mut Vec<u8>)) -> Self {
        match done {
            Ok(_) => Self::ok(payload),
            Err(refused @ MaintenanceRefused::OnMaster) => {
                Self::error(code::NOT_SUPPORTED, refused.to_string()).and_close()
            }
            Err(refused @ MaintenanceRefused::NotNow(_)) => Self::error(code::OVERLOADED, refused.to_string()),
            Err(MaintenanceRefused::Stopping) => Self::going_down(),
        }
    }

    /// The message is the master's name, which clients follow; they know "None" for nobody.
    fn not_master(master: Option<&str>) -> Self {
        Self::error(code::NOT_MASTER, master.unwrap_or("None")).and_close()
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![bytes], closes: false, rest: None, _paid: None }
    }
}

/// Room for the long lists that wait to be sent, over all connections.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    /// What one reply may have at most.
    reply_bytes_max: usize,
}

/// Why a list became too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListTooLong {
    /// For one reply.
    #[error("the result is over the limit of {0} bytes: ask for a part of it")]
    ForOneReply(usize),
    /// For the room that other replies leave.
    #[error("other long results are being sent: try again later, or ask for a part of it")]
    ForNow,
}

impl Budget {
    pub(crate) fn new(total_bytes_max: usize, reply_bytes_max: usize) -> Self {
        let permits = (total_bytes_max / BYTES_PER_PERMIT).min(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(permits)), reply_bytes_max }
    }
}

impl ListTooLong {
    pub(crate) fn reply(self) -> Reply {
        let code = match self {
            Self::ForOneReply(_) => code::BAD_INPUT,
            Self::ForNow => code::OVERLOADED,
        };
        Reply::error(code, self.to_string())
    }
}

/// In which order a list goes out, compared with the order in which its elements are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    AsFound,
    Reversed,
}

/// Encodes a list whose length is known only at its end, holding each byte once or (within one piece) twice.
#[derive(Debug)]
pub(crate) struct ListBuilder {
    order: Order,
    budget: Budget,
    paid: Option<OwnedSemaphorePermit>,
    count: usize,
    bytes: usize,
    /// Full pieces, in the order in which they were found.
    done: Vec<Vec<u8>>,
    piece: Vec<u8>,
    /// Where each element of `piece` begins.
    starts: Vec<usize>,
}

impl ListBuilder {
    pub(crate) fn new(order: Order, budget: Budget) -> Self {
        Self { order, budget, paid: None, count: 0, bytes: 0, done: Vec::new(), piece: Vec::new(), starts: Vec::new() }
    }

    /// How many elements there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds an element; `true` when a piece has become full, a good moment to let others run.
    pub(crate) fn push(&mut self, element: impl FnOnce(&mut Vec<u8>)) -> Result<bool, ListTooLong> {
        let start = self.piece.len();
        self.starts.push(start);
        element(&mut self.piece);
        self.count += 1;
        self.bytes += self.piece.len() - start;
        if self.bytes > self.budget.reply_bytes_max {
            return Err(ListTooLong::ForOneReply(self.budget.reply_bytes_max));
        }
        let full = self.piece.len() >= PIECE_BYTES;
        if full {
            // Only long lists pay: what fits into one piece is counted by the limits of its connection.
            self.pay(self.piece.len())?;
            self.finish_piece();
        }
        Ok(full)
    }

    /// The reply: the number of elements, then they.
    pub(crate) fn reply(mut self) -> Reply {
        self.finish_piece();
        let mut head = Vec::with_capacity(8);
        head.i32(code::OK);
        Writer::len(&mut head, self.count);
        let mut pieces = vec![head];
        match self.order {
            Order::AsFound => pieces.append(&mut self.done),
            Order::Reversed => pieces.extend(self.done.into_iter().rev()),
        }
        Reply { pieces, closes: false, rest: None, _paid: self.paid }
    }

    fn finish_piece(&mut self) {
        let piece = match self.order {
            Order::AsFound => std::mem::take(&mut self.piece),
            Order::Reversed => {
                let mut reversed = Vec::with_capacity(self.piece.len());
                let mut end = self.piece.len();
                for &start in self.starts.iter().rev() {
                    reversed.extend_from_slice(&self.piece[start..end]);
                    end = start;
                }
                self.piece.clear();
                reversed
            }
        };
        self.starts.clear();
        self.done.push(piece);
    }

    fn pay(&mut self, bytes: usize) -> Result<(), ListTooLong> {
        let permits = u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        let paid = Arc::clone(&self.budget.permits).try_acquire_many_owned(permits).map_err(|_| ListTooLong::ForNow)?;
        match &mut self.paid {
            Some(before) => before.merge(paid),
            None => self.paid = Some(paid),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn list(order: Order, elements: &[Vec<u8>]) -> Vec<u8> {
        let mut list = ListBuilder::new(order, Budget::new(1 << 30, 1 << 30));
        for element in elements {
            list.push(|bytes| bytes.string(element)).unwrap();
        }
        list.reply().pieces().concat()
    }

    fn expected<'a>(elements: impl ExactSizeIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.i32(code::OK);
        Writer::len(&mut bytes, elements.len());
        elements.for_each(|element| bytes.string(element));
        bytes
    }

    #[test]
    fn a_list_goes_out_in_either_order_however_many_pieces_it_has() {
        for len in [0, 1, 2, 3, 1000] {
            let elements: Vec<Vec<u8>> = (0..len).map(|i: usize| vec![b'x'; i * 7 % 4096]).collect();
            assert_eq!(list(Order::AsFound, &elements), expected(elements.iter()), "{len} as found");
            assert_eq!(list(Order::Reversed, &elements), expected(elements.iter().rev()), "{len} reversed");
        }
    }

    #[test]
    fn a_list_over_the_limit_of_a_reply_is_refused_and_one_at_the_limit_is_not() {
        let mut list = ListBuilder::new(Order::Reversed, Budget::new(1 << 20, 8));
        assert_eq!(list.push(|bytes| bytes.string(b"four")), Ok(false));
        assert_eq!(list.push(|bytes| bytes.string(b"")), Err(ListTooLong::ForOneReply(8)));
    }

    #[test]
    fn long_lists_share_one_budget_and_give_it_back() {
        let budget = Budget::new(2 * PIECE_BYTES, 1 << 30);
        let long = |budget: &Budget| {
            let mut list = ListBuilder::new(Order::Reversed, budget.clone());
            list.push(|bytes| bytes.resize(PIECE_BYTES, 0)).map(|_| list.reply())
        };
        let (first, second) = (long(&budget).unwrap(), long(&budget).unwrap());
        assert_eq!(long(&budget).unwrap_err(), ListTooLong::ForNow);
        drop((first, second));
        assert!(long(&budget).is_ok());
    }

    #[test]
    fn only_what_leaves_the_connection_usable_keeps_it_open() {
        let key = || Bytes::from("k");
        for (closes, reply) in [
            (false, Reply::of_update(Ok(Err(Failure::NotFound { key: key() })))),
            (false, Reply::of_update(Ok(Err(Failure::AssertionFailed { message: key() })))),
            (false, Reply::of_update(Err(UpdateRefused::Overloaded))),
            (false, Reply::of_update(Err(UpdateRefused::OutcomeUnknown))),
            (true, Reply::of_update(Err(UpdateRefused::NotMaster { master: None }))),
            (true, Reply::of_update(Err(UpdateRefused::Stopping))),
            (false, Reply::of_refused_read(&ReadRefused::NotFreshEnough)),
            (true, Reply::of_refused_read(&ReadRefused::NotMaster { master: Some("n1".into()) })),
        ] {
            assert_eq!(reply.closes(), closes, "{reply:?}");
        }
    }

    #[test]
    fn the_refusal_of_a_slave_names_the_master_or_none() {
        let refused =
            |master: Option<&str>| Reply::of_update(Err(UpdateRefused::NotMaster { master: master.map(Into::into) }));
        assert_eq!(refused(Some("n2")).pieces().concat(), b"\x04\0\0\0\x02\0\0\0n2");
        assert_eq!(refused(None).pieces().concat(), b"\x04\0\0\0\x04\0\0\0None");
    }
}
