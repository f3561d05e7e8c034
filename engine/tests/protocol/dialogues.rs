//! Golden dialogues. Each snapshot was read line by line against `docs/protocol.md`; so must each change of one be.

use trialbay_engine::{Ballot, Event, Limits, Message, NodeId, Role, Slot};

use crate::cluster::{Cluster, LEASE_MS, node};

/// Compares what was said with `scenarios/golden/<name of the test>.snap`.
macro_rules! golden {
    ($cluster:expr) => {{
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../../scenarios/golden");
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| insta::assert_snapshot!($cluster.text()));
    }};
}

#[test]
fn birth_of_a_cluster() {
    let mut cluster = Cluster::blank(3);
    cluster.note("starting and connecting, each has asked the others what it forgot");
    cluster.run();
    cluster.note("node 1 alone may say that all were blank; the others hear of it when they ask again");
    cluster.wait_ms(LEASE_MS / 2);
    cluster.step(2, Event::Ticked);
    cluster.deliver(2, 1);
    cluster.deliver(1, 2);
    cluster.persist(2);
    cluster.run();
    assert!((1..=3).all(|id| cluster.engine(id).status().votes));
    golden!(cluster);
}

#[test]
fn election() {
    let mut cluster = Cluster::born(3);
    let first = cluster.first_due(&[1, 2, 3]);
    cluster.tick(first);
    cluster.run();
    assert_eq!(cluster.role(first), Role::Master);
    golden!(cluster);
}

#[test]
fn replication_is_pipelined_merged_and_acknowledged_cumulatively() {
    let limits = Limits { in_flight_slots_max: 3, ..Limits::default() };
    let mut cluster = Cluster::with_master_and_limits(3, limits);
    cluster.note("the second request does not wait for the first; the last two merge while the window is full");
    cluster.request(1, &["a"]);
    cluster.request(1, &["b", "c"]);
    cluster.request(1, &["d"]);
    cluster.request(1, &["e"]);
    cluster.request(1, &["f"]);
    cluster.note("a slave writes what came in one go, and acknowledges the last of it");
    for _ in 0..3 {
        cluster.deliver(1, 2);
    }
    cluster.persist(2);
    cluster.note("the master's own disk is later than the quorum");
    cluster.deliver(2, 1);
    cluster.persist(1);
    cluster.run();
    assert_eq!(cluster.applied(1), ["a", "b", "c", "d", "e", "f"]);
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_lost_accept_is_sent_again_after_the_next_heartbeat() {
    let mut cluster = Cluster::with_master(3);
    cluster.request(1, &["a"]);
    cluster.lose(1, 2);
    cluster.note("node 2 learns of what it lacks by the heartbeat, and the master by its answer");
    cluster.tick(1);
    cluster.run_without(&[(1, 3), (3, 1)]);
    cluster.note("node 3 hears of the second value before the first");
    cluster.request(1, &["b"]);
    cluster.deliver(1, 3);
    cluster.deliver(3, 1);
    cluster.run();
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_new_master_inherits_what_was_accepted_in_the_highest_ballot() {
    let mut cluster = Cluster::with_master(3);
    cluster.note("node 1 proposes a value that nobody else hears of");
    cluster.request(1, &["lost"]);
    cluster.lose(1, 2);
    cluster.lose(1, 3);
    cluster.persist(1);
    let second = cluster.first_due(&[2, 3]);
    let third = 5 - second;
    cluster.note(&format!("node {second} becomes master, but its first value does not leave it"));
    cluster.muted(|cluster| {
        for _ in 0..99 {
            if cluster.role(second) != Role::Master {
                cluster.deliver_or_tick(second, third);
            }
            cluster.isolate(1);
        }
    });
    cluster.lose(second, third);
    cluster.persist(second);
    cluster.note(&format!("it is cut off from node {third}, and asked by node 1"));
    cluster.muted(|cluster| {
        cluster.kill(1);
        cluster.start(1);
        cluster.kill(second);
        cluster.start(second);
        cluster.isolate(third);
        cluster.isolate(1);
    });
    let cut: Vec<(u16, u16)> = [1, second].iter().flat_map(|id| [(third, *id), (*id, third)]).collect();
    for _ in 0..9 {
        if cluster.role(1) != Role::Master {
            cluster.tick(1);
            cluster.run_without(&cut);
        }
    }
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_slave_catches_up_from_a_log() {
    let limits = Limits { cache_slots_max: 2, message_bytes_max: 12, ..Limits::default() };
    let mut cluster = Cluster::with_master_and_limits(3, limits);
    cluster.muted(|cluster| {
        cluster.kill(3);
        for command in ["a", "b", "c", "d"] {
            cluster.request(1, &[command]);
            cluster.run();
        }
        cluster.note("node 3 was down while four values were decided; the master remembers the last two");
        cluster.start(3);
    });
    cluster.run();
    assert_eq!(cluster.applied(3), ["a", "b", "c", "d"]);
    cluster.note("it is level, and the stream goes on");
    cluster.request(1, &["e"]);
    cluster.run();
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn of_duelling_candidates_the_higher_ballot_wins() {
    let mut cluster = Cluster::born(3);
    let first = cluster.first_due(&[1, 2, 3]);
    cluster.tick(first);
    let others: Vec<u16> = (1..=3).filter(|id| *id != first).collect();
    let second = cluster.first_due(&others);
    cluster.note("the second asks around before it hears that the first does, and both find a quorum willing");
    cluster.tick(second);
    cluster.run();
    let winner = first.max(second);
    assert_eq!(cluster.role(winner), Role::Master);
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn messages_of_an_old_ballot_count_for_nothing() {
    let mut cluster = Cluster::with_master(3);
    cluster.request(1, &["a"]);
    let accept = cluster.take(1, 3).expect("an Accept is under way");
    cluster.deliver(1, 2);
    cluster.persist(2);
    let accepted = cluster.take(2, 1).expect("an Accepted is under way");
    cluster.muted(|cluster| {
        cluster.kill(1);
        cluster.wait_ms(2 * LEASE_MS);
        cluster.elect(2);
        cluster.start(1);
        cluster.run();
    });
    assert_eq!(cluster.role(2), Role::Master);
    let ballot = Ballot { round: 1, node: NodeId(1) };
    cluster.note("node 2 is master now. Late messages of ballot 1.n1 arrive");
    cluster.receive(node(1), node(3), accept);
    cluster.deliver(3, 1);
    cluster.receive(node(3), node(2), accepted);
    cluster.receive(node(1), node(3), Message::Prepare { ballot, decided_upto: Slot(9) });
    let incarnation = cluster.engine(3).status().incarnation;
    let promise = Message::Promise { ballot, incarnation, accepted: Vec::new().into() };
    cluster.receive(node(3), node(1), promise);
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_master_that_stops_hands_over_at_once() {
    let mut cluster = Cluster::with_master(3);
    cluster.request(1, &["a"]);
    cluster.stop(1);
    cluster.request(1, &["too late"]);
    cluster.tick(1);
    let late = cluster.take_last(1, 3).expect("a Heartbeat is under way");
    cluster.run();
    cluster.receive(node(1), node(3), late);
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_master_that_is_dropped_hands_over_and_follows() {
    let mut cluster = Cluster::with_master(3);
    // The slaves say that their stores apply.
    cluster.muted(|cluster| {
        for _ in 0..2 {
            cluster.wait_ms(LEASE_MS / 4);
            cluster.tick(1);
            cluster.run();
        }
    });
    cluster.request(1, &["a"]);
    cluster.drop_master(1);
    cluster.request(1, &["too late"]);
    cluster.run();
    assert_eq!(cluster.role(3), Role::Master);
    assert_eq!(cluster.engine(1).known_master(), Some(node(3)));
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_cluster_of_one_needs_nobody() {
    let mut cluster = Cluster::blank(1);
    cluster.run();
    cluster.tick(1);
    cluster.run();
    cluster.request(1, &["a"]);
    cluster.request(1, &["b", "c"]);
    cluster.run();
    cluster.wait_ms(1);
    cluster.read(1, 1);
    cluster.note("it stops without handing over, and comes back");
    cluster.stop(1);
    cluster.start(1);
    cluster.tick(1);
    cluster.run();
    assert_eq!(cluster.applied(1), ["a", "b", "c"]);
    golden!(cluster);
}

#[test]
fn a_node_that_hears_no_master_does_not_disturb_one_that_others_hear() {
    let mut cluster = Cluster::with_master(3);
    cluster.muted(|cluster| {
        cluster.wait_ms(LEASE_MS / 2);
        cluster.read(1, 1);
        cluster.run_without(&[(1, 3), (3, 1)]);
        cluster.wait_ms(LEASE_MS * 5 / 8);
    });
    cluster.note("node 3 has not heard of node 1 for more than a lease");
    cluster.tick(3);
    cluster.run_without(&[(1, 3), (3, 1)]);
    cluster.note("nor would a campaign help it");
    let ballot = Ballot { round: 2, node: NodeId(3) };
    cluster.receive(node(3), node(2), Message::Prepare { ballot, decided_upto: Slot(1) });
    cluster.note("when the master is heard again, all is as before");
    cluster.tick(1);
    cluster.run();
    assert_eq!((cluster.role(1), cluster.role(3)), (Role::Master, Role::Slave));
    golden!(cluster);
}

#[test]
fn a_master_without_a_quorum_steps_down_and_says_that_the_outcome_is_unknown() {
    let limits = Limits { in_flight_slots_max: 1, ..Limits::default() };
    let mut cluster = Cluster::with_master_and_limits(3, limits);
    cluster.request(1, &["a"]);
    cluster.request(1, &["b"]);
    cluster.wait_ms(1);
    cluster.read(1, 1);
    cluster.persist(1);
    cluster.muted(|cluster| cluster.isolate(1));
    cluster.note("its lease runs out: nothing is served, and new requests are refused");
    cluster.wait_ms(LEASE_MS);
    cluster.request(1, &["c"]);
    cluster.muted(|cluster| cluster.isolate(1));
    cluster.note("a lease later it gives up");
    cluster.wait_ms(LEASE_MS);
    cluster.tick(1);
    assert_eq!(cluster.role(1), Role::Slave);
    golden!(cluster);
}

#[test]
fn a_wiped_node_follows_without_a_vote_until_it_has_caught_up() {
    let mut cluster = Cluster::with_master(3);
    cluster.muted(|cluster| {
        cluster.request(1, &["a"]);
        cluster.run();
        cluster.wipe(3);
        cluster.request(1, &["b"]);
        cluster.run();
    });
    cluster.start(3);
    cluster.run();
    assert!(cluster.engine(3).status().votes);
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_quorum_read_waits_for_grants_that_are_younger_than_it() {
    let mut cluster = Cluster::with_master(3);
    cluster.wait_ms(10);
    cluster.read(1, 1);
    cluster.read(1, 2);
    cluster.wait_ms(1);
    cluster.read(1, 3);
    cluster.deliver(1, 2);
    cluster.deliver(2, 1);
    cluster.run();
    cluster.note("a slave refuses");
    cluster.read(2, 4);
    golden!(cluster);
}

#[test]
fn a_learner_follows_and_counts_for_nothing() {
    let mut cluster = Cluster::with_roles(3, |config| config.learners = vec![node(4)]);
    cluster.note("nobody but the learner acknowledges: nothing is decided");
    cluster.request(1, &["a"]);
    cluster.run_without(&[(1, 2), (1, 3)]);
    assert_eq!(cluster.applied(1), [""; 0]);
    cluster.note("with a slave it is, and the learner hears of it");
    cluster.tick(1);
    cluster.run_without(&[(1, 3), (3, 1)]);
    cluster.tick(1);
    cluster.run_without(&[(1, 3), (3, 1)]);
    assert_eq!(cluster.applied(4), ["a"]);
    assert_eq!(cluster.engine(4).known_master(), Some(node(1)));
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_witness_keeps_what_its_master_took_with_it() {
    let mut cluster = Cluster::with_roles(3, |config| config.witnesses = vec![node(3)]);
    cluster.note("node 3, the witness, is all that a value is decided with; its log has what node 2 lacks");
    cluster.request(1, &["a"]);
    cluster.run_without(&[(1, 2), (2, 1)]);
    assert_eq!(cluster.applied(1), ["a"]);
    cluster.tick(1);
    cluster.run_without(&[(1, 2), (2, 1)]);
    cluster.kill(1);
    cluster.wait_ms(2 * LEASE_MS);
    for _ in 0..9 {
        if cluster.role(2) != Role::Master {
            cluster.tick(2);
            cluster.run();
        }
    }
    assert_eq!((cluster.role(2), cluster.applied(2)), (Role::Master, vec!["a".to_owned()]));
    cluster.assert_one_history();
    golden!(cluster);
}

#[test]
fn a_preferred_node_claims_mastership_once_it_is_level() {
    let mut cluster = Cluster::with_roles(3, |config| config.preferred = vec![node(3)]);
    assert_eq!(cluster.role(1), Role::Master);
    // Its first claim came before the master served.
    cluster.muted(|cluster| {
        (0..3).for_each(|_| {
            cluster.tick(1);
            cluster.run();
        });
    });
    cluster.note("it has all that its master has sent");
    cluster.request(1, &["a"]);
    cluster.tick(1);
    cluster.run();
    assert_eq!(cluster.role(3), Role::Master);
    cluster.assert_one_history();
    golden!(cluster);
}
