//! Runs of the program that end by themselves.

use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::AsyncWriteExt as _;

use crate::PATIENCE;

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output, which is text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    /// Standard output, which is JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The one line in which the program says what is wrong.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub fn complaint(&self) -> &str {
        let complaints: Vec<&str> = self.err.lines().filter_map(|line| line.strip_prefix("trialbay: ")).collect();
        let [complaint] = complaints.as_slice() else { panic!("one line should say what is wrong: {self:?}") };
        assert!(self.err.ends_with(&format!("{complaint}\n")), "more follows: {self:?}");
        complaint
    }
}

/// Runs the program with `input` as its standard input.
///
/// # Panics
/// When it does not end in time.
pub async fn run(program: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut command = tokio::process::Command::from(command(program, args));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the program can be started");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that does not read its input may have ended already.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{args:?} does not end")).expect("a child can be waited for");
    Ran { code: output.status.code(), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// A command without the variables that would tell it of another cluster.
pub fn command(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TRIALBAY_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}
