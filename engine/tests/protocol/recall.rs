//! Who votes (rules V1 to V4).

use crate::cluster::{Cluster, LEASE_MS};

/// Both ways between `a` and each of `others`.
fn links(a: u16, others: [u16; 2]) -> Vec<(u16, u16)> {
    others.iter().flat_map(|b| [(a, *b), (*b, a)]).collect()
}

/// A cluster is born between two nodes while the third missed part of what was said; then one of the two is wiped and
/// the other is cut off. Were the third to take an old answer of the one that it cannot reach for the present, it would
/// see three blank memories, and begin the history a second time with the wiped node. Every way to lose one direction
/// or more of the first talk is tried.
#[test]
fn a_cluster_is_born_once_although_a_node_is_wiped_before_another_heard_of_the_birth() {
    let directions = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];
    let mut born = 0;
    for [early, late, wiped] in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        for lost in 0..1u32 << directions.len() {
            let mut cluster = Cluster::blank(3);
            cluster.tick_all();
            let lost = (0..).zip(directions).filter(|(index, _)| lost >> index & 1 == 1);
            cluster.run_without(&lost.map(|(_, link)| link).collect::<Vec<_>>());
            go_on_without(&mut cluster, late, [early, wiped], "before");
            born += u32::from([early, wiped].iter().any(|id| cluster.applied(*id) == ["before"]));
            cluster.wipe(wiped);
            cluster.start(wiped);
            go_on_without(&mut cluster, early, [late, wiped], "after");
            cluster.assert_one_history();
        }
    }
    assert!(born > 60, "only {born} of the runs had a first history");
}

/// The node `absent` is cut off from the two others, and these do what they can.
fn go_on_without(cluster: &mut Cluster, absent: u16, others: [u16; 2], command: &str) {
    let cut = links(absent, others);
    for _ in 0..16 {
        cluster.wait_ms(LEASE_MS / 4);
        cluster.tick_all();
        cluster.run_without(&cut);
    }
    for id in others {
        cluster.request(id, &[command]);
    }
    cluster.run_without(&cut);
}
