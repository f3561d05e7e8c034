//! `trialbay bench`: how many operations a second, and how long each takes.
//!
//! A closed loop: each client sends its next request when it has the reply to one before. All clients run on one thread
//! and without the machinery of [`crate::client`] (which finds the master for them), since the load must leave the
//! processors of a small machine to the nodes that it measures.

mod cpu;
mod lane;
mod load;
mod report;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use self::cpu::CpuTimes;
use self::lane::{Lane, Phase, Tally};
use self::load::{Keys, Load, Mix};
use self::report::Report;
use super::args::{Environment, Global, Output};
use super::exit::{ExitCode, Failure};
use crate::client::{Client, ClientError, ClientOptions, Sequence};

/// Bytes of values that one update sets while the keys are filled in.
const FILL_BYTES: usize = 256 << 10;

/// How many such updates are under way.
const FILLERS: usize = 8;

/// What to measure.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  trialbay bench --clients 64 --mix set\n  \
                        trialbay bench --clients 64 --mix 9:1 --seconds 30 -o json\n\n\
                        It leaves keys that begin with `bench-`; `trialbay delete-prefix bench-` removes them.")]
pub(crate) struct BenchArgs {
    /// Clients, each with its own connection (but see --connections).
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=8192))]
    clients: u16,
    /// How long to measure, after the warm-up.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long to run before measuring.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warm_up_seconds: u64,
    /// Bytes of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(0..=(16 << 20) - 1))]
    value_size: u32,
    /// Bytes of each key.
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    key_size: u32,
    /// What the clients do: set, get, test-and-set, sequence, or READS:WRITES, as 9:1.
    #[arg(long, default_value = "set")]
    mix: Mix,
    /// Requests that each client keeps in flight.
    #[arg(long, value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pipeline: u16,
    /// Connections that all clients share, instead of one for each.
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=8192))]
    connections: Option<u16>,
    /// How many keys there are; each operation takes any of them.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Updates in each sequence of --mix sequence.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    sequence_size: u16,
    /// Where the choice of keys and values begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A measurement, with everything in the units that the run needs.
#[derive(Clone, Debug)]
struct Plan {
    load: Load,
    /// Requests in flight on each connection.
    windows: Vec<usize>,
    clients: usize,
    pipeline: usize,
    warm_up: Duration,
    measure: Duration,
    options: ClientOptions,
}

pub(crate) async fn run(
    args: BenchArgs,
    global: &Global,
    environment: Environment<'_>,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let plan = args.plan(global.client_options(environment)?)?;
    let report = measure(plan).await?;
    match global.output {
        Output::Text => out.extend_from_slice(report.to_string().as_bytes()),
        Output::Json => {
            let json =
                serde_json::to_vec_pretty(&report).map_err(|error| Failure::new(ExitCode::Other, error.to_string()))?;
            out.extend_from_slice(&json);
            out.push(b'\n');
        }
    }
    Ok(ExitCode::Ok)
}

impl BenchArgs {
    fn plan(&self, options: ClientOptions) -> Result<Plan, Failure> {
        let keys = Keys::new(self.keys, self.key_size as usize).map_err(|why| Failure::new(ExitCode::Usage, why))?;
        let in_flight = usize::from(self.clients) * usize::from(self.pipeline);
        let connections = usize::from(self.connections.unwrap_or(self.clients));
        if connections > in_flight {
            let why =
                format!("{connections} connections are more than the {in_flight} requests in flight: choose fewer");
            return Err(Failure::new(ExitCode::Usage, why));
        }
        let share = |lane| in_flight / connections + usize::from(lane < in_flight % connections);
        Ok(Plan {
            load: Load::new(self.mix, keys, self.value_size as usize, usize::from(self.sequence_size), self.seed),
            windows: (0..connections).map(share).collect(),
            clients: usize::from(self.clients),
            pipeline: usize::from(self.pipeline),
            warm_up: Duration::from_secs(self.warm_up_seconds),
            measure: Duration::from_secs(self.seconds),
            options,
        })
    }
}

/// Runs the load on a thread of its own.
async fn measure(plan: Plan) -> Result<Report, Failure> {
    let (done, report) = oneshot::channel();
    let load = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => LocalSet::new().block_on(&runtime, measure_here(plan)),
            Err(error) => Err(Failure::new(ExitCode::Other, format!("no runtime: {error}"))),
        };
        // Nobody waits any more when the command was interrupted.
        let _ = done.send(result);
    };
    let spawned = std::thread::Builder::new().name("bench".to_owned()).spawn(load);
    spawned.map_err(|error| Failure::new(ExitCode::Other, format!("no thread: {error}")))?;
    report.await.unwrap_or_else(|_| Err(Failure::new(ExitCode::Other, "the load stopped early")))
}

async fn measure_here(plan: Plan) -> Result<Report, Failure> {
    let client = Client::new(plan.options.clone())?;
    // Nothing is measured before there is a master at all.
    client.nop().await?;
    if plan.load.mix.reads() {
        fill(&client, &plan.load).await?;
    }
    let tally = Rc::new(RefCell::new(Tally::new()));
    let phase = Rc::new(Cell::new(Phase::WarmUp));
    let lanes: Vec<_> = (plan.windows.iter().enumerate())
        .map(|(number, window)| {
            let lane = Lane::new(number, *window, &plan.load, client.clone(), Rc::clone(&tally), Rc::clone(&phase));
            tokio::task::spawn_local(lane.run())
        })
        .collect();

    tokio::time::sleep(plan.warm_up).await;
    let cpu_before = CpuTimes::of(&client).await;
    let begin = Instant::now();
    phase.set(Phase::Measure);
    tokio::time::sleep(plan.measure).await;
    phase.set(Phase::Stop);
    let elapsed = begin.elapsed();
    let cpu_after = CpuTimes::of(&client).await;
    // What is still in flight is waited for, so that a client's deadline is the longest that this can take.
    for lane in lanes {
        let _ = lane.await;
    }
    let tally = tally.borrow();
    Ok(Report::new(&plan, &tally, begin, elapsed, cpu_after.since(&cpu_before)))
}

/// Sets every key, so that reads find something.
async fn fill(client: &Client, load: &Load) -> Result<(), Failure> {
    let per_sequence = (FILL_BYTES / (load.value_size + load.keys.size)).clamp(1, 1_000);
    let next = Rc::new(Cell::new(0));
    let load = Arc::new(load.clone());
    let fillers: Vec<_> = (0..FILLERS)
        .map(|_| {
            let (client, next, load) = (client.clone(), Rc::clone(&next), Arc::clone(&load));
            tokio::task::spawn_local(async move {
                loop {
                    let first = next.get();
                    let end = load.keys.count.min(first + per_sequence);
                    if first == end {
                        return Ok::<(), ClientError>(());
                    }
                    next.set(end);
                    let sequence = (first..end)
                        .fold(Sequence::new(), |sequence, key| sequence.set(load.keys.key(key), load.value(key)));
                    // Setting a key twice does no harm here.
                    while let Err(error) = client.sequence(sequence.clone()).await {
                        if error.happened() == crate::client::Happened::No {
                            return Err(error);
                        }
                    }
                }
            })
        })
        .collect();
    for filler in fillers {
        filler.await.map_err(|error| Failure::new(ExitCode::Other, error.to_string()))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::client::fake::{Asked, Fake, Reaction, refuse, reply};
    use crate::client::request::Command;
    use crate::wire::Writer as _;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn plan(line: &str, node: &Fake) -> Result<Plan, Failure> {
        let args = Line::try_parse_from(std::iter::once("bench").chain(line.split_ascii_whitespace())).unwrap().args;
        let options = ClientOptions::new("c", [&node.address]).unwrap();
        let mut plan = args.plan(options)?;
        plan.warm_up = Duration::from_millis(5);
        plan.measure = Duration::from_millis(50);
        Ok(plan)
    }

    fn answer(asked: &Asked) -> Reaction {
        const GET: u16 = Command::Get as u16;
        const TEST_AND_SET: u16 = Command::TestAndSet as u16;
        Reaction::Reply(match asked.command {
            GET => reply(|bytes| bytes.string(b"value")),
            TEST_AND_SET => reply(|bytes| bytes.option_string(None)),
            _ => reply(|_| ()),
        })
    }

    #[tokio::test]
    async fn every_mix_runs_and_reports_reads_and_writes_apart() {
        let node = Fake::node("n1", || Some("n1"), answer).await;
        for (line, reads, writes) in [
            ("--mix set --clients 3 --pipeline 4", false, true),
            ("--mix get --clients 3 --keys 20", true, false),
            ("--mix 1:1 --clients 2 --connections 1 --keys 20", true, true),
            ("--mix test-and-set --clients 2 --pipeline 2", false, true),
            ("--mix sequence --clients 1 --sequence-size 3", false, true),
        ] {
            let report = measure(plan(line, &node).unwrap()).await.unwrap();
            let json = serde_json::to_value(&report).unwrap();
            assert_eq!((json.get("reads").is_some(), json.get("writes").is_some()), (reads, writes), "{line}: {json}");
            for kind in ["did_not_happen", "outcome_unknown", "refused", "not_found", "unreachable"] {
                assert_eq!(json["errors"][kind], 0, "{line}: {json}");
            }
            let text = report.to_string();
            assert_eq!((text.contains("\nreads "), text.contains("\nwrites ")), (reads, writes), "{text}");
        }
    }

    #[tokio::test]
    async fn errors_are_counted_by_kind_and_the_load_goes_on() {
        let mut count = 0;
        let node = Fake::node(
            "n1",
            || Some("n1"),
            move |asked| {
                count += 1;
                match (asked.command == Command::Set as u16, count % 50) {
                    (true, 10) => Reaction::Reply(refuse(0x90, "overloaded")),
                    (true, 20) => Reaction::Reply(refuse(0x21, "no longer master")),
                    (true, 30) => Reaction::Reply(refuse(0x26, "too large")),
                    (true, 40) => Reaction::Close,
                    _ => answer(asked),
                }
            },
        )
        .await;
        let mut plan = plan("--mix set --clients 2", &node).unwrap();
        plan.measure = Duration::from_millis(300);
        let json = serde_json::to_value(measure(plan).await.unwrap()).unwrap();
        for kind in ["did_not_happen", "outcome_unknown", "refused"] {
            assert!(json["errors"][kind].as_u64().unwrap() > 0, "{kind}: {json}");
        }
        assert!(json["writes"]["ops"].as_u64().unwrap() > 50, "{json}");
    }

    #[tokio::test]
    async fn requests_in_flight_are_dealt_out_evenly() {
        let node = Fake::node("n1", || Some("n1"), answer).await;
        assert_eq!(plan("--clients 5 --pipeline 2 --connections 3", &node).unwrap().windows, [4, 3, 3]);
        assert_eq!(plan("--clients 5 --pipeline 2", &node).unwrap().windows, [2; 5]);
        assert_eq!(plan("--clients 1 --connections 2", &node).unwrap_err().exit, ExitCode::Usage);
        assert_eq!(plan("--key-size 9", &node).unwrap_err().exit, ExitCode::Usage);
    }
}
