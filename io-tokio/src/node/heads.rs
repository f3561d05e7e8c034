//! Heads, for the driver: giving them to others, and getting one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use trialbay_engine::{Event, NodeId, Slot};

use super::driver::{Reply, StorageEvent};
use super::handle::HeadView;
use crate::head::{Giver, NotTaken, Taker, Taking};
use crate::peer::HeadStream;
use crate::store::{Head, StoreWriter};
use crate::tlog::LogWriter;
use crate::watched;

/// What is done about heads. Never more than one is got at a time.
pub(super) struct Heads {
    giver: Giver,
    taker: Taker,
    reports: mpsc::UnboundedSender<StorageEvent>,
    applied: Arc<watched::Sender<Slot>>,
    names: BTreeMap<NodeId, String>,
    taking: Option<Taking>,
    givings: JoinSet<()>,
}

impl Heads {
    pub(super) fn new(
        giver: Giver,
        taker: Taker,
        reports: mpsc::UnboundedSender<StorageEvent>,
        applied: Arc<watched::Sender<Slot>>,
        names: BTreeMap<NodeId, String>,
    ) -> Self {
        Self { giver, taker, reports, applied, names, taking: None, givings: JoinSet::new() }
    }

    /// Gives a head to a peer that asks for one.
    pub(super) fn give(&mut self, to: NodeId, on: HeadStream) {
        // Those that have ended leave nothing behind.
        while self.givings.try_join_next().is_some() {}
        self.givings.spawn(self.giver.clone().serve(to, self.name(to), on));
    }

    /// Begins to get a head that is beyond `decided` from a peer.
    pub(super) fn take(&mut self, from: NodeId, decided: Slot) {
        tracing::info!(
            from = self.name(from),
            decided_upto = decided.0,
            "no log has what this node lacks: getting a head"
        );
        let reports = self.reports.clone();
        self.taking = Some(self.taker.start(from, decided, move |taken| {
            // The driver may have ended.
            let _ = reports.send(StorageEvent::HeadTaken(taken));
        }));
    }

    /// Has the log know of the head that was got (rule F3). Without a word of it there, a store that is ahead of its log would pass
    /// for one whose log was lost.
    pub(super) fn announce(&self, head: Head, tlog: &LogWriter) {
        let reports = self.reports.clone();
        tlog.announce_head(head.slot, head.hash, move || {
            // The driver may have ended.
            let _ = reports.send(StorageEvent::HeadAnnounced);
        });
    }

    /// Has the store become the head that was got.
    pub(super) fn install(&self, store: &StoreWriter<Vec<Reply>>) {
        let (reports, applied) = (self.reports.clone(), self.applied.clone());
        store.install(self.taker.place.clone(), move |installed| {
            let event = match installed {
                Ok(head) => {
                    applied.set(head.slot);
                    StorageEvent::HeadInstalled(head)
                }
                Err(why) => StorageEvent::HeadTaken(Err(why.into())),
            };
            // The driver may have ended.
            let _ = reports.send(event);
        });
    }

    /// The head that was got is the store now.
    pub(super) fn installed(&mut self, head: Head) -> Event {
        self.taking = None;
        tracing::info!(slot = head.slot.0, keys = head.entries, "installed a head");
        Event::HeadInstalled { slot: head.slot, hash: head.hash }
    }

    /// No head was got, or it was not installed. Gives the peer that is to be blamed, and for what.
    pub(super) fn failed(&mut self, why: &NotTaken) -> Option<(NodeId, &'static str)> {
        let from = self.taking.take()?.from();
        tracing::warn!(from = self.name(from), %why, "got no head");
        match why {
            NotTaken::Broken(what) => Some((from, what)),
            _ => None,
        }
    }

    /// The head that is on its way.
    pub(super) fn view(&self) -> Option<HeadView> {
        let taking = self.taking.as_ref()?;
        let seen = taking.seen();
        Some(HeadView {
            from: self.name(taking.from()),
            slot: seen.slot.0,
            keys: seen.entries,
            keys_all: seen.entries_all,
        })
    }

    /// Gives up what is on its way, in both directions.
    pub(super) async fn stop(mut self) {
        if let Some(taking) = self.taking {
            taking.stop().await;
        }
        self.givings.shutdown().await;
    }

    fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| "a stranger".to_owned())
    }
}
