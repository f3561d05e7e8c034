//! Every command of the command line, against a real node.

use serde_json::json;
use trialbay::cli::ExitCode;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::command::{Ran, run};

use crate::{program, with_cluster};

/// Runs a command, which must end so and print that.
async fn expect(cluster: &Cluster, args: &[&str], input: &[u8], exit: ExitCode, out: &[u8]) -> Ran {
    let ran = cluster.cli(args, input).await;
    assert_eq!(ran.code, Some(exit as i32), "{args:?}: {ran:?}");
    assert_eq!(ran.out.escape_ascii().to_string(), out.escape_ascii().to_string(), "{args:?}: {ran:?}");
    ran
}

#[test]
fn the_commands_on_keys_and_values_do_what_they_say() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 1).await;
        let run = async |args: &str, exit, out: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            expect(&cluster, &args, b"", exit, out.as_bytes()).await
        };
        use ExitCode::{AssertionFailed, NotFound, Ok, Usage};
        run("set hello world", Ok, "").await;
        run("get hello", Ok, "world").await;
        run("get hello -o json", Ok, "{\"value\":\"world\"}\n").await;
        run("get hello --consistency none", Ok, "world").await;
        run("get hello --consistency at-least=1", Ok, "world").await;
        run("get nothing", NotFound, "").await;
        run("exists hello", Ok, "true\n").await;
        run("exists nothing", NotFound, "false\n").await;
        run("exists nothing -o json", NotFound, "{\"exists\":false}\n").await;

        run("set --hex 00ff 0a0b -o json", Ok, "{\"ok\":true}\n").await;
        run("get --hex 00ff", Ok, "0a0b\n").await;
        run("get --hex 00ff -o json", Ok, "{\"value\":{\"hex\":\"0a0b\"}}\n").await;
        run("get --hex 0g", Usage, "").await;
        let bytes: Vec<u8> = (0..=255).collect();
        expect(&cluster, &["set", "binary", "-"], &bytes, Ok, b"").await;
        expect(&cluster, &["get", "binary"], b"", Ok, &bytes).await;

        run("test-and-set lock --absent --wanted me", Ok, "").await;
        run("test-and-set lock --absent --wanted you", AssertionFailed, "me").await;
        run("test-and-set lock --expected me --wanted you", Ok, "me").await;
        let done = "{\"before\":\"you\",\"done\":true}\n";
        run("test-and-set lock --expected you --delete -o json", Ok, done).await;
        run("get lock", NotFound, "").await;

        run("set user/1 a", Ok, "").await;
        run("set user/2 b", Ok, "").await;
        run("set user/3 c", Ok, "").await;
        run("range --first user/ --last user0", Ok, "user/1\ta\nuser/2\tb\nuser/3\tc\n").await;
        run("range --first user/1 --exclude-first --max 1 --keys-only", Ok, "user/2\n").await;
        run("range --first user/ --reverse --max 2", Ok, "user/3\tc\nuser/2\tb\n").await;
        run("range --first user/3 -o json", Ok, "[{\"key\":\"user/3\",\"value\":\"c\"}]\n").await;
        run("prefix user/ --max 2", Ok, "user/1\nuser/2\n").await;
        run("delete user/1", Ok, "").await;
        run("delete user/1", NotFound, "").await;
        run("delete-prefix user/ -o json", Ok, "{\"deleted\":2}\n").await;
        run("delete-prefix user/", Ok, "0\n").await;
        run("nop", Ok, "").await;

        let backup = cluster.dir().join("backup").display().to_string();
        let keys = cluster.cli(&["backup", &backup, "-o", "json"], b"").await;
        let manifest: serde_json::Value = serde_json::from_slice(&keys.out).unwrap();
        assert_eq!((keys.code, &manifest["entries"]), (Some(Ok as i32), &json!(3)), "{keys:?}");
        expect(&cluster, &["backup", "verify", &backup, "-o", "json"], b"", Ok, &keys.out).await;
        run(&format!("backup {backup}"), Usage, "").await;
        std::fs::write(&backup, "TBAYBKUP").unwrap();
        run(&format!("backup verify {backup}"), ExitCode::StorageFailed, "").await;

        let ran = cluster.cli(&["cluster", "statistics", "-o", "json"], b"").await;
        let statistics: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
        let deletes = &statistics["nodes"][0]["statistics"]["series"]["del_info"]["n"];
        assert_eq!((ran.code, deletes), (Some(Ok as i32), &json!(1)), "{ran:?}");

        let transfer = b"assert from 10\nset from 0\nset to 10\n";
        run("set from 10", Ok, "").await;
        expect(&cluster, &["sequence", "-"], transfer, Ok, b"").await;
        let again = expect(&cluster, &["sequence", "-"], transfer, AssertionFailed, b"").await;
        assert!(again.complaint().contains("from"), "{again:?}");
        let file = cluster.dir().join("updates.json");
        std::fs::write(&file, r#"[{"set": {"key": "a", "value": {"hex": "00"}}}, {"delete": {"key": "b"}}]"#).unwrap();
        let file = file.display().to_string();
        run(&format!("sequence {file}"), NotFound, "").await;
        run("exists a", NotFound, "false\n").await;
        expect(&cluster, &["sequence", "-"], b"sett a b\n", Usage, b"").await;
        expect(&cluster, &["delete-prefix", ""], b"", Usage, b"").await;
        expect(&cluster, &["delete-prefix", "", "--all"], b"", Ok, b"5\n").await;
    });
}

#[test]
fn the_commands_on_clusters_and_configurations_say_how_they_are() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let master = cluster.master().await;
        let name = cluster.config.nodes[master].name.clone();
        expect(&cluster, &["cluster", "who-master"], b"", ExitCode::Ok, format!("{name}\n").as_bytes()).await;
        let status = cluster.cli(&["cluster", "status"], b"").await;
        assert_eq!(status.code, Some(0), "{status:?}");
        let verdict = format!("master: {name}\none more node failure is survivable: yes\n");
        assert!(status.text().ends_with(&verdict), "{}", status.text());

        let slave = (master + 1) % 3;
        cluster.kill(slave);
        trialbay_tests::until("the status tells of the loss", async || {
            let status = cluster.cli(&["cluster", "status", "-o", "json"], b"").await;
            assert_eq!(status.code, Some(0), "{status:?}");
            let status = status.json();
            assert_eq!(status["master"], name.as_str());
            let lost = status["nodes"][slave]["reachable"] == false && status["one_more_failure_survivable"] == false;
            lost.then_some(())
        })
        .await;

        let config = cluster.config_path().display().to_string();
        let checked = run(program(), &["config", "check", &config, "-o", "json"], b"").await;
        let answer = json!({"ok": true, "cluster_id": "dev", "nodes": ["n1", "n2", "n3"], "failures_survivable": 1});
        assert_eq!((checked.code, checked.json()), (Some(0), answer));
        let toml = std::fs::read_to_string(&config).unwrap().replace("id = 2", "id = 1");
        std::fs::write(&config, toml).unwrap();
        let checked = run(program(), &["config", "check", &config], b"").await;
        assert_eq!(checked.code, Some(ExitCode::BadConfig as i32), "{checked:?}");
        assert!(checked.text().contains("cluster.toml:"), "{checked:?}");
    });
}

#[test]
fn bench_measures_what_it_is_asked_to_and_leaves_a_cluster_that_works() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let size = ["--clients", "4", "--seconds", "1", "--warm-up-seconds", "0", "--keys", "100"];
        for mix in ["set", "9:1", "sequence"] {
            let ran = cluster.cli(&[&["bench", "--mix", mix, "-o", "json"], &size[..]].concat(), b"").await;
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let report = ran.json();
            assert!(report["ops_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
        }
        let text = cluster.cli(&[&["bench", "--mix", "get", "--pipeline", "8"], &size[..]].concat(), b"").await;
        assert_eq!(text.code, Some(0), "{text:?}");
        assert!(text.text().contains("p99.9"), "{}", text.text());
        let deleted = cluster.cli(&["delete-prefix", "bench-"], b"").await;
        assert_eq!((deleted.code, deleted.text()), (Some(0), "100\n"), "{deleted:?}");
    });
}

#[test]
fn who_cannot_be_served_learns_why_by_the_exit_code() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 1).await;
        let endpoint = cluster.endpoint(0);
        let large = vec![b'x'; (8 << 20) + 1];
        let refused = cluster.cli(&["set", "key", "-"], &large).await;
        assert_eq!(refused.code, Some(ExitCode::Refused as i32), "{refused:?}");
        let stranger = ["get", "key", "--endpoints", endpoint, "--cluster-id", "other"];
        let refused = run(program(), &stranger, b"").await;
        assert_eq!(refused.code, Some(ExitCode::Unreachable as i32), "{refused:?}");
        assert!(refused.complaint().contains(endpoint), "{refused:?}");

        let nobody = trialbay_tests::ports::free_ports(1)[0];
        let nobody = format!("127.0.0.1:{nobody}");
        let unreachable = run(program(), &["set", "key", "value", "--endpoints", &nobody, "-o", "json"], b"").await;
        assert_eq!(unreachable.code, Some(ExitCode::Unreachable as i32), "{unreachable:?}");
        let error: serde_json::Value = serde_json::from_str(&unreachable.err).unwrap();
        assert_eq!(error["error"]["kind"], "unreachable");
        let status = run(program(), &["cluster", "status", "--endpoints", &nobody], b"").await;
        assert_eq!(status.code, Some(ExitCode::Unreachable as i32), "{status:?}");
        for nonsense in [&["frobnicate"][..], &["get"], &["get", "key", "--endpoints", "nowhere"]] {
            assert_eq!(run(program(), nonsense, b"").await.code, Some(ExitCode::Usage as i32), "{nonsense:?}");
        }
        for help in ["--help", "--version"] {
            let help = run(program(), &[help], b"").await;
            assert!(help.code == Some(0) && help.text().starts_with("trialbay") | help.text().contains("Usage"));
        }
    });
}
