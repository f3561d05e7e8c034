//! The rules of `docs/protocol.md` and those that the code names are the same, and what the page points at exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The first letters of rules; invariants (`I1`) are not named in code.
const FAMILIES: &str = "PACMHELRDFV";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn protocol() -> String {
    fs::read_to_string(root().join("docs/protocol.md")).expect("docs/protocol.md is there")
}

fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("it can be read"));
        }
    }
    text
}

fn is_rule(word: &str) -> bool {
    matches!(word.as_bytes(), [family, number] if FAMILIES.as_bytes().contains(family) && number.is_ascii_digit())
}

fn words(line: &str) -> Vec<&str> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// The rules that comments name: `rule P1`, `rules C3 to C5`, `Rules P2 (...), P3 (...)`, `**V1**`.
fn named_in(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for line in code.lines().filter(|line| line.contains("//") && (line.contains("ule") || line.contains("**"))) {
        let words = words(line);
        for (index, word) in words.iter().enumerate().filter(|(_, word)| is_rule(word)) {
            named.insert((*word).to_owned());
            if let Some(["to", last]) = words.get(index + 1..index + 3)
                && is_rule(last)
            {
                let range = word.as_bytes()[1]..=last.as_bytes()[1];
                named.extend(range.map(|number| format!("{}{}", &word[..1], char::from(number))));
            }
        }
    }
    named
}

fn defined_in(page: &str) -> BTreeSet<String> {
    let defined = page.lines().filter_map(|line| line.strip_prefix("* **")?.get(..2));
    defined.filter(|word| is_rule(word)).map(str::to_owned).collect()
}

#[test]
fn every_rule_that_the_code_names_is_in_the_protocol_and_the_other_way_round() {
    let engine = named_in(&sources(&root().join("engine/src")));
    let driver = named_in(&sources(&root().join("io-tokio/src")));
    let named: BTreeSet<String> = engine.union(&driver).cloned().collect();
    let defined = defined_in(&protocol());
    assert!(defined.len() > 30, "{defined:?}");
    assert_eq!(named, defined, "left: named in code; right: defined in docs/protocol.md");
}

#[test]
fn every_function_and_test_that_the_protocol_points_at_exists() {
    let page = protocol();
    let mut count = 0;
    for pointer in page.split('`').skip(1).step_by(2).filter(|code| code.contains("::")) {
        let (place, function) = pointer.split_once("::").expect("the filter saw it");
        let candidates = [
            root().join("engine/src").join(place),
            root().join(place),
            root().join("engine/tests/protocol").join(format!("{place}.rs")),
        ];
        let path = candidates.iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("no file for {pointer}"));
        let text = fs::read_to_string(path).expect("it can be read");
        assert!(text.contains(&format!("fn {function}(")), "{pointer} is not in {}", path.display());
        count += 1;
    }
    assert!(count > 60, "{count}");
}

#[test]
fn the_message_table_has_every_message_and_no_other() {
    let code = fs::read_to_string(root().join("engine/src/message.rs")).expect("it can be read");
    let body = code.split("pub enum Message {").nth(1).and_then(|rest| rest.split("\n}\n").next()).expect("the enum");
    let variants: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {"))
        .filter(|name| !name.contains(' '))
        .collect();
    let page = protocol();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let documented: BTreeSet<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(variants, documented);
}
