//! Settings given outside the file: environment variables, and flags, which win over them.

use std::ffi::OsString;

use super::mistake::{Mistake, Place, did_you_mean};
use super::rules::SETTINGS;

/// Settings that replace those of the file. The later of two for the same setting wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(Vec<Override>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) from: String,
}

impl Overrides {
    /// Those in environment variables: `TRIALBAY_LEASE_MS` for `lease_ms`, and so on for every setting outside
    /// `[[node]]`. `variable` looks one up, normally by `std::env::var_os`.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let overrides = SETTINGS.iter().filter_map(|key| {
            let from = format!("TRIALBAY_{}", key.to_uppercase());
            let value = variable(&from)?;
            // What is not UTF-8 is no setting's value: it is reported as such when the value is read.
            Some(Override { key: (*key).to_owned(), value: value.to_string_lossy().into_owned(), from })
        });
        Self(overrides.collect())
    }

    /// Adds one; `from` is the flag to name in a mistake.
    pub fn set(&mut self, key: &str, value: &str, from: &str) {
        self.0.push(Override { key: key.to_owned(), value: value.to_owned(), from: from.to_owned() });
    }

    pub(super) fn last(&self, key: &str) -> Option<&Override> {
        self.0.iter().rev().find(|found| found.key == key)
    }

    pub(super) fn unknown(&self) -> impl Iterator<Item = Mistake> {
        self.0.iter().filter(|found| !SETTINGS.contains(&found.key.as_str())).map(|found| {
            let hint = match did_you_mean(&found.key, SETTINGS.iter().copied()) {
                Some(key) => format!("did you mean `{key}`?"),
                None => format!("one of {} can be set here", SETTINGS.join(", ")),
            };
            Mistake {
                place: Place::Override(found.from.clone()),
                message: format!("unknown key `{}`: {hint}", found.key),
            }
        })
    }
}
