//! User hooks: what they are given, and what they give back.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::node::{NodeHandle, UpdateRefused};
use crate::store::Snapshot;
use crate::update::{Update, UpdateResult};
use crate::wire::Writer as _;

/// How long a hook may take.
pub const HOOK_TIME_MAX: Duration = Duration::from_secs(30);

/// The longest reply of a hook, in bytes.
pub const HOOK_REPLY_BYTES_MAX: usize = 16 << 20;

/// The work of a user hook; what it fails with is the message that the client gets.
pub type Hook = Arc<dyn Fn(HookCall) -> Pin<Box<dyn Future<Output = Result<HookReply, String>> + Send>> + Send + Sync>;

/// One call of a hook.
pub struct HookCall {
    handle: NodeHandle,
    snapshot: Snapshot,
}

/// The bytes that a hook's client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookReply(pub(crate) Bytes);

impl HookCall {
    pub(crate) fn new(handle: NodeHandle, snapshot: Snapshot) -> Self {
        Self { handle, snapshot }
    }

    /// The store, as fresh as the client asked for.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The node.
    pub fn node(&self) -> &NodeHandle {
        &self.handle
    }

    /// Does an update, if this node is the master. A later snapshot of the node shows it, [`HookCall::snapshot`] does not.
    ///
    /// # Errors
    /// As for [`NodeHandle::update`].
    pub async fn update(&self, update: &Update) -> Result<UpdateResult, UpdateRefused> {
        self.handle.update(update).await
    }
}

impl HookReply {
    /// A success with this string, as the client library reads it.
    pub fn string(text: impl AsRef<[u8]>) -> Self {
        let mut bytes = Vec::with_capacity(8 + text.as_ref().len());
        bytes.i32(0);
        bytes.string(text.as_ref());
        Self(bytes.into())
    }

    /// These very bytes, for a client of your own.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
}
