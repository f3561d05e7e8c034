//! What a step of a scenario does: faults, and what operators do.
//!
//! ```text
//! kill master for 500ms              the process dies, what it wrote is kept; it starts again after that time
//! kill-after n2 7 for 500ms          it dies once seven more things that its engine orders are done
//! power-cut n1 for 1s                what was not synced is lost in part
//! power-cut all for 1s
//! pause n1 for 2s                    the process stands still, its clock does not
//! stop n1 for 1s                     the operator stops it; a master hands over first
//! drop-master master                 the operator wants another master
//! wipe n3 for 1s                     its disk is lost
//! damage n3 for 1s                   a byte of its log is damaged while it is down
//! lose-end n3 for 1s                 the end of its log is gone, from somewhere before what its store holds
//! cut n1 -> n2,n3 for 2s             one way; `<->` both ways
//! cut master <-> others for 2s
//! clog n1 -> all for 1s              what is sent arrives when the time is over
//! disconnect n1 -> n2,n3             the connections break and come back
//! slow-disk n1 for 3s
//! fail-sync n1                       the next sync fails
//! full-disk n1 for 3s
//! clock n1 +15000                    its clock runs so many millionths too fast
//! trim n1                            its log loses what the store has passed
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trialbay_engine::NodeId;

use super::span::Span;

/// One node, named or described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This one.
    Node(NodeId),
    /// The node that takes itself for the master at that moment; the first node if none does.
    Master,
    /// The first node that works and is not the master.
    Slave,
}

/// Several nodes, named or described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// These.
    Some(Vec<Who>),
    /// Every node.
    All,
    /// The smallest majority, the master among them.
    Majority,
    /// All but those on the other side.
    Others,
}

/// Ways through the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// The senders.
    pub from: Whom,
    /// The receivers.
    pub to: Whom,
    /// Whether the way back is meant as well.
    pub both: bool,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Act {
    /// The process dies; the system keeps what it wrote. It starts again after `down`.
    Kill {
        /// Whose.
        node: Who,
        /// How long it stays dead.
        down: Span,
    },
    /// The process dies once so many more of its engine's orders were carried out.
    KillAfter {
        /// Whose.
        node: Who,
        /// How many orders are carried out before.
        actions: u64,
        /// How long it stays dead.
        down: Span,
    },
    /// Machines lose power: of what was not synced, each write may be kept, lost, torn or garbled.
    PowerCut {
        /// Whose.
        nodes: Whom,
        /// How long they stay dark.
        down: Span,
    },
    /// The process stands still, its clock does not.
    Pause {
        /// Whose.
        node: Who,
        /// How long.
        time: Span,
    },
    /// The operator stops the node, and starts it again.
    Stop {
        /// Which.
        node: Who,
        /// How long it stays stopped.
        down: Span,
    },
    /// The operator wants another node to be master.
    DropMaster {
        /// Which is to be master no more.
        node: Who,
    },
    /// The node loses its disk.
    Wipe {
        /// Which.
        node: Who,
        /// How long it stays down.
        down: Span,
    },
    /// The node is down, and a byte of its log is damaged meanwhile.
    Damage {
        /// Which.
        node: Who,
        /// How long it stays down.
        down: Span,
    },
    /// The node is down, and its log loses its end meanwhile: all from somewhere before the last slot in its store.
    LoseEnd {
        /// Which.
        node: Who,
        /// How long it stays down.
        down: Span,
    },
    /// Messages on these ways are lost.
    Cut {
        /// Which.
        links: Links,
        /// How long.
        time: Span,
    },
    /// Messages on these ways are held back, and arrive when the time is over.
    Clog {
        /// Which.
        links: Links,
        /// How long.
        time: Span,
    },
    /// Connections break and are made anew.
    Disconnect {
        /// Which.
        links: Links,
    },
    /// Syncs take long, up to a second each.
    SlowDisk {
        /// Whose.
        node: Who,
        /// How long.
        time: Span,
    },
    /// The next sync fails.
    FailSync {
        /// Whose.
        node: Who,
    },
    /// The disk takes nothing more.
    FullDisk {
        /// Whose.
        node: Who,
        /// How long.
        time: Span,
    },
    /// The clock runs too fast (or slow) by so many millionths from now on.
    Clock {
        /// Whose.
        node: Who,
        /// By how much.
        ppm: i64,
    },
    /// The log loses what the store has passed.
    Trim {
        /// Whose.
        node: Who,
    },
}

impl FromStr for Act {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Words { text, left: text.split_whitespace().collect() };
        let verb = words.next("a verb")?;
        let act = match verb {
            "kill" => Self::Kill { node: words.node()?, down: words.time()? },
            "kill-after" => Self::KillAfter { node: words.node()?, actions: words.number()?, down: words.time()? },
            "power-cut" => Self::PowerCut { nodes: words.next("nodes")?.parse()?, down: words.time()? },
            "pause" => Self::Pause { node: words.node()?, time: words.time()? },
            "stop" => Self::Stop { node: words.node()?, down: words.time()? },
            "drop-master" => Self::DropMaster { node: words.node()? },
            "wipe" => Self::Wipe { node: words.node()?, down: words.time()? },
            "damage" => Self::Damage { node: words.node()?, down: words.time()? },
            "lose-end" => Self::LoseEnd { node: words.node()?, down: words.time()? },
            "cut" => Self::Cut { links: words.links()?, time: words.time()? },
            "clog" => Self::Clog { links: words.links()?, time: words.time()? },
            "disconnect" => Self::Disconnect { links: words.links()? },
            "slow-disk" => Self::SlowDisk { node: words.node()?, time: words.time()? },
            "fail-sync" => Self::FailSync { node: words.node()? },
            "full-disk" => Self::FullDisk { node: words.node()?, time: words.time()? },
            "clock" => Self::Clock { node: words.node()?, ppm: words.number()? },
            "trim" => Self::Trim { node: words.node()? },
            unknown => {
                return Err(format!(
                    "`{unknown}` is nothing that a step does: kill, kill-after, power-cut, pause, stop, drop-master, wipe, \
                     damage, lose-end, cut, clog, disconnect, slow-disk, fail-sync, full-disk, clock, trim"
                ));
            }
        };
        match words.left.first() {
            None => Ok(act),
            Some(word) => Err(format!("`{word}` is too much in `{text}`")),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { node, down } => write!(f, "kill {node} for {down}"),
            Self::KillAfter { node, actions, down } => write!(f, "kill-after {node} {actions} for {down}"),
            Self::PowerCut { nodes, down } => write!(f, "power-cut {nodes} for {down}"),
            Self::Pause { node, time } => write!(f, "pause {node} for {time}"),
            Self::Stop { node, down } => write!(f, "stop {node} for {down}"),
            Self::DropMaster { node } => write!(f, "drop-master {node}"),
            Self::Wipe { node, down } => write!(f, "wipe {node} for {down}"),
            Self::Damage { node, down } => write!(f, "damage {node} for {down}"),
            Self::LoseEnd { node, down } => write!(f, "lose-end {node} for {down}"),
            Self::Cut { links, time } => write!(f, "cut {links} for {time}"),
            Self::Clog { links, time } => write!(f, "clog {links} for {time}"),
            Self::Disconnect { links } => write!(f, "disconnect {links}"),
            Self::SlowDisk { node, time } => write!(f, "slow-disk {node} for {time}"),
            Self::FailSync { node } => write!(f, "fail-sync {node}"),
            Self::FullDisk { node, time } => write!(f, "full-disk {node} for {time}"),
            Self::Clock { node, ppm } => write!(f, "clock {node} {ppm:+}"),
            Self::Trim { node } => write!(f, "trim {node}"),
        }
    }
}

impl Act {
    /// The nodes that it names.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.clone().nodes_mut().into_iter().map(|node| *node).collect()
    }

    /// The nodes that it names, to name others.
    pub fn nodes_mut(&mut self) -> Vec<&mut NodeId> {
        match self {
            Self::Kill { node, .. }
            | Self::KillAfter { node, .. }
            | Self::Pause { node, .. }
            | Self::Stop { node, .. }
            | Self::DropMaster { node }
            | Self::Wipe { node, .. }
            | Self::Damage { node, .. }
            | Self::LoseEnd { node, .. }
            | Self::SlowDisk { node, .. }
            | Self::FailSync { node }
            | Self::FullDisk { node, .. }
            | Self::Clock { node, .. }
            | Self::Trim { node } => node.named_mut().into_iter().collect(),
            Self::PowerCut { nodes, .. } => nodes.named_mut(),
            Self::Cut { links, .. } | Self::Clog { links, .. } | Self::Disconnect { links } => {
                let mut nodes = links.from.named_mut();
                nodes.extend(links.to.named_mut());
                nodes
            }
        }
    }

    /// How long what it does lasts, if it lasts.
    pub fn time_mut(&mut self) -> Option<&mut Span> {
        match self {
            Self::Kill { down, .. }
            | Self::KillAfter { down, .. }
            | Self::PowerCut { down, .. }
            | Self::Stop { down, .. }
            | Self::Wipe { down, .. }
            | Self::Damage { down, .. }
            | Self::LoseEnd { down, .. } => Some(down),
            Self::Pause { time, .. }
            | Self::Cut { time, .. }
            | Self::Clog { time, .. }
            | Self::SlowDisk { time, .. }
            | Self::FullDisk { time, .. } => Some(time),
            Self::DropMaster { .. }
            | Self::Disconnect { .. }
            | Self::FailSync { .. }
            | Self::Clock { .. }
            | Self::Trim { .. } => None,
        }
    }

    /// Halves the time that it lasts, for who looks for a shorter story; `None` when there is nothing to halve.
    pub fn halved(&self) -> Option<Self> {
        let mut act = self.clone();
        let time = act.time_mut()?;
        *time = Span(time.0 / 2);
        (time.0 > super::span::MS).then_some(act)
    }
}

impl Who {
    /// The node, if it is named.
    fn named_mut(&mut self) -> Option<&mut NodeId> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }
}

impl Whom {
    /// The nodes that are named.
    fn named_mut(&mut self) -> Vec<&mut NodeId> {
        match self {
            Self::Some(nodes) => nodes.iter_mut().filter_map(Who::named_mut).collect(),
            Self::All | Self::Majority | Self::Others => Vec::new(),
        }
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "master" => Ok(Self::Master),
            "slave" => Ok(Self::Slave),
            name => node(name).map(Self::Node),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Master => f.write_str("master"),
            Self::Slave => f.write_str("slave"),
        }
    }
}

impl FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "majority" => Ok(Self::Majority),
            "others" => Ok(Self::Others),
            names => names.split(',').map(str::parse).collect::<Result<_, _>>().map(Self::Some),
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Majority => f.write_str("majority"),
            Self::Others => f.write_str("others"),
            Self::Some(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                f.write_str(&nodes.join(","))
            }
        }
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = if self.both { "<->" } else { "->" };
        write!(f, "{} {arrow} {}", self.from, self.to)
    }
}

impl TryFrom<String> for Act {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Act> for String {
    fn from(act: Act) -> Self {
        act.to_string()
    }
}

/// `n3` is node 3.
pub(super) fn node(name: &str) -> Result<NodeId, String> {
    let number = name.strip_prefix('n').and_then(|number| number.parse().ok()).filter(|number| *number > 0);
    number.map(NodeId).ok_or_else(|| format!("`{name}` is no node: n1, n2 and so on, or master, or slave"))
}

struct Words<'a> {
    text: &'a str,
    left: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        if self.left.is_empty() {
            return Err(format!("`{}` lacks {what}", self.text));
        }
        Ok(self.left.remove(0))
    }

    fn node(&mut self) -> Result<Who, String> {
        self.next("a node")?.parse()
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.next("a number")?;
        word.parse().map_err(|_| format!("`{word}` is no number that fits here"))
    }

    fn time(&mut self) -> Result<Span, String> {
        match self.next("`for` and a time")? {
            "for" => self.next("a time")?.parse(),
            other => Err(format!("`{other}` stands where `for` and a time must in `{}`", self.text)),
        }
    }

    fn links(&mut self) -> Result<Links, String> {
        let from = self.next("who sends")?.parse()?;
        let both = match self.next("`->` or `<->`")? {
            "->" => false,
            "<->" => true,
            other => return Err(format!("`{other}` stands where `->` or `<->` must in `{}`", self.text)),
        };
        Ok(Links { from, to: self.next("who receives")?.parse()?, both })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_survive_their_text() {
        for text in [
            "kill master for 500ms",
            "kill-after n2 7 for 500ms",
            "power-cut all for 1s",
            "power-cut n1,master for 1s",
            "power-cut majority for 1s",
            "pause n1 for 2s",
            "stop slave for 1s",
            "drop-master master",
            "wipe n3 for 1s",
            "damage n3 for 1s",
            "cut n1 -> n2,n3 for 2s",
            "cut master <-> others for 2.5s",
            "clog n1 -> all for 1s",
            "disconnect n1 -> n2,n3",
            "slow-disk n1 for 3s",
            "fail-sync n1",
            "full-disk n1 for 3s",
            "clock n1 +15000",
            "clock n7 -3",
            "trim n1",
        ] {
            assert_eq!(text.parse::<Act>().map(|act| act.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "lacks a verb"),
            ("kil n1 for 1s", "`kil` is nothing that a step does"),
            ("kill", "lacks a node"),
            ("kill n0 for 1s", "`n0` is no node"),
            ("kill n1 1s", "`1s` stands where `for`"),
            ("kill n1 for 1s now", "`now` is too much"),
            ("cut n1 n2 for 1s", "`n2` stands where `->`"),
            ("clock n1 fast", "`fast` is no number"),
        ] {
            let error = text.parse::<Act>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_halved_until_they_are_too_short() {
        let mut act = "pause n1 for 20ms".parse::<Act>().unwrap();
        let mut count = 0;
        while let Some(next) = act.halved() {
            (act, count) = (next, count + 1);
        }
        assert_eq!((count, act.to_string().as_str()), (4, "pause n1 for 1.25ms"));
        assert_eq!("trim n1".parse::<Act>().unwrap().halved(), None);
    }
}
