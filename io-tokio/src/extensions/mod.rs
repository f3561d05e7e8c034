//! What a program that embeds a node adds to it: user functions, which are updates of its own, and user hooks, which are
//! requests of its own.
//!
//! ```
//! use trialbay::extensions::{Extensions, FunctionError, HookReply};
//!
//! let extensions = Extensions::new()
//!     .function("increment", |transaction, _argument| {
//!         let before = transaction.get(b"counter")?;
//!         let text = before.as_deref().map(std::str::from_utf8).transpose();
//!         let count: u64 = match text {
//!             Ok(text) => text.unwrap_or("0").parse().map_err(|_| FunctionError::failed("not a number"))?,
//!             Err(_) => return Err(FunctionError::failed("not a text")),
//!         };
//!         let after = (count + 1).to_string();
//!         transaction.set(b"counter", after.as_bytes())?;
//!         Ok(Some(after.into()))
//!     })
//!     .hook("keys", async |call| {
//!         let keys = call.snapshot().len().map_err(|error| error.to_string())?;
//!         Ok(HookReply::string(keys.to_string()))
//!     });
//! assert!(extensions.has_function(b"increment"));
//! ```

mod budget;
mod function;
mod hook;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use self::budget::Budget;
pub use self::budget::{FUNCTION_BYTES_MAX, FUNCTION_STEPS_MAX};
pub(crate) use self::function::{Access, Fault, Why};
pub use self::function::{Function, FunctionError, Transaction};
pub use self::hook::{HOOK_REPLY_BYTES_MAX, HOOK_TIME_MAX, Hook, HookCall, HookReply};

/// The user functions and hooks of a node, by their names. Cheap to clone.
///
/// All nodes of a cluster must have the same functions, and each must do the same for ever: what is in the log is done
/// again whenever a node recovers. Add a function to all nodes before the first call. A node that finds a function in the log that it does
/// not have stops.
#[derive(Clone, Default)]
pub struct Extensions {
    functions: Arc<BTreeMap<Bytes, Function>>,
    hooks: Arc<BTreeMap<Bytes, Hook>>,
}

impl Extensions {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with a user function. Of two with the same name the later counts.
    ///
    /// It must depend on nothing but its argument and what it reads: no clock, no chance, no order of a hash map, nothing that
    /// the process keeps. Each node calls it, in the one place where it applies updates, and applies nothing else meanwhile. If it fails or
    /// panics, the update that called it (the whole sequence) changes nothing, and who sent it is told.
    #[must_use]
    pub fn function<F>(mut self, name: impl AsRef<[u8]>, function: F) -> Self
    where
        F: Fn(&mut Transaction<'_>, Option<Bytes>) -> Result<Option<Bytes>, FunctionError> + Send + Sync + 'static,
    {
        Arc::make_mut(&mut self.functions).insert(Bytes::copy_from_slice(name.as_ref()), Arc::new(function));
        self
    }

    /// The same, with a user hook. Of two with the same name the later counts.
    ///
    /// It runs on the one node that was asked. A hook that takes longer than [`HOOK_TIME_MAX`] is dropped where it waits.
    #[must_use]
    pub fn hook<H, F>(mut self, name: impl AsRef<[u8]>, hook: H) -> Self
    where
        H: Fn(HookCall) -> F + Send + Sync + 'static,
        F: Future<Output = Result<HookReply, String>> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |call| Box::pin(hook(call)));
        Arc::make_mut(&mut self.hooks).insert(Bytes::copy_from_slice(name.as_ref()), hook);
        self
    }

    /// Whether there is a function of this name.
    pub fn has_function(&self, name: &[u8]) -> bool {
        self.functions.contains_key(name)
    }

    pub(crate) fn function_named(&self, name: &[u8]) -> Option<&Function> {
        self.functions.get(name)
    }

    pub(crate) fn hook_named(&self, name: &[u8]) -> Option<&Hook> {
        self.hooks.get(name)
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { functions, hooks } = self;
        f.debug_struct("Extensions").field("functions", &functions.keys()).field("hooks", &hooks.keys()).finish()
    }
}
