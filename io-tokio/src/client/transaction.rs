//! Transactions that read and then write: what they read is asserted when their writes are sent, all in one sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::ClientError;
use super::range::{Entry, KeyRange};
use super::{Client, Sequence};
use crate::consistency::Consistency;
use crate::update::Update;

/// The pause before the third attempt, and the longest one. The second begins at once: whoever was in the way is done.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// One attempt at a transaction: what it has read, and what it will write. [`Client::transact`] makes it; clones are the
/// same attempt.
///
/// Reads see the transaction's own writes. A key that was read has the same value whenever it is read again. Keys that
/// are read one after the other can still be of different moments, when somebody else writes in between: such an
/// attempt is never committed, but its body runs to its end, and must bear what it sees.
#[derive(Clone, Debug)]
pub struct Transaction {
    client: Client,
    deadline: Instant,
    footprint: Arc<Mutex<Footprint>>,
}

/// What an attempt has read and written so far.
#[derive(Debug, Default)]
struct Footprint {
    /// The values of keys as they were read: `None` for one that is absent.
    read: BTreeMap<Bytes, Option<Bytes>>,
    /// Prefixes of which all keys were read, with those keys.
    scanned: BTreeMap<Bytes, BTreeSet<Bytes>>,
    written: BTreeMap<Bytes, Option<Bytes>>,
    /// How many moments the reads are of.
    moments: usize,
    /// Whether two reads contradict each other.
    is_torn: bool,
}

/// How the end of an attempt turned out.
enum End {
    Committed,
    /// What it had read is not so any more.
    Conflict,
}

impl Client {
    /// Runs `body`, which reads and writes through its [`Transaction`], and commits what it wrote if nothing of what it
    /// read has changed by then. Otherwise `body` runs again, until half of this client's timeout has passed.
    ///
    /// ```no_run
    /// # async fn example(client: trialbay::client::Client) -> Result<(), trialbay::client::ClientError> {
    /// let total = client
    ///     .transact(|transaction| async move {
    ///         let visits = transaction.get("visits").await?;
    ///         let visits: u64 = visits.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()).unwrap_or(0);
    ///         transaction.set("visits", (visits + 1).to_string());
    ///         Ok::<_, trialbay::client::ClientError>(visits + 1)
    ///     })
    ///     .await?;
    /// # let _ = total;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Committed transactions are strictly serialisable with everything else. One that only reads is checked likewise,
    /// and costs no slot unless it reads whole prefixes.
    ///
    /// # Errors
    /// What `body` gives, if what it had read was true of one moment; nothing was written then.
    /// [`ClientError::DidNotHappen`] when others were faster at each attempt. [`ClientError::OutcomeUnknown`] when the answer
    /// to the commit was lost: the attempt may have been committed, so it is not tried again.
    pub async fn transact<T, E, B>(&self, body: impl FnMut(Transaction) -> B) -> Result<T, E>
    where
        B: Future<Output = Result<T, E>>,
        E: From<ClientError>,
    {
        // An attempt that is begun has time to end: to run into the deadline with a commit is not to know its outcome.
        self.transact_for(self.timeout / 2, body).await
    }

    /// Begins attempts for as long as `patience`. Their calls have all of the timeout.
    async fn transact_for<T, E, B>(&self, patience: Duration, mut body: impl FnMut(Transaction) -> B) -> Result<T, E>
    where
        B: Future<Output = Result<T, E>>,
        E: From<ClientError>,
    {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let mut pause = Duration::ZERO;
        for attempt in 1.. {
            let transaction = Transaction { client: self.clone(), deadline, footprint: Arc::default() };
            let (end, result) = match body(transaction.clone()).await {
                Ok(value) => (transaction.commit().await?, Ok(value)),
                // A mix of two moments may have misled it. When that cannot be found out, its error is as good as any.
                Err(error) => (transaction.check().await.unwrap_or(End::Committed), Err(error)),
            };
            if let End::Committed = end {
                return result;
            }
            if began.elapsed() + pause >= patience {
                let why =
                    format!("what the transaction read was changed under each of {attempt} attempts in {patience:?}");
                return Err(ClientError::DidNotHappen { why }.into());
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).clamp(PAUSE_MIN, PAUSE_MAX);
        }
        unreachable!("the deadline comes first")
    }
}

impl Transaction {
    /// The value of a key; `None` when it is absent.
    ///
    /// # Errors
    /// As any read.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, ClientError> {
        let values = self.multi_get([key]).await?;
        Ok(values.into_iter().next().flatten())
    }

    /// The values of several keys, of one moment as far as they are read for the first time.
    ///
    /// # Errors
    /// As any read.
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, ClientError> {
        let keys: Vec<Bytes> = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        let unread = self.footprint().unread(&keys);
        if !unread.is_empty() {
            let values = self.client()?.multi_get_option(&unread, Consistency::Consistent).await?;
            self.footprint().note(unread.into_iter().zip(values));
        }
        let footprint = self.footprint();
        Ok(keys.iter().map(|key| footprint.known(key).flatten().cloned()).collect())
    }

    /// All keys that begin with a prefix, and their values, ascending. No other key with that prefix may appear before
    /// the transaction is committed.
    ///
    /// # Errors
    /// As any read.
    pub async fn entries(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Entry>, ClientError> {
        let prefix = Bytes::copy_from_slice(prefix.as_ref());
        let is_read = self.footprint().scanned.contains_key(&prefix);
        if !is_read {
            let found = self.client()?.range_entries(&KeyRange::prefix(&prefix), Consistency::Consistent).await?;
            let mut footprint = self.footprint();
            footprint.scanned.insert(prefix.clone(), found.iter().map(|(key, _)| key.clone()).collect());
            footprint.note(found.into_iter().map(|(key, value)| (key, Some(value))));
        }
        Ok(self.footprint().entries(&prefix))
    }

    /// Sets a key when the transaction is committed.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.write(key.as_ref(), Some(Bytes::copy_from_slice(value.as_ref())));
    }

    /// Deletes a key, if it is there, when the transaction is committed.
    pub fn delete(&self, key: impl AsRef<[u8]>) {
        self.write(key.as_ref(), None);
    }

    fn write(&self, key: &[u8], value: Option<Bytes>) {
        self.footprint().written.insert(Bytes::copy_from_slice(key), value);
    }

    /// Not held across a wait.
    fn footprint(&self) -> MutexGuard<'_, Footprint> {
        self.footprint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for the time that is left.
    fn client(&self) -> Result<Client, ClientError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let why = format!("the transaction did not end within {:?}", self.client.timeout);
            return Err(ClientError::DidNotHappen { why });
        }
        Ok(self.client.with_timeout(left))
    }

    async fn commit(self) -> Result<End, ClientError> {
        let commit = {
            let footprint = self.footprint();
            if footprint.is_torn {
                return Ok(End::Conflict);
            }
            (!footprint.written.is_empty()).then(|| footprint.commit())
        };
        match commit {
            Some(commit) => self.send(commit).await,
            None => self.check().await,
        }
    }

    /// Whether what was read was so at one moment.
    async fn check(&self) -> Result<End, ClientError> {
        let (keys, expected, assertions) = {
            let footprint = self.footprint();
            if footprint.is_torn {
                return Ok(End::Conflict);
            }
            if footprint.moments <= 1 {
                return Ok(End::Committed);
            }
            let (keys, expected): (Vec<_>, Vec<_>) = footprint.read.clone().into_iter().unzip();
            (keys, expected, (!footprint.scanned.is_empty()).then(|| footprint.assertions()))
        };
        if let Some(assertions) = assertions {
            return self.send(assertions).await;
        }
        let now = self.client()?.multi_get_option(keys, Consistency::Consistent).await?;
        Ok(if now == expected { End::Committed } else { End::Conflict })
    }

    async fn send(&self, sequence: Sequence) -> Result<End, ClientError> {
        match self.client()?.sequence(sequence).await {
            Ok(()) => Ok(End::Committed),
            Err(ClientError::AssertionFailed { .. }) => Ok(End::Conflict),
            Err(error) => Err(error),
        }
    }
}

impl Footprint {
    /// What the transaction itself says of a key: what it wrote, or what it read.
    fn known(&self, key: &Bytes) -> Option<Option<&Bytes>> {
        let absent = || self.scanned.keys().any(|prefix| key.starts_with(prefix)).then_some(None);
        let known = self.written.get(key).or_else(|| self.read.get(key));
        known.map(Option::as_ref).or_else(absent)
    }

    fn unread(&self, keys: &[Bytes]) -> Vec<Bytes> {
        let unread: BTreeSet<&Bytes> = keys.iter().filter(|key| self.known(key).is_none()).collect();
        unread.into_iter().cloned().collect()
    }

    /// Takes down what was found at one moment.
    fn note(&mut self, found: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) {
        self.moments += 1;
        for (key, value) in found {
            let before = self.read.entry(key).or_insert_with(|| value.clone());
            self.is_torn |= *before != value;
        }
    }

    fn entries(&self, prefix: &Bytes) -> Vec<Entry> {
        let with_prefix = |key: &&Bytes| key.starts_with(prefix);
        let written = self.written.keys().filter(with_prefix);
        let keys: BTreeSet<&Bytes> = self.scanned[prefix].iter().chain(written).collect();
        let entry = |key: &Bytes| Some((key.clone(), self.known(key).flatten()?.clone()));
        keys.into_iter().filter_map(entry).collect()
    }

    /// Fails unless all that was read is still so.
    fn assertions(&self) -> Sequence {
        let of_keys = self.read.iter().fold(Sequence::new(), |sequence, (key, value)| {
            sequence.and(Update::Assert { key: key.clone(), expected: value.clone() })
        });
        self.scanned.iter().fold(of_keys, |sequence, (prefix, keys)| sequence.assert_range(prefix, keys))
    }

    /// The assertions, and then the writes.
    fn commit(&self) -> Sequence {
        self.written.iter().fold(self.assertions(), |sequence, (key, value)| {
            sequence.and(match value {
                Some(value) => Update::Set { key: key.clone(), value: value.clone() },
                None => Update::Replace { key: key.clone(), wanted: None },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Reaction, refuse, reply};
    use super::super::request::Command;
    use super::super::{ClientOptions, Happened};
    use super::*;
    use crate::wire::Writer as _;

    /// A master at which every key has the value `v`, and which answers commits like this.
    async fn master(mut commit: impl FnMut(usize) -> Reaction + Send + 'static) -> Fake {
        let mut commits = 0;
        Fake::node(
            "n1",
            || Some("n1"),
            move |asked| match asked.command {
                command if command == Command::MultiGetOption as u16 => Reaction::Reply(reply(|bytes| {
                    bytes.i32(1);
                    bytes.option_string(Some(b"v"));
                })),
                command if command == Command::Sequence as u16 => {
                    commits += 1;
                    commit(commits)
                }
                _ => panic!("{asked:?}"),
            },
        )
        .await
    }

    fn conflict() -> Reaction {
        Reaction::Reply(refuse(7, "k"))
    }

    fn client(node: &Fake, timeout: Duration) -> Client {
        Client::new(ClientOptions::new("c", [&node.address]).unwrap()).unwrap().with_timeout(timeout)
    }

    async fn rewrite(client: &Client) -> Result<usize, ClientError> {
        let mut runs = 0;
        client
            .transact(|transaction| {
                runs += 1;
                let run = runs;
                async move {
                    assert_eq!(transaction.get("k").await?.unwrap(), "v");
                    transaction.set("k", "w");
                    assert_eq!(transaction.get("k").await?.unwrap(), "w", "it sees its own writes");
                    Ok(run)
                }
            })
            .await
    }

    #[tokio::test]
    async fn an_attempt_that_meets_a_change_is_made_again() {
        let node = master(|commits| if commits < 4 { conflict() } else { Reaction::Reply(reply(|_| ())) }).await;
        assert_eq!(rewrite(&client(&node, Duration::from_secs(60))).await, Ok(4));
        let commit = node.asked().into_iter().find(|asked| asked.command == Command::Sequence as u16).unwrap();
        let expected = Sequence::new().assert("k", Some(b"v")).set("k", "w");
        let mut body = Vec::new();
        Update::Sequence(expected.into_updates()).encode(&mut body);
        assert_eq!(commit.key, body);
    }

    #[tokio::test]
    async fn a_transaction_that_never_wins_did_not_happen() {
        let node = master(|_| conflict()).await;
        let client = client(&node, Duration::from_secs(60));
        let attempt = |transaction: Transaction| async move {
            transaction.get("k").await?;
            transaction.set("k", "w");
            Ok::<_, ClientError>(())
        };
        let error = client.transact_for(Duration::ZERO, attempt).await.unwrap_err();
        assert_eq!(error.happened(), Happened::No);
        assert!(error.to_string().contains("was changed under each of"), "{error}");
    }

    #[tokio::test]
    async fn a_commit_without_an_answer_is_not_sent_again() {
        let node = master(|_| Reaction::Close).await;
        let error = rewrite(&client(&node, Duration::from_secs(60))).await.unwrap_err();
        assert_eq!(error.happened(), Happened::Unknown);
        assert_eq!(node.count(Command::Sequence), 1);
    }

    #[tokio::test]
    async fn one_read_needs_no_commit_and_what_its_body_says_is_final() {
        let node = master(|_| panic!("nothing to commit")).await;
        let client = client(&node, Duration::from_secs(60));
        let value = client.transact(|transaction| async move { transaction.get("k").await }).await.unwrap();
        assert_eq!(value.unwrap(), "v");
        let refused: Result<(), ClientError> = client
            .transact(|transaction| async move {
                transaction.get("k").await?;
                transaction.set("k", "never");
                Err(ClientError::invalid("the body does not want it"))
            })
            .await;
        assert_eq!(refused, Err(ClientError::invalid("the body does not want it")));
    }

    #[tokio::test]
    async fn a_transaction_can_run_on_a_task_of_its_own() {
        let node = master(|_| Reaction::Reply(reply(|_| ()))).await;
        let client = client(&node, Duration::from_secs(60));
        assert_eq!(tokio::spawn(async move { rewrite(&client).await }).await.unwrap(), Ok(1));
    }
}
