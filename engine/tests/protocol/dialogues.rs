//! Golden dialogues. Each snapshot was read line by line against `docs/protocol.md`; so must each change of one be.

use insta::assert_snapshot;
use trialbay_engine::Role;

use crate::cluster::{Cluster, LEASE_MS};

#[test]
fn birth() {
    let mut cluster = Cluster::blank(3);
    cluster.muted(|cluster| cluster.isolate(0));
    cluster.note("all memories are empty; connecting, each has asked the others");
    cluster.tick_all();
    cluster.run();
    assert_snapshot!(cluster.text());
}
