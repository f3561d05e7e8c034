//! Nodes whose next slots are gone from all logs get the store of another one, while writes go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use trialbay::client::{Client, Entry, KeyRange};
use trialbay::consistency::Consistency;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::storm::Storm;
use trialbay_tests::{rounds, until};

use crate::{program, with_cluster};

/// Long values, of which each log keeps few.
const VALUE_LEN: usize = 16 << 10;
/// Keys that have them: 16 MiB altogether.
const KEYS: u64 = 1_000;

/// A node has so much of what was decided last in memory.
const CACHED_BYTES: u64 = 32 << 20;

/// Clients that write long values all the time.
struct Bulk {
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Bulk {
    fn start(cluster: &Cluster) -> Self {
        let mut bulk = Self { written: Arc::default(), stop: Arc::default(), clients: JoinSet::new() };
        for _ in 0..4 {
            let client = cluster.client().with_timeout(Duration::from_secs(5));
            bulk.clients.spawn(write(client, bulk.written.clone(), bulk.stop.clone()));
        }
        bulk
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    async fn more(&self, updates: u64) {
        let before = self.written();
        until("long values are written", async || (self.written() >= before + updates).then_some(())).await;
    }

    async fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
    }
}

async fn write(client: Client, written: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let number = written.fetch_add(1, Ordering::Relaxed);
        let value = number.to_le_bytes().repeat(VALUE_LEN / 8);
        // Whether it happened does not matter here: all nodes must come to have the same.
        let _ = client.set(format!("bulk{:06}", number % KEYS), value).await;
    }
}

/// The numbers of the first and the last segment of a node's log.
fn segments(cluster: &Cluster, node: usize) -> (u32, u32) {
    let names = std::fs::read_dir(cluster.home(node).join("tlogs")).unwrap();
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u32>().ok();
    let numbers: Vec<_> = names.filter_map(|entry| number(&entry.unwrap().path())).collect();
    (*numbers.iter().min().unwrap(), *numbers.iter().max().unwrap())
}

/// Waits until no node but this one has anything of now, neither in its log nor in memory.
async fn collapsed(cluster: &Cluster, bulk: &Bulk, node: usize) {
    let others: Vec<_> = (0..cluster.len()).filter(|other| *other != node).collect();
    let now: Vec<_> = others.iter().map(|other| segments(cluster, *other).1).collect();
    until("all logs begin later", async || {
        let gone = others.iter().zip(&now).all(|(other, now)| segments(cluster, *other).0 > *now);
        gone.then_some(())
    })
    .await;
    bulk.more(CACHED_BYTES / VALUE_LEN as u64 + 200).await;
}

async fn start() -> Cluster {
    Cluster::start_with(program(), 3, |config| config.log_retention_mib = 1).await
}

fn heads_installed(cluster: &Cluster, node: usize) -> usize {
    std::fs::read_to_string(cluster.log_path(node)).unwrap().matches("installed a head").count()
}

/// All entries that a node's own store has.
async fn entries(cluster: &Cluster, node: usize) -> Vec<Entry> {
    let client = cluster.client().with_timeout(Duration::from_secs(10)).at(cluster.endpoint(node)).unwrap();
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let range = KeyRange::all().max(100);
        let range = match entries.last() {
            Some((key, _)) => range.after(key),
            None => range,
        };
        let page = client.range_entries(&range, Consistency::NoGuarantees).await.unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

/// Ends the load, and checks that all nodes serve the same.
async fn judge(cluster: &Cluster, bulk: Bulk, storm: Storm) {
    bulk.finish().await;
    let report = storm.finish(cluster).await;
    cluster.agreed().await;
    let first = entries(cluster, 0).await;
    assert!(first.len() as u64 > KEYS);
    for node in 1..cluster.len() {
        assert!(entries(cluster, node).await == first, "node {node} has other entries");
    }
    println!("{report}");
}

#[test]
fn a_slave_that_is_behind_all_logs_catches_up_under_load() {
    with_cluster(async {
        let mut cluster = start().await;
        let (storm, bulk) = (Storm::start(&cluster, 8), Bulk::start(&cluster));
        bulk.more(KEYS + 200).await;
        let behind = (cluster.master().await + 1) % 3;
        cluster.kill(behind);
        collapsed(&cluster, &bulk, behind).await;

        let (before, began) = (bulk.written(), Instant::now());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rate = (bulk.written() - before) as f64 / began.elapsed().as_secs_f64();
        let (before, began) = (bulk.written(), Instant::now());
        cluster.start_node(behind);
        cluster.whole().await;
        until("the slave has caught up", async || {
            cluster.status(behind).await.filter(|status| status.votes && !status.catching_up && status.head.is_none())
        })
        .await;
        let (took, meanwhile) = (began.elapsed(), bulk.written() - before);
        assert!(heads_installed(&cluster, behind) >= 1);
        // It takes part again: without it nothing would be decided.
        let other = (0..3).find(|node| *node != behind).expect("there are three");
        let killed = storm.history().now();
        cluster.kill(other);
        storm.resumed(killed).await;
        cluster.start_node(other);
        cluster.whole().await;
        let during = meanwhile as f64 / took.as_secs_f64();
        println!("a head in {took:?}; {rate:.0} updates of 16 KiB a second before, {during:.0} meanwhile");
        judge(&cluster, bulk, storm).await;
    });
}

#[test]
fn a_wiped_node_gets_a_head_however_often_it_and_those_that_give_it_are_killed() {
    with_cluster(async {
        let mut cluster = start().await;
        let (storm, bulk) = (Storm::start(&cluster, 4), Bulk::start(&cluster));
        bulk.more(KEYS + 200).await;
        let wiped = (cluster.master().await + 1) % 3;
        cluster.kill(wiped);
        cluster.wipe(wiped);
        collapsed(&cluster, &bulk, wiped).await;
        for round in 0..rounds(4) {
            cluster.start_node(wiped);
            let moment = Duration::from_millis(300 + 150 * u64::try_from(round).unwrap());
            tokio::time::sleep(moment).await;
            if round % 2 == 1 {
                let giver = (0..3).find(|node| *node != wiped).unwrap();
                cluster.kill(giver);
                cluster.start_node(giver);
            }
            cluster.kill(wiped);
        }
        cluster.start_node(wiped);
        cluster.whole().await;
        until("the wiped node has caught up", async || {
            cluster.status(wiped).await.filter(|status| status.votes && !status.catching_up)
        })
        .await;
        assert!(heads_installed(&cluster, wiped) >= 1);
        judge(&cluster, bulk, storm).await;
        let db = cluster.home(wiped).join("db");
        let names: Vec<_> = std::fs::read_dir(db).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "a head is left over: {names:?}");
    });
}
