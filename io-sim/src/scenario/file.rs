//! Scenario files: TOML, in which every mistake is told with its line.

use std::fs;
use std::path::{Path, PathBuf};

use super::Scenario;

/// Reads a scenario.
///
/// # Errors
/// What is wrong, with the line.
pub fn parse(text: &str) -> Result<Scenario, String> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        format!("line {line}: {}", error.message())
    })?;
    scenario.check()?;
    Ok(scenario)
}

/// Writes a scenario as [`parse`] reads it.
///
/// # Errors
/// When it cannot be written as TOML.
pub fn print(scenario: &Scenario) -> Result<String, String> {
    toml::to_string(scenario).map_err(|error| error.to_string())
}

/// Reads the scenario in a file.
///
/// # Errors
/// What is wrong, with file and line.
pub fn load(path: &Path) -> Result<Scenario, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// All scenario files in a directory and in those below it, by name, sorted.
///
/// # Errors
/// When it cannot be read.
pub fn all(dir: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", dir.display()))?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml")
                && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            {
                found.push((name.to_owned(), path));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, Expect, LimitsPlan, WorldKind};
    use super::*;

    const TEXT: &str = r#"
title = "Writes go on after the master dies"
worlds = ["core", "stack"]
duration = "8s"
expect = "fail:K7"
budget = "beyond"

[cluster]
nodes = 5
drift_ppm = 10000

[clocks]
n1 = 15000

[at_least]
kills = 1

[at_most]
masters = 3

[limits]
cache_slots_max = 16

[[step]]
at = "3s"
do = "kill master for 500ms"

[[step]]
when = "message(Accept, n1 -> n3, nth = 4)"
after = "1ms"
do = "power-cut n1 for 1s"

[[op]]
client = 1
at = "1s"
do = "set k1"
"#;

    #[test]
    fn a_scenario_survives_its_text() {
        let scenario = parse(TEXT).unwrap();
        assert_eq!(scenario.worlds, [WorldKind::Core, WorldKind::Stack]);
        assert_eq!((scenario.budget, scenario.expect.clone()), (Budget::Beyond, Expect::Fail("K7".into())));
        assert_eq!((scenario.steps.len(), scenario.ops.len(), scenario.cluster.nodes), (2, 1, 5));
        let limits = LimitsPlan { cache_slots_max: 16, ..LimitsPlan::default() };
        assert_eq!((&scenario.limits, scenario.at_most["masters"]), (&Some(limits), 3));
        assert_eq!(parse(&print(&scenario).unwrap()), Ok(scenario));
    }

    #[test]
    fn a_run_must_show_what_the_scenario_is_about() {
        let scenario = parse(TEXT).unwrap();
        assert_eq!(scenario.lacks(&[("kills", 1)].into()), Vec::<String>::new());
        assert_eq!(scenario.lacks(&[("masters", 1)].into()), ["0 kills are less than 1"]);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (from, to, expected) in [
            ("duration", "durations", "line 4: unknown field `durations`"),
            ("8s", "8", "line 4: `8` is no time"),
            ("nodes = 5", "node = 5", "line 9: unknown field `node`"),
            ("kill master for 500ms", "kill master", "line 26: `kill master` lacks `for` and a time"),
            ("Accept, n1", "Vote, n1", "line 29: `Vote` is no kind of message"),
            ("at = \"3s\"\n", "", "step 1 needs either `at` or `when`"),
            ("set k1", "put k1", "line 36: `put` is nothing to ask for"),
            ("nodes = 5", "nodes = 9", "a cluster has 1 to 7 nodes, not 9"),
            ("n1 = 15000", "n6 = 15000", "there is no n6"),
            ("fail:K7", "fail:K99", "line 5: `K99` is no checker that can fail"),
            ("kills = 1", "kill = 1", "line 16: nothing is counted as `kill`"),
            ("masters = 3", "mistresses = 3", "line 19: nothing is counted as `mistresses`"),
        ] {
            let error = parse(&TEXT.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
