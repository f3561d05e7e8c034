//! What a node says, in one line and with which exit code, of the mistakes of those who start it.

use std::net::TcpListener;

use trialbay::cli::ExitCode;
use trialbay_tests::cluster::Cluster;
use trialbay_tests::command::{Ran, command, run};

use crate::{program, with_cluster};

/// Starts a node of the cluster that must refuse, with this exit code and a line that has these words.
async fn refuses(cluster: &Cluster, args: &[&str], exit: ExitCode, words: &[&str]) {
    // A closed standard input ends a node that starts in spite of all, which is a failure of the test.
    let ran = cluster.cli(&[&["node", "--exit-with-parent"], args].concat(), b"").await;
    expect(&ran, exit, words);
}

fn expect(ran: &Ran, exit: ExitCode, words: &[&str]) {
    assert_eq!(ran.code, Some(exit as i32), "{ran:?}");
    let complaint = ran.complaint();
    for word in words {
        assert!(complaint.contains(word), "no {word:?} in {complaint:?}");
    }
}

#[test]
fn a_node_refuses_a_home_that_is_not_its_own_or_not_usable() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 1).await;
        cluster.client().set("key", "value").await.unwrap();
        let home = cluster.home(0).display().to_string();
        let config = cluster.config.to_toml();

        // Another process, on other ports.
        let elsewhere = Cluster::prepare(program(), 1, |_| ());
        let pid = cluster.pid(0).to_string();
        let on_home = |name| ["--name", name, "--home", &home];
        refuses(&elsewhere, &on_home("n1"), ExitCode::HomeLocked, &[&home, &pid, "stop"]).await;

        cluster.kill(0);
        let other_cluster = [&on_home("n1")[..], &["--cluster-id", "other"]].concat();
        refuses(&elsewhere, &other_cluster, ExitCode::ForeignHome, &[&home, "\"dev\"", "\"other\""]).await;
        let other_node = Cluster::prepare(program(), 2, |_| ());
        refuses(&other_node, &on_home("n2"), ExitCode::ForeignHome, &[&home, "\"n1\"", "\"n2\""]).await;
        let other_id = Cluster::prepare(program(), 1, |config| config.nodes[0].id = 7);
        refuses(&other_id, &on_home("n1"), ExitCode::ForeignHome, &[&home, "id 1", "id 7"]).await;

        let file = elsewhere.dir().join("file");
        std::fs::write(&file, "no directory").unwrap();
        for home in [file.clone(), file.join("below")] {
            let (home, file) = (home.display().to_string(), file.display().to_string());
            let words = [file.as_str(), "another home"];
            refuses(&elsewhere, &["--name", "n1", "--home", &home], ExitCode::Unwritable, &words).await;
        }
        let log = cluster.home(0).join("tlogs");
        assert!(log.is_dir() && std::fs::remove_file(cluster.home(0).join("IDENTITY")).is_ok());
        refuses(&elsewhere, &on_home("n1"), ExitCode::ForeignHome, &["IDENTITY"]).await;
        assert_eq!(config, cluster.config.to_toml());
    });
}

#[test]
fn a_node_refuses_a_port_that_is_taken() {
    with_cluster(async {
        let cluster = Cluster::prepare(program(), 1, |_| ());
        for address in [&cluster.config.nodes[0].client, &cluster.config.nodes[0].peer] {
            let _taken = TcpListener::bind(address).unwrap();
            refuses(&cluster, &["--name", "n1"], ExitCode::PortInUse, &[address, "stop"]).await;
        }
        let running = Cluster::start(program(), 1).await;
        let address = running.endpoint(0);
        refuses(&running, &["--name", "n1"], ExitCode::PortInUse, &[address]).await;
    });
}

#[test]
fn a_node_refuses_a_configuration_that_makes_no_sense() {
    with_cluster(async {
        let cluster = Cluster::prepare(program(), 3, |_| ());
        let unknown = ["--name", "n4"];
        refuses(&cluster, &unknown, ExitCode::UnknownNode, &["`n4`", "n1, n2, n3"]).await;
        let wrong = ["--name", "n1", "--set", "lease_ms=1"];
        refuses(&cluster, &wrong, ExitCode::BadConfig, &["lease_ms", "--set"]).await;
        let level = ["--name", "n1", "--log-level", "loud=noise"];
        refuses(&cluster, &level, ExitCode::Usage, &["log level"]).await;

        let toml = std::fs::read_to_string(cluster.config_path()).unwrap();
        std::fs::write(cluster.config_path(), toml.replace("lease_ms", "leese_ms")).unwrap();
        let words = ["cluster.toml: line 2", "did you mean `lease_ms`"];
        refuses(&cluster, &["--name", "n1"], ExitCode::BadConfig, &words).await;
        std::fs::remove_file(cluster.config_path()).unwrap();
        refuses(&cluster, &["--name", "n1"], ExitCode::BadConfig, &["cluster.toml"]).await;
        let none = run(program(), &["node", "--name", "n1"], b"").await;
        expect(&none, ExitCode::Usage, &["--config"]);
    });
}

#[test]
fn a_node_of_another_cluster_is_not_let_in() {
    with_cluster(async {
        let mut cluster = Cluster::start(program(), 3).await;
        let stranger = (cluster.master().await + 1) % 3;
        cluster.kill(stranger);
        cluster.wipe(stranger);
        let (program, mut args) = cluster.node_command(stranger);
        args.extend(["--cluster-id", "other"].map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = cluster.log_path(stranger);
        let process = trialbay_tests::process::Process::start(program, &args, &log);
        cluster.adopt(stranger, process);
        trialbay_tests::until("the stranger hears why", async || {
            std::fs::read_to_string(&log).unwrap_or_default().contains("other").then_some(())
        })
        .await;
        cluster.client().set("key", "value").await.unwrap();
        let master = trialbay_tests::until("there is a master", async || cluster.serving().await).await.1;
        let seen = master.peers.iter().find(|peer| peer.node == cluster.config.nodes[stranger].name).unwrap();
        assert!(!seen.connected && master.failures_survivable == Some(0), "{master:?}");
        assert_eq!(cluster.terminate(stranger).await.code(), Some(0));
        cluster.wipe(stranger);
        cluster.start_node(stranger);
        cluster.whole().await;
        cluster.agreed().await;
    });
}

#[test]
fn a_variable_that_is_misspelt_is_named_once_and_the_program_goes_on() {
    let cluster = Cluster::prepare(program(), 1, |_| ());
    let config = cluster.dir().join("cluster.toml");
    std::fs::write(&config, cluster.config.to_toml()).unwrap();
    let path = config.display().to_string();
    for (args, line) in [
        (&["config", "check", &path][..], "trialbay: warning: "),
        (&["-o", "json", "config", "check", &path], "{\"warning\":\""),
    ] {
        let ran = command(program(), args).env("TRIALBAY_LEASEMS", "500").output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{ran:?}");
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.starts_with(line) && said.contains("did you mean TRIALBAY_LEASE_MS?"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
