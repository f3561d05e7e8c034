//! When a step is done: at a time, or once something can be observed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trialbay_engine::{Message, NodeId};

use super::act::node;

/// Something observable about a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Condition {
    /// `master`: some node takes itself for the master and serves. `master == n1`: this one does.
    Master(Option<NodeId>),
    /// `decided >= 500`: some node knows so many slots to be decided.
    Decided(u64),
    /// `applied(n2) >= 10`.
    Applied(NodeId, u64),
    /// `acknowledged >= 10`: so many updates were acknowledged.
    Acknowledged(u64),
    /// `down(n1)`.
    Down(NodeId),
    /// `message(Accept, n1 -> n3, nth = 4)`: the fourth message of this kind was sent on this way; counted from the
    /// moment at which the step's turn came. Without `nth` the first, without the way on any.
    Message {
        /// The kind of message.
        kind: String,
        /// The way, if it matters.
        way: Option<(NodeId, NodeId)>,
        /// Which of them.
        nth: u64,
    },
}

/// The names of all kinds of messages.
pub const MESSAGE_KINDS: [&str; 17] = [
    "Canvass",
    "Canvassed",
    "Prepare",
    "Promise",
    "Accept",
    "Accepted",
    "Heartbeat",
    "Granted",
    "Gap",
    "Nak",
    "Resign",
    "Fetch",
    "Fetched",
    "Gone",
    "Recall",
    "Recalled",
    "Claim",
];

/// The name of a message's kind.
pub fn kind_of(message: &Message) -> &'static str {
    let index = match message {
        Message::Canvass { .. } => 0,
        Message::Canvassed { .. } => 1,
        Message::Prepare { .. } => 2,
        Message::Promise { .. } => 3,
        Message::Accept { .. } => 4,
        Message::Accepted { .. } => 5,
        Message::Heartbeat { .. } => 6,
        Message::Granted { .. } => 7,
        Message::Gap { .. } => 8,
        Message::Nak { .. } => 9,
        Message::Resign { .. } => 10,
        Message::Fetch { .. } => 11,
        Message::Fetched { .. } => 12,
        Message::Gone { .. } => 13,
        Message::Recall { .. } => 14,
        Message::Recalled { .. } => 15,
        Message::Claim { .. } => 16,
    };
    MESSAGE_KINDS[index]
}

impl Condition {
    /// The node that it names; of a way the one with the higher number.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Master(who) => *who,
            Self::Applied(node, _) | Self::Down(node) => Some(*node),
            Self::Message { way, .. } => way.map(|(from, to)| from.max(to)),
            Self::Decided(_) | Self::Acknowledged(_) => None,
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "master" {
            return Ok(Self::Master(None));
        }
        if let Some(name) = text.strip_prefix("master ==") {
            return Ok(Self::Master(Some(node(name.trim())?)));
        }
        if let Some(inside) = argument(text, "down") {
            return Ok(Self::Down(node(inside)?));
        }
        if let Some(inside) = argument(text, "message") {
            return message(inside);
        }
        let (left, right) = text.split_once(">=").ok_or_else(|| unknown(text))?;
        let number = right.trim().parse().map_err(|_| format!("`{}` is no number", right.trim()))?;
        match left.trim() {
            "decided" => Ok(Self::Decided(number)),
            "acknowledged" => Ok(Self::Acknowledged(number)),
            left => match argument(left, "applied") {
                Some(inside) => Ok(Self::Applied(node(inside)?, number)),
                None => Err(unknown(text)),
            },
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(None) => f.write_str("master"),
            Self::Master(Some(node)) => write!(f, "master == {node}"),
            Self::Decided(slot) => write!(f, "decided >= {slot}"),
            Self::Applied(node, slot) => write!(f, "applied({node}) >= {slot}"),
            Self::Acknowledged(count) => write!(f, "acknowledged >= {count}"),
            Self::Down(node) => write!(f, "down({node})"),
            Self::Message { kind, way, nth } => {
                write!(f, "message({kind}")?;
                if let Some((from, to)) = way {
                    write!(f, ", {from} -> {to}")?;
                }
                write!(f, ", nth = {nth})")
            }
        }
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.to_string()
    }
}

fn argument<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    Some(text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?.trim())
}

fn message(inside: &str) -> Result<Condition, String> {
    let mut parts = inside.split(',').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    if !MESSAGE_KINDS.contains(&kind) {
        return Err(format!("`{kind}` is no kind of message: {}", MESSAGE_KINDS.join(", ")));
    }
    let (mut way, mut nth) = (None, 1);
    for part in parts {
        if let Some((from, to)) = part.split_once("->") {
            way = Some((node(from.trim())?, node(to.trim())?));
        } else if let Some(number) = part.strip_prefix("nth").and_then(|rest| rest.trim().strip_prefix('=')) {
            nth = number.trim().parse().map_err(|_| format!("`{}` is no number", number.trim()))?;
        } else {
            return Err(format!("`{part}` is neither a way (n1 -> n2) nor nth = 3"));
        }
    }
    Ok(Condition::Message { kind: kind.to_owned(), way, nth })
}

fn unknown(text: &str) -> String {
    format!(
        "`{text}` cannot be observed: master, master == n1, decided >= 9, applied(n1) >= 9, acknowledged >= 9, \
         down(n1), message(Accept, n1 -> n3, nth = 4)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_survive_their_text() {
        for text in [
            "master",
            "master == n2",
            "decided >= 500",
            "applied(n2) >= 10",
            "acknowledged >= 1",
            "down(n1)",
            "message(Accept, n1 -> n3, nth = 4)",
            "message(Promise, nth = 1)",
        ] {
            assert_eq!(text.parse::<Condition>().map(|condition| condition.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("message(Nak)".parse::<Condition>().unwrap().to_string(), "message(Nak, nth = 1)");
    }

    #[test]
    fn what_cannot_be_observed_is_refused() {
        for wrong in ["", "masters", "decided > 5", "decided >= x", "applied(n0) >= 1", "message(Vote)", "down n1"] {
            assert!(wrong.parse::<Condition>().is_err(), "{wrong}");
        }
    }
}
