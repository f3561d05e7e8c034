//! What the user functions of one update may do altogether.

use super::function::FunctionError;

/// Reads and writes of all function calls in one update, and what these and the range assertions after them pass over on
/// the way: keys that the same update deletes or writes. Part of what an update does: the same on every node.
pub const FUNCTION_STEPS_MAX: u64 = 1 << 20;

/// Bytes that all function calls of one update may write together, and that they may read; also the longest result of a
/// call. Part of what an update does.
pub const FUNCTION_BYTES_MAX: usize = 64 << 20;

/// What is left to the functions of one update. One for the whole of it, since a sequence of a few KiB can call a function
/// a thousand times. What has once run out stays so, however a function takes the error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    steps: u64,
    bytes_to_read: usize,
    bytes_to_write: usize,
}

impl Budget {
    pub(crate) const fn of_an_update() -> Self {
        Self { steps: FUNCTION_STEPS_MAX, bytes_to_read: FUNCTION_BYTES_MAX, bytes_to_write: FUNCTION_BYTES_MAX }
    }

    pub(crate) fn step(&mut self, count: u64) -> Result<(), FunctionError> {
        let left = self.steps.checked_sub(count);
        self.steps = left.unwrap_or(0);
        left.map(drop).ok_or_else(|| FunctionError::failed("too many reads and writes"))
    }

    pub(crate) fn read(&mut self, bytes: usize) -> Result<(), FunctionError> {
        let left = self.bytes_to_read.checked_sub(bytes);
        self.bytes_to_read = left.unwrap_or(0);
        left.map(drop).ok_or_else(|| FunctionError::failed("too much was read"))
    }

    pub(crate) fn write(&mut self, bytes: usize) -> Result<(), FunctionError> {
        let left = self.bytes_to_write.checked_sub(bytes);
        self.bytes_to_write = left.unwrap_or(0);
        left.map(drop).ok_or_else(|| FunctionError::failed("too much was written"))
    }
}
