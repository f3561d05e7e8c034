//! Who votes (rules V1 to V4).

use trialbay_engine::{Ballot, Event, Incarnation, Memory, Message, NodeId, Record, Recovered, Slot};

use crate::cluster::{Cluster, LEASE_MS, hash_of};
use crate::node::{Node, accept, ballot, config, life, memory, value};

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
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    let runs = orders.into_iter().flat_map(|order| (0..3).map(move |heard| (order, heard)));
    let mut born = 0;
    for ([early, late, wiped], heard) in runs {
        for lost in 0..1u32 << directions.len() {
            let mut cluster = Cluster::blank(3);
            let lost = (0..).zip(directions).filter(|(index, _)| lost >> index & 1 == 1);
            let lost: Vec<_> = lost.map(|(_, link)| link).collect();
            for round in 0..3 {
                cluster.run_without(if round < heard { &[] } else { &lost });
                cluster.wait_ms(LEASE_MS / 2);
                cluster.tick_all();
            }
            cluster.run_without(&lost);
            assert!(!lost.is_empty() || (1..=3).all(|id| cluster.engine(id).status().votes));
            go_on_without(&mut cluster, late, [early, wiped], "before");
            born += u32::from([early, wiped].iter().any(|id| cluster.applied(*id) == ["before"]));
            cluster.wipe(wiped);
            cluster.start(wiped);
            go_on_without(&mut cluster, early, [late, wiped], "after");
            cluster.assert_one_history();
        }
    }
    assert!(born > 200, "only {born} of the runs had a first history");
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

/// Node 1 of three (or five) in its second life, following node 2's ballot 1.n2 without a vote.
fn voteless(count: u16) -> Node {
    let blank = memory(Ballot::ZERO, &[], Vec::new());
    let memory = Some(Memory { incarnation: life(1), votes: false, genesis: Vec::new() });
    let mut node = Node::rested(config(count), Recovered { memory, ..blank });
    node.receive(2, accept(ballot(1, 2), 1, vec![value("a"), value("b")]));
    node.persist();
    node
}

fn recalled(peer: u16, votes: bool, promised: Ballot, accepted_upto: u64) -> Message {
    Message::Recalled {
        asker: life(1),
        incarnation: life(peer),
        votes,
        blank: false,
        promised,
        accepted_upto: Slot(accepted_upto),
        genesis: Vec::new().into(),
    }
}

fn decided(upto: usize) -> Message {
    let values = [value("a"), value("b")];
    Message::Accept {
        ballot: ballot(1, 2),
        first: Slot(1),
        values: values.to_vec().into(),
        decided_upto: Slot(upto as u64),
        decided_hash: hash_of(&values[..upto]),
    }
}

/// Rules V2 and V3: every combination of who answered, who votes, and how far each accepted.
#[test]
fn a_vote_is_regained_exactly_when_all_others_vote_and_all_they_accepted_is_decided_here() {
    for decided_here in 0..=2 {
        for answered in [vec![], vec![2], vec![3], vec![2, 3]] {
            for voting in [vec![], vec![2], vec![3], vec![2, 3]] {
                for accepted in [[0, 0], [1, 0], [0, 2], [2, 1]] {
                    let mut node = voteless(3);
                    node.receive(2, decided(decided_here));
                    let mut records = Vec::new();
                    for peer in &answered {
                        let accepted = accepted[usize::from(*peer) - 2];
                        let answer = recalled(*peer, voting.contains(peer), ballot(3, 3), accepted);
                        records.extend(node.receive(*peer, answer).records);
                    }
                    let covered = accepted.iter().all(|upto| *upto <= decided_here as u64);
                    let expected = answered.len() == 2 && voting.len() == 2 && covered;
                    let case = format!("s{decided_here}, answers of {answered:?}, votes of {voting:?}, {accepted:?}");
                    let regained = Record::VoteRegained { incarnation: life(1), genesis: Vec::new() };
                    assert_eq!(records.contains(&regained), expected, "{case}");
                    assert!(!node.engine.status().votes, "not before it is durable: {case}");
                    assert_eq!(records.contains(&Record::Promised(ballot(3, 3))), expected, "rule V2: {case}");
                    node.persist();
                    assert_eq!(node.engine.status().votes, expected, "{case}");
                }
            }
        }
    }
}

#[test]
fn answers_to_an_earlier_life_count_for_nothing() {
    let mut node = voteless(3);
    node.receive(2, decided(2));
    for peer in [2, 3] {
        let mut answer = recalled(peer, true, ballot(1, 2), 0);
        if let Message::Recalled { asker, .. } = &mut answer {
            *asker = Incarnation(99);
        }
        assert!(node.receive(peer, answer).records.is_empty());
    }
}

/// Rule V4.
#[test]
fn a_node_votes_when_a_genesis_names_its_life_and_not_when_it_names_another() {
    for (mine, expected) in [(life(1), true), (Incarnation(99), false)] {
        let mut node = voteless(3);
        let mut answer = recalled(3, true, Ballot::ZERO, 9);
        let names = vec![(NodeId(1), mine), (NodeId(2), life(2)), (NodeId(3), life(3))];
        if let Message::Recalled { genesis, .. } = &mut answer {
            *genesis = names.clone().into();
        }
        let given = node.receive(3, answer);
        let regained = Record::VoteRegained { incarnation: life(1), genesis: names };
        assert_eq!(given.records.contains(&regained), expected);
    }
}

/// The master may be waiting for just this vote, and no other message may ever come.
#[test]
fn what_was_acknowledged_without_a_vote_is_acknowledged_again_with_it() {
    let mut node = voteless(3);
    node.receive(2, decided(1));
    for peer in [2, 3] {
        node.receive(peer, recalled(peer, true, ballot(1, 2), 1));
    }
    let accepted = Message::Accepted { ballot: ballot(1, 2), incarnation: life(1), votes: true, upto: Slot(2) };
    assert_eq!(node.persist().sent, [(NodeId(2), accepted)]);
}

/// A node that was wiped when a majority was tells everyone that it does not vote, and stays so.
#[test]
fn a_wiped_majority_does_not_go_on() {
    let mut cluster = Cluster::with_master(3);
    cluster.request(1, &["a"]);
    cluster.run();
    cluster.wipe(2);
    cluster.wipe(3);
    for id in [2, 3] {
        cluster.start(id);
    }
    for _ in 0..20 {
        cluster.wait_ms(LEASE_MS / 2);
        cluster.tick_all();
        cluster.run();
    }
    assert!([2, 3].iter().all(|id| !cluster.engine(*id).status().votes));
    cluster.request(1, &["b"]);
    cluster.run();
    assert_eq!(cluster.applied(1), ["a"]);
}

/// A quorum of two is both, so nobody else can keep the cluster going meanwhile.
#[test]
fn in_a_cluster_of_two_a_wiped_slave_regains_its_vote_from_a_master_inside_its_lease() {
    let mut cluster = Cluster::with_master(2);
    cluster.request(1, &["a"]);
    cluster.run();
    cluster.wipe(2);
    cluster.start(2);
    cluster.run();
    assert!(cluster.engine(2).status().votes);
    cluster.tick(1);
    cluster.run();
    cluster.request(1, &["b"]);
    cluster.run();
    assert_eq!(cluster.applied(1), ["a", "b"]);
}

/// Rule V3: with an even number of voters what the other accepted and could not decide does not stand in the way.
#[test]
fn in_a_cluster_of_two_a_wiped_slave_regains_its_vote_although_the_other_cannot_be_master_without_it() {
    let mut cluster = Cluster::with_master(2);
    cluster.request(1, &["a"]);
    cluster.run();
    cluster.wipe(2);
    // Accepted by the master alone, and undecided for good without the other's vote.
    cluster.request(1, &["b"]);
    cluster.run();
    for _ in 0..10 {
        cluster.wait_ms(LEASE_MS / 2);
        cluster.tick(1);
        cluster.run();
    }
    cluster.start(2);
    for _ in 0..10 {
        cluster.wait_ms(LEASE_MS / 2);
        cluster.tick_all();
        cluster.run();
    }
    assert!(cluster.engine(2).status().votes);
    cluster.request(1, &["c"]);
    cluster.run();
    assert_eq!(cluster.applied(1), ["a", "b", "c"]);
}

/// Delivers everything under way between node 1 and the others, and gives the answers to `Recall` that node 1 got.
fn talk_with_founder(cluster: &mut Cluster, others: &[u16]) -> Vec<(u16, Message)> {
    let mut answers = Vec::new();
    for (from, to) in others.iter().flat_map(|other| [(1, *other), (*other, 1), (1, *other)]) {
        while let Some(message) = cluster.take(from, to) {
            if to == 1 && matches!(message, Message::Recalled { .. }) {
                answers.push((from, message.clone()));
            }
            cluster.receive(NodeId(from), NodeId(to), message);
        }
    }
    answers
}

/// The founder is killed before its record of the birth is durable. Had the others heard of that birth, they would begin
/// the history, and the founder, which knows nothing of it, could declare another birth: with one of the others, that
/// was wiped meanwhile, and an old answer of the third.
#[test]
fn nobody_hears_of_a_birth_before_it_is_durable() {
    let mut cluster = Cluster::blank(3);
    for id in 1..=3 {
        cluster.persist(id);
    }
    let answers = talk_with_founder(&mut cluster, &[2, 3]);
    for _ in 0..2 {
        cluster.wait_ms(LEASE_MS / 2);
        for id in [2, 3] {
            cluster.step(id, Event::Ticked);
        }
        talk_with_founder(&mut cluster, &[2, 3]);
    }
    cluster.kill(1);
    go_on_without(&mut cluster, 1, [2, 3], "before");
    cluster.wipe(2);
    cluster.start(2);
    cluster.start(1);
    for (from, answer) in answers.into_iter().filter(|(from, _)| *from == 3) {
        cluster.receive(NodeId(from), NodeId(1), answer);
    }
    go_on_without(&mut cluster, 3, [1, 2], "after");
    cluster.assert_one_history();
}

/// For four leases only these of five nodes hear each other.
fn go_on_among(cluster: &mut Cluster, ids: &[u16]) {
    let all = (1..=5).flat_map(|from| (1..=5).map(move |to| (from, to)));
    let cut: Vec<_> = all.filter(|(from, to)| !ids.contains(from) || !ids.contains(to)).collect();
    for _ in 0..16 {
        cluster.wait_ms(LEASE_MS / 4);
        cluster.tick_all();
        cluster.run_without(&cut);
    }
}

/// The founder of five is wiped when one other node, with a slow disk, has just heard of the birth. Its new life hears from
/// the rest that they are blank, and last from one that had a part in the history which began meanwhile, and was wiped
/// then. No two of these answers were true at the same time.
#[test]
fn a_birth_is_not_declared_on_answers_that_were_never_true_at_once() {
    let mut cluster = Cluster::blank(5);
    for id in 1..=5 {
        cluster.persist(id);
    }
    while !cluster.engine(1).status().votes {
        talk_with_founder(&mut cluster, &[2, 3, 4, 5]);
        cluster.persist_if_any(1);
    }
    cluster.wait_ms(LEASE_MS / 2);
    cluster.step(5, Event::Ticked);
    talk_with_founder(&mut cluster, &[5]);
    cluster.wipe(1);
    cluster.start(1);
    for id in 2..=5 {
        cluster.lose(1, id);
    }
    cluster.persist(1);
    assert_eq!(talk_with_founder(&mut cluster, &[3, 4, 5]).len(), 3);
    cluster.isolate(1);
    go_on_among(&mut cluster, &[2, 3, 4, 5]);
    assert!((2..=5).all(|id| cluster.engine(id).status().votes));
    go_on_among(&mut cluster, &[2, 3, 4]);
    for id in 2..=4 {
        cluster.request(id, &["before"]);
    }
    go_on_among(&mut cluster, &[2, 3, 4]);
    assert_eq!(cluster.applied(2), ["before"]);
    cluster.wipe(2);
    cluster.start(2);
    go_on_among(&mut cluster, &[1, 2]);
    go_on_among(&mut cluster, &[1, 2, 5]);
    cluster.assert_one_history();
    assert!([1, 2].iter().all(|id| !cluster.engine(*id).status().votes), "each waits for the other's vote");
}
