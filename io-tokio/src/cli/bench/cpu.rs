//! Processor time of the load and of the nodes, where they run on this machine.

use std::collections::BTreeMap;

use crate::client::Client;

/// How often a second Linux counts what `/proc/PID/stat` says, on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time used so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CpuTimes {
    pub(super) load: f64,
    /// By name of the node; empty where the nodes cannot be seen.
    pub(super) nodes: BTreeMap<String, f64>,
}

impl CpuTimes {
    pub(super) async fn of(client: &Client) -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let load = std::time::Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        );
        let reports = client.cluster_status().await.into_iter();
        let local = reports.filter(|report| is_local(&report.endpoint)).filter_map(|report| report.status.ok());
        let nodes = local.filter_map(|status| Some((status.node, seconds_of(status.pid)?))).collect();
        Self { load: load.as_secs_f64(), nodes }
    }

    /// What was used since then. A node that was not there both times is left out.
    pub(super) fn since(&self, before: &Self) -> Self {
        let used = |(node, seconds): (&String, &f64)| Some((node.clone(), seconds - before.nodes.get(node)?));
        // A node that was restarted in between counts from zero again, and cannot be told.
        let nodes = self.nodes.iter().filter_map(used).filter(|(_, seconds)| *seconds >= 0.0).collect();
        Self { load: self.load - before.load, nodes }
    }
}

fn is_local(endpoint: &str) -> bool {
    endpoint.starts_with("127.") || endpoint.starts_with("localhost:") || endpoint.starts_with("[::1]:")
}

fn seconds_of(pid: u32) -> Option<f64> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // In a container of its own, a node has a process id that names another process here.
    comm.starts_with("trialbay").then(|| ticks_in(&stat))?.map(|ticks| ticks as f64 / TICKS_PER_SECOND)
}

/// The fields 14 and 15, counted from the name in parentheses, which may hold anything.
fn ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_those_of_user_and_system() {
        assert_eq!(ticks_in("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0"), Some(42));
        assert_eq!(ticks_in("7 (a"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(ticks_in(&own).is_some());
    }

    #[test]
    fn a_node_that_came_or_went_or_started_anew_is_left_out() {
        let times = |nodes: &[(&str, f64)]| CpuTimes {
            load: 1.0,
            nodes: nodes.iter().map(|(node, seconds)| ((*node).to_owned(), *seconds)).collect(),
        };
        let used =
            times(&[("a", 3.0), ("b", 1.0), ("new", 1.0)]).since(&times(&[("a", 1.0), ("b", 2.0), ("old", 1.0)]));
        assert_eq!(used.nodes, times(&[("a", 2.0)]).nodes);
    }
}
