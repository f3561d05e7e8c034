//! Real clusters, and what befalls them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic that says what went wrong")]

mod backups;
mod chaos;
mod commands;
mod crashes;
mod dev;
mod durable;
mod files;
mod garbage;
mod heads;
mod inspect;
mod mistakes;
mod pauses;
mod power;
mod recorder;
mod roles;
mod sizes;
mod transactions;

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_trialbay-under-test"))
}

/// Runs a test that keeps a machine busy; only so many of them run at a time.
fn with_cluster(test: impl Future<Output = ()>) {
    static FREE: Mutex<usize> = Mutex::new(2);
    static FREED: Condvar = Condvar::new();

    struct Permit;
    impl Drop for Permit {
        fn drop(&mut self) {
            *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            FREED.notify_one();
        }
    }

    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    *FREED.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner) -= 1;
    let _permit = Permit;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}
