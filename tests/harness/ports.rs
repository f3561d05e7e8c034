//! Ports that nobody uses.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::SystemTime;

/// Below the ports that systems give to outgoing connections: one of those could take the port of a node that is down,
/// or connect to itself there.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// That many ports on 127.0.0.1 that are free now. Another process may take one before it is used: start again then.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = next();
        if is_free(port) {
            ports.push(port);
        }
    }
    ports
}

/// A base port for `trialbay dev` with that many nodes.
pub fn free_base_port(nodes: u16) -> u16 {
    loop {
        let base = next();
        if (0..nodes).all(|node| is_free(base + 10 * node) && is_free(base + 10 * node + 1)) {
            return base;
        }
    }
}

/// Test processes begin at different places, and never give a port twice.
fn next() -> u16 {
    let turn = NEXT.fetch_add(1, Ordering::Relaxed);
    let start = std::process::id().wrapping_mul(7_919) + started();
    FIRST + u16::try_from((start + u32::from(turn)) % u32::from(COUNT)).expect("less than COUNT")
}

fn started() -> u32 {
    static STARTED: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_millis() * 19)
    })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
