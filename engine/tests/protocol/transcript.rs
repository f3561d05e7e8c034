//! What happens in a cluster, as text.

use bytes::Bytes;
use trialbay_engine::{
    Action, Ballot, Entry, Event, Incarnation, Instant, Message, NodeId, Record, Refusal, RequestId, SlotEntry, Value,
};

/// Names of lives that are the same in every run: `n1#2` is the second of node 1.
#[derive(Default)]
pub(crate) struct Names(Vec<(Incarnation, String)>);

impl Names {
    /// Gives a name to a life that has none.
    pub(crate) fn note(&mut self, id: u16, life: Incarnation) {
        if self.0.iter().all(|(known, _)| *known != life) {
            let count = self.0.iter().filter(|(_, name)| name.starts_with(&format!("n{id}#"))).count();
            self.0.push((life, format!("n{id}#{}", count + 1)));
        }
    }

    pub(crate) fn event(&self, id: u16, event: &Event) -> String {
        let what = match event {
            Event::Ticked => "ticked".to_owned(),
            Event::Received { from, message } => {
                let name = format!("{message:?}");
                let kind = name.split([' ', '{']).next().expect("a split has a first part");
                let ballot = ballot_of(message).map_or(String::new(), |ballot| format!(" {ballot}"));
                format!("received {from}'s {kind}{ballot}")
            }
            Event::Requested(requests) => {
                let ids: Vec<RequestId> = requests.iter().map(|request| request.id).collect();
                format!("requested {ids:?}")
            }
            Event::ReadRequested(read) => format!("requested {read:?}"),
            Event::Persisted(persist) => format!("persisted {persist:?}"),
            Event::Applied(slot) => format!("applied {slot}"),
            Event::LogRead { peer, entries } => format!("read its log for {peer}: {} entries", entries.len()),
            Event::Connected(peer) => format!("connected to {peer}"),
            Event::Disconnected(peer) => format!("disconnected from {peer}"),
            Event::HeadInstalled { .. }
            | Event::HeadFailed
            | Event::StorageFailed
            | Event::StopRequested
            | Event::DropRequested
            | Event::LogShortened { .. }
            | Event::StorePaused
            | Event::StoreResumed => format!("{event:?}"),
        };
        format!("n{id} {what}")
    }

    pub(crate) fn action(&self, action: &Action) -> String {
        match action {
            Action::Send { to, message } => format!("-> {to} {}", self.message(message)),
            Action::Persist { id, records } => {
                let records: Vec<String> = records.iter().map(|record| self.record(record)).collect();
                format!("persist {id:?} [{}]", records.join(", "))
            }
            Action::Apply { slot, value, requests, .. } if requests.is_empty() => {
                format!("apply {slot}={}", text(value))
            }
            Action::Apply { slot, value, requests, .. } => format!("apply {slot}={} for {requests:?}", text(value)),
            Action::Refuse { requests, reason } => format!("refuse {requests:?}: {}", refusal(*reason)),
            Action::ServeRead { read, at } => format!("serve {read:?} at {at}"),
            Action::RefuseRead { read, reason } => format!("refuse {read:?}: {}", refusal(*reason)),
            Action::ReadLog { peer, from, upto, .. } => format!("read log for {peer} from {from} to {upto}"),
            Action::InstallHead { from } => format!("install head from {from}"),
            Action::Blame { peer, offence } => format!("blame {peer}: {offence:?}"),
            Action::Halt(reason) => format!("halt: {reason:?}"),
            Action::Dropped(dropped) => format!("dropped: {dropped:?}"),
        }
    }

    fn record(&self, record: &Record) -> String {
        match record {
            Record::Promised(ballot) => format!("promised {ballot}"),
            Record::Accepted(entry) => format!("accepted {}", slot_entry(entry)),
            Record::Decided { upto, .. } => format!("decided {upto}"),
            Record::MemoryBegan(life) => format!("memory began {}", self.life(*life)),
            Record::VoteRegained { incarnation, genesis } if genesis.is_empty() => {
                format!("vote regained {}", self.life(*incarnation))
            }
            Record::VoteRegained { genesis, .. } => format!("vote regained, genesis [{}]", self.genesis(genesis)),
        }
    }

    pub(crate) fn message(&self, message: &Message) -> String {
        match message {
            Message::Canvass { ballot, decided_upto } => format!("Canvass {ballot} decided {decided_upto}"),
            Message::Canvassed { ballot, willing, promised, decided_upto, .. } => {
                let willing = if *willing { "willing" } else { "unwilling" };
                format!("Canvassed {ballot} {willing} promised {promised} decided {decided_upto}")
            }
            Message::Prepare { ballot, decided_upto } => format!("Prepare {ballot} decided {decided_upto}"),
            Message::Promise { ballot, accepted, .. } => {
                let accepted: Vec<String> = accepted.0.iter().map(slot_entry).collect();
                format!("Promise {ballot} accepted [{}]", accepted.join(", "))
            }
            Message::Accept { ballot, first, values, decided_upto, .. } => {
                let values: Vec<String> = values.0.iter().map(text).collect();
                format!("Accept {ballot} from {first} [{}] decided {decided_upto}", values.join(", "))
            }
            Message::Accepted { ballot, votes, upto, .. } => format!("Accepted {ballot} upto {upto}{}", vote(*votes)),
            Message::Heartbeat { ballot, asked_at, sent_upto, stream_start, decided_upto, .. } => format!(
                "Heartbeat {ballot} asked {} sent {sent_upto} stream {stream_start} decided {decided_upto}",
                millis(*asked_at)
            ),
            Message::Granted { ballot, asked_at, votes, received_upto, applied_upto, .. } => format!(
                "Granted {ballot} asked {} received {received_upto} applied {applied_upto}{}",
                millis(*asked_at),
                vote(*votes)
            ),
            Message::Gap { ballot, received_upto } => format!("Gap {ballot} received {received_upto}"),
            Message::Nak { ballot, promised, decided_upto } => {
                format!("Nak {ballot} promised {promised} decided {decided_upto}")
            }
            Message::Resign { ballot, successor, decided_upto, .. } => {
                let successor = successor.map_or("nobody".to_owned(), |node| node.to_string());
                format!("Resign {ballot} to {successor} decided {decided_upto}")
            }
            Message::Fetch { from } => format!("Fetch from {from}"),
            Message::Fetched { first, entries, decided_upto } => {
                let entries: Vec<String> = entries.0.iter().map(entry_text).collect();
                format!("Fetched from {first} [{}] decided {decided_upto}", entries.join(", "))
            }
            Message::Claim { ballot } => format!("Claim {ballot}"),
            Message::Gone { log_start } => format!("Gone before {log_start}"),
            Message::Recall { incarnation } => format!("Recall {}", self.life(*incarnation)),
            Message::Recalled { votes, blank, promised, accepted_upto, genesis, .. } => {
                let blank = if *blank { " blank" } else { "" };
                let genesis = if genesis.0.is_empty() {
                    String::new()
                } else {
                    format!(" genesis [{}]", self.genesis(&genesis.0))
                };
                format!("Recalled promised {promised} accepted {accepted_upto}{blank}{}{genesis}", vote(*votes))
            }
        }
    }

    fn life(&self, life: Incarnation) -> &str {
        self.0.iter().find(|(known, _)| *known == life).map_or("unknown", |(_, name)| name)
    }

    fn genesis(&self, genesis: &[(NodeId, Incarnation)]) -> String {
        let lives: Vec<&str> = genesis.iter().map(|(_, life)| self.life(*life)).collect();
        lives.join(" ")
    }
}

/// The commands of a batch joined by `+`, or the kind of another value.
fn text(value: &Value) -> String {
    let commands: Vec<Bytes> = value.commands().map(|command| command.expect("batches here are well-formed")).collect();
    if commands.is_empty() { format!("{value:?}") } else { utf8(&commands.join(&b'+')) }
}

pub(crate) fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entry_text(entry: &Entry) -> String {
    format!("{}@{}", text(&entry.value), entry.ballot)
}

fn slot_entry(found: &SlotEntry) -> String {
    format!("{}={}", found.slot, entry_text(&found.entry))
}

fn ballot_of(message: &Message) -> Option<Ballot> {
    match message {
        Message::Canvass { ballot, .. }
        | Message::Canvassed { ballot, .. }
        | Message::Prepare { ballot, .. }
        | Message::Promise { ballot, .. }
        | Message::Accept { ballot, .. }
        | Message::Accepted { ballot, .. }
        | Message::Heartbeat { ballot, .. }
        | Message::Granted { ballot, .. }
        | Message::Gap { ballot, .. }
        | Message::Nak { ballot, .. }
        | Message::Resign { ballot, .. }
        | Message::Claim { ballot } => Some(*ballot),
        Message::Fetch { .. }
        | Message::Fetched { .. }
        | Message::Gone { .. }
        | Message::Recall { .. }
        | Message::Recalled { .. } => None,
    }
}

fn millis(at: Instant) -> String {
    format!("{}ms", at.0 / 1_000_000)
}

fn vote(votes: bool) -> &'static str {
    if votes { "" } else { " without a vote" }
}

fn refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::NotMaster { master: Some(master) } => format!("not master, that is {master}"),
        Refusal::NotMaster { master: None } => "not master".to_owned(),
        Refusal::Overloaded | Refusal::Stopping | Refusal::OutcomeUnknown => format!("{refusal:?}"),
    }
}
