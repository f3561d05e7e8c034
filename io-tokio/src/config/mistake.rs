//! Mistakes in a configuration, and how they are told.

use std::fmt;
use std::path::{Path, PathBuf};

/// All that is wrong with a configuration; displayed as one line per mistake, ordered by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

/// One thing that is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it was written.
    pub place: Place,
    /// What is wrong with it, and what to write instead.
    pub message: String,
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file as a whole.
    File,
    /// On this line of the file, from 1.
    Line(usize),
    /// In an environment variable or a flag of this name.
    Override(String),
}

impl ConfigErrors {
    pub(super) fn new(path: &Path, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort();
        Self { path: path.to_owned(), mistakes }
    }

    pub(super) fn unreadable(path: &Path, message: String) -> Self {
        Self::new(path, vec![Mistake { place: Place::File, message }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { place, message }) in self.mistakes.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match place {
                Place::File => write!(f, "{}: {message}", self.path.display())?,
                Place::Line(line) => write!(f, "{}: line {line}: {message}", self.path.display())?,
                Place::Override(name) => write!(f, "{name}: {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The candidate that `word` was probably meant to be.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (edits(&word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.len() / 3).clamp(1, 4))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, removed or replaced to turn one word into the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "", 2),
            ("lease", "leese", 1),
            ("node", "nodes", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), count, "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_close_is_proposed() {
        let keys = ["lease_ms", "reads", "node", "id"];
        assert_eq!(did_you_mean("Lease-MS", keys), Some("lease_ms"));
        assert_eq!(did_you_mean("leases", keys), Some("lease_ms"));
        assert_eq!(did_you_mean("read", keys), Some("reads"));
        assert_eq!(did_you_mean("nodes", keys), Some("node"));
        assert_eq!(did_you_mean("colour", keys), None);
    }
}
