//! `trialbay cluster statistics`: what the nodes have measured of the requests that they served.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::args::Output;
use super::cluster::{NODE_WAIT_MAX, table};
use super::exit::{ExitCode, Failure};
use crate::client::{Client, ClientError, SeriesView, Statistics};

/// What one endpoint answered.
struct Answer {
    name: String,
    endpoint: String,
    statistics: Result<Statistics, ClientError>,
}

pub(crate) async fn run(
    client: &Client,
    timeout: Duration,
    output: Output,
    out: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let client = client.with_timeout(timeout.min(NODE_WAIT_MAX));
    let mut answers = Vec::new();
    for endpoint in client.options().endpoints.clone() {
        let statistics = client.statistics(&endpoint.address).await;
        let name = endpoint.name.unwrap_or_else(|| "-".to_owned());
        answers.push(Answer { name, endpoint: endpoint.address, statistics });
    }
    let text = match output {
        Output::Text => answers.iter().map(text).collect::<Vec<_>>().join("\n"),
        Output::Json => json!({ "nodes": answers.iter().map(json).collect::<Vec<_>>() }).to_string() + "\n",
    };
    out.extend_from_slice(text.as_bytes());
    let is_answered = answers.iter().any(|answer| answer.statistics.is_ok());
    Ok(if is_answered { ExitCode::Ok } else { ExitCode::Unreachable })
}

fn text(answer: &Answer) -> String {
    let Answer { name, endpoint, statistics } = answer;
    let statistics = match statistics {
        Ok(statistics) => statistics,
        Err(error) => return format!("{name} ({endpoint}): {error}\n"),
    };
    let memory = statistics.memory.get("mem_allocated").copied().unwrap_or(0.0) / 1024.0;
    let since = (statistics.last - statistics.start).max(0.0);
    let mut text = format!("{name} ({endpoint}): {since:.0} s, {memory:.0} MiB of memory\n");
    let mut rows = vec![["REQUEST", "COUNT", "MEAN", "MIN", "MAX", "DEVIATION", "SIZE"].map(str::to_owned)];
    for (series, view) in &statistics.series {
        if view.n > 0 && series != "harvest_stats" {
            rows.push(row(series, view, statistics));
        }
    }
    if rows.len() == 1 {
        text.push_str("no requests yet\n");
    } else {
        text.push_str(&table(&rows));
    }
    if let Some(harvest) = statistics.series.get("harvest_stats").filter(|harvest| harvest.n > 0) {
        let _ = writeln!(text, "updates per batch: {:.1} (at most {:.0})", harvest.avg, harvest.max);
    }
    text
}

fn row(series: &str, view: &SeriesView, statistics: &Statistics) -> [String; 7] {
    let name = series.trim_end_matches("_info");
    // Two of the original's averages have another name than their series.
    let average = format!("avg_{}_size", if name == "delete_prefix" { "del_prefix" } else { name });
    let size = statistics.averages.get(&average).map_or_else(|| "-".to_owned(), |size| format!("{size:.1}"));
    let time = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
    let deviation = view.var.max(0.0).sqrt();
    [name.to_owned(), view.n.to_string(), time(view.avg), time(view.min), time(view.max), time(deviation), size]
}

fn json(answer: &Answer) -> serde_json::Value {
    match &answer.statistics {
        Ok(statistics) => json!({ "node": answer.name, "address": answer.endpoint, "statistics": statistics }),
        Err(error) => json!({ "node": answer.name, "address": answer.endpoint, "error": error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_shows_what_it_served() {
        let mut statistics = Statistics { start: 100.0, last: 160.0, ..Statistics::default() };
        statistics.memory.insert("mem_allocated".to_owned(), 2048.0);
        statistics.averages.insert("avg_get_size".to_owned(), 12.5);
        let view = |n, avg| SeriesView { n, min: 0.0001, max: 0.02, m2: 0.0, avg, var: 0.000_001 };
        for (name, view) in [("get_info", view(40, 0.0005)), ("set_info", view(0, 0.0)), ("op_info", view(40, 0.0005))]
        {
            statistics.series.insert(name.to_owned(), view);
        }
        statistics.series.insert("harvest_stats".to_owned(), SeriesView { n: 2, max: 7.0, avg: 4.0, ..view(2, 4.0) });
        let answer = |statistics| Answer { name: "n1".to_owned(), endpoint: "127.0.0.1:4000".to_owned(), statistics };
        insta::assert_snapshot!(text(&answer(Ok(statistics))), @"
        n1 (127.0.0.1:4000): 60 s, 2 MiB of memory
        REQUEST  COUNT  MEAN      MIN       MAX        DEVIATION  SIZE
        get      40     0.500 ms  0.100 ms  20.000 ms  1.000 ms   12.5
        op       40     0.500 ms  0.100 ms  20.000 ms  1.000 ms   -
        updates per batch: 4.0 (at most 7)
        ");
        insta::assert_snapshot!(text(&answer(Ok(Statistics::default()))), @"
        n1 (127.0.0.1:4000): 0 s, 0 MiB of memory
        no requests yet
        ");
        let unreachable = ClientError::Unreachable { tried: vec![("a:1".to_owned(), "refused".to_owned())] };
        insta::assert_snapshot!(text(&answer(Err(unreachable))), @"n1 (127.0.0.1:4000): cannot reach the cluster: a:1: refused");
    }
}
