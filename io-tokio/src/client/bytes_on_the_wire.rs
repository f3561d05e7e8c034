//! Each command against the bytes of the protocol: section 12 of the original's description, and the orders of its lists.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Runs one call against a node that expects exactly these bytes after the prologue, and answers with those.
async fn exchange<T: Send + 'static>(
    request: &str,
    reply: &str,
    call: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let (request, reply) = (hex(request), hex(reply));
    let prologue = hex("00 00 ff b1 01 00 00 00 05 00 00 00 72 69 63 6b 79");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = vec![0; prologue.len() + request.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [prologue, request].concat());
        stream.write_all(&reply).await.unwrap();
        // Not one byte more.
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    });
    let client = Client::new(ClientOptions::new("ricky", [&address]).unwrap()).unwrap();
    let result = call(client.at(&address).unwrap()).await;
    drop(client);
    node.await.unwrap();
    result
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn bytes(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

const C: Consistency = Consistency::Consistent;
const OK: &str = "00 00 00 00";

#[tokio::test]
async fn hello_version_who_master() {
    let result = exchange(
        "01 00 ff b1 02 00 00 00 6d 65 05 00 00 00 72 69 63 6b 79",
        "00 00 00 00 0e 00 00 00 41 72 61 6b 6f 6f 6e 20 31 2e 39 2e 32 35",
        async |client| client.hello("me").await,
    );
    assert_eq!(result.await.unwrap(), "Arakoon 1.9.25");

    let result =
        exchange("28 00 ff b1", "00 00 00 00 01 00 00 00 09 00 00 00 19 00 00 00 02 00 00 00 78 0a", async |client| {
            client.version().await
        });
    assert_eq!(result.await.unwrap(), Version { major: 1, minor: 9, patch: 25, info: "x\n".into() });

    let master = "00 00 00 00 01 09 00 00 00 61 72 61 6b 6f 6f 6e 5f 30";
    let result = exchange("02 00 ff b1", master, async |client| client.who_master().await);
    assert_eq!(result.await.unwrap().as_deref(), Some("arakoon_0"));
    let result = exchange("02 00 ff b1", "00 00 00 00 00", async |client| client.who_master().await);
    assert_eq!(result.await.unwrap(), None);
}

#[tokio::test]
async fn get_in_each_consistency() {
    let value = "00 00 00 00 03 00 00 00 76 61 6c";
    let consistent = "08 00 ff b1 00 03 00 00 00 6b 65 79";
    let result = exchange(consistent, value, async |client| client.get("key").await);
    assert_eq!(result.await.unwrap(), "val");
    let result = exchange("08 00 ff b1 01 03 00 00 00 6b 65 79", value, async |client| {
        client.get_with("key", Consistency::NoGuarantees).await
    });
    assert_eq!(result.await.unwrap(), "val");
    let result = exchange("08 00 ff b1 02 e8 03 00 00 00 00 00 00 03 00 00 00 6b 65 79", value, async |client| {
        client.get_with("key", Consistency::AtLeast(1000)).await
    });
    assert_eq!(result.await.unwrap(), "val");
    let missing = "05 00 00 00 09 00 00 00 4e 6f 74 5f 66 6f 75 6e 64";
    let result = exchange(consistent, missing, async |client| client.get("key").await);
    assert_eq!(result.await, Err(ClientError::NotFound { key: "key".into() }), "the key that was asked for");
}

#[tokio::test]
async fn updates_of_one_key() {
    let set = "09 00 ff b1 03 00 00 00 6b 65 79 03 00 00 00 76 61 6c";
    exchange(set, OK, async |client| client.set("key", "val").await).await.unwrap();
    let not_master = "04 00 00 00 09 00 00 00 61 72 61 6b 6f 6f 6e 5f 31";
    let error = exchange(set, not_master, async |client| client.set("key", "val").await).await.unwrap_err();
    assert!(matches!(&error, ClientError::DidNotHappen { why } if why.contains("arakoon_1")), "{error}");

    let confirm = "1c 00 ff b1 03 00 00 00 6b 65 79 03 00 00 00 76 61 6c";
    exchange(confirm, OK, async |client| client.confirm("key", "val").await).await.unwrap();

    let delete = "0a 00 ff b1 03 00 00 00 6b 65 79";
    exchange(delete, OK, async |client| client.delete("key").await).await.unwrap();
    let missing = "05 00 00 00 03 00 00 00 6b 65 79";
    let error = exchange(delete, missing, async |client| client.delete("key").await).await;
    assert_eq!(error, Err(ClientError::NotFound { key: "key".into() }));

    let result = exchange("0d 00 ff b1 01 00 00 00 6b 00 01 01 00 00 00 76", "00 00 00 00 00", async |client| {
        client.test_and_set("k", None, Some(b"v")).await
    });
    assert_eq!(result.await.unwrap(), None);
    let result = exchange("33 00 ff b1 01 00 00 00 6b 00", "00 00 00 00 01 01 00 00 00 76", async |client| {
        client.replace("k", None).await
    });
    assert_eq!(result.await.unwrap().unwrap(), "v");
    let result = exchange("27 00 ff b1 01 00 00 00 6b", "00 00 00 00 02 00 00 00", async |client| {
        client.delete_prefix("k").await
    });
    assert_eq!(result.await.unwrap(), 2);
    exchange("41 00 ff b1", OK, async |client| client.nop().await).await.unwrap();
}

#[tokio::test]
async fn exists_and_assertions() {
    let result =
        exchange("07 00 ff b1 00 03 00 00 00 6b 65 79", "00 00 00 00 01", async |client| client.exists("key").await);
    assert!(result.await.unwrap());
    let assert = "16 00 ff b1 00 01 00 00 00 6b 01 01 00 00 00 76";
    exchange(assert, OK, async |client| client.assert("k", Some(b"v"), C).await).await.unwrap();
    let failed = "07 00 00 00 01 00 00 00 6b";
    let error = exchange(assert, failed, async |client| client.assert("k", Some(b"v"), C).await).await;
    assert_eq!(error, Err(ClientError::AssertionFailed { message: "k".into() }));
    let assert_exists = "29 00 ff b1 01 01 00 00 00 6b";
    let relaxed = Consistency::NoGuarantees;
    exchange(assert_exists, OK, async |client| client.assert_exists("k", relaxed).await).await.unwrap();
}

#[tokio::test]
async fn keys_of_a_range_arrive_descending_and_are_given_ascending() {
    let result = exchange(
        "0b 00 ff b1 00 00 01 01 02 00 00 00 6b 39 00 ff ff ff ff",
        "00 00 00 00 02 00 00 00 02 00 00 00 6b 32 02 00 00 00 6b 31",
        async |client| client.range(&KeyRange::all().below("k9"), C).await,
    );
    assert_eq!(result.await.unwrap(), bytes(&["k1", "k2"]));
    let result = exchange(
        "0c 00 ff b1 00 01 00 00 00 6b ff ff ff ff",
        "00 00 00 00 02 00 00 00 02 00 00 00 6b 32 02 00 00 00 6b 31",
        async |client| client.prefix_keys("k", None, C).await,
    );
    assert_eq!(result.await.unwrap(), bytes(&["k1", "k2"]));
}

#[tokio::test]
async fn entries_arrive_in_reverse_of_their_order() {
    let result = exchange(
        "0f 00 ff b1 00 01 02 00 00 00 6b 31 01 01 02 00 00 00 6b 39 01 0a 00 00 00",
        "00 00 00 00 02 00 00 00 02 00 00 00 6b 32 02 00 00 00 76 32 02 00 00 00 6b 31 02 00 00 00 76 31",
        async |client| client.range_entries(&KeyRange::all().from("k1").upto("k9").max(10), C).await,
    );
    let entries: Vec<Entry> = vec![("k1".into(), "v1".into()), ("k2".into(), "v2".into())];
    assert_eq!(result.await.unwrap(), entries);
    let result = exchange(
        "23 00 ff b1 00 01 02 00 00 00 6b 39 01 01 02 00 00 00 6b 31 01 0a 00 00 00",
        "00 00 00 00 02 00 00 00 02 00 00 00 6b 31 02 00 00 00 76 31 02 00 00 00 6b 32 02 00 00 00 76 32",
        async |client| client.rev_range_entries(&KeyRange::all().from("k1").upto("k9").max(10), C).await,
    );
    assert_eq!(result.await.unwrap(), entries.into_iter().rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn several_values_are_given_in_the_order_of_their_keys() {
    let result = exchange(
        "11 00 ff b1 00 02 00 00 00 01 00 00 00 61 01 00 00 00 62",
        "00 00 00 00 02 00 00 00 01 00 00 00 42 01 00 00 00 41",
        async |client| client.multi_get(["a", "b"], C).await,
    );
    assert_eq!(result.await.unwrap(), bytes(&["A", "B"]));
    let result = exchange(
        "31 00 ff b1 00 02 00 00 00 01 00 00 00 61 01 00 00 00 62",
        "00 00 00 00 02 00 00 00 01 01 00 00 00 41 00",
        async |client| client.multi_get_option(["a", "b"], C).await,
    );
    assert_eq!(result.await.unwrap(), [Some(Bytes::from("A")), None]);
    let one = "00 00 00 00 01 00 00 00 01 00 00 00 41";
    let request = "11 00 ff b1 00 02 00 00 00 01 00 00 00 61 01 00 00 00 62";
    let error = exchange(request, one, async |client| client.multi_get(["a", "b"], C).await).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "one value for two keys: {error}");
}

#[tokio::test]
async fn sequences() {
    let updates = || Sequence::new().set("a", "1").delete("b").assert("c", None);
    let body = "29 00 00 00 05 00 00 00 03 00 00 00 01 00 00 00 01 00 00 00 61 01 00 00 00 31 02 00 00 00 01 00 00 00 \
                62 08 00 00 00 01 00 00 00 63 00";
    let request = format!("10 00 ff b1 {body}");
    exchange(&request, OK, async |client| client.sequence(updates()).await).await.unwrap();
    let synced = format!("24 00 ff b1 {body}");
    exchange(&synced, OK, async |client| client.synced_sequence(updates()).await).await.unwrap();
    let failed = "07 00 00 00 01 00 00 00 63";
    let error = exchange(&request, failed, async |client| client.sequence(updates()).await).await;
    assert_eq!(error, Err(ClientError::AssertionFailed { message: "c".into() }));

    let request = "10 00 ff b1 25 00 00 00 05 00 00 00 01 00 00 00 11 00 00 00 01 00 00 00 6b 01 00 00 00 02 00 00 00 \
                   02 00 00 00 6b 32 02 00 00 00 6b 31";
    let range = Sequence::new().assert_range("k", ["k1", "k2"]);
    exchange(request, OK, async |client| client.sequence(range).await).await.unwrap();
}

#[tokio::test]
async fn questions_about_the_node() {
    let result =
        exchange("43 00 ff b1", "00 00 00 00 02 e8 03 00 00 00 00 00 00", async |client| client.get_txid().await);
    assert_eq!(result.await.unwrap(), Consistency::AtLeast(1000));
    let count = "00 00 00 00 05 00 00 00 00 00 00 00";
    let result = exchange("1a 00 ff b1", count, async |client| client.get_key_count().await);
    assert_eq!(result.await.unwrap(), 5);
    let result = exchange("12 00 ff b1", "00 00 00 00 00", async |client| client.expect_progress_possible().await);
    assert!(!result.await.unwrap());
    let result = exchange("32 00 ff b1", "00 00 00 00 01 00 00 00 73", async |client| client.current_state().await);
    assert_eq!(result.await.unwrap(), "s");
}

#[tokio::test]
async fn refusals_keep_their_code_and_text() {
    let unknown = "05 00 00 00 15 00 00 00 37 37 3a 20 63 6f 6d 6d 61 6e 64 20 6e 6f 74 20 66 6f 75 6e 64";
    let error = exchange("32 00 ff b1", unknown, async |client| client.current_state().await).await;
    assert_eq!(error, Err(ClientError::Refused { code: 5, message: "77: command not found".into() }));
    let error = exchange("41 00 ff b1", "01 00 00 00", async |client| client.nop().await).await;
    assert_eq!(error, Err(ClientError::Refused { code: 1, message: String::new() }));
}
