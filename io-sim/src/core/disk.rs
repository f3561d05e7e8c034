//! A node's disk side: opening its log, writing to it, and what the checkers read off the disk by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trialbay::identity::Identity;
use trialbay::tlog::{Note, RecoveredLog, Tlog, TlogOptions};
use trialbay_engine::{Event, NodeId, PersistId, Record, Recovered, Slot};

use super::store::Store;
use super::{Happening, World};
use crate::check::bounds::frame_bytes;
use crate::check::kept::{self, votes_as_it_may};
use crate::check::scrub::Found;
use crate::check::{Checked, violation};
use crate::mutant::Mutant;
use crate::scenario::{self, MS, S};

/// How many bytes of values are read from a log at a time.
const REPLAY_BYTES: usize = 1 << 20;

/// How many bytes a log reserves at a time, if its segments are longer.
const RESERVE_BYTES: u64 = 8 << 20;

/// A log that was opened, and the store that was brought up to it.
pub(super) struct Opened {
    pub(super) tlog: Tlog,
    pub(super) recovered: Recovered,
    pub(super) store: Store,
}

/// Whose logs these are.
pub(crate) fn identity(id: NodeId) -> Identity {
    Identity { cluster_id: "sim".into(), node: id, name: id.to_string() }
}

/// Where a node's files are on its disk.
pub(crate) fn home(id: NodeId) -> PathBuf {
    Path::new("/").join(id.to_string())
}

impl World {
    /// Opens a node's log and brings its store to the end of the decided prefix. `None`: the disk does not let it.
    pub(super) fn open(&mut self, id: NodeId) -> Result<Option<Opened>, crate::check::Violation> {
        let scenario::Disk { segment_bytes, retention_bytes, .. } = self.scenario.disk;
        let bugs = self.bugs;
        let replays = self.mutant != Some(Mutant::ReplaySkipped);
        let only_counts = self.scenario.is_witness(id);
        let node = self.node(id);
        let lost_upto = node.lost_upto;
        let mut store = node.durable_store.clone();
        store.map.bugs = bugs;
        store.only_counts = only_counts;
        let options = TlogOptions {
            segment_bytes,
            // A witness keeps all of it (rule E3).
            retention_bytes: if only_counts { u64::MAX } else { retention_bytes },
            compress: true,
            #[cfg(feature = "planted-bugs")]
            planted: bugs.in_node(),
        };
        let disk = Arc::new(node.disk.for_process());
        let opened = Tlog::open(disk, &home(id), identity(id), options, (store.applied, store.hash));
        let (tlog, RecoveredLog { mut recovered, damage, notes }) = match opened {
            Ok(opened) => opened,
            // A full or failing disk: a later start may do better.
            Err(_) if node.disk_is_troubled => return Ok(None),
            Err(error) => return violation("K13", format!("{id} cannot open its log: {error}")),
        };
        node.disk_is_troubled = node.disk_is_full;
        let log = tlog.reader();
        while store.applied < recovered.decided_upto {
            let entries = log.read(store.applied.next(), recovered.decided_upto, REPLAY_BYTES);
            let entries = match entries {
                Ok(entries) if !entries.is_empty() => entries,
                outcome => return violation("K6", format!("{id} cannot replay its log: {outcome:?}")),
            };
            for found in entries {
                let replays = replays && found.slot > lost_upto;
                let hash = store.hash.extend(found.slot, &found.entry.value);
                if replays {
                    store.apply(found.slot, hash, &found.entry.value);
                } else {
                    (store.applied, store.hash) = (found.slot, hash);
                }
            }
        }
        if store.hash != recovered.decided_hash {
            return violation("K5", format!("{id} replays another history than its log has recorded"));
        }
        if !damage.is_empty() {
            self.mark("damaged logs");
        }
        if notes.iter().any(|note| matches!(note, Note::TornTail { .. })) {
            self.mark("torn tails");
        }
        let node = self.node(id);
        recovered.log_start = recovered.log_start.max(node.trimmed_upto.next()).min(recovered.decided_upto.next());
        Ok(Some(Opened { tlog, recovered, store }))
    }

    /// K6: what the checkers knew to be durable is still there, but for what was damaged. What else is there they learn now.
    pub(super) fn examine(&mut self, id: NodeId, recovered: &Recovered) -> Checked {
        let event = self.event;
        self.ledger.started(id);
        self.bounds.started(id, recovered.undecided.len() as u64)?;
        self.node(id).logged.seals += 1;
        self.check_log_size(id)?;
        let before = self.ledger.votes(id);
        let node = self.node(id);
        node.scrub = super::node::new_scrub(id);
        let found = match node.scrub.advance(&node.disk) {
            Ok(found) => found,
            Err(error) => return violation("K6", format!("the log of {id} makes no sense: {error}")),
        };
        let new = node.kept.compare(&id.to_string(), &found, node.scrub.first())?;
        let stored = node.durable_store.applied;
        if let Some((first, before)) = node.scrub.base().filter(|(_, before)| before.accepted_upto > stored) {
            let accepted = before.accepted_upto;
            let story = format!("{id} removed what is before segment {first}, up to {accepted}, and stores {stored}");
            return violation("K6", story);
        }
        let harmed = std::mem::take(&mut node.disk_was_harmed);
        let may = node.kept.may_vote(&found, &node.scrub, stored);
        let votes = recovered.memory.as_ref().is_some_and(|memory| memory.votes);
        votes_as_it_may(&id.to_string(), votes, before, harmed, may)?;
        if harmed {
            let left = kept::left(&found, node.scrub.restated());
            self.ledger.forgotten(id, &left, votes, event)?;
            // Of a log nothing may be left, and the store is there.
            self.ledger.stored(id, stored);
            return Ok(());
        }
        new.iter().try_for_each(|found| self.ledger.durable(id, &found.record, event))
    }

    /// K10: a log takes no more room than it needs, but for an archive that is being made.
    pub(super) fn check_log_size(&self, id: NodeId) -> Checked {
        let node = &self.nodes[usize::from(id.0) - 1];
        let paths = node.disk.files();
        let is_made = |path: &&PathBuf| match path.extension().and_then(|form| form.to_str()) {
            Some("new") => true,
            Some("tlx") => paths.contains(&path.with_extension("tlog")),
            _ => false,
        };
        let (made, files): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(is_made);
        let made_bytes: u64 =
            made.into_iter().filter_map(|path| node.disk.read_now(path)).map(|it| it.len() as u64).sum();
        let bytes = node.disk.total_bytes() - made_bytes;
        let reserve = self.scenario.disk.segment_bytes.min(RESERVE_BYTES);
        self.bounds.fills(id, &node.logged, bytes, files.len() as u64, reserve)
    }

    pub(super) fn persist(&mut self, id: NodeId, batch: PersistId, records: Vec<Record>) {
        let early = self.mutant == Some(Mutant::PersistedEarly);
        let node = self.node(id);
        let life = node.life;
        node.logged.frames += records.iter().map(frame_bytes).sum::<u64>();
        if let Some(process) = &mut node.process {
            process.ordered = batch;
            process.unwritten.push_back((batch, records));
        }
        if early {
            self.schedule(0, Happening::SyncClaimed { node: id, life, id: batch });
        }
        self.begin_sync(id);
    }

    /// Writes some of what waits, one batch or a group, and begins a sync of it.
    fn begin_sync(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        if process.syncing.is_some() || process.unwritten.is_empty() {
            return;
        }
        let waiting = process.unwritten.len() as u64;
        let group = if node.rng.chance(0.7) { waiting } else { node.rng.between(1, waiting) };
        let group: Vec<_> = process.unwritten.drain(..usize::try_from(group).unwrap_or(1)).collect();
        process.syncing = group.last().map(|(last, _)| *last);
        let tlog = &mut process.tlog;
        // A write that fails is told when the sync fails.
        let appended = group.iter().try_for_each(|(_, records)| tlog.append(records));
        let _ = appended.and_then(|()| tlog.write());
        let (life, delay) = self.disk_delay(id);
        self.schedule(delay, Happening::Synced { node: id, life });
    }

    /// A sync comes to its end.
    pub(super) fn synced(&mut self, id: NodeId) -> Checked {
        let event = self.event;
        let last = match self.end_sync(id) {
            Ok(last) => last,
            Err(last) if self.mutant == Some(Mutant::FailedSyncBelieved) => last,
            Err(_) => {
                self.mark("disk failures");
                return self.step(id, Event::StorageFailed);
            }
        };
        let node = self.node(id);
        let found = match node.scrub.advance(&node.disk) {
            Ok(found) => found,
            Err(error) => return violation("K6", format!("the log of {id} makes no sense: {error}")),
        };
        node.kept.learn(&found);
        for Found { record, .. } in &found {
            self.ledger.durable(id, record, event)?;
            if let Record::VoteRegained { genesis, .. } = record {
                self.mark(if genesis.is_empty() { "votes regained" } else { "births" });
            }
        }
        self.checkpoint_if_logged(id);
        self.begin_sync(id);
        if self.mutant == Some(Mutant::NullPersistedTwice) {
            let life = self.node(id).life;
            self.schedule(MS, Happening::SyncClaimed { node: id, life, id: last });
        }
        self.trace(5, u64::from(id.0), last.0);
        self.step(id, Event::Persisted(last))
    }

    /// Syncs what was written, and gives its last batch: as an error when the disk fails.
    fn end_sync(&mut self, id: NodeId) -> Result<PersistId, PersistId> {
        let node = self.node(id);
        let Some(process) = &mut node.process else { return Err(PersistId::default()) };
        let last = process.syncing.take().unwrap_or(process.persisted);
        node.logged.seals += 1;
        let synced = process.tlog.sync();
        let is_idle = process.unwritten.is_empty();
        synced.and_then(|()| if is_idle { process.tlog.seal() } else { Ok(()) }).map_err(|_| last)?;
        process.persisted = last;
        Ok(last)
    }

    /// The store is due to be made durable: as soon as the log holds what it rests on.
    pub(super) fn checkpoint(&mut self, id: NodeId) {
        let early = self.mutant == Some(Mutant::StoreAheadOfLog);
        let mean = self.scenario.disk.checkpoint.0;
        let node = self.node(id);
        if let Some(process) = &mut node.process
            && process.checkpoint.is_none()
        {
            let rests_on = if early { PersistId::default() } else { process.ordered };
            process.checkpoint = Some((process.store.clone(), rests_on));
        }
        let (life, delay) = (node.life, node.rng.below(2 * mean));
        self.checkpoint_if_logged(id);
        self.schedule(delay, Happening::Checkpoint { node: id, life });
    }

    fn checkpoint_if_logged(&mut self, id: NodeId) {
        let without_data = self.mutant == Some(Mutant::AppliedBeforeData);
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        if let Some((mut store, _)) = process.checkpoint.take_if(|(_, rests_on)| *rests_on <= process.persisted) {
            let applied = store.applied;
            if without_data {
                store.map = std::mem::take(&mut node.durable_store.map);
            }
            node.durable_store = store;
            self.ledger.stored(id, applied);
        }
    }

    /// What a peer asks the log for. What counts as removed is not there.
    pub(super) fn read_log(&mut self, id: NodeId, peer: NodeId, from: Slot, upto: Slot, bytes_max: usize) -> Checked {
        let node = self.node(id);
        let Some(process) = &node.process else { return Ok(()) };
        let entries = if from <= node.trimmed_upto {
            Vec::new()
        } else {
            process.log.read(from, upto, bytes_max).unwrap_or_default()
        };
        self.step(id, Event::LogRead { peer, entries })
    }

    pub(super) fn fetch_head(&mut self, id: NodeId, from: NodeId) -> Checked {
        let head = self.node(from).process.as_ref().map(|peer| peer.store.clone());
        let in_part = self.mutant == Some(Mutant::HeadInPart);
        let unannounced = self.mutant == Some(Mutant::HeadNotAnnounced);
        let only_counts = self.scenario.is_witness(id);
        let reachable = !self.network.is_cut(from, id) && !self.network.is_cut(id, from);
        let node = self.node(id);
        let Some(process) = &mut node.process else { return Ok(()) };
        let is_idle = process.apply_queue.is_empty() && process.syncing.is_none() && process.unwritten.is_empty();
        let head = head.map(|mut head| {
            head.only_counts = only_counts;
            if only_counts {
                head.map.keys.clear();
            }
            if in_part {
                head.map.keys.pop_last();
            }
            head
        });
        let head = head.filter(|head| reachable && is_idle && head.applied > process.store.applied);
        // The log hears of it before the store has it durable (rule F3).
        let tlog = &mut process.tlog;
        let mut announce = |head: &Store| tlog.announce_head(head.applied, head.hash).and_then(|()| tlog.sync());
        match head.filter(|head| unannounced || announce(head).is_ok()) {
            Some(head) => {
                let (slot, hash) = (head.applied, head.hash);
                process.ordered_upto = process.ordered_upto.max(slot);
                process.checkpoint = None;
                node.durable_store = head.clone();
                process.store = head;
                self.ledger.stored(id, slot);
                self.mark("heads installed");
                self.check_state(id)?;
                if self.dies_after_head(id)? {
                    return Ok(());
                }
                self.step(id, Event::HeadInstalled { slot, hash })
            }
            None => self.step(id, Event::HeadFailed),
        }
    }

    /// Its engine never hears of the head, and notes nothing of it in the log.
    fn dies_after_head(&mut self, id: NodeId) -> Result<bool, crate::check::Violation> {
        if self.calm || !self.node(id).upkeep_rng.chance(0.2) {
            return Ok(false);
        }
        let down = self.scenario.cluster.lease.0;
        self.mark("deaths after a head");
        self.crash(id, true)?;
        self.schedule(down, Happening::Start { node: id });
        Ok(true)
    }

    /// How long a sync takes, or a read of the log; and the life in which it is asked for.
    pub(super) fn disk_delay(&mut self, id: NodeId) -> (u64, u64) {
        let (now, min, max) = (self.now, self.scenario.disk.sync_min.0, self.scenario.disk.sync_max.0);
        let node = self.node(id);
        let mut delay = node.rng.between(min, max);
        if now < node.slow_until {
            delay += node.rng.magnitude(MS, S);
        }
        (node.life, delay)
    }

    /// The process is about to die. It may get a little further before: end its sync, and write the next group in part.
    pub(super) fn die_while_writing(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(process) = &mut node.process else { return };
        if process.syncing.is_some() && node.rng.chance(0.5) {
            let changes = node.rng.below(6);
            node.disk.power_fails_after(changes);
            // Nobody is left to be told how it went.
            let _ = self.end_sync(id);
            self.begin_sync(id);
        } else if node.upkeep_rng.chance(0.5) {
            self.die_while_keeping_log(id);
        }
    }
}
