//! The recorder's thread: writes what it is given into a ring of files.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use trialbay_engine::{DecidedValues, Engine};

use super::format::{self, Header};

/// So many files fill the ring, when images are small.
const FILES: u64 = 8;

/// Buffers that grew beyond this are not kept.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// What the driver's side hands over.
pub(super) enum Job {
    /// Begin a file with an image of this engine.
    Begin { header: Header, engine: Box<Engine> },
    /// Append these frames.
    Frames(Vec<u8>),
}

/// Files of at most `bytes_max` bytes altogether, of which the oldest make room for new ones.
pub(super) struct Ring {
    dir: PathBuf,
    bytes_max: u64,
    /// Oldest first.
    files: VecDeque<(PathBuf, u64)>,
    bytes: u64,
    next: u64,
    /// The last of the files; `None` when what comes has no room, until the next one begins.
    open: Option<File>,
    /// Whether the log was told that images have no room.
    told: bool,
}

/// How many bytes of frames go into one file of a ring.
pub(super) fn file_bytes(bytes_max: u64) -> u64 {
    bytes_max / FILES
}

/// What the thread has to do with the driver's side.
pub(super) struct Writer {
    pub(super) jobs: Receiver<Job>,
    /// Takes buffers back.
    pub(super) spare: SyncSender<Vec<u8>>,
    /// Bytes of frames that are not written yet.
    pub(super) queued: Arc<AtomicUsize>,
    /// Dropped when the thread ends, however it ends.
    pub(super) _end: Sender<Infallible>,
}

impl Writer {
    /// Writes until there are no more jobs, or until something cannot be written.
    pub(super) fn run(self, mut ring: Ring) {
        let mut beginning = Vec::new();
        let written = self.jobs.iter().try_for_each(|job| match job {
            Job::Begin { header, engine } => {
                beginning.clear();
                format::write_beginning(&header, |out| engine.image(DecidedValues::Outlined, out), &mut beginning);
                ring.begin(&beginning)
            }
            Job::Frames(mut frames) => {
                ring.append(&frames)?;
                self.queued.fetch_sub(frames.len(), Ordering::Release);
                frames.clear();
                if frames.capacity() <= SPARE_BYTES_MAX {
                    // Where there are enough already it is dropped.
                    let _ = self.spare.try_send(frames);
                }
                Ok(())
            }
        });
        if let Err(error) = written {
            let dir = ring.dir.display();
            tracing::warn!(%dir, %error, "the recorder cannot write: it is off until the next start, and the node goes on");
        }
    }
}

impl Ring {
    /// The ring in `dir`, which is made if it is not there. What earlier runs recorded is part of it.
    pub(super) fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let found = format::files(dir)?;
        let next = found.last().map_or(1, |(number, _)| number.saturating_add(1));
        let files = found.into_iter().map(|(_, path)| path.metadata().map(|metadata| (path, metadata.len())));
        let files = files.collect::<io::Result<VecDeque<_>>>()?;
        let bytes = files.iter().map(|(_, len)| len).sum();
        Ok(Self { dir: dir.to_owned(), bytes_max, files, bytes, next, open: None, told: false })
    }

    /// Begins a file, if there can be room for it and its frames.
    fn begin(&mut self, beginning: &[u8]) -> io::Result<()> {
        self.open = None;
        let needed = beginning.len() as u64 + file_bytes(self.bytes_max);
        if needed > self.bytes_max {
            if !std::mem::replace(&mut self.told, true) {
                let bytes = beginning.len();
                tracing::warn!(bytes, "nothing is recorded for now: the engine's image has no room in `recorder_mib`");
            }
            return Ok(());
        }
        self.told = false;
        self.make_room(needed, 0)?;
        let path = self.dir.join(format::file_name(self.next));
        self.next += 1;
        let mut file = File::create_new(&path)?;
        self.files.push_back((path, 0));
        file.write_all(beginning)?;
        self.open = Some(file);
        self.count(beginning.len());
        Ok(())
    }

    fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            return Ok(());
        }
        self.make_room(frames.len() as u64, 1)?;
        if self.bytes + frames.len() as u64 > self.bytes_max {
            // Frames of one file follow each other: without these there are no others.
            self.open = None;
        }
        let Some(file) = &mut self.open else { return Ok(()) };
        file.write_all(frames)?;
        self.count(frames.len());
        Ok(())
    }

    /// Removes the oldest files until `bytes` more have room, but for the newest `kept`.
    fn make_room(&mut self, bytes: u64, kept: usize) -> io::Result<()> {
        while self.bytes + bytes > self.bytes_max
            && self.files.len() > kept
            && let Some((path, len)) = self.files.pop_front()
        {
            match std::fs::remove_file(path) {
                // Somebody has taken it away already.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
            self.bytes -= len;
        }
        Ok(())
    }

    fn count(&mut self, written: usize) {
        self.bytes += written as u64;
        if let Some((_, len)) = self.files.back_mut() {
            *len += written as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_and_sizes(dir: &Path) -> Vec<(u64, u64)> {
        let files = format::files(dir).unwrap();
        files.into_iter().map(|(number, path)| (number, path.metadata().unwrap().len())).collect()
    }

    #[test]
    fn the_oldest_files_make_room_and_numbers_go_on_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(&dir.path().join("recorder"), 800).unwrap();
        for _ in 0..20 {
            ring.begin(&[1; 50]).unwrap();
            ring.append(&[2; 100]).unwrap();
            let bytes: u64 = names_and_sizes(&ring.dir).iter().map(|(_, len)| len).sum();
            assert!(bytes <= 800 && bytes == ring.bytes);
        }
        assert_eq!(names_and_sizes(&ring.dir), [(16, 150), (17, 150), (18, 150), (19, 150), (20, 150)]);
        let mut ring = Ring::open(&ring.dir, 800).unwrap();
        ring.begin(&[1; 50]).unwrap();
        assert_eq!(names_and_sizes(&ring.dir), [(17, 150), (18, 150), (19, 150), (20, 150), (21, 50)]);
        let mut smaller = Ring::open(&ring.dir, 160).unwrap();
        smaller.begin(&[1; 50]).unwrap();
        assert_eq!(names_and_sizes(&ring.dir), [(21, 50), (22, 50)]);
    }

    #[test]
    fn what_has_no_room_at_all_is_left_out_until_a_file_that_has_begins() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(dir.path(), 800).unwrap();
        ring.begin(&[1; 50]).unwrap();
        ring.append(&[2; 751]).unwrap();
        ring.append(&[2; 1]).unwrap();
        assert_eq!(names_and_sizes(dir.path()), [(1, 50)], "nothing may follow what is missing");
        ring.begin(&[1; 701]).unwrap();
        ring.append(&[2; 1]).unwrap();
        assert_eq!(names_and_sizes(dir.path()), [(1, 50)]);
        ring.begin(&[1; 60]).unwrap();
        ring.append(&[2; 1]).unwrap();
        assert_eq!(names_and_sizes(dir.path()), [(1, 50), (2, 61)]);
    }

    #[test]
    fn other_files_are_left_alone_and_those_that_are_gone_are_no_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), [0; 5000]).unwrap();
        let mut ring = Ring::open(dir.path(), 200).unwrap();
        ring.begin(&[1; 100]).unwrap();
        std::fs::remove_file(dir.path().join("000001.rec")).unwrap();
        ring.begin(&[1; 100]).unwrap();
        assert_eq!(names_and_sizes(dir.path()), [(2, 100)]);
        assert!(dir.path().join("notes.txt").exists());
    }
}
