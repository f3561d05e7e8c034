//! Every mistake a file can have, and what is said of it.

use std::ffi::OsString;

use super::*;

const GOOD: &str = r#"cluster_id = "prod"
[[node]]
name = "n1"
id = 1
client = "10.0.0.1:4000"
peer = "10.0.0.1:4001"
"#;

fn parse(text: &str) -> Result<Config, String> {
    parse_with(text, &Overrides::default())
}

fn parse_with(text: &str, overrides: &Overrides) -> Result<Config, String> {
    let config = read::config(text, Path::new("/etc/trialbay"), overrides);
    config.map_err(|mistakes| ConfigErrors::new(Path::new("t"), mistakes).to_string())
}

/// What is said of the good file with `from` replaced by `to`.
fn said(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replace(from, to)).expect_err(to)
}

#[test]
fn the_smallest_file_gets_the_documented_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.lease, Duration::from_millis(800));
    assert_eq!(config.clock_drift_ppm, 10_000);
    assert_eq!(config.reads, Reads::Lease);
    let log = (config.log_segment_mib, config.log_retention_mib, config.log_compression);
    assert_eq!(log, (64, 1_024, true));
    assert_eq!((config.recorder, config.recorder_mib), (false, 64));
    let updates = update::Limits { key_bytes_max: 65_536, value_bytes_max: 8_388_608, update_bytes_max: 33_554_432 };
    let limits = Limits { updates, connections_max: 1_000 };
    assert_eq!(config.limits, limits);
    assert_eq!(config.nodes[0].client_listen(), "10.0.0.1:4000");
    assert_eq!(config.nodes[0].home, None);
}

#[test]
fn a_relative_home_starts_at_the_directory_of_the_file() {
    let home = |home: &str| parse(&format!("{GOOD}home = \"{home}\"")).unwrap().nodes[0].home.clone().unwrap();
    assert_eq!(home("data/n1"), Path::new("/etc/trialbay/data/n1"));
    assert_eq!(home("/data/n1"), Path::new("/data/n1"));
}

#[test]
fn each_mistake_is_reported_with_its_line_and_what_to_write_instead() {
    let cases = [
        ("[[node]]", "leese_ms = 5\n[[node]]", "t: line 2: unknown key `leese_ms`: did you mean `lease_ms`?"),
        (
            "[[node]]",
            "colour = 5\n[[node]]",
            "t: line 2: unknown key `colour`: the top of the file, before the first `[` has cluster_id, lease_ms, clock_drift_ppm, reads, disk_reserve_mib, log_segment_mib, log_retention_mib, log_compression, recorder, recorder_mib, read_only, limits, node",
        ),
        (
            "[[node]]",
            "value_bytes_max = 5\n[[node]]",
            "t: line 2: unknown key `value_bytes_max`: its place is in the section `[limits]`",
        ),
        ("id = 1", "id = 1\nlease_ms = 900", "t: line 5: unknown key `lease_ms`: its place is at the top of the file"),
        ("id = 1", "id = 1\nhomes = \"x\"", "t: line 5: unknown key `homes`: did you mean `home`?"),
        (
            "[[node]]",
            "[limits]\nkey_byte_max = 5\n[[node]]",
            "t: line 3: unknown key `key_byte_max`: did you mean `key_bytes_max`?",
        ),
        (
            "[[node]]",
            "lease_ms = \"800\"\n[[node]]",
            "t: line 2: `lease_ms` must be a whole number (milliseconds), not a text: write `lease_ms = 800`",
        ),
        (
            "[[node]]",
            "lease_ms = 0.8\n[[node]]",
            "t: line 2: `lease_ms` must be a whole number (milliseconds), not a number with a point: write `lease_ms = 800`",
        ),
        (
            "[[node]]",
            "lease_ms = 99\n[[node]]",
            "t: line 2: `lease_ms` = 99 is out of range: write a number from 100 to 60000 (milliseconds)",
        ),
        (
            "[[node]]",
            "lease_ms = -1\n[[node]]",
            "t: line 2: `lease_ms` = -1 is out of range: write a number from 100 to 60000 (milliseconds)",
        ),
        (
            "[[node]]",
            "lease_ms = 99999999999999999999999\n[[node]]",
            "t: line 2: `lease_ms` = 99999999999999999999999 is out of range: write a number from 100 to 60000 (milliseconds)",
        ),
        (
            "[[node]]",
            "clock_drift_ppm = 200_001\n[[node]]",
            "t: line 2: `clock_drift_ppm` = 200_001 is out of range: write a number from 1 to 200000 (millionths)",
        ),
        (
            "[[node]]",
            "reads = \"dirty\"\n[[node]]",
            "t: line 2: `reads` cannot be \"dirty\": write \"lease\" or \"quorum\"",
        ),
        (
            "[[node]]",
            "reads = true\n[[node]]",
            "t: line 2: `reads` must be a text in quotes, not true or false: write `reads = \"lease\"`",
        ),
        ("[[node]]", "recorder = 1\n[[node]]", "t: line 2: `recorder` cannot be 1: write true or false"),
        (
            "[[node]]",
            "recorder_mib = 7\n[[node]]",
            "t: line 2: `recorder_mib` = 7 is out of range: write a number from 8 to 65536 (MiB)",
        ),
        ("[[node]]", "limits = 3\n[[node]]", "t: line 2: `limits` must be a section, not a number: write `[limits]`"),
        (
            "[[node]]",
            "[limits]\nvalue_bytes_max = 16_777_216\n[[node]]",
            "t: line 3: `value_bytes_max` = 16_777_216 is out of range: write a number from 1 to 16777215 (bytes)",
        ),
        (
            "[[node]]",
            "[limits]\nupdate_bytes_max = 5000\nkey_bytes_max = 4900\nvalue_bytes_max = 100\n[[node]]",
            "t: line 3: `update_bytes_max` = 5000 has no room for the largest key and value: write at least 5064",
        ),
        ("\"prod\"", "\"\"", "t: line 1: `cluster_id` is empty: write letters, digits, `_`, `.`, `:` and `-`"),
        (
            "\"prod\"",
            "\"my prod\"",
            "t: line 1: `cluster_id` = \"my prod\" has a ` ` in it: write letters, digits, `_`, `.`, `:` and `-` only",
        ),
        (
            "\"prod\"",
            "7",
            "t: line 1: `cluster_id` must be a text in quotes, not a number: write `cluster_id = \"prod\"`",
        ),
        (
            "cluster_id = \"prod\"",
            "",
            "t: there is no `cluster_id`: add a line like `cluster_id = \"prod\"` at the top",
        ),
        (
            "\"n1\"",
            "\"n\\n1\"",
            "t: line 3: `name` = \"n\\n1\" has a `\\n` in it: write letters, digits, `_`, `.`, `:` and `-` only",
        ),
        ("name = \"n1\"", "", "t: line 2: this node has no `name`: add a line like `name = \"n1\"`"),
        ("id = 1", "", "t: line 2: this node has no `id`: add a line like `id = 1`"),
        ("id = 1", "id = 0", "t: line 4: `id` = 0 is out of range: write a number from 1 to 65535"),
        ("id = 1", "id = 65_536", "t: line 4: `id` = 65_536 is out of range: write a number from 1 to 65535"),
        ("id = 1", "id = \"n1\"", "t: line 4: `id` must be a whole number, not a text: write `id = 1`"),
        (
            "peer = \"10.0.0.1:4001\"",
            "",
            "t: line 2: this node has no `peer`: add a line like `peer = \"10.0.0.1:4001\"`",
        ),
        (
            "\"10.0.0.1:4000\"",
            "4000",
            "t: line 5: `client` must be a text in quotes, not a number: write `client = \"10.0.0.1:4000\"`",
        ),
        (
            "10.0.0.1:4000",
            "10.0.0.1",
            "t: line 5: `client` = \"10.0.0.1\" has no port: write host:port, like 10.0.0.1:4000, db1.example.org:4000 or [fd00::1]:4000",
        ),
        (
            "10.0.0.1:4000",
            "10.0.0.1:0",
            "t: line 5: `client` = \"10.0.0.1:0\" has no port from 1 to 65535: write host:port, like 10.0.0.1:4000, db1.example.org:4000 or [fd00::1]:4000",
        ),
        (
            "10.0.0.1:4000",
            ":4000",
            "t: line 5: `client` = \":4000\" has no host: write host:port, like 10.0.0.1:4000, db1.example.org:4000 or [fd00::1]:4000",
        ),
        (
            "10.0.0.1:4000",
            "fd00::1:4000",
            "t: line 5: `client` = \"fd00::1:4000\" has no host: write host:port, like 10.0.0.1:4000, db1.example.org:4000 or [fd00::1]:4000",
        ),
        (
            "10.0.0.1:4001",
            "0.0.0.0:4001",
            "t: line 6: `peer` = \"0.0.0.0:4001\" cannot be reached by others: write the machine's address here, and this one in `client_listen` or `peer_listen`",
        ),
        (
            "10.0.0.1:4001",
            "10.0.0.1:4000",
            "t: line 6: the address 10.0.0.1:4000 is already used on line 5: give each its own port or host",
        ),
        (
            "id = 1",
            "id = 1\nclient_listen = \"0.0.0.0:1\"\npeer_listen = \"0.0.0.0:1\"",
            "t: line 6: `peer_listen` is also `client_listen`: give each its own port",
        ),
        (
            "id = 1",
            "id = 1\nhome = \"\"",
            "t: line 5: `home` is empty: write a directory, like \"/var/lib/trialbay/n1\"",
        ),
        (
            "[[node]]",
            "[node]",
            "t: line 2: `node` must be a list of sections, not a section: write for each node `[[node]]` with `name = \"n1\"`, `id = 1`, `client = \"host:4000\"` and `peer = \"host:4001\"`",
        ),
        (
            "[[node]]",
            "[other]",
            "t: there is no node: add for each of them `[[node]]` with `name = \"n1\"`, `id = 1`, `client = \"host:4000\"` and `peer = \"host:4001\"`\nt: line 2: unknown key `other`: the top of the file, before the first `[` has cluster_id, lease_ms, clock_drift_ppm, reads, disk_reserve_mib, log_segment_mib, log_retention_mib, log_compression, recorder, recorder_mib, read_only, limits, node",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(said(from, to), expected);
    }
    assert_eq!(
        parse("cluster_id = \"c\"\nnode = []").unwrap_err(),
        "t: line 2: a cluster needs at least one node: write for each node `[[node]]` with `name = \"n1\"`, `id = 1`, `client = \"host:4000\"` and `peer = \"host:4001\"`"
    );
    assert_eq!(
        parse("cluster_id = \"c\"\nnode = [3]").unwrap_err(),
        "t: line 2: a node must be a section, not a number: write `[[node]]`"
    );
}

#[test]
fn what_must_be_unique_names_the_line_that_has_it() {
    let second = "[[node]]\nname = \"n1\"\nid = 1\nclient = \"10.0.0.2:4000\"\npeer = \"10.0.0.1:4000\"\n";
    insta::assert_snapshot!(parse(&format!("{GOOD}{second}")).unwrap_err(), @r#"
    t: line 8: the name `n1` is already used on line 3: names are unique
    t: line 9: the id 1 is already used on line 4: ids are unique, and never given to another node later
    t: line 11: the address 10.0.0.1:4000 is already used on line 5: give each its own port or host
    "#);
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_their_lines() {
    let text = "lease_ms = 1\nclusterid = \"x\"\n[[node]]\nid = 0\nname = \"a b\"\nclient = \"x\"\n";
    insta::assert_snapshot!(parse(text).unwrap_err(), @r#"
    t: there is no `cluster_id`: add a line like `cluster_id = "prod"` at the top
    t: line 1: `lease_ms` = 1 is out of range: write a number from 100 to 60000 (milliseconds)
    t: line 2: unknown key `clusterid`: did you mean `cluster_id`?
    t: line 3: this node has no `peer`: add a line like `peer = "10.0.0.1:4001"`
    t: line 4: `id` = 0 is out of range: write a number from 1 to 65535
    t: line 5: `name` = "a b" has a ` ` in it: write letters, digits, `_`, `.`, `:` and `-` only
    t: line 6: `client` = "x" has no port: write host:port, like 10.0.0.1:4000, db1.example.org:4000 or [fd00::1]:4000
    "#);
}

#[test]
fn what_is_not_toml_is_reported_with_its_line_and_hides_no_other_mistake() {
    let text = GOOD.replace("id = 1", "id = ").replace("[[node]]", "lease_ms = 5\n[[node]]");
    insta::assert_snapshot!(parse(&text).unwrap_err(), @r#"
    t: line 2: `lease_ms` = 5 is out of range: write a number from 100 to 60000 (milliseconds)
    t: line 5: this is not TOML: string values must be quoted, expected literal string
    "#);
    insta::assert_snapshot!(parse(&format!("{GOOD}id = 2\n")).unwrap_err(), @r#"t: line 7: this key is there twice: remove one"#);
    insta::assert_snapshot!(parse("cluster_id = \"prod").unwrap_err(), @r#"t: line 1: this is not TOML: invalid basic string, expected `"`"#);
}

#[test]
fn eight_nodes_are_one_too_many() {
    let nodes = |n: u16| {
        let node = |i: u16| format!("[[node]]\nname = \"n{i}\"\nid = {i}\nclient = \"h{i}:1\"\npeer = \"h{i}:2\"\n");
        parse(&format!("cluster_id = \"c\"\n{}", (1..=n).map(node).collect::<String>()))
    };
    assert_eq!(nodes(7).unwrap().nodes.len(), 7);
    assert_eq!(nodes(7).unwrap().failures_survivable(), 3);
    assert_eq!(nodes(8).unwrap_err(), "t: line 2: a cluster has at most 7 nodes, not 8: remove some");
}

#[test]
fn flags_win_over_the_environment_and_both_over_the_file() {
    let text = format!("lease_ms = 1000\nreads = \"lease\"\n{GOOD}");
    assert_eq!(parse(&text).unwrap().lease, Duration::from_millis(1000));
    let environment = |name: &str| match name {
        "TRIALBAY_LEASE_MS" => Some(OsString::from("2000")),
        "TRIALBAY_READS" => Some(OsString::from("quorum")),
        "TRIALBAY_CLUSTER_ID" => Some(OsString::from("other")),
        "TRIALBAY_VALUE_BYTES_MAX" => Some(OsString::from("1_000")),
        _ => None,
    };
    let mut overrides = Overrides::from_env(environment);
    let config = parse_with(&text, &overrides).unwrap();
    assert_eq!((config.lease, config.reads), (Duration::from_millis(2000), Reads::Quorum));
    assert_eq!((config.cluster_id.as_str(), config.limits.updates.value_bytes_max), ("other", 1_000));
    overrides.set("recorder", "true", "--set recorder");
    let text = text.replace("[[node]]", "recorder = false\nrecorder_mib = 100\n[[node]]");
    let config = parse_with(&text, &overrides).unwrap();
    assert_eq!((config.recorder, config.recorder_mib), (true, 100));
    overrides.set("lease_ms", "3000", "--set lease_ms");
    assert_eq!(parse_with(&text, &overrides).unwrap().lease, Duration::from_millis(3000));
}

#[test]
fn mistakes_in_overrides_name_the_variable_or_the_flag() {
    let mut overrides = Overrides::from_env(|name| (name == "TRIALBAY_LEASE_MS").then(|| OsString::from("soon")));
    overrides.set("laese_ms", "5", "--set laese_ms");
    overrides.set("reads", "never", "--set reads");
    overrides.set("recorder", "yes", "--set recorder");
    overrides.set("name", "n1", "--set name");
    overrides.set("update_bytes_max", "1024", "--set update_bytes_max");
    insta::assert_snapshot!(parse_with(GOOD, &overrides).unwrap_err(), @r#"
    --set laese_ms: unknown key `laese_ms`: did you mean `lease_ms`?
    --set name: unknown key `name`: one of cluster_id, lease_ms, clock_drift_ppm, reads, disk_reserve_mib, log_segment_mib, log_retention_mib, log_compression, recorder, recorder_mib, read_only, key_bytes_max, value_bytes_max, update_bytes_max, connections_max can be set here
    --set reads: `reads` cannot be "never": write "lease" or "quorum"
    --set recorder: `recorder` cannot be yes: write true or false
    --set update_bytes_max: `update_bytes_max` = 1024 has no room for the largest key and value: write at least 8454208
    TRIALBAY_LEASE_MS: `lease_ms` = soon is no whole number: write a number from 100 to 60000 (milliseconds)
    "#);
}

#[test]
fn no_text_makes_the_reader_panic() {
    const PIECES: &[&str] = &[
        "[[node]]\n",
        "[node]\n",
        "id = ",
        "1",
        "\"n1\"",
        "\n",
        "name = ",
        "[limits]\n",
        "limits.",
        "=",
        "{",
        "}",
        "é",
        "\u{0}",
        "lease_ms",
    ];
    proptest::proptest!(|(text in proptest::collection::vec(proptest::sample::select(PIECES), 0..20))| {
        let _ = parse(&text.concat());
    });
}

#[test]
fn a_dev_cluster_has_the_documented_names_ids_and_ports() {
    let config = Config::dev(4000, 3, Path::new("/data")).unwrap();
    assert_eq!(config.cluster_id, "dev");
    assert_eq!(config.lease, Duration::from_millis(800));
    let nodes: Vec<_> =
        config.nodes.iter().map(|n| (n.name.as_str(), n.id, n.client.as_str(), n.peer.as_str())).collect();
    assert_eq!(
        nodes,
        [
            ("n1", 1, "127.0.0.1:4000", "127.0.0.1:4001"),
            ("n2", 2, "127.0.0.1:4010", "127.0.0.1:4011"),
            ("n3", 3, "127.0.0.1:4020", "127.0.0.1:4021"),
        ]
    );
    assert_eq!(config.node("n3").unwrap().home.as_deref(), Some(Path::new("/data/n3")));
}

#[test]
fn a_dev_cluster_that_cannot_be_is_refused() {
    let dev = |port, nodes| Config::dev(port, nodes, Path::new("d")).map(|_| ());
    assert_eq!(dev(4000, 0), Err(DevRefused::Nodes(0)));
    assert_eq!(dev(4000, 8), Err(DevRefused::Nodes(8)));
    assert_eq!(dev(0, 3), Err(DevRefused::BasePort(0)));
    assert_eq!(dev(65534, 1), Ok(()));
    assert_eq!(dev(65535, 1), Err(DevRefused::BasePort(65535)));
    assert_eq!(dev(65530, 2), Err(DevRefused::BasePort(65530)));
}

#[test]
fn a_configuration_that_is_written_out_loads_as_itself() {
    for nodes in 1..=7 {
        let mut config = Config::dev(5000, nodes, Path::new("/with \"quotes\" and \\ and ü")).unwrap();
        config.reads = Reads::Quorum;
        config.lease = Duration::from_millis(1234);
        (config.log_segment_mib, config.log_retention_mib, config.log_compression) = (1, 3, false);
        (config.recorder, config.recorder_mib) = (true, 8);
        config.nodes[0].client_listen = Some("0.0.0.0:5000".to_owned());
        let read = read::config(&config.to_toml(), Path::new(""), &Overrides::default());
        assert_eq!(read, Ok(config));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/t.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/t.toml: cannot be read: "), "{error}");
}

#[test]
fn a_node_has_a_role_and_the_rest_of_the_cluster_must_go_with_it() {
    let node = |name: &str, id: u16, more: &str| {
        format!("[[node]]\nname = \"{name}\"\nid = {id}\nclient = \"h{id}:1\"\npeer = \"h{id}:2\"\n{more}\n")
    };
    let parsed = |first: &str, second: &str, third: &str| {
        let nodes = node("n1", 1, first) + &node("n2", 2, second) + &node("n3", 3, third);
        parse(&format!("cluster_id = \"c\"\nread_only = true\n{nodes}"))
    };
    let config = parsed("preferred = true", "role = \"witness\"", "role = \"learner\"\npreferred = false").unwrap();
    let roles: Vec<_> = config.nodes.iter().map(|node| (node.role, node.preferred)).collect();
    assert_eq!(roles, [(NodeRole::Data, true), (NodeRole::Witness, false), (NodeRole::Learner, false)]);
    assert!(config.read_only);
    assert_eq!(config.failures_survivable(), 0, "a node with the data and a witness");
    assert_eq!(parsed("", "", "role = \"witness\"").unwrap().failures_survivable(), 1);
    assert_eq!(read::config(&config.to_toml(), Path::new(""), &Overrides::default()), Ok(config));
    for (first, second, third, why) in [
        ("role = \"master\"", "", "", "`role` cannot be \"master\": write \"data\", \"learner\" or \"witness\""),
        ("role = \"witness\"\npreferred = true", "", "", "a witness is never master: remove `preferred`"),
        ("preferred = 1", "", "", "`preferred` cannot be 1: write true or false"),
        ("role = \"learner\"", "role = \"witness\"", "role = \"witness\"", "no node may be master: give one at least"),
    ] {
        let error = parsed(first, second, third).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn variables_that_mean_nothing_are_named_with_the_nearest_that_does() {
    let said = |names: &[&str]| unknown_variables(names.iter().map(OsString::from));
    assert_eq!(said(&["PATH", "TRIALBAY", "TRIALBAY_LEASE_MS", "TRIALBAY_CONFIG", "TRIALBAY_ENDPOINTS"]), None);
    assert_eq!(said(&["TRIALBAY_LOG", "TRIALBAY_CLUSTER_ID", "TRIALBAY_RECORDER"]), None);
    let warning =
        said(&["TRIALBAY_LEASEMS", "TRIALBAY_ENDPOINT", "TRIALBAY_SERVICE_PORT_HTTP", "TRIALBAY_LOG"]).unwrap();
    let (ignored, known) = warning.split_once("; there are ").unwrap();
    assert_eq!(
        ignored,
        "ignored environment variables: TRIALBAY_ENDPOINT (did you mean TRIALBAY_ENDPOINTS?), \
         TRIALBAY_LEASEMS (did you mean TRIALBAY_LEASE_MS?), TRIALBAY_SERVICE_PORT_HTTP"
    );
    assert!(
        known.contains("TRIALBAY_LEASE_MS, ") && known.ends_with("TRIALBAY_CONFIG, TRIALBAY_ENDPOINTS, TRIALBAY_LOG")
    );
    assert!(said(&["TRIALBAY_lease_ms"]).unwrap().contains("did you mean TRIALBAY_LEASE_MS?"), "case counts");
}
