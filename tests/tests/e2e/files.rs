//! Commands that look at the files of a node that does not run.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use trialbay::cli::ExitCode;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::command::{Ran, run};

use crate::{program, with_cluster};

/// Every file below a directory, with its bytes.
fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
}

/// Runs a command, which must end so, and change nothing in `home`.
async fn look(home: &Path, args: &[&str], exit: ExitCode) -> Ran {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    files(home, &mut before);
    let ran = run(program(), &[&args[..2], &[home.to_str().unwrap()], &args[2..]].concat(), b"").await;
    files(home, &mut after);
    assert_eq!(ran.code, Some(exit as i32), "{args:?}: {ran:?}");
    assert!(before == after, "{args:?} changed a file");
    ran
}

fn damage(file: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn log_and_store_of_a_stopped_node_can_be_looked_at_and_their_damage_is_named() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let client = cluster.client();
        for number in 0..100_u32 {
            client.set(format!("key{number:03}"), vec![7; 5_000]).await.unwrap();
        }
        client.set("a\tb", "c\nd").await.unwrap();
        cluster.agreed().await;
        let home = cluster.home(1).to_owned();
        for command in [["tlog", "verify"], ["store", "verify"]] {
            let ran = run(program(), &[command[0], command[1], home.to_str().unwrap()], b"").await;
            assert_eq!(ran.code, Some(ExitCode::HomeLocked as i32), "{ran:?}");
            assert!(ran.complaint().contains(&cluster.pid(1).to_string()), "{ran:?}");
        }
        let file = cluster.dir().join("backup").display().to_string();
        let backup = cluster.cli(&["backup", &file, "--from", cluster.endpoint(1), "-o", "json"], b"").await.json();

        // Killed: the store was not closed.
        cluster.kill(1);
        let verified = look(&home, &["tlog", "verify", "-o", "json"], ExitCode::Ok).await.json();
        assert_eq!((&verified["vote"], verified["damage"].as_array().unwrap().len()), (&"kept".into(), 0));
        look(&home, &["tlog", "inspect"], ExitCode::Ok).await;
        look(&home, &["store", "verify"], ExitCode::Ok).await;
        let dump = look(&home, &["tlog", "dump"], ExitCode::Ok).await;
        assert_eq!(dump.text().lines().filter(|line| line.contains("[set key key")).count(), 100);
        let line = dump.text().lines().find(|line| line.contains(r"[set key a\tb value 3 B]")).unwrap();
        let slot = line.split(' ').nth(3).unwrap();
        let args = ["tlog", "dump", "--from-slot", slot, "--to-slot", slot, "--values", "-o", "json"];
        let entry = look(&home, &args, ExitCode::Ok).await.json();
        assert_eq!(entry["value"][0], serde_json::json!({ "kind": "set", "key": "a\tb", "value": "c\nd" }));

        // Stopped in order: all that is decided is in the store.
        cluster.start_node(1);
        cluster.whole().await;
        cluster.agreed().await;
        assert!(cluster.terminate(1).await.success());
        let whole = look(&home, &["store", "verify", "-o", "json"], ExitCode::Ok).await.json();
        assert_eq!((&whole["content_hash"], &whole["keys"]), (&backup["content_hash"], &101.into()));
        let dump = look(&home, &["store", "dump", "--last", "key001", "--keys-only"], ExitCode::Ok).await;
        assert_eq!(dump.text(), "a\\tb\nkey000\nkey001\n");
        let dump = look(&home, &["store", "dump", "--last", "a\tb"], ExitCode::Ok).await;
        assert_eq!(dump.text(), "a\\tb\tc\\nd\n");

        // A record of half a megabyte of them.
        damage(&home.join("tlogs/000.tlog"), 100_000);
        let ran = look(&home, &["tlog", "verify"], ExitCode::StorageFailed).await;
        assert!(ran.text().contains("damage: tlog segment 000, byte "), "{ran:?}");
        assert!(ran.text().contains("vote: lost"), "{ran:?}");
        let ran = look(&home, &["tlog", "inspect", "-o", "json"], ExitCode::Ok).await;
        assert_eq!(ran.json()["segments"][0]["damage"], 1, "{ran:?}");
        look(&home, &["tlog", "dump"], ExitCode::Ok).await;

        let store = home.join("db/n2.db");
        let len = std::fs::metadata(&store).unwrap().len();
        for at in (8192..len).step_by(4096 * 3) {
            damage(&store, at + 100);
        }
        look(&home, &["store", "verify"], ExitCode::StorageFailed).await;
        std::fs::remove_file(&store).unwrap();
        look(&home, &["store", "verify"], ExitCode::StorageFailed).await;
        std::fs::remove_file(home.join("IDENTITY")).unwrap();
        look(&home, &["store", "verify"], ExitCode::Usage).await;
    });
}
