//! `trialbay-sim`.
fn main() {}
