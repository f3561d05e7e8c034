//! Settings given outside the file: environment variables, and flags, which win over them.

use std::ffi::OsString;

use super::mistake::{Mistake, Place, did_you_mean};
use super::rules::SETTINGS;

/// What the variables of this program begin with.
const PREFIX: &str = "TRIALBAY_";

/// Variables that are no settings of the file.
const OTHER_VARIABLES: [&str; 3] = ["config", "endpoints", "log"];

/// What to say of environment variables that look like this program's and mean nothing to it, if any do. They are no
/// mistake for sure: others, like those who connect containers, make up such names as well.
pub fn unknown_variables(names: impl IntoIterator<Item = OsString>) -> Option<String> {
    let known = || SETTINGS.iter().chain(&OTHER_VARIABLES).copied();
    let in_full = |key: &str| format!("{PREFIX}{}", key.to_uppercase());
    let mut unknown: Vec<String> = (names.into_iter())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(PREFIX) && !known().any(|key| in_full(key) == *name))
        .map(|name| match did_you_mean(&name[PREFIX.len()..], known()) {
            Some(key) => format!("{} (did you mean {}?)", name.escape_debug(), in_full(key)),
            None => name.escape_debug().to_string(),
        })
        .collect();
    unknown.sort_unstable();
    (!unknown.is_empty()).then(|| {
        let known = known().map(in_full).collect::<Vec<_>>().join(", ");
        format!("ignored environment variables: {}; there are {known}", unknown.join(", "))
    })
}

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
            let from = format!("{PREFIX}{}", key.to_uppercase());
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
