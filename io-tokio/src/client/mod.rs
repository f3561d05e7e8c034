//! The client: finds the master, follows it, and says of every call that failed whether it happened.
//!
//! ```no_run
//! # async fn example() -> Result<(), trialbay::client::ClientError> {
//! use trialbay::client::{Client, ClientOptions, Sequence};
//!
//! let client = Client::new(ClientOptions::new("dev", ["127.0.0.1:4000", "127.0.0.1:4010", "127.0.0.1:4020"])?)?;
//! client.set("hello", "world").await?;
//! assert_eq!(client.get("hello").await?.as_ref(), b"world");
//! client.sequence(Sequence::new().assert("hello", Some(b"world")).delete("hello")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When a call is tried again
//!
//! A read is tried again until its deadline. An update is tried again only while it is certain that it did not happen:
//! no connection, its bytes never handed to the network, or a node that says so (not the master, overloaded, going
//! down). Once a master may have it, a lost connection, a lost mastership or a deadline makes the call
//! [`ClientError::OutcomeUnknown`], and the client does not send it again.

mod attempts;
mod backup;
mod cluster;
mod connection;
mod dial;
mod error;
mod flight;
mod nursery;
mod options;
mod range;
pub(crate) mod reply;
pub(crate) mod request;
mod sequence;
mod statistics;
mod status;
mod transaction;

#[cfg(test)]
mod bytes_on_the_wire;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::dial::{Dial, Dialling, Halves, TcpDial};
pub use self::error::{ClientError, Happened};
pub use self::nursery::Fringe;
pub use self::options::{ClientOptions, Endpoint};
pub use self::range::{Entry, KeyRange};
pub use self::sequence::Sequence;
pub use self::statistics::{SeriesView, Statistics};
pub use self::status::{HeadView, LogView, Master, NodeReport, NodeStatus, PeerView, Version};
pub use self::transaction::Transaction;

use self::cluster::{Cluster, Found};
use self::reply::{Payload, Reply, Shape, code, one_for_each, reversed};
use self::request::{Builder, Command, Request, Target, node_status, who_master};
use crate::consistency::Consistency;
use crate::wire::{Malformed, Reader};

/// A client of one cluster. Clones share its connections; any number of calls may be under way at once.
///
/// Connections are made when they are needed, on the tokio runtime of the call that needs them. Every call ends within
/// its deadline; see [`Client::with_timeout`].
#[derive(Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
    timeout: Duration,
    /// The one endpoint to talk to, whoever is master.
    pinned: Option<usize>,
}

impl Client {
    /// A client that has not connected to anything yet.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when the options make no sense.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        Self::with_dial(options, Arc::new(TcpDial))
    }

    /// As [`Client::new`], for a cluster that is not reached by the machine's own TCP.
    ///
    /// # Errors
    /// As for [`Client::new`].
    pub fn with_dial(options: ClientOptions, dial: Arc<dyn Dial>) -> Result<Self, ClientError> {
        options.check()?;
        Ok(Self { timeout: options.timeout, cluster: Arc::new(Cluster::new(options, dial)), pinned: None })
    }

    /// The same client with another deadline for each call, retries included.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, talking to this endpoint only, whoever is master. Its calls are not tried again.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when the options do not name that endpoint.
    pub fn at(&self, endpoint: &str) -> Result<Self, ClientError> {
        let endpoint = self.cluster.options.index_of(endpoint)?;
        Ok(Self { pinned: Some(endpoint), ..self.clone() })
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.cluster.options
    }

    /// The value of a key, as of now.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Bytes, ClientError> {
        self.get_with(key, Consistency::Consistent).await
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such key.
    pub async fn get_with(&self, key: impl AsRef<[u8]>, consistency: Consistency) -> Result<Bytes, ClientError> {
        let key = key.as_ref();
        let request = Builder::read(Command::Get, consistency).string(key).query(Shape::Text, consistency)?;
        let reply = self.call(&request, Payload::text).await;
        // The node's message names no key here.
        reply.map_err(|error| match error {
            ClientError::NotFound { .. } => ClientError::NotFound { key: Bytes::copy_from_slice(key) },
            error => error,
        })
    }

    /// Whether a key exists, as of now.
    pub async fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        self.exists_with(key, Consistency::Consistent).await
    }

    /// Whether a key exists.
    pub async fn exists_with(&self, key: impl AsRef<[u8]>, consistency: Consistency) -> Result<bool, ClientError> {
        let request = Builder::read(Command::Exists, consistency).string(key).query(Shape::Bool, consistency)?;
        self.call(&request, Payload::bool).await
    }

    /// The values of several keys, in the order of the keys, as of one moment.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] with one of the missing keys, when any is missing.
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        consistency: Consistency,
    ) -> Result<Vec<Bytes>, ClientError> {
        let (builder, count) = Builder::read(Command::MultiGet, consistency).strings(keys);
        let request = builder.query(Shape::Texts, consistency)?;
        self.call(&request, |payload| one_for_each(payload.texts()?, count).map(reversed)).await
    }

    /// The values of several keys, in the order of the keys, `None` for each that is missing, as of one moment.
    pub async fn multi_get_option<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        consistency: Consistency,
    ) -> Result<Vec<Option<Bytes>>, ClientError> {
        let (builder, count) = Builder::read(Command::MultiGetOption, consistency).strings(keys);
        let request = builder.query(Shape::OptionTexts, consistency)?;
        self.call(&request, |payload| one_for_each(payload.option_texts()?, count)).await
    }

    /// The keys in a range, ascending.
    pub async fn range(&self, range: &KeyRange, consistency: Consistency) -> Result<Vec<Bytes>, ClientError> {
        let request = Builder::read(Command::Range, consistency).ascending(range).query(Shape::Texts, consistency)?;
        self.call(&request, |payload| payload.texts().map(reversed)).await
    }

    /// The keys in a range and their values, ascending.
    pub async fn range_entries(&self, range: &KeyRange, consistency: Consistency) -> Result<Vec<Entry>, ClientError> {
        let builder = Builder::read(Command::RangeEntries, consistency).ascending(range);
        let request = builder.query(Shape::Entries, consistency)?;
        self.call(&request, |payload| payload.entries().map(reversed)).await
    }

    /// The keys in a range and their values, descending: a maximum keeps the largest keys.
    pub async fn rev_range_entries(
        &self,
        range: &KeyRange,
        consistency: Consistency,
    ) -> Result<Vec<Entry>, ClientError> {
        let builder = Builder::read(Command::RevRangeEntries, consistency).descending(range);
        let request = builder.query(Shape::Entries, consistency)?;
        self.call(&request, |payload| payload.entries().map(reversed)).await
    }

    /// The keys that begin with a prefix, ascending, `max` of them at most.
    pub async fn prefix_keys(
        &self,
        prefix: impl AsRef<[u8]>,
        max: Option<u32>,
        consistency: Consistency,
    ) -> Result<Vec<Bytes>, ClientError> {
        let builder = Builder::read(Command::PrefixKeys, consistency).string(prefix).max(max);
        let request = builder.query(Shape::Texts, consistency)?;
        self.call(&request, |payload| payload.texts().map(reversed)).await
    }

    /// Succeeds if a key has this value (or is absent, with `None`).
    ///
    /// # Errors
    /// [`ClientError::AssertionFailed`] otherwise.
    pub async fn assert(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        consistency: Consistency,
    ) -> Result<(), ClientError> {
        let builder = Builder::read(Command::Assert, consistency).string(key).option(expected);
        self.call(&builder.query(Shape::Unit, consistency)?, unit).await
    }

    /// Succeeds if a key exists.
    ///
    /// # Errors
    /// [`ClientError::AssertionFailed`] otherwise.
    pub async fn assert_exists(&self, key: impl AsRef<[u8]>, consistency: Consistency) -> Result<(), ClientError> {
        let request = Builder::read(Command::AssertExists, consistency).string(key).query(Shape::Unit, consistency)?;
        self.call(&request, unit).await
    }

    /// How many keys there are, as of now.
    pub async fn get_key_count(&self) -> Result<u64, ClientError> {
        let request = Request::plain(Command::GetKeyCount, Shape::I64, Target::Master);
        self.call(&request, |payload| payload.i64().map(i64::unsigned_abs)).await
    }

    /// Sets a key, whatever was there.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), ClientError> {
        self.call(&Builder::new(Command::Set).string(key).string(value).update(Shape::Unit)?, unit).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no such key.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), ClientError> {
        self.call(&Builder::new(Command::Delete).string(key).update(Shape::Unit)?, unit).await
    }

    /// Sets a key unless it has that value already, in which case nothing is written.
    pub async fn confirm(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), ClientError> {
        self.call(&Builder::new(Command::Confirm).string(key).string(value).update(Shape::Unit)?, unit).await
    }

    /// Sets a key (or deletes it, with `None`) only if it has the expected value (or is absent, with `None`). Gives the
    /// value before: it was set if that is the expected one.
    pub async fn test_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        wanted: Option<&[u8]>,
    ) -> Result<Option<Bytes>, ClientError> {
        let builder = Builder::new(Command::TestAndSet).string(key).option(expected).option(wanted);
        self.call(&builder.update(Shape::OptionText)?, Payload::option_text).await
    }

    /// Sets a key, or deletes it (with `None`) if it is there. Gives the value before.
    pub async fn replace(&self, key: impl AsRef<[u8]>, wanted: Option<&[u8]>) -> Result<Option<Bytes>, ClientError> {
        let request = Builder::new(Command::Replace).string(key).option(wanted).update(Shape::OptionText)?;
        self.call(&request, Payload::option_text).await
    }

    /// Deletes every key that begins with a prefix, and gives their number.
    pub async fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u32, ClientError> {
        self.call(&Builder::new(Command::DeletePrefix).string(prefix).update(Shape::I32)?, Payload::u32).await
    }

    /// Does all the updates of a sequence, or none.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] (a delete) and [`ClientError::AssertionFailed`] (an assertion): nothing was changed.
    pub async fn sequence(&self, sequence: Sequence) -> Result<(), ClientError> {
        self.call(&request::sequence(Command::Sequence, sequence.into_updates())?, unit).await
    }

    /// The same as [`Client::sequence`] on Trialbay's nodes, which sync every update. On the original's, asks for a sync.
    pub async fn synced_sequence(&self, sequence: Sequence) -> Result<(), ClientError> {
        self.call(&request::sequence(Command::SyncedSequence, sequence.into_updates())?, unit).await
    }

    /// Calls a user function, which the program that runs the nodes must have, and gives what it returns.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is no such function, or when it fails; nothing was changed then.
    pub async fn user_function(
        &self,
        name: impl AsRef<[u8]>,
        argument: Option<&[u8]>,
    ) -> Result<Option<Bytes>, ClientError> {
        let request = Builder::new(Command::UserFunction).string(name).option(argument).update(Shape::OptionText)?;
        self.call(&request, Payload::option_text).await
    }

    /// Calls a user hook that replies with a string.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is no such hook or when it fails, [`ClientError::OutcomeUnknown`] when the reply was lost:
    /// a hook may do updates, and is not called twice.
    pub async fn user_hook(&self, name: impl AsRef<[u8]>, consistency: Consistency) -> Result<Bytes, ClientError> {
        let request = Builder::read(Command::UserHook, consistency).string(name).query(Shape::Text, consistency)?;
        self.call(&Request { is_update: true, ..request }, Payload::text).await
    }

    /// Changes nothing, by a slot of its own: succeeds only if updates do.
    pub async fn nop(&self) -> Result<(), ClientError> {
        self.call(&Builder::new(Command::Nop).update(Shape::Unit)?, unit).await
    }

    /// Has another node become master, and waits until it has: some milliseconds in a cluster where all is well, four
    /// leases at the most. The one that was master goes on as a slave, and does not take mastership back for two leases.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when no other node could take over, with what kept each of them, and in a cluster of one.
    pub async fn drop_master(&self) -> Result<(), ClientError> {
        self.call(&request::drop_master(), unit).await
    }

    /// How far the master is, to be given to later reads from any node: they see at least all that it has applied now.
    pub async fn get_txid(&self) -> Result<Consistency, ClientError> {
        self.call(&Request::plain(Command::GetTxid, Shape::Txid, Target::Master), Payload::consistency).await
    }

    /// Greets a node, which gives the name and version of its program.
    pub async fn hello(&self, client_id: &str) -> Result<String, ClientError> {
        let cluster_id = &self.cluster.options.cluster_id;
        let builder = Builder::new(Command::Hello).string(client_id).string(cluster_id);
        self.call(&builder.query(Shape::Text, Consistency::NoGuarantees)?, Payload::lossy).await
    }

    /// The version of a node.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.call(&Request::plain(Command::Version, Shape::Version, Target::Any), Payload::version).await
    }

    /// Whether enough nodes are in step for updates to be decided, as a node sees it.
    pub async fn expect_progress_possible(&self) -> Result<bool, ClientError> {
        let request = Request::plain(Command::ExpectProgressPossible, Shape::Bool, Target::Any);
        self.call(&request, Payload::bool).await
    }

    /// What a node is doing, in the original's words.
    pub async fn current_state(&self) -> Result<String, ClientError> {
        self.call(&Request::plain(Command::CurrentState, Shape::Text, Target::Any), Payload::lossy).await
    }

    /// Whom a node takes for the master. [`Client::find_master`] asks them all.
    pub async fn who_master(&self) -> Result<Option<String>, ClientError> {
        let name = self.call(&who_master(), Payload::option_text).await?;
        Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// The node that takes itself for the master; `None` when there is none now. Asks once, and does not wait for one.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when no node answers.
    pub async fn find_master(&self) -> Result<Option<Master>, ClientError> {
        match tokio::time::timeout(self.timeout, self.cluster.find_master()).await {
            Ok(Found::Master(endpoint, name)) => Ok(Some(Master { name, endpoint: self.cluster.address(endpoint) })),
            Ok(Found::Nobody(_) | Found::Elsewhere(_)) => Ok(None),
            Ok(Found::Unreachable(tried)) => Err(ClientError::Unreachable { tried }),
            Err(_) => Err(ClientError::DidNotHappen { why: format!("no answer within {:?}", self.timeout) }),
        }
    }

    /// How one node is.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when the options do not name that endpoint.
    pub async fn node_status(&self, endpoint: &str) -> Result<NodeStatus, ClientError> {
        let client = self.at(endpoint)?;
        let json = client.call(&node_status(), Payload::text).await?;
        serde_json::from_slice(&json).map_err(|error| ClientError::Protocol {
            endpoint: endpoint.to_owned(),
            why: format!("its status: {error}"),
            happened: Happened::No,
        })
    }

    /// What one node has measured of the requests that it served.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when the options do not name that endpoint.
    pub async fn statistics(&self, endpoint: &str) -> Result<Statistics, ClientError> {
        let request = Request::plain(Command::Statistics, Shape::Text, Target::Any);
        self.at(endpoint)?.call(&request, |payload| Statistics::decode(&mut Reader(payload.text()?))).await
    }

    /// Has a node make durable all that its store has applied.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when the options do not name that endpoint; so for all that is done for one node's store.
    pub async fn flush_store(&self, endpoint: &str) -> Result<(), ClientError> {
        self.at(endpoint)?.call(&Request::plain(Command::FlushStore, Shape::Unit, Target::Any), unit).await
    }

    /// Has a slave give back what its store's file does not need. It answers no reads until it is done.
    ///
    /// # Errors
    /// [`ClientError::Refused`] by the master.
    pub async fn compact_store(&self, endpoint: &str) -> Result<(), ClientError> {
        self.at(endpoint)?.call(&Request::plain(Command::DefragDb, Shape::Unit, Target::Any), unit).await
    }

    /// How every node is, in the order of the endpoints. All are asked at once.
    pub async fn cluster_status(&self) -> Vec<NodeReport> {
        let asked = self.cluster.options.endpoints.iter().map(|endpoint| {
            let (client, endpoint) = (self.clone(), endpoint.address.clone());
            let answer = tokio::spawn({
                let endpoint = endpoint.clone();
                async move { client.node_status(&endpoint).await }
            });
            (endpoint, answer)
        });
        let mut reports = Vec::new();
        for (endpoint, answer) in asked.collect::<Vec<_>>() {
            let stopped = |_| Err(ClientError::DidNotHappen { why: "the runtime of the client stopped".to_owned() });
            reports.push(NodeReport { endpoint, status: answer.await.unwrap_or_else(stopped) });
        }
        reports
    }

    async fn call<T>(
        &self,
        request: &Request,
        read: impl FnOnce(Payload) -> Result<T, Malformed>,
    ) -> Result<T, ClientError> {
        let len_max = self.cluster.options.in_flight_bytes_max;
        if request.bytes.len() > len_max {
            let why = format!("a request of {} bytes is over in_flight_bytes_max, {len_max}", request.bytes.len());
            return Err(ClientError::InvalidArgument { why });
        }
        let (reply, endpoint) = self.cluster.call(request, self.pinned, self.timeout).await?;
        if reply.code != code::OK {
            return Err(refusal(&reply, request.shape));
        }
        read(Payload(Reader(reply.body)))
            .map_err(|malformed| self.cluster.protocol_error(request, endpoint, malformed.to_string()))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.cluster.options).field("timeout", &self.timeout).finish()
    }
}

fn unit(_: Payload) -> Result<(), Malformed> {
    Ok(())
}

fn refusal(reply: &Reply, shape: Shape) -> ClientError {
    let message = reply.message();
    match reply.code {
        // A node that does not know the command says so with the same number, and closes.
        code::NOT_FOUND if !reply.closes(shape) => ClientError::NotFound { key: message },
        code::ASSERTION_FAILED => ClientError::AssertionFailed { message },
        code => ClientError::Refused { code, message: String::from_utf8_lossy(&message).into_owned() },
    }
}
