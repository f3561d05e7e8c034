//! The `trialbay` binary.

fn main() {}
