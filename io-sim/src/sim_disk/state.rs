//! Everything on a disk, what goes wrong with it, and what each call does to it.

use std::io;
use std::path::{Path, PathBuf};

use super::contents::{Contents, Stray};
use super::names::{Entry, Names, is_root};
use super::{Counters, SECTOR_BYTES};
use crate::rng::Rng;

/// One disk.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) names: Names,
    files: Vec<File>,
    pub(super) faults: Faults,
    pub(super) power: Power,
    /// Counts the processes that the disk has seen end: what an earlier one opened is dead.
    pub(super) generation: u64,
    pub(super) counters: Counters,
    rng: Rng,
}

/// What is wrong with the disk until somebody mends it.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// The next sync below this directory fails.
    pub(super) sync_fails_below: Option<PathBuf>,
    /// The next write below this directory goes elsewhere.
    pub(super) write_strays_below: Option<PathBuf>,
    pub(super) writes_fail: bool,
    pub(super) is_full: bool,
    pub(super) syncs_lie: bool,
}

/// Whether changes are still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    FailsAfter(u64),
    Out,
}

#[derive(Clone, Debug, Default)]
struct File {
    contents: Contents,
    /// Its last name.
    path: PathBuf,
}

impl State {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            names: Names::default(),
            files: Vec::new(),
            faults: Faults::default(),
            power: Power::On,
            generation: 0,
            counters: Counters::default(),
            rng,
        }
    }

    pub(super) fn file(&self, number: usize) -> &Contents {
        &self.files[number].contents
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = path.ancestors().filter(|above| !is_root(above)).collect();
        missing.retain(|above| self.names.check_directory(above).is_err());
        for above in missing.into_iter().rev() {
            self.begin_change()?;
            self.names.make(above, Entry::Directory)?;
        }
        Ok(())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<usize> {
        self.begin_change()?;
        let number = self.files.len();
        self.names.make(path, Entry::File(number))?;
        self.files.push(File { contents: Contents::default(), path: path.to_owned() });
        Ok(number)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin_change()?;
        self.names.rename(from, to)?;
        let number = self.names.find_file(to)?;
        self.files[number].path = to.to_owned();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.begin_change()?;
        self.names.remove(path)
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.names.check_directory(dir)?;
        self.begin_change()?;
        self.counters.syncs += 1;
        if take_if_below(&mut self.faults.sync_fails_below, dir) {
            self.counters.syncs_failed += 1;
            let rng = &mut self.rng;
            self.names.sync(dir, || rng.chance(0.5));
            return Err(input_output_error());
        }
        if self.faults.syncs_lie {
            self.counters.syncs_lied += 1;
        } else {
            self.names.sync(dir, || true);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, number: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let had_power = self.power != Power::Out;
        if let Err(error) = self.begin_write(number, bytes.len(), offset) {
            // As much as was on its way when the power went, or when the medium gave up.
            if had_power && error.kind() != io::ErrorKind::StorageFull {
                let written = self.rng.below(bytes.len() as u64) as usize;
                self.files[number].contents.write(offset, &bytes[..written], false);
            }
            return Err(error);
        }
        self.counters.writes += 1;
        self.counters.bytes_written += bytes.len() as u64;
        let file = &mut self.files[number];
        let strays = take_if_below(&mut self.faults.write_strays_below, &file.path);
        file.contents.write(offset, bytes, strays);
        Ok(())
    }

    pub(super) fn allocate(&mut self, number: usize, end: u64) -> io::Result<()> {
        self.begin_change()?;
        if self.faults.is_full && end > self.file(number).now().len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files[number].contents.allocate(end);
        Ok(())
    }

    /// A file that grows so is sparse: a full disk shows later.
    pub(super) fn set_len(&mut self, number: usize, len: u64) -> io::Result<()> {
        self.begin_change()?;
        self.files[number].contents.set_len(len);
        Ok(())
    }

    pub(super) fn sync(&mut self, number: usize) -> io::Result<()> {
        self.begin_change()?;
        self.counters.syncs += 1;
        let file = &mut self.files[number];
        if take_if_below(&mut self.faults.sync_fails_below, &file.path) {
            self.counters.syncs_failed += 1;
            let strays = file.contents.fail_to_sync(&mut self.rng);
            self.land(number, strays);
            return Err(input_output_error());
        }
        if self.faults.syncs_lie {
            self.counters.syncs_lied += 1;
            return Ok(());
        }
        let strays = file.contents.sync();
        self.land(number, strays);
        Ok(())
    }

    pub(super) fn settle(&mut self, number: usize) -> io::Result<()> {
        self.sync(number)?;
        self.files[number].contents.drop_cache();
        Ok(())
    }

    pub(super) fn rot(&mut self, path: &Path) -> Option<(u64, u64)> {
        let number = self.names.find_durable(path)?;
        let offset = self.files[number].contents.any_durable_byte(&mut self.rng)?;
        let bit = self.rng.below(8);
        self.flip(number, offset, bit);
        Some((offset, bit))
    }

    pub(super) fn flip(&mut self, number: usize, offset: u64, bit: u64) {
        self.files[number].contents.flip(offset, bit);
        self.counters.bits_flipped += 1;
    }

    pub(super) fn cut_short(&mut self, path: &Path, len: u64) {
        if let Ok(number) = self.names.find_file(path) {
            self.files[number].contents.cut_short(len);
        }
    }

    pub(super) fn lose(&mut self, path: &Path) {
        // One that is not there is lost already.
        if self.names.remove(path).is_ok()
            && let Some(dir) = path.parent()
        {
            self.names.sync(dir, || true);
        }
    }

    pub(super) fn kill(&mut self) {
        self.generation += 1;
        self.power = Power::On;
        self.drop_nameless();
    }

    pub(super) fn power_cut(&mut self) {
        self.counters.names_lost += self.names.lose_power(&mut self.rng);
        for number in 0..self.files.len() {
            let strays = self.files[number].contents.lose_power(&mut self.rng, &mut self.counters);
            self.land(number, strays);
        }
        for file in &mut self.files {
            file.contents.drop_cache();
        }
        self.kill();
    }

    pub(super) fn wipe(&mut self) {
        self.names.wipe();
        self.kill();
    }

    /// The bytes end up in any sector of this file or of another one.
    fn land(&mut self, from: usize, strays: Vec<Stray>) {
        for bytes in strays {
            self.counters.writes_misdirected += 1;
            let any = self.rng.below(self.files.len() as u64) as usize;
            let target = if self.rng.chance(0.5) { from } else { any };
            let contents = &mut self.files[target].contents;
            let end = contents.durable().written_end().min(contents.durable().len());
            let offset = self.rng.below(end.div_ceil(SECTOR_BYTES)) * SECTOR_BYTES;
            let count = bytes.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            contents.strike(offset, &bytes[..count]);
        }
    }

    fn begin_write(&mut self, number: usize, len: usize, offset: u64) -> io::Result<()> {
        self.begin_change()?;
        if self.faults.writes_fail {
            return Err(input_output_error());
        }
        if self.faults.is_full && self.file(number).needs_room(offset, len) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn begin_change(&mut self) -> io::Result<()> {
        self.power = match self.power {
            Power::On => Power::On,
            Power::FailsAfter(0) | Power::Out => Power::Out,
            Power::FailsAfter(changes) => Power::FailsAfter(changes - 1),
        };
        if self.power == Power::Out {
            return Err(io::Error::other("the power is out"));
        }
        self.counters.changes += 1;
        Ok(())
    }

    /// With their process, files end that have no name any more.
    fn drop_nameless(&mut self) {
        for (number, file) in self.files.iter_mut().enumerate() {
            if !self.names.mentions(number) {
                *file = File::default();
            }
        }
    }
}

fn take_if_below(dir: &mut Option<PathBuf>, path: &Path) -> bool {
    let is_below = dir.as_ref().is_some_and(|dir| path.starts_with(dir));
    if is_below {
        *dir = None;
    }
    is_below
}

fn input_output_error() -> io::Error {
    const EIO: i32 = 5;
    io::Error::from_raw_os_error(EIO)
}
