//! How fast the stack world runs: `cargo run --release -p trialbay-sim --example stack_speed`.

use std::time::Duration;

use trialbay_sim::stack::{StackPlan, run};

fn main() {
    for clients in [0, 4, 32] {
        let plan = StackPlan { clients, chaos: Duration::from_secs(60), ..StackPlan::new(1) };
        let start = cpu_seconds();
        let report = run(&plan);
        let seconds = cpu_seconds() - start;
        let simulated = report.simulated.as_secs_f64();
        println!(
            "3 nodes, {clients} clients: {simulated:.0} s in {seconds:.2} s, {:.0} times as fast; {} calls, {} slots",
            simulated / seconds,
            report.calls.answered,
            report.slots,
        );
        assert!(report.violations.is_empty(), "{:?}", report.violations);
    }
}

/// How long this thread has had a processor: others on the machine do not count.
fn cpu_seconds() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}
