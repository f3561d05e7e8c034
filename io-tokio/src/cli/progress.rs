//! How far long work has got, for people who watch.

use std::io::{IsTerminal as _, Read, Write as _};

/// Shows on a terminal how much is done, and nothing elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last percentage.
    shown: u64,
}

/// Bytes that show how many of them were read.
pub(crate) struct ReadWithProgress<R> {
    from: R,
    done: u64,
    all: u64,
    progress: Progress,
}

impl Progress {
    /// So many of so many bytes are done.
    pub(crate) fn show(&mut self, done: u64, all: u64) {
        let percent = (done.saturating_mul(100)).checked_div(all).unwrap_or(100).min(100);
        let mut terminal = std::io::stderr();
        if percent <= self.shown || !terminal.is_terminal() {
            return;
        }
        self.shown = percent;
        let end = if percent == 100 { "\n" } else { "" };
        // Nobody needs it where it cannot be shown.
        let _ = write!(terminal, "\r{percent} % of {} MiB{end}", all >> 20);
    }
}

impl<R: Read> ReadWithProgress<R> {
    pub(crate) fn new(from: R, all: u64) -> Self {
        Self { from, done: 0, all, progress: Progress::default() }
    }
}

impl<R: Read> Read for ReadWithProgress<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(bytes)?;
        self.done += read as u64;
        self.progress.show(self.done, self.all);
        Ok(read)
    }
}
