//! Starts real clusters for the tests beside it.

pub mod vectors;
