//! The checkers are checked: they believe honest histories, and no lie.

mod agreement;
mod books;
mod by_force;
mod lies;
