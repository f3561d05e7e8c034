//! What each request does, and the reply that it gets.

use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::ServiceOptions;
use super::pipeline::{Company, Execution};
use super::reply::{Budget, ListBuilder, ListTooLong, Order, Reply, code};
use super::request::{Keys, Question, Read, Refused, Request, Scan};
use super::statistics::{Counting, Kind, Statistics};
use crate::backup::Backup;
use crate::consistency::Consistency;
use crate::extensions::{HOOK_REPLY_BYTES_MAX, HOOK_TIME_MAX, HookCall, HookReply};
use crate::node::handle::function_not_found;
use crate::node::{MaintenanceRefused, NodeHandle};
use crate::store::{Snapshot, StoreError};
use crate::update::{Admin, Interval, Update, encode_command};
use crate::wire::Writer;
use crate::workers::caught;

/// After so many elements of a list, others may run.
const ELEMENTS_PER_TURN: usize = 1024;

/// So much of one end of the keys is given at a time, in bytes of keys and values.
const FRINGE_BYTES: usize = 1 << 20;

/// What the connections of one service share.
pub(crate) struct Context {
    pub(crate) handle: NodeHandle,
    pub(crate) options: ServiceOptions,
    pub(crate) budget: Budget,
    pub(crate) statistics: Arc<Statistics>,
    /// So many more backups may be made at a time.
    pub(crate) backups: Arc<Semaphore>,
}

/// What the requests of one connection share.
pub(crate) struct Session {
    context: Arc<Context>,
    counting: Counting,
}

/// Why a list was not finished.
enum Unfinished {
    TooLong(ListTooLong),
    Missing(Bytes),
    Store(StoreError),
}

/// The work of one request of this code, and with which others it may be under way.
pub(crate) fn begin(request: Request, code: u16, session: &Arc<Session>) -> (Company, Execution) {
    let session = Arc::clone(session);
    let kind = Kind::of_command(code);
    match request {
        Request::Update { command, functions } => {
            if let Some(name) = session.context.handle.unknown_function(&functions) {
                let refused = Refused::UnknownFunction { name: name.clone() };
                return (Company::Updates, Box::pin(ready(refused.reply())));
            }
            let value_bytes = (kind == Some(Kind::Set)).then(|| set_value_bytes(&command));
            let work = async move {
                let update = async { Reply::of_update(session.context.handle.propose(command).await) };
                session.measured(kind, value_bytes, update).await
            };
            (Company::Updates, Box::pin(work))
        }
        Request::Confirm { key, value } => {
            (Company::Nobody, Box::pin(async move { session.context.confirm(key, value).await }))
        }
        Request::Read { consistency, read } => {
            let company = match read {
                // These may need much memory, so a connection has one of them at a time.
                Read::Scan(_) | Read::Fringe(_) | Read::MultiGet { .. } | Read::MultiGetOption { .. } => {
                    Company::Nobody
                }
                // It may do updates.
                Read::UserHook { .. } => Company::Nobody,
                Read::Exists { .. }
                | Read::Get { .. }
                | Read::Assert { .. }
                | Read::AssertExists { .. }
                | Read::KeyCount
                | Read::Interval
                | Read::Routing
                | Read::NurseryConfig => Company::Reads,
            };
            let work = async move { session.measured(kind, None, session.context.read(consistency, read)).await };
            (company, Box::pin(work))
        }
        Request::Question(question) => {
            // What was asked before is counted, and done.
            let company = match question {
                Question::Statistics
                | Question::FlushStore
                | Question::CompactStore
                | Question::Backup
                | Question::Collapse { .. }
                | Question::CopyToHead { .. } => Company::Nobody,
                _ => Company::Reads,
            };
            (company, Box::pin(async move { session.context.answer(question).await }))
        }
        Request::DropMaster => {
            (Company::Nobody, Box::pin(async move { Reply::of_drop(session.context.handle.drop_master().await) }))
        }
        Request::Refused(refused) => (Company::Reads, Box::pin(ready(refused.reply()))),
    }
}

impl Session {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { counting: context.statistics.join(), context }
    }

    /// Does the work and, if it succeeds, counts it. Its size is that of its reply, unless it is known before.
    async fn measured(&self, kind: Option<Kind>, size: Option<u32>, work: impl Future<Output = Reply>) -> Reply {
        let Some(kind) = kind else { return work.await };
        let began = self.context.handle.now();
        let reply = work.await;
        if let Some(reply_size) = reply.size() {
            self.counting.record(kind, self.context.handle.now().since(began), size.unwrap_or(reply_size));
        }
        reply
    }
}

impl Context {
    async fn answer(&self, question: Question) -> Reply {
        match question {
            Question::Ping { cluster_id } if cluster_id == self.handle.cluster_id().as_bytes() => {
                Reply::string(concat!("Trialbay ", env!("CARGO_PKG_VERSION")).as_bytes())
            }
            Question::Ping { .. } => {
                let message = format!("this is cluster {}", self.handle.cluster_id());
                Reply::error(code::WRONG_CLUSTER, message)
            }
            Question::WhoMaster => {
                Reply::ok(|bytes| bytes.option_string(self.handle.master_name().as_deref().map(str::as_bytes)))
            }
            Question::Version => version(),
            Question::CurrentState => match self.handle.status().await {
                Some(status) => Reply::string(original_state(&status.role).as_bytes()),
                None => no_answer(),
            },
            Question::ProgressPossible => match self.handle.status().await {
                Some(status) => Reply::ok(|bytes| bytes.bool(status.progress_possible)),
                None => no_answer(),
            },
            Question::Status => match self.handle.status().await {
                Some(status) => match serde_json::to_vec(&status) {
                    Ok(json) => Reply::string(&json),
                    Err(error) => Reply::error(code::UNKNOWN_FAILURE, error.to_string()),
                },
                None => no_answer(),
            },
            Question::Statistics => self.statistics.reply(&self.handle).await.unwrap_or_else(no_answer),
            Question::TxId => Reply::ok(|bytes| {
                bytes.push(2);
                bytes.i64(i64::try_from(self.handle.applied().0).unwrap_or(i64::MAX));
            }),
            Question::FlushStore => Reply::of_maintenance(self.handle.flush_store().await, |_| ()),
            Question::Backup => self.backup().await,
            Question::CompactStore => Reply::of_maintenance(self.handle.compact_store().await, |_| ()),
            Question::Collapse { keep } if keep < 1 => {
                Reply::error(code::UNKNOWN_FAILURE, format!("{keep} is not acceptable")).and_close()
            }
            Question::Collapse { .. } => {
                let steps = self.handle.collapse_log().await;
                Reply::of_maintenance(steps, |bytes| bytes.i32(0))
            }
            Question::CopyToHead { keep } if keep < 1 => {
                Reply::error(code::UNKNOWN_FAILURE, format!("tlogs_to_keep={keep} is not acceptable")).and_close()
            }
            Question::CopyToHead { .. } if self.handle.is_master() => {
                Reply::of_maintenance::<()>(Err(MaintenanceRefused::OnMaster), |_| ())
            }
            Question::CopyToHead { .. } => Reply::of_maintenance(self.handle.flush_store().await, |_| ()),
        }
    }

    /// The value is read first, so that what is there already costs no slot.
    async fn confirm(&self, key: bytes::Bytes, value: Bytes) -> Reply {
        if let Some(refused) = self.handle.refuses_updates() {
            return Reply::of_update(Err(refused));
        }
        let there = match self.handle.snapshot(Consistency::Consistent).await {
            Ok(snapshot) => snapshot.get(&key),
            Err(refused) => return Reply::of_refused_read(&refused),
        };
        match there {
            Ok(Some(there)) if there == value => Reply::unit(),
            Ok(_) => {
                let command = encode_command(&Update::Set { key, value });
                Reply::of_update(self.handle.propose(command).await)
            }
            Err(error) => store_failed(&error),
        }
    }

    async fn read(&self, consistency: Consistency, read: Read) -> Reply {
        let snapshot = match self.handle.snapshot(consistency).await {
            Ok(snapshot) => snapshot,
            Err(refused) => return Reply::of_refused_read(&refused),
        };
        if let Some(key) = read.outside(snapshot.admin().interval()) {
            return Reply::error(code::OUTSIDE_INTERVAL, key).and_close();
        }
        let reply = match read {
            Read::Get { key } => snapshot.get(&key).map(|value| match value {
                Some(value) => Reply::string(value.as_ref()),
                None => Reply::error(code::NOT_FOUND, "Not_found"),
            }),
            Read::Exists { key } => snapshot.contains(&key).map(|exists| Reply::ok(|bytes| bytes.bool(exists))),
            Read::Assert { key, expected } => snapshot.get(&key).map(|value| asserted(value == expected, &key)),
            Read::AssertExists { key } => snapshot.contains(&key).map(|exists| asserted(exists, &key)),
            Read::KeyCount => {
                snapshot.len().map(|keys| Reply::ok(|bytes| bytes.i64(i64::try_from(keys).unwrap_or(i64::MAX))))
            }
            Read::UserHook { name } => return self.user_hook(&name, snapshot).await,
            Read::MultiGet { keys } => return or_why_not(self.multi_get(&snapshot, &keys).await),
            Read::MultiGetOption { keys } => return or_why_not(self.multi_get_option(&snapshot, &keys).await),
            Read::Scan(scan) => return or_why_not(self.scan(&snapshot, &scan).await),
            Read::Fringe(scan) => return or_why_not(self.fringe(&snapshot, &scan).await),
            Read::Interval => Ok(Reply::ok(|bytes| snapshot.admin().interval().encode(bytes))),
            Read::Routing => Ok(routing(snapshot.admin(), |_| ())),
            Read::NurseryConfig => Ok(routing(snapshot.admin(), |bytes| configs(snapshot.admin(), bytes))),
        };
        reply.unwrap_or_else(|error| store_failed(&error))
    }

    /// Of what this node has, master or not.
    async fn backup(&self) -> Reply {
        let Ok(permit) = Arc::clone(&self.backups).try_acquire_owned() else {
            return Reply::error(code::OVERLOADED, "other backups are being made: try again later");
        };
        let snapshot = match self.handle.snapshot(Consistency::NoGuarantees).await {
            Ok(snapshot) => snapshot,
            Err(refused) => return Reply::of_refused_read(&refused),
        };
        match Backup::begin(snapshot, self.handle.cluster_id(), permit).await {
            Ok((backup, len)) => Reply::ok(|bytes| bytes.i64(i64::try_from(len).unwrap_or(i64::MAX))).and_then(backup),
            Err(error) => store_failed(&error),
        }
    }

    /// What it replies is its own affair; that there is a reply is ours.
    async fn user_hook(&self, name: &Bytes, snapshot: Snapshot) -> Reply {
        let Some(hook) = self.handle.extensions().hook_named(name) else {
            return Reply::error(code::USERHOOK_NOT_FOUND, name).and_close();
        };
        let call = caught(async { hook(HookCall::new(self.handle.clone(), snapshot)).await });
        let why = match tokio::time::timeout(HOOK_TIME_MAX, call).await {
            Ok(Some(Ok(HookReply(bytes)))) if bytes.len() <= HOOK_REPLY_BYTES_MAX => return Reply::raw(bytes.into()),
            Ok(Some(Ok(_))) => "the hook's reply is too long".to_owned(),
            Ok(Some(Err(why))) => why,
            Ok(None) => "the hook panicked".to_owned(),
            Err(_) => "the hook took too long".to_owned(),
        };
        Reply::error(code::UNKNOWN_FAILURE, why).and_close()
    }

    async fn multi_get(&self, snapshot: &Snapshot, keys: &Keys) -> Result<Reply, Unfinished> {
        let mut list = ListBuilder::new(Order::Reversed, self.budget.clone());
        for key in keys.iter() {
            let value = snapshot.get(&key)?.ok_or(Unfinished::Missing(key))?;
            let full = list.push(|bytes| bytes.string(&value))?;
            end_of_turn(full, &list).await;
        }
        Ok(list.reply())
    }

    async fn multi_get_option(&self, snapshot: &Snapshot, keys: &Keys) -> Result<Reply, Unfinished> {
        let mut list = ListBuilder::new(Order::AsFound, self.budget.clone());
        for key in keys.iter() {
            let value = snapshot.get(&key)?;
            let full = list.push(|bytes| bytes.option_string(value.as_deref()))?;
            end_of_turn(full, &list).await;
        }
        Ok(list.reply())
    }

    /// One entry at least, and no more behind the one with which there is enough.
    async fn fringe(&self, snapshot: &Snapshot, scan: &Scan) -> Result<Reply, Unfinished> {
        let mut list = ListBuilder::new(Order::Reversed, self.budget.clone());
        let mut bytes = 0;
        for found in snapshot.range(&scan.range, scan.direction)? {
            let (key, value) = found?;
            let full = list.push(|bytes| {
                bytes.string(&key);
                bytes.string(&value);
            })?;
            bytes += key.len() + value.len();
            if bytes >= FRINGE_BYTES {
                break;
            }
            end_of_turn(full, &list).await;
        }
        Ok(list.reply())
    }

    /// Lists go out backwards: clients put each element before those that they have read.
    async fn scan(&self, snapshot: &Snapshot, scan: &Scan) -> Result<Reply, Unfinished> {
        let mut list = ListBuilder::new(Order::Reversed, self.budget.clone());
        let max = scan.max.unwrap_or(usize::MAX);
        if scan.with_values {
            for found in snapshot.range(&scan.range, scan.direction)?.take(max) {
                let (key, value) = found?;
                let full = list.push(|bytes| {
                    bytes.string(&key);
                    bytes.string(&value);
                })?;
                end_of_turn(full, &list).await;
            }
        } else {
            for key in snapshot.keys(&scan.range, scan.direction)?.take(max) {
                let key = key?;
                let full = list.push(|bytes| bytes.string(&key))?;
                end_of_turn(full, &list).await;
            }
        }
        Ok(list.reply())
    }
}

/// How long the value is that this command, a set, has.
fn set_value_bytes(command: &[u8]) -> u32 {
    let length = |at: usize| command.get(at..)?.first_chunk::<4>().map(|length| u32::from_le_bytes(*length));
    // Behind the command's header and the update's tag.
    let key_bytes = length(6).unwrap_or(0) as usize;
    length(10 + key_bytes).unwrap_or(0)
}

impl Refused {
    fn reply(&self) -> Reply {
        match self {
            Self::NotASequence => Reply::error(code::BAD_INPUT, "should have been a sequence"),
            Self::NotAnUpdate(why) => Reply::error(code::BAD_INPUT, why.to_string()),
            Self::TooLarge(why) => Reply::error(code::BAD_INPUT, why.to_string()),
            Self::UnknownFunction { name } => Reply::error(code::BAD_INPUT, function_not_found(name)),
        }
    }
}

impl Read {
    /// The key that it names and this cluster does not have. Only these reads look.
    fn outside(&self, interval: &Interval) -> Option<&Bytes> {
        let named = match self {
            Self::Get { key } => [Some(key), None],
            Self::Scan(scan) if scan.is_prefix => [scan.range.first.as_ref(), None],
            Self::Scan(scan) => [scan.range.first.as_ref(), scan.range.last.as_ref()],
            _ => [None, None],
        };
        named.into_iter().flatten().find(|key| !interval.admits(key))
    }
}

/// A string with the routing and what else is written behind it.
fn routing(admin: &Admin, more: impl FnOnce(&mut Vec<u8>)) -> Reply {
    let Some(routing) = admin.routing() else { return Reply::error(code::NOT_FOUND, "Not_found") };
    let mut bytes = Vec::new();
    routing.encode(&mut bytes);
    more(&mut bytes);
    Reply::string(&bytes)
}

fn configs(admin: &Admin, out: &mut Vec<u8>) {
    Writer::len(out, admin.configs().count());
    for (cluster_id, config) in admin.configs() {
        out.string(cluster_id);
        config.encode(out);
    }
}

impl From<StoreError> for Unfinished {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ListTooLong> for Unfinished {
    fn from(too_long: ListTooLong) -> Self {
        Self::TooLong(too_long)
    }
}

/// Lets others run after a piece, or after many small elements: a list of millions must not hold up a whole thread.
async fn end_of_turn(piece_is_full: bool, list: &ListBuilder) {
    if piece_is_full || list.count().is_multiple_of(ELEMENTS_PER_TURN) {
        tokio::task::yield_now().await;
    }
}

fn or_why_not(list: Result<Reply, Unfinished>) -> Reply {
    list.unwrap_or_else(|why| match why {
        Unfinished::TooLong(why) => why.reply(),
        Unfinished::Missing(key) => Reply::error(code::NOT_FOUND, key),
        Unfinished::Store(error) => store_failed(&error),
    })
}

fn asserted(holds: bool, key: &[u8]) -> Reply {
    if holds { Reply::unit() } else { Reply::error(code::ASSERTION_FAILED, key) }
}

fn store_failed(error: &StoreError) -> Reply {
    tracing::error!(%error, "a read failed in the store");
    Reply::error(code::UNKNOWN_FAILURE, error.to_string()).and_close()
}

fn no_answer() -> Reply {
    Reply::error(code::OVERLOADED, "the node does not answer: try again later")
}

/// The name that the original gives to a state like this; its clients and tests know no other.
fn original_state(role: &str) -> &'static str {
    match role {
        "master" => "Stable_master",
        "slave" => "Slave_steady_state",
        "canvassing" => "Election_suggest",
        "candidate" => "Wait_for_promises",
        _ => "Start_transition",
    }
}

fn version() -> Reply {
    let number = |text: &str| text.parse().unwrap_or(0);
    Reply::ok(|bytes| {
        bytes.i32(number(env!("CARGO_PKG_VERSION_MAJOR")));
        bytes.i32(number(env!("CARGO_PKG_VERSION_MINOR")));
        bytes.i32(number(env!("CARGO_PKG_VERSION_PATCH")));
        bytes.string(concat!("Trialbay ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
    })
}
