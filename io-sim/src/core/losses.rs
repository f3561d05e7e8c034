//! Steps that take from a node what it remembers: its disk, a byte of its log, the end of its log.

use std::cmp::Ordering;
use std::path::Path;

use trialbay_engine::{NodeId, Record, Slot};

use super::{Happening, World};
use crate::check::Checked;
use crate::check::bounds::Logged;
use crate::check::kept::Kept;
use crate::check::scrub::{Found, Place, Scrub, Summary};
use crate::rng::Rng;
use crate::scenario::{Budget, Who};

impl World {
    pub(super) fn wipe(&mut self, node: Who, down: u64) -> Checked {
        let id = self.who(node);
        if !self.may_lose_memory(id) {
            return Ok(());
        }
        self.crash(id, false)?;
        let node = self.node(id);
        node.disk.wipe();
        (node.kept, node.logged) = (Kept::default(), Logged::default());
        node.durable_store = super::store::Store::default();
        node.trimmed_upto = Slot::ZERO;
        node.disk_was_harmed = true;
        self.fault(vec![id], Some(down), format!("{id} loses its disk"));
        self.mark("wipes");
        self.schedule(down, Happening::Start { node: id });
        self.ledger.wiped(id);
        Ok(())
    }

    pub(super) fn damage(&mut self, node: Who, down: u64, rng: &mut Rng) -> Checked {
        let id = self.who(node);
        if !self.may_lose_memory(id) {
            return Ok(());
        }
        self.crash(id, false)?;
        let tlogs = super::disk::home(id).join("tlogs");
        let node = self.node(id);
        let segments: Vec<_> = node.disk.durable_files().into_iter().filter(|path| path.starts_with(&tlogs)).collect();
        let index = usize::try_from(rng.below(segments.len() as u64)).unwrap_or(0);
        // Whether it makes sense is asked at the next start.
        let before = super::node::new_scrub(id).advance(&node.disk).unwrap_or_default();
        let rotten = segments.get(index).and_then(|path| Some((path, node.disk.rot(path)?)));
        let rotten = rotten.filter(|(path, (offset, bit))| {
            let mut scrub = super::node::new_scrub(id);
            let _ = scrub.advance(&node.disk);
            // No log can tell what was durable from a write that was never finished, when nothing behind it is left.
            let is_hidden = scrub.torn().is_some_and(|torn| node.kept.reaches(torn));
            if is_hidden {
                node.disk.flip(path, *offset, *bit);
            }
            !is_hidden
        });
        if let Some((path, (offset, _))) = rotten {
            node.disk_was_harmed = true;
            node.gone_upto = node.durable_store.applied;
            if is_archive(path) {
                // Each record in it may be lost, or none.
                let here = before.iter().filter(|found| Some(found.place.segment) == number_of(path));
                here.for_each(|found| node.kept.damaged(found.place));
            } else {
                Place::in_file(path, offset).into_iter().for_each(|byte| node.kept.damaged(byte));
            }
            node.logged.damages += 1;
            self.availability.damaged(id);
        }
        let text = match rotten {
            Some((path, (byte, _))) => format!("{id} is down, and byte {byte} of {} is damaged", path.display()),
            None => format!("{id} is down"),
        };
        self.fault(vec![id], Some(down), text);
        self.mark("damages");
        self.schedule(down, Happening::Start { node: id });
        Ok(())
    }

    /// Everything goes from some record on, and that one is before the last slot that the store has durably applied: a log
    /// that ends behind that looks like one that never was longer.
    pub(super) fn lose_end(&mut self, node: Who, down: u64, rng: &mut Rng) -> Checked {
        let id = self.who(node);
        if !self.may_lose_memory(id) {
            return Ok(());
        }
        self.crash(id, false)?;
        let node = self.node(id);
        let stored = node.durable_store.applied;
        let mut scrub = super::node::new_scrub(id);
        let records = scrub.advance(&node.disk).unwrap_or_default();
        let last = last_to_lose(&scrub, &records, stored);
        let first_lost = last.map(|last| rng.between(last as u64 / 2, last as u64));
        let place = first_lost.and_then(|first| usize::try_from(first).ok()).map(|first| records[first].place);
        let text = match place {
            Some(place) => {
                node.disk_was_harmed = true;
                node.gone_upto = stored;
                let tlogs = super::disk::home(id).join("tlogs");
                let paths = node.disk.files();
                for path in paths.iter().filter(|path| path.starts_with(&tlogs)) {
                    match number_of(path).cmp(&Some(place.segment)) {
                        Ordering::Less => {}
                        Ordering::Equal if !is_archive(path) => node.disk.cut_short(path, place.offset),
                        Ordering::Equal | Ordering::Greater => node.disk.lose(path),
                    }
                }
                let is_cut = paths.iter().any(|path| number_of(path) == Some(place.segment) && !is_archive(path));
                // Nothing is left of an archive: the log ends behind the last record of an earlier segment.
                let before = records.iter().rfind(|found| found.place.segment < place.segment);
                let end = match before {
                    _ if is_cut => place,
                    Some(found) => Place { offset: found.end, ..found.place },
                    None => Place { segment: 0, offset: 0 },
                };
                let mut scrub = super::node::new_scrub(id);
                // Whether it makes sense is asked at the next start.
                let _ = scrub.advance(&node.disk);
                // What was damaged before looks like the end, when what showed that it was durable is gone.
                node.kept.cut_short(scrub.torn().map_or(end, |torn| torn.min(end)));
                format!("{id} is down, and its log is lost from byte {} of segment {} on", place.offset, place.segment)
            }
            None => format!("{id} is down"),
        };
        self.fault(vec![id], Some(down), text);
        if place.is_some() {
            self.mark("log ends lost");
        }
        self.schedule(down, Happening::Start { node: id });
        Ok(())
    }

    /// Memory is lost by one node at a time, and only while all others remember everything: more is not tolerable.
    fn may_lose_memory(&self, id: NodeId) -> bool {
        let voters = self.scenario.voters();
        let remembering: Vec<NodeId> = voters.iter().copied().filter(|other| self.remembers(*other)).collect();
        let others = remembering.iter().filter(|other| **other != id).count();
        let has_data = |node: &NodeId| *node != id && !self.scenario.is_witness(*node);
        let stored = |node: &NodeId| self.nodes[usize::from(node.0) - 1].durable_store.applied;
        let stored = voters.iter().filter(|node| has_data(node)).map(stored).max();
        // What a witness has lost it does not get back (rule E3): then others have to know that it is decided.
        let witnesses = self.nodes.iter().filter(|node| self.scenario.is_witness(node.id));
        let is_known = witnesses.map(|witness| witness.gone_upto).max() <= stored;
        let tolerable = voters.len() >= 3 && remembering.len() == voters.len() && is_known;
        !voters.contains(&id) || tolerable || self.scenario.budget != Budget::Tolerable && others > 0
    }

    /// Whether this node's votes count, and will when it starts again.
    pub(super) fn remembers(&self, id: NodeId) -> bool {
        let node = &self.nodes[usize::from(id.0) - 1];
        self.ledger.votes(id) && !node.disk_was_harmed
    }
}

/// The last record with which the end of a log may be lost so that it shows: what is left ends before `stored`.
fn last_to_lose(scrub: &Scrub, records: &[Found], stored: Slot) -> Option<usize> {
    let reaches = |record: &Record| match record {
        Record::Accepted(accepted) => accepted.slot >= stored,
        Record::Decided { upto, .. } => *upto >= stored,
        Record::Promised(_) | Record::MemoryBegan(_) | Record::VoteRegained { .. } => false,
    };
    let mut last = records.iter().position(|found| reaches(&found.record)).filter(|_| stored > Slot::ZERO);
    if let Some((head, _)) = scrub.head().filter(|(_, slot)| *slot >= stored) {
        // A log that ends behind the head that its store took may well end there.
        last = last.min(records.iter().rposition(|found| found.place < head));
    }
    // A header tells of what was before it.
    let tells = |said: &Summary| said.accepted_upto.max(said.decided.0).max(said.head.0) >= stored;
    if let Some((segment, _)) = scrub.restated().iter().find(|(_, said)| tells(said)) {
        last = last.min(records.iter().rposition(|found| found.place.segment < *segment));
    }
    last
}

/// Whether this is a segment that was compressed.
fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|form| form == "tlx")
}

/// The number of a segment of a log.
fn number_of(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.parse().ok()
}
