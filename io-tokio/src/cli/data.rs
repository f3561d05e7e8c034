//! The commands on keys and values.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::{Environment, Global, Output};
use super::bytes::{Form, read_input};
use super::exit::{ExitCode, Failure};
use super::sequence;
use crate::client::{Client, KeyRange, Sequence};
use crate::consistency::Consistency;

#[derive(Subcommand, Debug)]
pub(crate) enum DataCommand {
    /// Print the value of a key.
    ///
    /// On a terminal a newline follows it; into a pipe or a file go its very bytes and nothing else. Exit code 3 when there is no such key.
    #[command(
        after_help = "Examples:\n  trialbay get hello\n  trialbay get hello --consistency none -o json\n  trialbay get photo > photo.jpg"
    )]
    Get {
        /// The key.
        key: OsString,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Set a key, whatever was there.
    #[command(after_help = "Examples:\n  trialbay set hello world\n  trialbay set photo - < photo.jpg")]
    Set {
        /// The key.
        key: OsString,
        /// The value; `-` reads it from standard input.
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Delete a key.
    ///
    /// Exit code 3 when there is no such key.
    #[command(after_help = "Example:\n  trialbay delete hello")]
    Delete {
        /// The key.
        key: OsString,
    },
    /// Print whether a key exists: `true` or `false`.
    ///
    /// Exit code 3 when there is no such key.
    #[command(after_help = "Example:\n  trialbay exists hello && echo yes")]
    Exists {
        /// The key.
        key: OsString,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Set or delete a key only if it has the expected value.
    ///
    /// Prints the value before, if there was one, as `get` does. Exit code 4 when it was not the expected one: nothing was
    /// changed.
    #[command(after_help = "Examples:\n  trialbay test-and-set lock --absent --wanted me\n  \
                            trialbay test-and-set lock --expected me --delete")]
    TestAndSet(TestAndSetArgs),
    /// Print keys and values in a range, in order.
    ///
    /// One `key<TAB>value` a line. What is not printable is escaped: `\\` `\t` `\n` `\r`, and `\xNN` for other bytes.
    #[command(after_help = "Examples:\n  trialbay range --first user/ --last user0 --exclude-last\n  \
                            trialbay range --reverse --max 10 --keys-only")]
    Range(RangeArgs),
    /// Print the keys that begin with a prefix, one a line, escaped as by `range`.
    #[command(after_help = "Example:\n  trialbay prefix user/ --max 100")]
    Prefix {
        /// The prefix.
        prefix: OsString,
        /// At most that many, the smallest ones.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=0x7fff_ffff))]
        max: Option<u32>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Delete every key that begins with a prefix, and print how many there were.
    #[command(after_help = "Example:\n  trialbay delete-prefix tmp/")]
    DeletePrefix {
        /// The prefix.
        prefix: OsString,
        /// Delete every key there is, with the empty prefix.
        #[arg(long)]
        all: bool,
    },
    /// Do all the updates of a file in order, or none of them.
    ///
    /// Exit code 4 when an assertion does not hold, 3 when a key to delete is missing: nothing was changed.
    #[command(after_help = "Example:\n  printf 'assert from 10\\nset from 0\\nset to 10\\n' | trialbay sequence -",
              after_long_help = format!("{}\n\nExample:\n  {}", sequence::HELP,
                  "printf 'assert from 10\\nset from 0\\nset to 10\\n' | trialbay sequence -"))]
    Sequence {
        /// Text or JSON; `-` is standard input. With --hex, the words of a text file are hexadecimal.
        file: PathBuf,
    },
    /// Change nothing, by a slot of its own: succeeds only if updates do.
    #[command(after_help = "Example:\n  trialbay nop")]
    Nop,
}

#[derive(Args, Debug)]
pub(crate) struct ReadArgs {
    /// How fresh the answer must be: `consistent` sees every acknowledged update; `at-least=SLOT` sees every update up
    /// to that slot; `none` is whatever a node has.
    #[arg(long, value_name = "HOW", default_value = "consistent", value_parser = consistency)]
    consistency: Consistency,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("expectation").required(true).args(["expected", "absent"])))]
#[command(group(clap::ArgGroup::new("wish").required(true).args(["wanted", "delete"])))]
pub(crate) struct TestAndSetArgs {
    /// The key.
    key: OsString,
    /// The value that the key must have; `-` reads it from standard input.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    expected: Option<OsString>,
    /// There must be no such key.
    #[arg(long)]
    absent: bool,
    /// The value to set; `-` reads it from standard input.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    wanted: Option<OsString>,
    /// Delete the key.
    #[arg(long)]
    delete: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RangeArgs {
    /// The smallest key; without it, the range has no lower end.
    #[arg(long, value_name = "KEY")]
    first: Option<OsString>,
    /// The largest key; without it, the range has no upper end.
    #[arg(long, value_name = "KEY")]
    last: Option<OsString>,
    /// The first key itself does not belong to the range.
    #[arg(long, requires = "first")]
    exclude_first: bool,
    /// The last key itself does not belong to the range.
    #[arg(long, requires = "last")]
    exclude_last: bool,
    /// At most that many: the smallest ones, with --reverse the largest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=0x7fff_ffff))]
    max: Option<u32>,
    /// Descending.
    #[arg(long)]
    reverse: bool,
    /// Keys without their values.
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) async fn run(
    command: DataCommand,
    global: &Global,
    environment: Environment<'_>,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let client = global.client(environment)?;
    let form = global.form();
    let mut printer = Printer { output: global.output, form, is_terminal: std::io::stdout().is_terminal(), out };
    match command {
        DataCommand::Get { key, read } => {
            let value = client.get_with(form.read(&key)?, read.consistency).await?;
            printer.value(&value);
        }
        DataCommand::Set { key, value } => {
            client.set(form.read(&key)?, form.read_or_stdin(&value)?).await?;
            printer.done();
        }
        DataCommand::Delete { key } => {
            client.delete(form.read(&key)?).await?;
            printer.done();
        }
        DataCommand::Exists { key, read } => {
            let exists = client.exists_with(form.read(&key)?, read.consistency).await?;
            printer.answer(&exists.to_string(), json!({ "exists": exists }));
            return Ok(if exists { ExitCode::Ok } else { ExitCode::NotFound });
        }
        DataCommand::TestAndSet(args) => return test_and_set(&client, &args, &mut printer).await,
        DataCommand::Range(args) => range(&client, &args, &mut printer).await?,
        DataCommand::Prefix { prefix, max, read } => {
            printer.keys(&client.prefix_keys(form.read(&prefix)?, max, read.consistency).await?);
        }
        DataCommand::DeletePrefix { prefix, all } => {
            if prefix.is_empty() && !all {
                let message = "an empty prefix deletes every key: add --all if you mean that";
                return Err(Failure::new(ExitCode::Usage, message));
            }
            let deleted = client.delete_prefix(form.read(&prefix)?).await?;
            printer.answer(&deleted.to_string(), json!({ "deleted": deleted }));
        }
        DataCommand::Sequence { file } => {
            let is_stdin = file.as_os_str() == "-";
            let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
            let text = match is_stdin {
                true => read_input(std::io::stdin().lock(), &name)?,
                false => {
                    let cannot = |error| Failure::new(ExitCode::Usage, format!("{name} cannot be opened: {error}"));
                    read_input(std::fs::File::open(&file).map_err(cannot)?, &name)?
                }
            };
            let updates = sequence::parse(&text, form).map_err(|why| {
                let why = why.replace('\n', &format!("\ntrialbay: {name}: "));
                Failure::new(ExitCode::Usage, format!("{name}: {why}"))
            })?;
            client.sequence(Sequence::from(updates)).await?;
            printer.done();
        }
        DataCommand::Nop => {
            client.nop().await?;
            printer.done();
        }
    }
    Ok(ExitCode::Ok)
}

async fn test_and_set(client: &Client, args: &TestAndSetArgs, printer: &mut Printer<'_>) -> Result<ExitCode, Failure> {
    let form = printer.form;
    let is_stdin = |value: &Option<OsString>| value.as_deref() == Some(OsStr::new("-"));
    if is_stdin(&args.expected) && is_stdin(&args.wanted) {
        return Err(Failure::new(ExitCode::Usage, "only one of two values can be read from standard input"));
    }
    let expected = args.expected.as_ref().map(|value| form.read_or_stdin(value)).transpose()?;
    let wanted = args.wanted.as_ref().map(|value| form.read_or_stdin(value)).transpose()?;
    let before = client.test_and_set(form.read(&args.key)?, expected.as_deref(), wanted.as_deref()).await?;
    let done = before == expected;
    match (printer.output, &before) {
        (Output::Json, _) => {
            let before = before.as_deref().map(|before| form.json(before));
            printer.answer("", json!({ "done": done, "before": before }));
        }
        (Output::Text, Some(before)) => printer.value(before),
        (Output::Text, None) => (),
    }
    if done {
        return Ok(ExitCode::Ok);
    }
    let why = match (&before, &expected) {
        (None, _) => "there is no such key",
        (Some(_), None) => "the key is there already",
        (Some(_), Some(_)) => "the key has another value",
    };
    Err(Failure::new(ExitCode::AssertionFailed, format!("{why}: nothing was changed")))
}

async fn range(client: &Client, args: &RangeArgs, printer: &mut Printer<'_>) -> Result<(), Failure> {
    let bound = |key: &Option<OsString>| key.as_ref().map(|key| printer.form.read(key)).transpose();
    let range = KeyRange {
        first: (bound(&args.first)?, !args.exclude_first),
        last: (bound(&args.last)?, !args.exclude_last),
        max: args.max,
    };
    let consistency = args.read.consistency;
    if args.keys_only && !args.reverse {
        printer.keys(&client.range(&range, consistency).await?);
        return Ok(());
    }
    let entries = match args.reverse {
        true => client.rev_range_entries(&range, consistency).await?,
        false => client.range_entries(&range, consistency).await?,
    };
    match args.keys_only {
        true => printer.keys(&entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>()),
        false => printer.entries(&entries),
    }
    Ok(())
}

/// Prints answers in the form that was asked for.
struct Printer<'a> {
    output: Output,
    form: Form,
    is_terminal: bool,
    out: &'a mut Vec<u8>,
}

impl Printer<'_> {
    /// One value: in text its very bytes, so that it can be piped on; a terminal gets its line ended.
    fn value(&mut self, value: &[u8]) {
        match (self.output, self.form) {
            (Output::Json, form) => self.json(&json!({ "value": form.json(value) })),
            (Output::Text, Form::Hex) => self.line(&self.form.show(value)),
            (Output::Text, Form::Plain) => {
                self.out.extend_from_slice(value);
                if self.is_terminal {
                    self.out.push(b'\n');
                }
            }
        }
    }

    fn keys(&mut self, keys: &[Bytes]) {
        match self.output {
            Output::Json => self.json(&keys.iter().map(|key| self.form.json(key)).collect()),
            Output::Text => keys.iter().for_each(|key| self.line(&self.form.show(key))),
        }
    }

    fn entries(&mut self, entries: &[(Bytes, Bytes)]) {
        let form = self.form;
        match self.output {
            Output::Json => {
                let entry = |(key, value): &(Bytes, Bytes)| json!({ "key": form.json(key), "value": form.json(value) });
                self.json(&entries.iter().map(entry).collect());
            }
            Output::Text => {
                entries.iter().for_each(|(key, value)| self.line(&format!("{}\t{}", form.show(key), form.show(value))));
            }
        }
    }

    /// An update that gives nothing back: silence is success.
    fn done(&mut self) {
        if self.output == Output::Json {
            self.json(&json!({ "ok": true }));
        }
    }

    fn answer(&mut self, text: &str, json: Value) {
        match self.output {
            Output::Json => self.json(&json),
            Output::Text => self.line(text),
        }
    }

    fn json(&mut self, value: &Value) {
        self.line(&value.to_string());
    }

    fn line(&mut self, line: &str) {
        writeln!(self.out, "{line}").expect("memory can be written");
    }
}

fn consistency(text: &str) -> Result<Consistency, String> {
    match (text, text.strip_prefix("at-least=")) {
        ("consistent", _) => Ok(Consistency::Consistent),
        ("none", _) => Ok(Consistency::NoGuarantees),
        (_, Some(slot)) => {
            let slot = slot.parse::<i64>().ok().filter(|slot| *slot >= 0);
            slot.map(Consistency::AtLeast).ok_or_else(|| "write a slot after `at-least=`, as in at-least=17".to_owned())
        }
        _ => Err("write consistent, none or at-least=SLOT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(output: Output, form: Form, print: impl FnOnce(&mut Printer<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        print(&mut Printer { output, form, is_terminal: false, out: &mut out });
        out
    }

    #[test]
    fn a_value_is_printed_as_its_very_bytes_unless_asked_otherwise() {
        let value = b"\x00\xff\n";
        assert_eq!(printed(Output::Text, Form::Plain, |p| p.value(value)), value);
        let mut out = Vec::new();
        Printer { output: Output::Text, form: Form::Plain, is_terminal: true, out: &mut out }.value(value);
        assert_eq!(out, b"\x00\xff\n\n");
        assert_eq!(printed(Output::Text, Form::Hex, |p| p.value(value)), b"00ff0a\n");
        assert_eq!(printed(Output::Json, Form::Plain, |p| p.value(value)), b"{\"value\":{\"hex\":\"00ff0a\"}}\n");
        assert_eq!(printed(Output::Json, Form::Plain, |p| p.value(b"a")), b"{\"value\":\"a\"}\n");
        assert_eq!(printed(Output::Json, Form::Hex, |p| p.value(b"a")), b"{\"value\":{\"hex\":\"61\"}}\n");
    }

    #[test]
    fn a_listing_has_one_line_for_each_entry_whatever_is_in_it() {
        let entries = [(Bytes::from("a\tb"), Bytes::from("1\n2")), (Bytes::from_static(b"\xff"), Bytes::new())];
        assert_eq!(printed(Output::Text, Form::Plain, |p| p.entries(&entries)), b"a\\tb\t1\\n2\n\\xff\t\n");
        assert_eq!(printed(Output::Text, Form::Hex, |p| p.entries(&entries)), b"610962\t310a32\nff\t\n");
        let json = printed(Output::Json, Form::Plain, |p| p.entries(&entries));
        assert_eq!(
            String::from_utf8(json).unwrap(),
            "[{\"key\":\"a\\tb\",\"value\":\"1\\n2\"},{\"key\":{\"hex\":\"ff\"},\"value\":\"\"}]\n"
        );
        let keys = [Bytes::from("a"), Bytes::from("b\\")];
        assert_eq!(printed(Output::Text, Form::Plain, |p| p.keys(&keys)), b"a\nb\\\\\n");
        assert_eq!(printed(Output::Json, Form::Plain, |p| p.keys(&keys)), b"[\"a\",\"b\\\\\"]\n");
    }

    #[test]
    fn consistency_is_one_of_three() {
        assert_eq!(consistency("consistent"), Ok(Consistency::Consistent));
        assert_eq!(consistency("none"), Ok(Consistency::NoGuarantees));
        assert_eq!(consistency("at-least=17"), Ok(Consistency::AtLeast(17)));
        for wrong in ["", "Consistent", "at-least", "at-least=", "at-least=-1", "at-least=9223372036854775808"] {
            assert!(consistency(wrong).is_err(), "{wrong}");
        }
    }
}
