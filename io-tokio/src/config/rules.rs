//! What each setting may be.

use std::net::Ipv6Addr;

use crate::update::UPDATE_BYTES_CEILING;

/// A setting that is a whole number from `min` to `max`.
pub(super) struct Number {
    pub(super) key: &'static str,
    pub(super) unit: &'static str,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) default: u64,
}

const fn number(key: &'static str, unit: &'static str, min: u64, max: u64, default: u64) -> Number {
    Number { key, unit, min, max, default }
}

/// A shorter lease is lost to a busy disk or scheduler; a longer one is time without a master after a crash.
pub(super) const LEASE_MS: Number = number("lease_ms", "milliseconds", 100, 60_000, 800);
pub(super) const CLOCK_DRIFT_PPM: Number = number("clock_drift_ppm", "millionths", 1, 200_000, 10_000);
/// Less is filled by the log and the store before anybody looks again.
pub(super) const DISK_RESERVE_MIB: Number = number("disk_reserve_mib", "MiB", 16, 1 << 20, 256);
/// A segment is what goes, or is compressed, at a time.
pub(super) const LOG_SEGMENT_MIB: Number = number("log_segment_mib", "MiB", 1, 1_024, 64);
pub(super) const LOG_RETENTION_MIB: Number = number("log_retention_mib", "MiB", 1, 1 << 20, 1_024);
pub(super) const RECORDER_MIB: Number = number("recorder_mib", "MiB", 8, 65_536, 64);
pub(super) const KEY_BYTES_MAX: Number = number("key_bytes_max", "bytes", 1, 1 << 20, 64 << 10);
pub(super) const VALUE_BYTES_MAX: Number = number("value_bytes_max", "bytes", 1, (16 << 20) - 1, 8 << 20);
pub(super) const UPDATE_BYTES_MAX: Number =
    number("update_bytes_max", "bytes", 1 << 10, UPDATE_BYTES_CEILING as u64, 32 << 20);
pub(super) const CONNECTIONS_MAX: Number = number("connections_max", "connections", 1, 100_000, 1_000);

/// What can be set outside `[[node]]`, and so be overridden.
pub(super) const SETTINGS: [&str; 15] = [
    "cluster_id",
    LEASE_MS.key,
    CLOCK_DRIFT_PPM.key,
    "reads",
    DISK_RESERVE_MIB.key,
    LOG_SEGMENT_MIB.key,
    LOG_RETENTION_MIB.key,
    "log_compression",
    "recorder",
    RECORDER_MIB.key,
    "read_only",
    KEY_BYTES_MAX.key,
    VALUE_BYTES_MAX.key,
    UPDATE_BYTES_MAX.key,
    CONNECTIONS_MAX.key,
];

/// Checks a `host:port`; only one that is listened on may stand for all addresses of the machine.
pub(super) fn check_address(address: &str, listens: bool) -> Result<(), String> {
    const RULE: &str = "write host:port, like 10.0.0.1:4000, db1.example.org:4000 or [fd00::1]:4000";
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("has no port: {RULE}"))?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(format!("has no port from 1 to 65535: {RULE}"));
    }
    let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_ok = match ipv6 {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    if !host_ok {
        return Err(format!("has no host: {RULE}"));
    }
    if !listens && (host == "0.0.0.0" || ipv6.is_some_and(|host| host.parse() == Ok(Ipv6Addr::UNSPECIFIED))) {
        return Err("cannot be reached by others: write the machine's address here, and this one in \
                    `client_listen` or `peer_listen`"
            .to_owned());
    }
    Ok(())
}
