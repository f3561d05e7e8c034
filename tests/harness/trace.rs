//! What a node told the system, as `strace` saw it, and whether it kept the rule above all others: nothing that promises,
//! accepts or acknowledges leaves before its record is durable.
//!
//! The trace is judged by the documented formats alone (`docs/storage.md`, the frames of peers and the protocol of
//! clients), from the bytes of each call, without asking the node.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use trialbay::peer::frame::{BODY_LEN_MAX, FrameBuffer};
use trialbay_engine::{Ballot, Message, NodeId, Slot};

use crate::raw::OK;

/// What precedes the payload of a record in the log.
const FRAME_HEAD: usize = 14;

/// The arguments that make `strace` write what [`Trace::parse`] reads, up to the traced program.
pub fn strace_args(file: &str) -> Vec<String> {
    const CALLS: &str = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,\
                         fdatasync,fsync";
    let args = ["--seccomp-bpf", "-f", "-yy", "-xx", "-s", "1048576", "-e", CALLS, "-o", file];
    args.map(str::to_owned).into()
}

/// The calls of one process, in order.
pub struct Trace(Vec<Call>);

/// One system call.
struct Call {
    name: String,
    /// What the file descriptor stands for: a path, or the ends of a connection.
    file: String,
    /// What was read or written.
    bytes: Vec<u8>,
    result: i64,
    /// For calls that name one: where in the file.
    offset: u64,
    /// Lines of the trace.
    started: usize,
    ended: usize,
}

/// What the judge saw, so that a test knows that there was something to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Promises sent, also to oneself (a `Prepare` says so).
    pub promises: usize,
    /// Acceptances sent.
    pub acceptances: usize,
    /// Updates of clients acknowledged.
    pub acknowledged: usize,
}

impl Trace {
    /// Reads the output of `strace` with [`strace_args`].
    pub fn parse(text: &str) -> Self {
        let mut unfinished: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        let mut calls = Vec::new();
        for (line, text) in text.lines().enumerate() {
            let Some((thread, text)) = text.split_once(char::is_whitespace) else { continue };
            let text = text.trim_start();
            if let Some(head) = text.strip_suffix("<unfinished ...>") {
                unfinished.insert(thread, (line, head));
            } else if let Some((_, tail)) = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>")) {
                let (started, head) = unfinished.remove(thread).expect("what is resumed was begun");
                calls.extend(Call::parse(&format!("{head}{tail}"), started, line));
            } else {
                calls.extend(Call::parse(text, line, line));
            }
        }
        Self(calls)
    }

    /// Judges the calls of a node whose clients use `client_port` and whose peers use `peer_ports`, in a cluster of that
    /// many voters. Clients must send nothing but sets, one at a time on each connection.
    ///
    /// # Errors
    /// The first thing that left too early.
    pub fn judge(&self, client_port: u16, peer_ports: &[u16], voters: usize) -> Result<Seen, String> {
        let mut judge = Judge { quorum: voters / 2 + 1, ..Judge::default() };
        // Data leave when a call begins, come when it ends, and a disk is done when it says so.
        let mut moments: Vec<(usize, bool, &Call)> = Vec::new();
        for call in &self.0 {
            moments.extend([(call.started, false, call), (call.ended, true, call)]);
        }
        moments.sort_by_key(|(line, ends, _)| (*line, *ends));
        for (_, ends, call) in moments {
            match (Kind::of(call, client_port, peer_ports), ends) {
                (Kind::LogWrite, true) => judge.written(call),
                (Kind::LogSync, false) => judge.sync_begins(call),
                (Kind::LogSync, true) => judge.sync_ends(call),
                (Kind::ToPeer, false) => judge.sends(call)?,
                (Kind::FromPeer, true) => judge.receives(call)?,
                (Kind::ToClient, false) => judge.answers(call)?,
                (Kind::FromClient, true) => judge.is_asked(call),
                (
                    Kind::LogWrite | Kind::ToPeer | Kind::FromPeer | Kind::ToClient | Kind::FromClient | Kind::Other,
                    _,
                ) => {}
            }
        }
        Ok(judge.seen)
    }
}

impl Call {
    fn parse(text: &str, started: usize, ended: usize) -> Option<Self> {
        let (name, rest) = text.split_once('(')?;
        let (call, result) = rest.rsplit_once(" = ")?;
        let call = call.trim_end().strip_suffix(')')?.trim_end();
        // A call that never came back has none.
        let result = result.split(' ').next()?.parse().unwrap_or(-1);
        let (_, file) = call.split_once('<')?;
        let (file, rest) = file.split_once(">,").or_else(|| Some((file.strip_suffix('>')?, "")))?;
        let mut bytes: Vec<u8> = rest.split('"').skip(1).step_by(2).flat_map(unescape).collect();
        assert!(!rest.contains("\"..."), "strace was not told to show all bytes");
        if name != "fdatasync" && name != "fsync" {
            bytes.truncate(usize::try_from(result).unwrap_or(0));
        }
        let offset = rest.rsplit(", ").next().and_then(|offset| offset.parse().ok()).unwrap_or(0);
        let file = if file.starts_with("\\x") { String::from_utf8_lossy(&unescape(file)).into() } else { file.into() };
        Some(Self { name: name.to_owned(), file, bytes, result, offset, started, ended })
    }

    /// Both ports of a connection, this process's first.
    fn ports(&self) -> Option<(u16, u16)> {
        let (ours, theirs) = self.file.strip_prefix("TCP:[")?.strip_suffix(']')?.split_once("->")?;
        let port = |address: &str| address.rsplit_once(':')?.1.parse().ok();
        Some((port(ours)?, port(theirs)?))
    }
}

/// The bytes of a string that strace wrote as `\x00\x01`.
fn unescape(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).expect("two digits")).collect()
}

#[derive(Clone, Copy)]
enum Kind {
    LogWrite,
    LogSync,
    ToPeer,
    FromPeer,
    ToClient,
    FromClient,
    Other,
}

impl Kind {
    fn of(call: &Call, client_port: u16, peer_ports: &[u16]) -> Self {
        let writes = call.name.contains("write") || call.name.starts_with("send");
        if call.file.ends_with(".tlog") {
            return if writes { Self::LogWrite } else { Self::LogSync };
        }
        match call.ports() {
            Some((ours, _)) if ours == client_port => [Self::FromClient, Self::ToClient][usize::from(writes)],
            // Messages go from the node that connected to the other; what comes back are signs of life.
            Some((_, theirs)) if peer_ports.contains(&theirs) && writes => Self::ToPeer,
            Some((ours, _)) if peer_ports.contains(&ours) && !writes => Self::FromPeer,
            Some(_) | None => Self::Other,
        }
    }
}

/// What is on disk so far, and what others know of it.
#[derive(Default)]
struct Judge {
    quorum: usize,
    seen: Seen,
    /// Records that were written and not synced.
    unsynced: Vec<Record>,
    /// How many of those were written when the sync in progress began.
    syncing: usize,
    promised: Option<Ballot>,
    accepted: BTreeMap<Slot, Ballot>,
    /// The values that are durable, with their slots.
    slots: Vec<(Slot, Vec<u8>)>,
    /// The values that were sent to peers, with their slots.
    proposed: Vec<(Slot, Vec<u8>)>,
    /// What peers acknowledged.
    peers: BTreeMap<u16, Slot>,
    outgoing: BTreeMap<String, Stream>,
    incoming: BTreeMap<String, Stream>,
    /// What each client waits for.
    asked: BTreeMap<String, Vec<u8>>,
}

enum Record {
    Promised(Ballot),
    Accepted(Slot, Ballot, Vec<u8>),
    Other,
}

impl Judge {
    fn written(&mut self, call: &Call) {
        // The header of a segment holds no records.
        if call.offset == 0 {
            return;
        }
        let mut rest = &call.bytes[..];
        while rest.len() >= FRAME_HEAD {
            let len = 8 + u32_at(rest, 0) as usize;
            let payload = &rest[FRAME_HEAD..len];
            let ballot = |at: usize| Ballot { round: u64_at(payload, at), node: NodeId(u16_at(payload, at + 8)) };
            self.unsynced.push(match rest[9] {
                1 => Record::Promised(ballot(0)),
                2 => Record::Accepted(Slot(u64_at(payload, 0)), ballot(8), payload[19..].to_vec()),
                _ => Record::Other,
            });
            rest = &rest[len..];
        }
    }

    fn sync_begins(&mut self, _: &Call) {
        self.syncing = self.unsynced.len();
    }

    fn sync_ends(&mut self, call: &Call) {
        assert_eq!(call.result, 0, "the disk is sound");
        for record in self.unsynced.drain(..std::mem::take(&mut self.syncing)) {
            match record {
                Record::Promised(ballot) => self.promised = self.promised.max(Some(ballot)),
                Record::Accepted(slot, ballot, value) => {
                    self.promised = self.promised.max(Some(ballot));
                    self.accepted.insert(slot, ballot);
                    self.slots.push((slot, value));
                }
                Record::Other => {}
            }
        }
    }

    fn sends(&mut self, call: &Call) -> Result<(), String> {
        for message in self.outgoing.entry(call.file.clone()).or_default().take(call)? {
            match message {
                Message::Promise { ballot, .. } | Message::Prepare { ballot, .. } => {
                    self.seen.promises += 1;
                    if self.promised < Some(ballot) {
                        return Err(format!(
                            "promise {ballot} left while {:?} was durable: {}",
                            self.promised,
                            at(call)
                        ));
                    }
                }
                Message::Accepted { ballot, upto, .. } => {
                    self.seen.acceptances += 1;
                    let missing = (1..=upto.0).find(|slot| !self.accepted.contains_key(&Slot(*slot)));
                    if let Some(slot) = missing {
                        return Err(format!(
                            "accepted {ballot} {upto} left before slot {slot} was durable: {}",
                            at(call)
                        ));
                    }
                    if let Some(last) = self.accepted.get(&upto).filter(|last| **last > ballot) {
                        return Err(format!("accepted {ballot} {upto}, and {last} was durable: {}", at(call)));
                    }
                }
                Message::Accept { first, values, .. } => {
                    let slots = (first.0..).map(Slot);
                    self.proposed.extend(slots.zip(values.0.iter().map(|value| value.body().to_vec())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn receives(&mut self, call: &Call) -> Result<(), String> {
        let stream = self.incoming.entry(call.file.clone()).or_default();
        for message in stream.take(call)? {
            if let Message::Accepted { upto, votes: true, .. } = message {
                let known = self.peers.entry(stream.sender()).or_default();
                *known = upto.max(*known);
            }
        }
        Ok(())
    }

    fn is_asked(&mut self, call: &Call) {
        const SET: [u8; 4] = 0xb1ff_0009_u32.to_le_bytes();
        if let Some(start) = call.bytes.windows(4).position(|window| window == SET) {
            let len = u32_at(&call.bytes, start + 4) as usize;
            self.asked.insert(call.file.clone(), call.bytes[start + 8..][..len].to_vec());
        }
    }

    fn answers(&mut self, call: &Call) -> Result<(), String> {
        let Some(key) = self.asked.remove(&call.file) else { return Ok(()) };
        if call.bytes.get(..4) != Some(&OK.to_le_bytes()) {
            return Ok(());
        }
        self.seen.acknowledged += 1;
        let name = key.escape_ascii();
        let has_key = |value: &[u8]| value.windows(key.len()).any(|window| window == key);
        let slot_in =
            |values: &[(Slot, Vec<u8>)]| values.iter().find(|(_, value)| has_key(value)).map(|(slot, _)| *slot);
        let durable = slot_in(&self.slots);
        // The node's own record may come after those of a majority of others: be in a sync, or wait for one.
        let unsynced = self.unsynced.iter().find_map(|record| match record {
            Record::Accepted(slot, _, value) if has_key(value) => Some(*slot),
            Record::Accepted(..) | Record::Promised(_) | Record::Other => None,
        });
        let Some(slot) = durable.or(unsynced).or_else(|| slot_in(&self.proposed)) else {
            return Err(format!("{name} was acknowledged before it was proposed: {}", at(call)));
        };
        let others = self.peers.values().filter(|upto| **upto >= slot).count();
        let votes = others + usize::from(durable.is_some());
        if votes < self.quorum {
            return Err(format!("{name} was acknowledged when it was durable on {votes} nodes: {}", at(call)));
        }
        Ok(())
    }
}

/// One direction of a connection between peers: the letters of the handshake, then frames.
#[derive(Default)]
struct Stream {
    start: Vec<u8>,
    frames: Option<FrameBuffer>,
}

impl Stream {
    /// A hello and a verdict.
    const LETTERS: usize = 2;

    fn take(&mut self, call: &Call) -> Result<Vec<Message>, String> {
        let mut rest = call.bytes.clone();
        if self.frames.is_none() {
            self.start.append(&mut rest);
            let Some(len) = self.handshake_len() else { return Ok(Vec::new()) };
            rest = self.start.split_off(len);
            self.frames = Some(FrameBuffer::new(BODY_LEN_MAX));
        }
        let frames = self.frames.as_mut().expect("made above");
        let mut source = &rest[..];
        let mut messages = Vec::new();
        while !source.is_empty() {
            // Reading from memory never waits.
            fill(frames, &mut source)?;
        }
        while let Some(message) = frames.next_message().map_err(|error| format!("{error}: {}", at(call)))? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Who sent the hello.
    fn sender(&self) -> u16 {
        u16_at(&self.start, 7 + 4)
    }

    fn handshake_len(&self) -> Option<usize> {
        let mut at = 0;
        for _ in 0..Self::LETTERS {
            let head = self.start.get(at..at + 7)?;
            at += 7 + usize::from(u16_at(head, 5)) + 4;
        }
        (self.start.len() >= at).then_some(at)
    }
}

/// Moves bytes from memory, which never makes a future wait.
fn fill(frames: &mut FrameBuffer, source: &mut &[u8]) -> Result<(), String> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(frames.fill(source)).poll(&mut context) {
        Poll::Ready(result) => result.map(|_| ()).map_err(|error| error.to_string()),
        Poll::Pending => Err("memory made a reader wait".to_owned()),
    }
}

fn at(call: &Call) -> String {
    format!("line {} of the trace, {} to {}", call.started + 1, call.name, call.file)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use trialbay::peer::frame::append_frame;
    use trialbay_engine::Incarnation;

    use super::*;

    const CLIENT: &str = "TCP:[127.0.0.1:4000->127.0.0.1:50000]";
    const TO_PEER: &str = "TCP:[127.0.0.1:50001->127.0.0.1:4011]";
    const FROM_PEER: &str = "TCP:[127.0.0.1:4001->127.0.0.1:50002]";
    const LOG: &str = "/home/tlogs/000.tlog";
    const BALLOT: Ballot = Ballot { round: 7, node: NodeId(2) };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn call(name: &str, file: &str, bytes: &[u8], rest: &str, result: usize) -> String {
        format!("17 {name}(5<{file}>, \"{}\", {}{rest}) = {result}\n", hex(bytes), bytes.len())
    }

    fn record(kind: u8, payload: &[u8]) -> String {
        let len = u32::try_from(6 + payload.len()).unwrap().to_le_bytes();
        let frame = [&len[..], &[0; 4], &[1, kind], &[0; 4], payload].concat();
        call("pwrite64", &hex(LOG.as_bytes()), &frame, ", 512", frame.len())
    }

    fn ballot() -> Vec<u8> {
        [&7_u64.to_le_bytes()[..], &2_u16.to_le_bytes()].concat()
    }

    fn promised() -> String {
        record(1, &ballot())
    }

    fn accepted(slot: u64, value: &[u8]) -> String {
        record(2, &[&slot.to_le_bytes()[..], &ballot(), &[1], value].concat())
    }

    fn sync() -> String {
        format!("18 fdatasync(5<{}>) = 0\n", hex(LOG.as_bytes()))
    }

    fn sync_unfinished(meanwhile: &str) -> String {
        let log = hex(LOG.as_bytes());
        format!("18 fdatasync(5<{log}> <unfinished ...>\n{meanwhile}18 <... fdatasync resumed>)     = 0\n")
    }

    fn connection(name: &str) -> &'static str {
        if name == "sendto" { TO_PEER } else { FROM_PEER }
    }

    fn handshake(name: &str) -> String {
        let letter = [&[0xf5, b'T', b'B', b'P', 1, 12, 0][..], &[0, 0, 0, 0, 3, 0], &[0; 10]].concat();
        call(name, connection(name), &[&letter[..], &letter].concat(), "", 46)
    }

    fn message(name: &str, message: Message) -> String {
        let mut frame = Vec::new();
        append_frame(&message, BODY_LEN_MAX, &mut frame).unwrap();
        call(name, connection(name), &frame, "", frame.len())
    }

    fn promise() -> String {
        message("sendto", Message::Promise { ballot: BALLOT, incarnation: Incarnation(1), accepted: Vec::new().into() })
    }

    fn acceptance(name: &str, upto: u64) -> String {
        let (incarnation, upto) = (Incarnation(1), Slot(upto));
        message(name, Message::Accepted { ballot: BALLOT, incarnation, votes: true, upto })
    }

    fn set() -> String {
        let bytes = [&0xb1ff_0009_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"key", &[1, 0, 0, 0, b'v']].concat();
        call("recvfrom", CLIENT, &bytes, "", bytes.len())
    }

    fn done() -> String {
        call("sendto", CLIENT, &[0; 4], "", 4)
    }

    fn judged(calls: &[String], voters: usize) -> Result<Seen, String> {
        Trace::parse(&calls.concat()).judge(4000, &[4001, 4011], voters)
    }

    #[test]
    fn a_promise_may_leave_when_it_is_durable_and_no_moment_sooner() {
        let hello = handshake("sendto");
        let seen = judged(&[hello.clone(), promised(), sync(), promise()], 3).unwrap();
        assert_eq!(seen.promises, 1);
        assert!(judged(&[hello.clone(), promised(), promise(), sync()], 3).is_err());
        assert!(judged(&[hello.clone(), promised(), sync_unfinished(&promise())], 3).is_err());
        assert!(judged(&[hello.clone(), promised(), sync_unfinished(""), promise()], 3).is_ok());
        assert!(judged(&[hello.clone(), sync_unfinished(&promised()), promise()], 3).is_err(), "written too late");
        assert!(judged(&[hello, promise()], 3).is_err());
    }

    #[test]
    fn an_acceptance_may_leave_when_all_that_it_covers_is_durable() {
        let hello = handshake("sendto");
        let two = [hello.clone(), accepted(1, b"a"), accepted(2, b"b"), sync(), acceptance("sendto", 2)];
        assert_eq!(judged(&two, 3).unwrap().acceptances, 1);
        assert!(judged(&[hello.clone(), accepted(2, b"b"), sync(), acceptance("sendto", 2)], 3).is_err());
        assert!(judged(&[hello, accepted(1, b"a"), acceptance("sendto", 1), sync()], 3).is_err());
    }

    #[test]
    fn a_client_may_be_answered_when_a_majority_has_its_update() {
        let write = accepted(1, b"..key..");
        assert_eq!(judged(&[set(), write.clone(), sync(), done()], 1).unwrap().acknowledged, 1);
        assert!(judged(&[set(), write.clone(), sync_unfinished(&done())], 1).is_err());
        assert!(judged(&[set(), done()], 1).is_err());
        let (hello, vote) = (handshake("recvfrom"), acceptance("recvfrom", 1));
        assert!(judged(&[set(), hello.clone(), write.clone(), sync(), vote.clone(), done()], 3).is_ok());
        assert!(judged(&[set(), hello.clone(), write.clone(), vote, done(), sync()], 3).is_err());
        assert!(judged(&[set(), hello, write, sync(), done()], 3).is_err());
    }
}
