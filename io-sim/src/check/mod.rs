//! Checkers: they trust nothing that a node says.

mod frame;
pub mod scrub;
