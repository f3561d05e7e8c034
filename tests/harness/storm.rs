//! Clients that write and read all the time, each thing such that loss, doubling and staleness would show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use trialbay::client::{Client, ClientError, KeyRange, Sequence};
use trialbay::consistency::Consistency;

use crate::cluster::Cluster;
use crate::history::{History, Report};
use crate::{PATIENCE, until};

/// Shared keys of each kind: few, so that clients get in each other's way.
const SHARED: u64 = 4;

/// What each client does between two calls, so that the machine has time for the nodes.
const THINKING: Duration = Duration::from_millis(2);

/// Half of the clients give up soon, and so see more of what is refused.
const TIMEOUTS: [Duration; 2] = [Duration::from_secs(3), Duration::from_millis(250)];

const PAGE: u32 = 1_000;
const VALUE_LEN: usize = 100;

/// Clients at work.
pub struct Storm {
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Storm {
    /// Lets that many clients loose.
    pub fn start(cluster: &Cluster, writers: u64) -> Self {
        let mut storm = Self { history: Arc::default(), stop: Arc::default(), clients: JoinSet::new() };
        for writer in 1..=writers {
            let timeout = TIMEOUTS[usize::from(writer.is_multiple_of(2))];
            let client = cluster.client().with_timeout(timeout);
            let (history, stop) = (storm.history.clone(), storm.stop.clone());
            storm.clients.spawn(Writer { client, history, writer, seen: BTreeMap::new() }.run(stop));
        }
        storm
    }

    /// Lets a client loose at each node, which reads there whether that node is master or not.
    pub fn read_everywhere(&mut self, cluster: &Cluster) {
        for node in 0..cluster.len() {
            let client = cluster.client().with_timeout(Duration::from_secs(5));
            let client = client.at(cluster.endpoint(node)).expect("it is one of the endpoints");
            let reader = Reader { client, history: self.history.clone() };
            self.clients.spawn(reader.run(self.stop.clone()));
        }
    }

    /// What the clients saw so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Waits until updates are acknowledged that began after `since`, and gives the time from then to the first.
    pub async fn resumed(&self, since: u64) -> Duration {
        until("writes resume", async || self.history.resumed(since)).await
    }

    /// Waits until that many more updates are acknowledged.
    pub async fn more(&self, updates: usize) {
        let before = self.history.report().done;
        until("updates are acknowledged", async || (self.history.report().done >= before + updates).then_some(()))
            .await;
    }

    /// Ends the clients, reads everything, and judges what was seen.
    pub async fn finish(mut self, cluster: &Cluster) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client that panics has found something");
        }
        let client = cluster.client().with_timeout(PATIENCE);
        for key in self.history.keys() {
            read(&client, &self.history, &key).await.expect("the cluster works at the end");
        }
        let present = everything_below(&client, "own/").await;
        let report = self.history.report();
        self.history.check(&present);
        report
    }
}

struct Writer {
    client: Client,
    history: Arc<History>,
    writer: u64,
    /// The last that was seen of each chain.
    seen: BTreeMap<String, Option<u64>>,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut turn = self.writer;
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            let value = self.writer << 40 | turn;
            let shared = (turn / 5 + self.writer) % SHARED;
            match turn % 5 {
                0 => self.insert(value, shared).await,
                1 => self.set(value, shared).await,
                2 => self.swap(value, shared).await,
                3 => {
                    let kind = if turn.is_multiple_of(2) { "register" } else { "chain" };
                    // A read that fails has no effect, and says nothing.
                    let _ = read(&self.client, &self.history, &format!("{kind}/{shared}")).await;
                }
                _ => self.read_pair(shared).await,
            }
            tokio::time::sleep(THINKING).await;
        }
    }

    async fn insert(&self, value: u64, shared: u64) {
        let own = format!("own/{value:016x}");
        let [left, right] = pair(shared);
        let written = encode(value);
        let sequence =
            Sequence::new().assert(&own, None).set(&left, &written).set(&own, &written).set(&right, &written);
        let invoked = self.history.now();
        let result = self.client.sequence(sequence).await;
        self.history.inserted(&own, [&left, &right], value, invoked, &result);
    }

    async fn set(&self, value: u64, shared: u64) {
        let key = format!("register/{shared}");
        let invoked = self.history.now();
        let result = self.client.set(&key, encode(value)).await;
        self.history.wrote(&key, value, invoked, &result);
    }

    async fn swap(&mut self, value: u64, shared: u64) {
        let key = format!("chain/{shared}");
        let expected = self.seen.get(&key).copied().flatten();
        let (before, after) = (expected.map(encode), encode(value));
        let invoked = self.history.now();
        let result = self.client.test_and_set(&key, before.as_deref(), Some(&after)).await;
        let found = result.map(|found| found.map(|found| self.decode(&key, &found)));
        let seen = match &found {
            Ok(found) if *found == expected => Some(value),
            Ok(found) => *found,
            Err(_) => expected,
        };
        self.seen.insert(key.clone(), seen);
        self.history.swapped(&key, expected, value, invoked, found);
    }

    async fn read_pair(&self, shared: u64) {
        let keys = pair(shared);
        let invoked = self.history.now();
        let Ok(values) = self.client.multi_get_option(&keys, Consistency::Consistent).await else { return };
        if values[0] != values[1] {
            self.history.violated(format!("half of a sequence was seen: {keys:?} are {values:?}"));
        }
        for (key, value) in keys.iter().zip(values) {
            self.history.read(key, invoked, value.map(|value| self.decode(key, &value)));
        }
    }

    fn decode(&self, key: &str, bytes: &Bytes) -> u64 {
        decode(bytes).unwrap_or_else(|| {
            self.history.violated(format!("{key} has the value {}", bytes.escape_ascii()));
            0
        })
    }
}

struct Reader {
    client: Client,
    history: Arc<History>,
}

impl Reader {
    async fn run(self, stop: Arc<AtomicBool>) {
        let mut turn = 0;
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            // Nodes that are not the master refuse, as they must.
            let _ = read(&self.client, &self.history, &format!("register/{}", turn % SHARED)).await;
            tokio::time::sleep(THINKING).await;
        }
    }
}

async fn read(client: &Client, history: &History, key: &str) -> Result<(), ClientError> {
    let invoked = history.now();
    let value = match client.get(key).await {
        Ok(value) => Some(value),
        Err(ClientError::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    match value.as_ref().map(decode) {
        Some(None) => history.violated(format!("{key} has the value {value:?}")),
        found => history.read(key, invoked, found.flatten()),
    }
    Ok(())
}

async fn everything_below(client: &Client, prefix: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut range = KeyRange::all().from(prefix).max(PAGE);
    range.last = (Some(Bytes::from(format!("{prefix}\u{7f}"))), false);
    loop {
        let page = client.range_entries(&range, Consistency::Consistent).await.expect("the cluster works at the end");
        let Some((last, _)) = page.last() else { return found };
        range = range.after(last);
        for (key, value) in &page {
            // 0 is no client's value.
            found.insert(String::from_utf8_lossy(key).into_owned(), decode(value).unwrap_or(0));
        }
    }
}

fn pair(shared: u64) -> [String; 2] {
    ["left", "right"].map(|side| format!("{side}/{shared}"))
}

fn encode(value: u64) -> Vec<u8> {
    format!("{value:.<VALUE_LEN$x}").into_bytes()
}

fn decode(bytes: impl AsRef<[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(bytes.as_ref()).ok()?;
    let value = u64::from_str_radix(text.trim_end_matches('.'), 16).ok()?;
    (encode(value) == text.as_bytes()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_from_anything_else() {
        assert_eq!(decode(encode(0x12_3456)), Some(0x12_3456));
        assert_eq!(encode(1).len(), VALUE_LEN);
        assert_eq!(decode(b"12"), None);
        assert_eq!(decode(b""), None);
    }
}
