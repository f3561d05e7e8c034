//! The figures of a bench, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Plan;
use super::cpu::CpuTimes;
use super::lane::{Errors, Tally};

/// Everything that was asked for and measured. Times are in microseconds, unless their name says otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    parameters: Parameters,
    /// How long was measured.
    seconds: f64,
    /// Operations that succeeded, in each second.
    ops_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<Figures>,
    errors: Errors,
    /// The longest time in which no operation succeeded.
    longest_pause_ms: f64,
    /// Processor time for each operation that succeeded.
    cpu_us_per_op: Cpu,
}

#[derive(Debug, Serialize)]
struct Parameters {
    cluster_id: String,
    endpoints: Vec<String>,
    version: &'static str,
    mix: String,
    clients: usize,
    pipeline: usize,
    connections: usize,
    value_size: usize,
    key_size: usize,
    keys: usize,
    sequence_size: usize,
    warm_up_seconds: f64,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Figures {
    ops: u64,
    ops_per_second: f64,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Cpu {
    load: f64,
    nodes: BTreeMap<String, f64>,
}

impl Report {
    pub(super) fn new(plan: &Plan, tally: &Tally, begin: Instant, elapsed: Duration, cpu: CpuTimes) -> Self {
        let load = &plan.load;
        let ops = tally.reads.len() + tally.writes.len();
        let per_op = |seconds: f64| if ops == 0 { 0.0 } else { seconds * 1e6 / ops as f64 };
        // The time after the last success counts too.
        let end = begin + elapsed;
        let last_pause = end.saturating_duration_since(tally.last_success.unwrap_or(begin));
        Self {
            parameters: Parameters {
                cluster_id: plan.options.cluster_id.clone(),
                endpoints: plan.options.endpoints.iter().map(ToString::to_string).collect(),
                version: env!("CARGO_PKG_VERSION"),
                mix: load.mix.to_string(),
                clients: plan.clients,
                pipeline: plan.pipeline,
                connections: plan.windows.len(),
                value_size: load.value_size,
                key_size: load.keys.size,
                keys: load.keys.count,
                sequence_size: load.sequence_size,
                warm_up_seconds: plan.warm_up.as_secs_f64(),
                seed: load.seed,
            },
            seconds: elapsed.as_secs_f64(),
            ops_per_second: ops as f64 / elapsed.as_secs_f64(),
            reads: Figures::of(&tally.reads, elapsed),
            writes: Figures::of(&tally.writes, elapsed),
            errors: tally.errors,
            longest_pause_ms: tally.longest_pause.max(last_pause).as_secs_f64() * 1e3,
            cpu_us_per_op: Cpu {
                load: per_op(cpu.load),
                nodes: cpu.nodes.into_iter().map(|(node, seconds)| (node, per_op(seconds))).collect(),
            },
        }
    }
}

impl Figures {
    fn of(histogram: &Histogram<u64>, elapsed: Duration) -> Option<Self> {
        let us = |ns: u64| ns as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            ops: histogram.len(),
            ops_per_second: histogram.len() as f64 / elapsed.as_secs_f64(),
            latency_us: Latency {
                mean: histogram.mean() / 1e3,
                p50: us(histogram.value_at_quantile(0.5)),
                p90: us(histogram.value_at_quantile(0.9)),
                p99: us(histogram.value_at_quantile(0.99)),
                p999: us(histogram.value_at_quantile(0.999)),
                max: us(histogram.max()),
            },
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = &self.parameters;
        writeln!(
            f,
            "{}: {} clients with {} in flight each, {} connections, {} keys of {} B, values of {} B, {:.1} s",
            of.mix, of.clients, of.pipeline, of.connections, of.keys, of.key_size, of.value_size, self.seconds
        )?;
        if of.mix == "sequence" {
            writeln!(f, "each operation is a sequence of {} updates", of.sequence_size)?;
        }
        writeln!(
            f,
            "\n{:8}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "ops", "ops/s", "mean ms", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, figures) in [("reads", &self.reads), ("writes", &self.writes)] {
            let Some(Figures { ops, ops_per_second, latency_us }) = figures else { continue };
            write!(f, "{name:8}{ops:>12}{ops_per_second:>12.0}")?;
            let Latency { mean, p50, p90, p99, p999, max } = latency_us;
            for us in [mean, p50, p90, p99, p999, max] {
                write!(f, "{:>10.3}", us / 1e3)?;
            }
            writeln!(f)?;
        }
        let Errors { did_not_happen, outcome_unknown, refused, not_found, mismatched, unreachable } = self.errors;
        writeln!(
            f,
            "\nerrors: {did_not_happen} did not happen, {outcome_unknown} outcome unknown, {refused} refused, \
             {not_found} not found, {mismatched} mismatched, {unreachable} without a master"
        )?;
        writeln!(f, "longest time without a success: {:.1} ms", self.longest_pause_ms)?;
        write!(f, "processor time per operation: load {:.1} us", self.cpu_us_per_op.load)?;
        for (node, us) in &self.cpu_us_per_op.nodes {
            write!(f, ", {node} {us:.1} us")?;
        }
        writeln!(f)
    }
}
