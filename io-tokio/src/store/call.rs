//! Calls of user functions while an update is applied.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::apply::KeyValue;
use super::overlay::Overlay;
use crate::extensions::{Access, CALL_BYTES_MAX, Fault, Function, FunctionError, Transaction, Why};
use crate::update::Failure;

/// The longest message of a function that failed, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Calls a function on the overlay. What a failed one leaves there must be thrown away.
pub(super) fn call<K: KeyValue>(
    name: &Bytes,
    function: &Function,
    argument: Option<Bytes>,
    overlay: &mut Overlay<'_, K>,
) -> Result<Result<Option<Bytes>, Failure>, K::Error> {
    let mut steps_left = overlay.call_steps_left;
    let mut access = Watched { overlay, error: None };
    let mut transaction = Transaction::new(&mut access, &mut steps_left);
    // A function that panics does so on every node: it depends on nothing else.
    let called = catch_unwind(AssertUnwindSafe(|| function(&mut transaction, argument)));
    if let Some(error) = access.error {
        return Err(error);
    }
    overlay.call_steps_left = steps_left;
    let failed = |message: String| Err(Failure::FunctionFailed { message });
    Ok(match called {
        Ok(Ok(Some(result))) if result.len() > CALL_BYTES_MAX => {
            failed(format!("user function {:?} returned too much", text(name)))
        }
        Ok(Ok(result)) => Ok(result),
        Ok(Err(FunctionError(Why::NotFound(key)))) => Err(Failure::NotFound { key }),
        Ok(Err(FunctionError(Why::AssertionFailed(message)))) => Err(Failure::AssertionFailed { message }),
        Ok(Err(FunctionError(Why::Failed(message)))) => failed(short(message)),
        // One that it kept from an earlier call.
        Ok(Err(FunctionError(Why::Store))) => failed("the store failed".to_owned()),
        Err(_) => failed(format!("user function {:?} panicked", text(name))),
    })
}

/// An overlay that remembers how its store failed.
struct Watched<'o, 's, K: KeyValue> {
    overlay: &'o mut Overlay<'s, K>,
    error: Option<K::Error>,
}

impl<K: KeyValue> Watched<'_, '_, K> {
    fn watch<T>(&mut self, result: Result<T, K::Error>) -> Result<T, Fault> {
        result.map_err(|error| {
            self.error.get_or_insert(error);
            Fault
        })
    }
}

impl<K: KeyValue> Access for Watched<'_, '_, K> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let value = self.overlay.get(key);
        self.watch(value)
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        self.overlay.set(key, value);
    }

    fn delete_prefix(&mut self, prefix: &Bytes) {
        self.overlay.delete_prefix(prefix);
    }

    fn next_key(&mut self, from: &[u8]) -> Result<Option<Bytes>, Fault> {
        let key = self.overlay.next_key(&[], from);
        self.watch(key)
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()
}

fn short(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str("...");
    }
    message
}
