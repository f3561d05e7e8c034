//! One process under test.

use std::fs::File;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::command;
use crate::until;

/// A running process. Killed when it is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program; what it prints is appended to `log`.
    ///
    /// Its standard input is a pipe that ends with the test process, which ends nodes that run `--exit-with-parent`.
    pub fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("the log can be written");
        let mut command = command(program, args);
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        Self { child: command.spawn().expect("the program can be started") }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not waited for gets signals");
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it has ended by itself.
    pub async fn end(mut self) -> ExitStatus {
        until("the process ends", async || self.ended()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
