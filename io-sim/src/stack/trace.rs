//! A hash over everything that happens in a run: the same seed must give the same one, anywhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::Xxh3;

/// The trace of one run. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Trace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    hash: Xxh3,
    entries: u64,
}

impl Trace {
    /// Something happened at this simulated time.
    pub(super) fn note(&self, at: u64, what: &str, details: &[u8]) {
        self.add(at, &[what.as_bytes(), details]);
    }

    /// Bytes arrived.
    pub(super) fn delivered(&self, at: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.add(at, &[&address(from), &address(to), bytes]);
    }

    fn add(&self, at: u64, parts: &[&[u8]]) {
        let mut inner = self.lock();
        inner.entries += 1;
        inner.hash.update(&at.to_le_bytes());
        for part in parts {
            inner.hash.update(&(part.len() as u64).to_le_bytes());
            inner.hash.update(part);
        }
    }

    /// The hash so far.
    pub(super) fn digest(&self) -> u64 {
        self.lock().hash.digest()
    }

    /// How much has happened.
    pub(super) fn entries(&self) -> u64 {
        self.lock().entries
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(of: SocketAddr) -> [u8; 18] {
    let ip = match of.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&of.port().to_le_bytes());
    bytes
}
