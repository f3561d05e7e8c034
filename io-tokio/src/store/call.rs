//! Calls of user functions while an update is applied.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::apply::KeyValue;
use super::overlay::Overlay;
use crate::extensions::{Access, FUNCTION_BYTES_MAX, Fault, Function, FunctionError, Transaction, Why};
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
    let mut budget = overlay.budget;
    overlay.has_called = true;
    let mut access = Watched { overlay, error: None };
    let mut transaction = Transaction::new(&mut access, &mut budget);
    // A function that panics does so on every node: it depends on nothing else.
    let called = catch_unwind(AssertUnwindSafe(|| function(&mut transaction, argument)));
    if let Some(error) = access.error {
        return Err(error);
    }
    overlay.budget = budget;
    Ok(match called {
        Ok(Ok(Some(result))) if result.len() > FUNCTION_BYTES_MAX => {
            Err(failed(format!("user function {:?} returned too much", text(name))))
        }
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(failure(error)),
        Err(_) => Err(failed(format!("user function {:?} panicked", text(name)))),
    })
}

/// Charges the functions of this update, if it has called any, with the keys that a range assertion passed over: those
/// may all be what the functions wrote, of which whoever let the update in knew nothing.
pub(super) fn charge_assertion<K: KeyValue>(passed: u64, overlay: &mut Overlay<'_, K>) -> Result<(), Failure> {
    if overlay.has_called { overlay.budget.step(passed).map_err(failure) } else { Ok(()) }
}

fn failure(error: FunctionError) -> Failure {
    match error.0 {
        Why::NotFound(key) => Failure::NotFound { key },
        Why::AssertionFailed(message) => Failure::AssertionFailed { message },
        Why::Failed(message) => failed(short(message)),
        // One that a function kept from an earlier call.
        Why::Store => failed("the store failed".to_owned()),
    }
}

fn failed(message: String) -> Failure {
    Failure::FunctionFailed { message }
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

    fn next_key(&mut self, from: &[u8], passed: &mut u64) -> Result<Option<Bytes>, Fault> {
        let key = self.overlay.next_key(&[], from, passed);
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
