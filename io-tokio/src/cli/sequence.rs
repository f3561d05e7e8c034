//! Files of updates for `trialbay sequence`: one update a line, or JSON.

use bytes::Bytes;
use serde::Deserialize;

use super::bytes::{Form, unescape, unhex};
use crate::update::Update;

/// How many mistakes of one file are told.
const MISTAKES_MAX: usize = 10;

/// What `trialbay sequence --help` says of the files.
pub(crate) const HELP: &str = r#"A text file has one update a line:
  set KEY VALUE                 set a key
  delete KEY                    delete a key; fails when there is none
  replace KEY VALUE             as set
  remove KEY                    delete a key if there is one
  test-and-set KEY OLD NEW      set a key only if it has the value OLD; otherwise go on
  delete-prefix PREFIX          delete every key with this prefix
  assert KEY VALUE              fail unless the key has this value
  assert-absent KEY             fail unless there is no such key
  assert-exists KEY             fail unless the key exists
  assert-range PREFIX KEY...    fail unless exactly these keys have this prefix
Words are separated by blanks; "quotes" keep blanks together; \\ \" \t \n \r \xNN are understood; `#` begins a comment.

A JSON file is a list of the same updates; null stands for absent, {"hex": "00ff"} for bytes:
  [{"assert": {"key": "a", "value": "1"}}, {"set": {"key": "b", "value": {"hex": "00"}}},
   {"test-and-set": {"key": "c", "expected": null, "wanted": "1"}}, {"delete-prefix": {"prefix": "tmp/"}}]"#;

/// Reads a file of updates, text or JSON. In text, the words after the first are as `form` says.
///
/// # Errors
/// What is wrong, with its line; every mistake of a text file, each on a line of its own.
pub(crate) fn parse(file: &[u8], form: Form) -> Result<Vec<Update>, String> {
    let text = std::str::from_utf8(file).map_err(|error| {
        let line = file[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: this is not UTF-8: write such bytes as \\xNN")
    })?;
    if text.trim_start().starts_with(['[', '{']) {
        let updates: Vec<JsonUpdate> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return not_empty(updates.into_iter().map(Update::from).collect());
    }
    let mut updates = Vec::new();
    let mut mistakes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match words(line).and_then(|words| update(&words, form)) {
            Ok(update) => updates.extend(update),
            Err(why) => mistakes.push(format!("line {}: {why}", index + 1)),
        }
    }
    if mistakes.is_empty() { not_empty(updates) } else { Err(told(mistakes)) }
}

/// The mistakes, each on a line of its own, as many as a person reads.
fn told(mut mistakes: Vec<String>) -> String {
    let more = mistakes.len().saturating_sub(MISTAKES_MAX);
    mistakes.truncate(MISTAKES_MAX);
    if more > 0 {
        mistakes.push(format!("and {more} more"));
    }
    mistakes.join("\n")
}

/// Refuses what would succeed without doing anything: mostly whatever should have written the updates has failed.
fn not_empty(updates: Vec<Update>) -> Result<Vec<Update>, String> {
    if updates.is_empty() {
        return Err("there is no update in it: write at least one, as in `set KEY VALUE`".to_owned());
    }
    Ok(updates)
}

/// The words of a line; a word in quotes may be empty.
fn words(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = end_of_word(quoted, |c| c == '"').ok_or("a quote `\"` is not closed")?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => rest.split_at(end_of_word(rest, char::is_whitespace).unwrap_or(rest.len())),
        };
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return Err("a closing quote `\"` must be followed by a blank".to_owned());
        }
        words.push(unescape(word)?);
        rest = after.trim_start();
    }
    Ok(words)
}

/// Where the first character that ends the word and is not escaped stands.
fn end_of_word(text: &str, ends: impl Fn(char) -> bool) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        if !escaped && ends(c) {
            return Some(at);
        }
        escaped = !escaped && c == '\\';
        None
    })
}

/// The update that the words of a line stand for; `None` for an empty line.
fn update(words: &[Vec<u8>], form: Form) -> Result<Option<Update>, String> {
    let Some((name, arguments)) = words.split_first() else {
        return Ok(None);
    };
    let arguments: Vec<Bytes> = match form {
        Form::Plain => arguments.iter().cloned().map(Bytes::from).collect(),
        Form::Hex => arguments.iter().map(|word| unhex(word)).collect::<Result<_, _>>()?,
    };
    let name = String::from_utf8_lossy(name);
    let needs = |what: &str| Err(format!("`{name}` needs {what}: write `{name} {what}`"));
    let update = match (name.as_ref(), arguments.as_slice()) {
        ("set", [key, value]) => Update::Set { key: key.clone(), value: value.clone() },
        ("replace", [key, value]) => Update::Replace { key: key.clone(), wanted: Some(value.clone()) },
        ("assert", [key, value]) => Update::Assert { key: key.clone(), expected: Some(value.clone()) },
        ("delete", [key]) => Update::Delete { key: key.clone() },
        ("remove", [key]) => Update::Replace { key: key.clone(), wanted: None },
        ("assert-absent", [key]) => Update::Assert { key: key.clone(), expected: None },
        ("assert-exists", [key]) => Update::AssertExists { key: key.clone() },
        ("delete-prefix", [prefix]) => Update::DeletePrefix { prefix: prefix.clone() },
        ("assert-range", [prefix, keys @ ..]) => Update::AssertRange { prefix: prefix.clone(), keys: keys.to_vec() },
        ("test-and-set", [key, old, new]) => {
            Update::TestAndSet { key: key.clone(), expected: Some(old.clone()), wanted: Some(new.clone()) }
        }
        ("set" | "replace" | "assert", _) => return needs("KEY VALUE"),
        ("delete" | "remove" | "assert-absent" | "assert-exists", _) => return needs("KEY"),
        ("delete-prefix", _) => return needs("PREFIX"),
        ("assert-range", _) => return needs("PREFIX KEY..."),
        ("test-and-set", _) => return needs("KEY OLD NEW"),
        (other, _) => {
            return Err(format!(
                "`{}` is no update: write set, delete, replace, remove, test-and-set, delete-prefix, assert, \
                 assert-absent, assert-exists or assert-range",
                other.escape_debug()
            ));
        }
    };
    Ok(Some(update))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum JsonUpdate {
    Set {
        key: JsonBytes,
        value: JsonBytes,
    },
    Delete {
        key: JsonBytes,
    },
    Replace {
        key: JsonBytes,
        #[serde(deserialize_with = "required")]
        value: Option<JsonBytes>,
    },
    TestAndSet {
        key: JsonBytes,
        #[serde(deserialize_with = "required")]
        expected: Option<JsonBytes>,
        #[serde(deserialize_with = "required")]
        wanted: Option<JsonBytes>,
    },
    DeletePrefix {
        prefix: JsonBytes,
    },
    Assert {
        key: JsonBytes,
        #[serde(deserialize_with = "required")]
        value: Option<JsonBytes>,
    },
    AssertExists {
        key: JsonBytes,
    },
    AssertRange {
        prefix: JsonBytes,
        keys: Vec<JsonBytes>,
    },
}

/// A text, or `{"hex": ".."}`.
#[derive(Deserialize)]
#[serde(try_from = "JsonText")]
struct JsonBytes(Bytes);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or {\"hex\": \"..\"}")]
enum JsonText {
    Plain(String),
    Hex { hex: String },
}

/// `null` must be written: a forgotten value is not the same as none.
fn required<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<JsonBytes>, D::Error> {
    Option::deserialize(deserializer)
}

impl TryFrom<JsonText> for JsonBytes {
    type Error = String;

    fn try_from(text: JsonText) -> Result<Self, String> {
        match text {
            JsonText::Plain(text) => Ok(Self(text.into())),
            JsonText::Hex { hex } => unhex(hex.as_bytes()).map(Self),
        }
    }
}

impl From<JsonUpdate> for Update {
    fn from(update: JsonUpdate) -> Self {
        let option = |bytes: Option<JsonBytes>| bytes.map(|bytes| bytes.0);
        match update {
            JsonUpdate::Set { key, value } => Self::Set { key: key.0, value: value.0 },
            JsonUpdate::Delete { key } => Self::Delete { key: key.0 },
            JsonUpdate::Replace { key, value } => Self::Replace { key: key.0, wanted: option(value) },
            JsonUpdate::TestAndSet { key, expected, wanted } => {
                Self::TestAndSet { key: key.0, expected: option(expected), wanted: option(wanted) }
            }
            JsonUpdate::DeletePrefix { prefix } => Self::DeletePrefix { prefix: prefix.0 },
            JsonUpdate::Assert { key, value } => Self::Assert { key: key.0, expected: option(value) },
            JsonUpdate::AssertExists { key } => Self::AssertExists { key: key.0 },
            JsonUpdate::AssertRange { prefix, keys } => {
                Self::AssertRange { prefix: prefix.0, keys: keys.into_iter().map(|key| key.0).collect() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn every_update() -> Vec<Update> {
        vec![
            Update::Set { key: b("a"), value: b("1 2") },
            Update::Delete { key: b("b") },
            Update::Replace { key: b("c"), wanted: Some(b("")) },
            Update::Replace { key: b("d"), wanted: None },
            Update::TestAndSet { key: b("e"), expected: Some(b("old")), wanted: Some(b("new")) },
            Update::DeletePrefix { prefix: b("f\t") },
            Update::Assert { key: b("g"), expected: Some(b("#")) },
            Update::Assert { key: b("h"), expected: None },
            Update::AssertExists { key: b("é") },
            Update::AssertRange { prefix: b("i"), keys: vec![b("i1"), b("i2")] },
        ]
    }

    #[test]
    fn a_text_file_can_say_every_update() {
        let text = "# first a comment\n\n set a \"1 2\"\ndelete b # why not\r\nreplace c \"\"\nremove d\n\
                    test-and-set e old new\ndelete-prefix f\\t\nassert g \"#\"\nassert-absent h\n\
                    assert-exists \\xc3\\xa9\nassert-range i i1 i2";
        assert_eq!(parse(text.as_bytes(), Form::Plain), Ok(every_update()));
    }

    #[test]
    fn a_json_file_can_say_every_update() {
        let text = r##" [{"set": {"key": "a", "value": "1 2"}}, {"delete": {"key": {"hex": "62"}}},
            {"replace": {"key": "c", "value": ""}}, {"replace": {"key": "d", "value": null}},
            {"test-and-set": {"key": "e", "expected": "old", "wanted": "new"}}, {"delete-prefix": {"prefix": "f\t"}},
            {"assert": {"key": "g", "value": "#"}}, {"assert": {"key": "h", "value": null}},
            {"assert-exists": {"key": "é"}}, {"assert-range": {"prefix": "i", "keys": ["i1", "i2"]}}]"##;
        assert_eq!(parse(text.as_bytes(), Form::Plain), Ok(every_update()));
    }

    #[test]
    fn words_are_hexadecimal_when_asked() {
        let expected = vec![Update::Set { key: b("a"), value: b("") }];
        assert_eq!(parse(b"set 61 \"\"", Form::Hex), Ok(expected));
        assert!(parse(b"set key 00", Form::Hex).unwrap_err().starts_with("line 1: `key` is not hexadecimal"));
    }

    #[test]
    fn mistakes_are_reported_with_their_line() {
        let cases: [(&[u8], &str); 12] = [
            (b"set a 1\nset a", "line 2: `set` needs KEY VALUE: write `set KEY VALUE`"),
            (b"set a 1 2", "line 1: `set` needs KEY VALUE"),
            (b"delete", "line 1: `delete` needs KEY"),
            (b"assert-range", "line 1: `assert-range` needs PREFIX KEY..."),
            (b"\n\nsett a b", "line 3: `sett` is no update: write set, "),
            (b"set \"a 1", "line 1: a quote `\"` is not closed"),
            (b"set \"a\"b 1", "line 1: a closing quote `\"` must be followed by a blank"),
            (b"set a \\q", "line 1: `\\q` is no escape"),
            (b"set a b\nset a \xff", "line 2: this is not UTF-8"),
            (b"[\n{\"set\": {\"key\": \"a\"}}]", "missing field `value` at line 2"),
            (b"[{\"set\": {\"key\": 3, \"value\": \"\"}}]", "expected a text or {\"hex\": \"..\"} at line 1"),
            (b"[{\"assert\": {\"key\": \"a\"}}]", "missing field `value` at line 1"),
        ];
        for (text, expected) in cases {
            let said = parse(text, Form::Plain).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn every_mistake_of_a_file_is_told() {
        let said = parse(b"sett a b\nset a 1\ndelete", Form::Plain).unwrap_err();
        assert_eq!(said.lines().count(), 2);
        assert!(said.starts_with("line 1: `sett`") && said.contains("\nline 3: `delete`"), "{said}");
        let many = parse("set\n".repeat(30).as_bytes(), Form::Plain).unwrap_err();
        assert!(many.ends_with("line 10: `set` needs KEY VALUE: write `set KEY VALUE`\nand 20 more"), "{many}");
    }

    #[test]
    fn a_file_without_an_update_is_refused() {
        for empty in ["", "\n # nothing\n", "[]"] {
            assert!(parse(empty.as_bytes(), Form::Plain).unwrap_err().contains("no update in it"), "{empty:?}");
        }
    }

    #[test]
    fn no_file_makes_the_parser_panic() {
        proptest::proptest!(|(file in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60))| {
            let _ = parse(&file, Form::Plain);
            let _ = parse(&[b"set \"", file.as_slice()].concat(), Form::Hex);
            let _ = parse(&[b"[", file.as_slice()].concat(), Form::Plain);
        });
    }
}
