//! The client against scripted nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fake::{Asked, Fake, Reaction, refuse, reply};
use super::*;
use crate::wire::Writer as _;

fn client(nodes: &[&Fake]) -> Client {
    Client::new(options(nodes)).unwrap()
}

fn options(nodes: &[&Fake]) -> ClientOptions {
    ClientOptions::new("c", nodes.iter().map(|node| &node.address)).unwrap()
}

fn done(_: &Asked) -> Reaction {
    Reaction::Reply(reply(|_| ()))
}

/// Answers a GET with its key.
fn echo(asked: &Asked) -> Reaction {
    Reaction::Reply(reply(|bytes| bytes.string(&asked.key)))
}

fn never(asked: &Asked) -> Reaction {
    panic!("this node should not be asked {asked:?}")
}

fn n1() -> Option<&'static str> {
    Some("n1")
}

fn n2() -> Option<&'static str> {
    Some("n2")
}

#[tokio::test]
async fn the_node_that_names_itself_is_master_and_gets_the_updates() {
    let first = Fake::node("n1", n2, never).await;
    let second = Fake::node("n2", n2, done).await;
    let third = Fake::node("n3", || None, never).await;
    let client = client(&[&first, &second, &third]);
    client.set("k", "v").await.unwrap();
    client.set("k", "v").await.unwrap();
    assert_eq!(second.count(Command::Set), 2);
    assert_eq!(second.count(Command::WhoMaster), 1, "the master is remembered");
    let master = client.find_master().await.unwrap().unwrap();
    assert_eq!(master, Master { name: "n2".into(), endpoint: second.address.clone() });
}

#[tokio::test]
async fn a_master_that_only_others_name_is_none() {
    let first = Fake::node("n1", n2, never).await;
    let second = Fake::node("n2", || None, never).await;
    let client = client(&[&first, &second]);
    assert_eq!(client.find_master().await.unwrap(), None);
    let error = client.with_timeout(Duration::from_millis(50)).set("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::DidNotHappen { .. }), "{error}");
}

#[tokio::test]
async fn not_master_is_followed_to_the_named_node() {
    let first = Fake::node("n1", n1, |_| Reaction::LastReply(refuse(4, "n2"))).await;
    let second = Fake::node("n2", || None, done).await;
    let endpoints = [format!("n1={}", first.address), format!("n2={}", second.address)];
    let client = Client::new(ClientOptions::new("c", endpoints).unwrap()).unwrap();
    client.set("k", "v").await.unwrap();
    assert_eq!((first.count(Command::Set), second.count(Command::Set)), (1, 1));
}

#[tokio::test]
async fn not_master_of_an_unknown_name_starts_a_new_search() {
    let is_second = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_second);
    let first = Fake::node(
        "n1",
        move || if is_second.load(Ordering::SeqCst) { n2() } else { n1() },
        move |_| {
            flag.store(true, Ordering::SeqCst);
            Reaction::LastReply(refuse(4, "None"))
        },
    )
    .await;
    let second = Fake::node("n2", n2, done).await;
    let third = Fake::node("n3", n1, never).await;
    // The second is out of sight at first, so that the first is found.
    let client = client(&[&first, &third, &second]);
    client.set("k", "v").await.unwrap();
    assert!(first.count(Command::Set) <= 1);
    assert_eq!(second.count(Command::Set), 1);
}

#[tokio::test]
async fn an_update_whose_connection_dies_after_it_was_sent_is_unknown_and_is_not_sent_again() {
    let node = Fake::node("n1", n1, |_| Reaction::Close).await;
    let error = client(&[&node]).set("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(error.happened(), Happened::Unknown);
    assert_eq!(node.count(Command::Set), 1);
}

#[tokio::test]
async fn an_update_of_a_master_that_lost_its_mastership_is_unknown_and_is_not_sent_again() {
    let node = Fake::node("n1", n1, |_| Reaction::Reply(refuse(0x21, "lost"))).await;
    let error = client(&[&node]).set("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
    assert_eq!(node.count(Command::Set), 1);
}

#[tokio::test]
async fn a_read_whose_connection_dies_is_tried_again() {
    let mut tries = 0;
    let node = Fake::node("n1", n1, move |asked| {
        tries += 1;
        if tries < 3 { Reaction::Close } else { echo(asked) }
    })
    .await;
    assert_eq!(client(&[&node]).get("k").await.unwrap(), "k");
    assert_eq!(node.count(Command::Get), 3);
}

#[tokio::test]
async fn an_update_that_a_node_says_it_did_not_do_is_tried_again() {
    for (code, closes) in [(0x90, false), (0x10, true), (4, true)] {
        let mut tries = 0;
        let node = Fake::node("n1", n1, move |asked| {
            tries += 1;
            match (tries, closes) {
                (3, _) => done(asked),
                (_, true) => Reaction::LastReply(refuse(code, "n1")),
                (_, false) => Reaction::Reply(refuse(code, "later")),
            }
        })
        .await;
        client(&[&node]).set("k", "v").await.unwrap();
        assert_eq!(node.count(Command::Set), 3, "{code}");
    }
}

#[tokio::test]
async fn an_update_behind_a_reply_that_closes_is_unknown_and_is_not_sent_again() {
    let mut sets = 0;
    let node = Fake::node("n1", n1, move |asked| {
        sets += 1;
        match sets {
            1 => done(asked),
            // Only when both are there is the first refused, so that the second is surely pipelined behind it.
            2 => Reaction::Silence,
            3 => Reaction::LastReply(refuse(4, "n1")),
            _ => done(asked),
        }
    })
    .await;
    let client = client(&[&node]);
    client.set("warm", "up").await.unwrap();
    let (first, second) = tokio::join!(client.set("a", ""), client.set("b", ""));
    first.unwrap();
    assert!(matches!(second, Err(ClientError::OutcomeUnknown { .. })), "{second:?}");
    assert_eq!(node.count(Command::Set), 4, "one warm-up, two pipelined, the first once more");
}

#[tokio::test]
async fn a_silent_node_costs_no_more_than_the_deadline() {
    let node = Fake::node("n1", n1, |_| Reaction::Silence).await;
    let client = client(&[&node]).with_timeout(Duration::from_millis(50));
    let update = client.set("k", "v").await.unwrap_err();
    assert!(matches!(update, ClientError::OutcomeUnknown { .. }), "{update}");
    let read = client.get("k").await.unwrap_err();
    assert!(matches!(read, ClientError::DidNotHappen { .. }), "{read}");
    assert_eq!(node.count(Command::Set), 1);
}

#[tokio::test]
async fn a_node_that_falls_silent_altogether_loses_its_reads_to_the_next_master() {
    let is_frozen = Arc::new(AtomicBool::new(false));
    let (frozen, thaw) = (Arc::clone(&is_frozen), Arc::clone(&is_frozen));
    let first = Fake::start(move |asked| {
        let is_who_master = asked.command == Command::WhoMaster as u16;
        match frozen.load(Ordering::SeqCst) {
            true => Reaction::Silence,
            false if is_who_master => Reaction::Reply(reply(|bytes| bytes.option_string(Some(b"n1")))),
            false => {
                frozen.store(true, Ordering::SeqCst);
                Reaction::Silence
            }
        }
    })
    .await;
    let second = Fake::node("n2", move || thaw.load(Ordering::SeqCst).then_some("n2"), echo).await;
    let endpoints = [format!("n1={}", first.address), format!("n2={}", second.address)];
    let mut options = ClientOptions::new("c", endpoints).unwrap();
    options.silence_max = Duration::from_millis(20);
    options.connect_timeout = Duration::from_millis(50);
    let client = Client::new(options).unwrap();
    assert_eq!(client.get("k").await.unwrap(), "k");
    assert!(is_frozen.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_slow_request_on_a_live_node_is_waited_for() {
    let pulses = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&pulses);
    let node = Fake::start(move |asked| {
        let is_pulse = asked.command == Command::WhoMaster as u16 && asked.connection > 0;
        count.fetch_add(usize::from(is_pulse), Ordering::SeqCst);
        match asked.command {
            command if command == Command::WhoMaster as u16 => {
                Reaction::Reply(reply(|bytes| bytes.option_string(Some(b"n1"))))
            }
            // The reply to the GET comes with the one to the NOP, which is sent after two pulses.
            command if command == Command::Nop as u16 => {
                Reaction::Reply([reply(|bytes| bytes.string(b"v")), reply(|_| ())].concat())
            }
            _ => Reaction::Silence,
        }
    })
    .await;
    let mut options = ClientOptions::new("c", [format!("n1={}", node.address)]).unwrap();
    options.silence_max = Duration::from_millis(5);
    let client = Client::new(options).unwrap();
    let second = client.clone();
    let waiting = tokio::spawn(async move { second.get("k").await });
    while pulses.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    client.nop().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "v");
    assert_eq!(node.count(Command::Get), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_share_a_connection_and_get_their_own_replies() {
    let node = Fake::node("n1", n1, echo).await;
    let mut options = options(&[&node]);
    options.in_flight_max = 7;
    let client = Client::new(options).unwrap();
    let calls: Vec<_> = (0..500)
        .map(|number: usize| {
            let client = client.clone();
            tokio::spawn(async move {
                let key = format!("key {number} {}", "x".repeat(number));
                assert_eq!(client.get(&key).await.unwrap(), key);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(node.count(Command::Get), 500);
    assert!(node.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn requests_of_concurrent_calls_travel_together() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut reads = Vec::new();
        while reads.iter().sum::<usize>() < PROLOGUE + 101 * NOP {
            let mut buffer = [0; 1 << 16];
            let read = stream.read(&mut buffer).await.unwrap();
            let nops = if reads.is_empty() { read - PROLOGUE } else { read } / NOP;
            stream.write_all(&[0; 4].repeat(nops)).await.unwrap();
            reads.push(read);
        }
        reads
    });
    const PROLOGUE: usize = 13;
    const NOP: usize = 4;
    let client = Client::new(ClientOptions::new("c", [&address]).unwrap()).unwrap().at(&address).unwrap();
    client.nop().await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        calls.spawn(async move { client.nop().await });
    }
    for result in calls.join_all().await {
        result.unwrap();
    }
    assert_eq!(node.await.unwrap(), [PROLOGUE + NOP, 100 * NOP]);
}

#[tokio::test]
async fn several_connections_share_the_calls() {
    let node = Fake::node("n1", n1, done).await;
    let mut options = options(&[&node]);
    options.connections = 3;
    let client = Client::new(options).unwrap();
    for _ in 0..30 {
        client.set("k", "v").await.unwrap();
    }
    for connection in 0..3 {
        assert!(node.asked().iter().any(|asked| asked.connection == connection && asked.key == "k"), "{connection}");
    }
}

#[tokio::test]
async fn no_endpoint_that_answers_is_unreachable_with_the_reason_of_each() {
    let node = Fake::start(|_| Reaction::Close).await;
    let closed = node.address.clone();
    let mut options = options(&[&node]);
    options.endpoints.push("127.0.0.1:1".parse().unwrap());
    options.unreachable_timeout = Duration::from_millis(30);
    let client = Client::new(options).unwrap();
    for error in [client.set("k", "v").await.unwrap_err(), client.get("k").await.unwrap_err()] {
        let ClientError::Unreachable { tried } = error else { panic!("{error}") };
        assert_eq!(tried.len(), 2, "{tried:?}");
        let why = &tried.iter().find(|(endpoint, _)| *endpoint == closed).unwrap().1;
        assert!(why.contains("cluster id"), "{why}");
    }
}

#[tokio::test]
async fn a_master_that_is_not_among_the_endpoints_is_not_waited_for() {
    let node = Fake::node("n2", n1, never).await;
    let mut options = options(&[&node]);
    options.unreachable_timeout = Duration::from_millis(30);
    options.timeout = Duration::from_secs(3600);
    let error = Client::new(options).unwrap().set("k", "v").await.unwrap_err();
    let said = "did not happen: n2 names n1 as master, not among the endpoints: add that node to them";
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn a_node_without_room_for_another_client_has_not_read_the_update() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&refuse(0xfe, "too many clients")).await.unwrap();
        }
    });
    let client = Client::new(ClientOptions::new("c", [&address]).unwrap()).unwrap();
    let error = client.at(&address).unwrap().set("k", "v").await.unwrap_err();
    assert_eq!(error.happened(), Happened::No, "{error}");
}

#[tokio::test]
async fn garbage_is_a_protocol_error() {
    for garbage in [&[0xff; 64][..], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], b"HTTP/1.1 400 Bad Request\r\n"] {
        let node = Fake::node("n1", n1, |_| Reaction::Reply(garbage.to_vec())).await;
        let client = client(&[&node]);
        let error = client.get("k").await.unwrap_err();
        assert!(matches!(&error, ClientError::Protocol { endpoint, .. } if *endpoint == node.address), "{error}");
        assert_eq!(error.happened(), Happened::No);
        let error = client.replace("k", None).await.unwrap_err();
        assert_eq!(error.happened(), Happened::Unknown, "{error}");
    }
}

#[tokio::test]
async fn a_read_that_one_node_is_too_stale_for_goes_to_the_next() {
    let stale = |_: &Asked| Reaction::Reply(refuse(0x80, "store not fresh enough"));
    let first = Fake::node("n1", || None, stale).await;
    let second = Fake::node("n2", || None, echo).await;
    let both = client(&[&first, &second]);
    assert_eq!(both.get_with("k", Consistency::AtLeast(9)).await.unwrap(), "k");
    let error = client(&[&first]).get_with("k", Consistency::AtLeast(9)).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: 0x80, .. }), "{error}");
}

#[tokio::test]
async fn a_relaxed_read_prefers_its_node_and_needs_no_master() {
    let first = Fake::node("n1", || None, echo).await;
    let second = Fake::node("n2", || None, echo).await;
    let mut options = options(&[&first, &second]);
    options.prefer = Some(second.address.clone());
    let client = Client::new(options).unwrap();
    client.get_with("k", Consistency::NoGuarantees).await.unwrap();
    assert_eq!((first.count(Command::Get), second.count(Command::Get)), (0, 1));
    drop(second);
    client.get_with("k", Consistency::NoGuarantees).await.unwrap();
    assert_eq!(first.count(Command::Get), 1);
}

#[tokio::test]
async fn the_status_of_a_cluster_has_a_line_for_each_endpoint() {
    let first = Fake::node("n1", n1, never).await;
    let second = Fake::node("n2", n1, never).await;
    let client = client(&[&first, &second]);
    drop(second);
    let reports = client.cluster_status().await;
    assert_eq!(reports[0].status.as_ref().unwrap().node, "n1");
    assert!(matches!(reports[1].status, Err(ClientError::Unreachable { .. })), "{reports:?}");
}

#[tokio::test]
async fn a_node_of_the_original_needs_a_name() {
    let unknown = |_: &Asked| Reaction::LastReply(refuse(5, "50: command not found"));
    let node = Fake::start(move |asked| match asked.command {
        command if command == Command::NodeStatus as u16 => unknown(asked),
        command if command == Command::WhoMaster as u16 => {
            Reaction::Reply(reply(|bytes| bytes.option_string(Some(b"n1"))))
        }
        _ => done(asked),
    })
    .await;
    let mut options = options(&[&node]);
    options.unreachable_timeout = Duration::ZERO;
    let error = Client::new(options).unwrap().set("k", "v").await.unwrap_err();
    assert!(error.to_string().contains("name=host:port"), "{error}");
    let named = ClientOptions::new("c", [format!("n1={}", node.address)]).unwrap();
    let client = Client::new(named).unwrap();
    client.set("k", "v").await.unwrap();
    let error = client.node_status(&node.address).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { code: 5, .. }), "{error}");
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_is_sent() {
    let node = Fake::node("n1", n1, never).await;
    let mut options = options(&[&node]);
    options.in_flight_bytes_max = 100;
    let error = Client::new(options).unwrap().set("k", [0; 100]).await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidArgument { .. }), "{error}");
}

#[tokio::test]
async fn a_client_that_is_dropped_closes_its_connections() {
    let mut node = Fake::node("n1", n1, done).await;
    let client = client(&[&node]);
    client.set("k", "v").await.unwrap();
    drop(client);
    assert_eq!(node.ended().await, 0);
}
