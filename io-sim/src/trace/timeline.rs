//! A run as a page: one HTML file that needs no network, with a lane for each node and client.

use serde_json::json;
use trialbay_engine::NodeId;

use super::Entry;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 8] = [
    include_str!("page/data.js"),
    include_str!("page/view.js"),
    include_str!("page/draw.js"),
    include_str!("page/nodes.js"),
    include_str!("page/messages.js"),
    include_str!("page/overview.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
];

/// What the page says about the run as a whole.
#[derive(Clone, Debug)]
pub struct Header {
    /// What was played.
    pub title: String,
    /// Its seed.
    pub seed: u64,
    /// How it went, in a word or two: `pass`, `FAIL K4`.
    pub verdict: String,
    /// Whether that is as it should be.
    pub is_good: bool,
    /// Over everything that happened.
    pub trace_hash: u64,
    /// The nodes, in the order of their lanes.
    pub nodes: Vec<NodeId>,
    /// The commands to go on with, each with a word for what it does: `replay`, `shrink`.
    pub commands: Vec<(String, String)>,
}

/// The page that shows these entries, which are in the order of time. Any part of a run will do: what led to a failure is
/// often enough of a long one. A thousand entries take some 160 to 200 kB.
///
/// # Panics
/// Never: entries are plain numbers and text.
pub fn html(header: &Header, entries: &[Entry]) -> String {
    let data = json!({
        "title": header.title,
        "seed": header.seed.to_string(),
        "verdict": header.verdict,
        "good": header.is_good,
        "hash": format!("{:016x}", header.trace_hash),
        "nodes": header.nodes.iter().map(|node| node.0).collect::<Vec<_>>(),
        "commands": header.commands,
    });
    let entries = serde_json::to_string(entries).expect("maps have text for keys, and no float is among the values");
    let title = format!("{}: {}", header.verdict, header.title);
    fill(
        PAGE,
        &[
            ("title", &escaped_text(&title)),
            ("style", STYLE),
            ("header", &escaped_script(&data.to_string())),
            ("entries", &escaped_script(&entries)),
            ("scripts", &SCRIPTS.concat()),
        ],
    )
}

/// Puts texts in the place of their names in double braces, in the order of the template, and looks into none of them.
fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let length: usize = parts.iter().map(|(_, text)| text.len()).sum();
    let mut filled = String::with_capacity(template.len() + length);
    let mut rest = template;
    for (name, text) in parts {
        let (before, after) = rest.split_once(&format!("{{{{{name}}}}}")).expect("the template names each part");
        filled.push_str(before);
        filled.push_str(text);
        rest = after;
    }
    filled + rest
}

/// Text that cannot begin a tag.
fn escaped_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// JSON that cannot end the script element that it stands in: within JSON, `<` occurs in strings only.
fn escaped_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}
