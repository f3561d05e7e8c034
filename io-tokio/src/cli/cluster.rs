//! `trialbay cluster`: who is master, how far each node is, and whether one more failure is survivable.

use std::io::Write as _;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::args::{Environment, Global, Output};
use super::exit::{ExitCode, Failure};
use super::{inspect, statistics};
use crate::client::{Client, ClientError, NodeReport, NodeStatus};

/// A node that has not answered by then is shown as unreachable.
pub(crate) const NODE_WAIT_MAX: Duration = Duration::from_secs(2);

#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Show every node, who is master, and whether one more node failure is survivable.
    ///
    /// LAG counts the decided slots that a node has not applied yet. Exit code 0 when a master serves, 1 when none of the
    /// nodes that were reached does, 7 when no node can be reached.
    #[command(after_help = "Examples:\n  trialbay cluster status\n  trialbay cluster status -o json")]
    Status,
    /// Print the master's name.
    ///
    /// Exit code 1 when there is none now.
    #[command(after_help = "Example:\n  trialbay cluster who-master")]
    WhoMaster,
    /// Have another node become master, and print its name.
    ///
    /// The master finishes what it has begun, hands over to the most up-to-date of the others, and goes on as a slave.
    /// Exit code 5 when none of the others can take over; the message says why.
    #[command(after_help = "Example:\n  trialbay cluster drop-master")]
    DropMaster,
    /// Show what each node has measured of the requests that it served since it started.
    ///
    /// Times are from a request that has arrived to its reply. SIZE is the mean of the values (set, get) in bytes, or of the keys in a
    /// list. Exit code 7 when no node can be reached.
    #[command(after_help = "Examples:\n  trialbay cluster statistics\n  trialbay cluster statistics -o json")]
    Statistics,
    /// Compare what the stores of all nodes hold, by a hash of all of it at one slot.
    ///
    /// Each node gives a backup, which is read and not kept. They have to be of the same slot, which they are soon unless
    /// updates come in all the time: it is tried until --timeout. Exit code 0 when all stores are the same, 16 when they differ,
    /// 5 when they could not be compared in time, 1 when some could not be read, 7 when none could.
    #[command(after_help = "Examples:\n  trialbay cluster inspect\n  trialbay cluster inspect --timeout 1m -o json")]
    Inspect,
}

pub(crate) async fn run(
    command: ClusterCommand,
    global: &Global,
    environment: Environment<'_>,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let client = global.client(environment)?;
    match command {
        ClusterCommand::Status => {
            let overview = Overview::of(client, global.timeout).await;
            let text = match global.output {
                Output::Text => overview.text(),
                Output::Json => overview.json().to_string() + "\n",
            };
            out.extend_from_slice(text.as_bytes());
            Ok(overview.exit())
        }
        ClusterCommand::Statistics => statistics::run(&client, global.timeout, global.output, out).await,
        ClusterCommand::Inspect => Ok(inspect::run(&client, global.timeout, global.output, out).await),
        ClusterCommand::DropMaster => {
            client.drop_master().await?;
            // The old master has heard of the new one; a consistent read waits until that serves.
            client.exists("").await?;
            let master = client.find_master().await?.map(|master| master.name);
            let line = match (global.output, &master) {
                (Output::Text, Some(master)) => master.clone(),
                (Output::Text, None) => "the new master is gone already".to_owned(),
                (Output::Json, master) => json!({ "master": master }).to_string(),
            };
            writeln!(out, "{line}").expect("memory can be written");
            Ok(ExitCode::Ok)
        }
        ClusterCommand::WhoMaster => {
            let master = client.find_master().await?;
            let exit = if master.is_some() { ExitCode::Ok } else { ExitCode::Other };
            let line = match (global.output, master) {
                (Output::Text, Some(master)) => master.name,
                (Output::Text, None) => {
                    let why = match Overview::of(client, global.timeout).await.hearsay() {
                        Some(hearsay) => format!("no endpoint is the master: {hearsay}"),
                        None => "there is no master now".to_owned(),
                    };
                    return Err(Failure::new(exit, why));
                }
                (Output::Json, Some(master)) => {
                    json!({ "master": master.name, "address": master.endpoint }).to_string()
                }
                (Output::Json, None) => json!({ "master": null }).to_string(),
            };
            writeln!(out, "{line}").expect("memory can be written");
            Ok(exit)
        }
    }
}

/// What all nodes say, taken together.
struct Overview {
    nodes: Vec<Node>,
}

struct Node {
    /// As the configuration has it.
    name: Option<String>,
    report: NodeReport,
}

impl Node {
    fn name(&self) -> &str {
        match (&self.report.status, &self.name) {
            (Ok(status), _) => &status.node,
            (Err(_), Some(name)) => name,
            (Err(_), None) => "-",
        }
    }

    /// Name and address, as far as they are known.
    fn who(&self) -> String {
        match self.name() {
            "-" => self.report.endpoint.clone(),
            name => format!("{name} ({})", self.report.endpoint),
        }
    }
}

impl Overview {
    async fn of(client: Client, timeout: Duration) -> Self {
        let endpoints = client.options().endpoints.clone();
        let reports = client.with_timeout(timeout.min(NODE_WAIT_MAX)).cluster_status().await;
        let names = endpoints.into_iter().map(|endpoint| endpoint.name);
        Self { nodes: names.zip(reports).map(|(name, report)| Node { name, report }).collect() }
    }

    fn reached(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter_map(|node| node.report.status.as_ref().ok())
    }

    /// The node that serves. Two can say so only while the one is just taking over from the other.
    fn master(&self) -> Option<&NodeStatus> {
        let round = |status: &NodeStatus| status.ballot.split('.').next().and_then(|round| round.parse::<u64>().ok());
        self.reached().filter(|status| status.serving).max_by_key(|status| round(status))
    }

    /// The master that others name, where it was not among those that were asked.
    fn hearsay(&self) -> Option<String> {
        let is_asked = |name: &str| self.nodes.iter().any(|node| node.name() == name);
        // An endpoint without a name that was not reached may be that of any node.
        let are_named = self.nodes.iter().all(|node| node.name() != "-");
        self.reached().find_map(|status| {
            let master = status.master.as_deref().filter(|master| are_named && !is_asked(master))?;
            Some(format!("{master} (says {}), not among the endpoints", status.node))
        })
    }

    fn survivable(&self) -> bool {
        self.master().and_then(|master| master.failures_survivable).is_some_and(|failures| failures > 0)
    }

    fn lag(&self, status: &NodeStatus) -> u64 {
        let decided = self.reached().map(|status| status.decided_upto).max().unwrap_or(0);
        decided.saturating_sub(status.applied_upto)
    }

    fn exit(&self) -> ExitCode {
        match (self.master(), self.reached().next()) {
            (Some(_), _) => ExitCode::Ok,
            (None, Some(_)) => ExitCode::Other,
            (None, None) => ExitCode::Unreachable,
        }
    }

    fn text(&self) -> String {
        let mut rows = vec![
            [
                "NODE", "ROLE", "SERVING", "MASTER", "DECIDED", "APPLIED", "LAG", "BALLOT", "VOTES", "LOG", "STORE",
                "PID", "ADDRESS",
            ]
            .map(str::to_owned),
        ];
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        for node in &self.nodes {
            let address = node.report.endpoint.clone();
            rows.push(match &node.report.status {
                Ok(status) => [
                    status.node.clone(),
                    status.role.clone(),
                    yes(status.serving),
                    status.master.clone().unwrap_or_else(|| "-".to_owned()),
                    status.decided_upto.to_string(),
                    status.applied_upto.to_string(),
                    self.lag(status).to_string(),
                    status.ballot.clone(),
                    yes(status.votes),
                    mib(status.log.bytes),
                    mib(status.store_bytes),
                    status.pid.to_string(),
                    address,
                ],
                Err(error) => {
                    let mut row = std::array::from_fn(|_| "-".to_owned());
                    row[0] = node.name().to_owned();
                    row[1] = if is_silent(error) { "unreachable" } else { "?" }.to_owned();
                    row[12] = address;
                    row
                }
            });
        }
        let mut text = table(&rows);
        text.push('\n');
        for line in self.verdict() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    fn verdict(&self) -> Vec<String> {
        let (master, survivable) = match (self.master(), self.hearsay(), self.reached().next()) {
            (Some(master), _, _) => (master.node.clone(), if self.survivable() { "yes" } else { "no" }),
            (None, Some(hearsay), _) => (hearsay, "unknown"),
            (None, None, Some(_)) => ("none; updates and consistent reads fail until there is one".to_owned(), "no"),
            (None, None, None) => ("unknown; no node could be reached".to_owned(), "unknown"),
        };
        let mut lines = vec![format!("master: {master}")];
        lines.push(format!("one more node failure is survivable: {survivable}"));
        lines.extend(self.problems().into_iter().map(|problem| format!("problem: {problem}")));
        lines
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let awaited = self.awaited_at_first_start();
        if !awaited.is_empty() {
            problems.push(format!("the first start needs every node once: {}", awaited.join(", ")));
        }
        for node in &self.nodes {
            let name = node.name();
            let status = match &node.report.status {
                Err(error) => {
                    problems.push(format!("{}: {}", node.who(), why(error)));
                    continue;
                }
                Ok(status) => status,
            };
            if status.role == "halted" {
                problems.push(format!("{name} has halted: see its log"));
            }
            if !status.votes && status.role != "learner" && awaited.is_empty() {
                problems.push(format!("{name} has no vote until it has caught up"));
            }
            if status.vote_is_lent {
                problems.push(format!("{name} has its vote for this run only, until it has caught up"));
            }
            if let Some(head) = &status.head {
                let progress = format!("{} of {} keys of slot {}", head.keys, head.keys_all, head.slot);
                problems.push(format!("{name} is getting the whole store from {}: {progress}", head.from));
            } else if status.catching_up {
                problems.push(format!("{name} is catching up, {} slots behind", self.lag(status)));
            }
            if status.disk_is_short {
                let free_mib = status.disk_free_bytes.unwrap_or(0) >> 20;
                problems.push(format!("{name}: its disk is nearly full, {free_mib} MiB are free: make room"));
            }
            problems.extend(status.damage.iter().map(|damage| format!("{name}: {damage}")));
            let diverged = self
                .reached()
                .take_while(|other| other.node != status.node)
                .find(|other| other.decided_upto == status.decided_upto && other.history_hash != status.history_hash);
            if let Some(other) = diverged {
                let slot = status.decided_upto;
                problems.push(format!("the histories of {} and {name} differ at slot {slot}: stop both", other.node));
            }
        }
        problems
    }

    /// The nodes that keep a cluster which has never decided anything from its first start.
    fn awaited_at_first_start(&self) -> Vec<String> {
        let is_new = |status: &NodeStatus| !status.votes && status.decided_upto == 0 && status.damage.is_empty();
        if !self.reached().all(is_new) || self.reached().next().is_none() {
            return Vec::new();
        }
        self.nodes.iter().filter(|node| node.report.status.is_err()).map(Node::who).collect()
    }

    fn json(&self) -> serde_json::Value {
        let nodes = self.nodes.iter().map(|node| match &node.report.status {
            Ok(status) => json!({
                "node": node.name(),
                "address": node.report.endpoint,
                "reachable": true,
                "lag": self.lag(status),
                "status": status,
            }),
            Err(error) => json!({
                "node": node.name,
                "address": node.report.endpoint,
                "reachable": false,
                "error": why(error),
            }),
        });
        json!({
            "master": self.master().map(|master| &master.node),
            "one_more_failure_survivable": self.survivable(),
            "problems": self.problems(),
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }
}

fn is_silent(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::DidNotHappen { .. })
}

/// What is wrong with one node, without its address, which stands before it.
fn why(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { tried } => match tried.as_slice() {
            [(_, why)] => format!("unreachable: {why}"),
            _ => "unreachable".to_owned(),
        },
        ClientError::DidNotHappen { why } => format!("no answer: {why}"),
        other => format!("does not say how it is: {other}"),
    }
}

/// Bytes as people count a disk.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Rows with their columns under each other.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{HeadView, LogView};

    fn status(name: &str, applied_upto: u64) -> NodeStatus {
        NodeStatus {
            node: name.to_owned(),
            cluster_id: "dev".to_owned(),
            pid: 42,
            role: "slave".to_owned(),
            master: Some("n1".to_owned()),
            ballot: "3.n1".to_owned(),
            decided_upto: applied_upto,
            applied_upto,
            history_hash: format!("{applied_upto:016x}"),
            votes: true,
            log: LogView { segments: 1, bytes: 8 << 20, ..LogView::default() },
            store_bytes: 1_500_000,
            progress_possible: true,
            ..NodeStatus::default()
        }
    }

    fn master(name: &str, applied_upto: u64, failures: u32) -> NodeStatus {
        let master = status(name, applied_upto);
        NodeStatus { role: "master".to_owned(), serving: true, failures_survivable: Some(failures), ..master }
    }

    fn overview(statuses: Vec<Result<NodeStatus, ClientError>>) -> Overview {
        let node = |(index, status)| Node {
            name: Some(format!("n{}", index + 1)),
            report: NodeReport { endpoint: format!("127.0.0.1:40{index}0"), status },
        };
        Overview { nodes: statuses.into_iter().enumerate().map(node).collect() }
    }

    fn unreachable() -> Result<NodeStatus, ClientError> {
        Err(ClientError::Unreachable { tried: vec![("127.0.0.1:4020".to_owned(), "connection refused".to_owned())] })
    }

    #[test]
    fn a_healthy_cluster_has_a_master_and_survives_a_failure() {
        let overview = overview(vec![Ok(master("n1", 120, 1)), Ok(status("n2", 120)), Ok(status("n3", 117))]);
        assert_eq!(overview.exit(), ExitCode::Ok);
        insta::assert_snapshot!(overview.text(), @r#"
    NODE  ROLE    SERVING  MASTER  DECIDED  APPLIED  LAG  BALLOT  VOTES  LOG    STORE  PID  ADDRESS
    n1    master  yes      n1      120      120      0    3.n1    yes    8 MiB  2 MiB  42   127.0.0.1:4000
    n2    slave   no       n1      120      120      0    3.n1    yes    8 MiB  2 MiB  42   127.0.0.1:4010
    n3    slave   no       n1      117      117      3    3.n1    yes    8 MiB  2 MiB  42   127.0.0.1:4020

    master: n1
    one more node failure is survivable: yes
    "#);
    }

    #[test]
    fn a_cluster_that_has_lost_a_node_says_which_and_that_no_other_may_fail() {
        let mut slow = status("n2", 100);
        (slow.catching_up, slow.votes) = (true, false);
        slow.damage.push("tlog 003: record at byte 17 is damaged".to_owned());
        let overview = overview(vec![Ok(master("n1", 120, 0)), Ok(slow), unreachable()]);
        assert_eq!(overview.exit(), ExitCode::Ok);
        insta::assert_snapshot!(overview.text(), @r#"
    NODE  ROLE         SERVING  MASTER  DECIDED  APPLIED  LAG  BALLOT  VOTES  LOG    STORE  PID  ADDRESS
    n1    master       yes      n1      120      120      0    3.n1    yes    8 MiB  2 MiB  42   127.0.0.1:4000
    n2    slave        no       n1      100      100      20   3.n1    no     8 MiB  2 MiB  42   127.0.0.1:4010
    n3    unreachable  -        -       -        -        -    -       -      -      -      -    127.0.0.1:4020

    master: n1
    one more node failure is survivable: no
    problem: n2 has no vote until it has caught up
    problem: n2 is catching up, 20 slots behind
    problem: n2: tlog 003: record at byte 17 is damaged
    problem: n3 (127.0.0.1:4020): unreachable: connection refused
    "#);
        assert_eq!(overview.json()["one_more_failure_survivable"], false);
        assert_eq!(overview.json()["nodes"][2]["reachable"], false);
        assert_eq!(overview.json()["nodes"][1]["lag"], 20);
    }

    #[test]
    fn a_node_that_gets_a_head_says_from_whom_and_how_far_it_is() {
        let mut behind = status("n2", 100);
        behind.catching_up = true;
        behind.head = Some(HeadView { from: "n1".to_owned(), slot: 118, keys: 30, keys_all: 400 });
        let overview = overview(vec![Ok(master("n1", 120, 0)), Ok(behind)]);
        assert_eq!(overview.problems(), ["n2 is getting the whole store from n1: 30 of 400 keys of slot 118"]);
        assert_eq!(overview.json()["nodes"][1]["status"]["head"]["keys_all"], 400);
    }

    #[test]
    fn without_a_master_or_any_node_the_exit_code_says_so() {
        let mut slave = status("n1", 3);
        slave.master = None;
        let leaderless = overview(vec![Ok(slave), unreachable()]);
        assert_eq!(leaderless.exit(), ExitCode::Other);
        assert!(leaderless.text().contains("master: none"));
        assert!(leaderless.text().contains("survivable: no"));
        let silent = overview(vec![unreachable(), unreachable()]);
        assert_eq!(silent.exit(), ExitCode::Unreachable);
        assert!(silent.text().contains("master: unknown") && silent.text().contains("survivable: unknown"));
    }

    #[test]
    fn a_master_that_was_not_asked_is_named_by_those_that_know_it() {
        let slave = |name| NodeStatus { master: Some("n9".to_owned()), ..status(name, 3) };
        let partial = overview(vec![Ok(slave("n1")), Ok(slave("n2"))]);
        assert_eq!(partial.exit(), ExitCode::Other);
        let verdict = partial.verdict();
        assert_eq!(verdict[0], "master: n9 (says n1), not among the endpoints");
        assert_eq!(verdict[1], "one more node failure is survivable: unknown");

        let mut unnamed = overview(vec![Ok(slave("n1")), unreachable()]);
        unnamed.nodes[1].name = None;
        assert!(unnamed.verdict()[0].starts_with("master: none"), "the silent endpoint may be n9's");
    }

    #[test]
    fn a_first_start_says_which_nodes_it_waits_for() {
        let new = |name| NodeStatus { votes: false, master: None, ..status(name, 0) };
        let problems = overview(vec![Ok(new("n1")), Ok(new("n2")), unreachable()]).problems();
        assert_eq!(problems[0], "the first start needs every node once: n3 (127.0.0.1:4020)");
        assert_eq!(problems.len(), 2, "{problems:?}");
        let complete = overview(vec![Ok(new("n1")), Ok(new("n2"))]).problems();
        assert_eq!(complete, ["n1 has no vote until it has caught up", "n2 has no vote until it has caught up"]);
        let wiped = overview(vec![Ok(new("n1")), Ok(status("n2", 5)), unreachable()]).problems();
        assert_eq!(wiped[0], "n1 has no vote until it has caught up");
    }

    #[test]
    fn of_two_that_say_they_serve_the_one_with_the_higher_ballot_is_master() {
        let newer = NodeStatus { ballot: "10.n2".to_owned(), ..master("n2", 5, 1) };
        for statuses in [[master("n1", 5, 1), newer.clone()], [newer.clone(), master("n1", 5, 1)]] {
            assert_eq!(overview(statuses.map(Ok).to_vec()).master().unwrap().node, "n2");
        }
    }

    #[test]
    fn histories_that_differ_at_the_same_slot_are_a_problem() {
        let other = NodeStatus { history_hash: "ff".to_owned(), ..status("n2", 7) };
        let problems = overview(vec![Ok(master("n1", 7, 1)), Ok(other), Ok(status("n3", 7))]).problems();
        assert_eq!(problems[0], "the histories of n1 and n2 differ at slot 7: stop both");
    }
}
