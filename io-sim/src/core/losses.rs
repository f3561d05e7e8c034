//! Steps that take from a node what it remembers: its disk, a byte of its log, the end of its log.

use std::cmp::Ordering;
use std::path::Path;

use trialbay_engine::{NodeId, Record, Slot};

use super::{Happening, World};
use crate::check::Checked;
use crate::check::bounds::Logged;
use crate::check::kept::Kept;
use crate::check::scrub::Place;
use crate::rng::Rng;
use crate::scenario::{Budget, Who};

impl World {
    pub(super) fn wipe(&mut self, node: Who, down: u64) -> Checked {
        let id = self.who(node);
        if !self.may_lose_memory(id) {
            return Ok(());
        }
        self.crash(id, false)?;
        let event = self.event;
        let node = self.node(id);
        node.disk.wipe();
        (node.kept, node.logged) = (Kept::default(), Logged::default());
        node.durable_store = super::store::Store::default();
        node.trimmed_upto = Slot::ZERO;
        node.disk_was_harmed = true;
        self.fault(vec![id], Some(down), format!("{id} loses its disk"));
        self.mark("wipes");
        self.schedule(down, Happening::Start { node: id });
        self.ledger.forgotten(id, &[], false, event)
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
        let place = segments.get(index).and_then(|path| Some((path, node.disk.rot(path)?)));
        node.disk_was_harmed |= place.is_some();
        let byte = place.and_then(|(path, offset)| Place::in_file(path, offset));
        if let Some((path, _)) = place.filter(|(path, _)| is_archive(path)) {
            // Each record in it may be lost, or none.
            let here = before.iter().map(|found| found.place).filter(|place| Some(place.segment) == number_of(path));
            here.for_each(|place| node.kept.damaged(place, None));
        } else if let Some(byte) = byte {
            let mut scrub = super::node::new_scrub(id);
            let _ = scrub.advance(&node.disk);
            node.kept.damaged(byte, scrub.torn());
        }
        if byte.is_some() {
            node.logged.damages += 1;
            self.availability.damaged(id);
        }
        let text = match place {
            Some((path, byte)) => format!("{id} is down, and byte {byte} of {} is damaged", path.display()),
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
        // A header tells of what was before it.
        let header = scrub.restated().iter().find(|(_, said)| said.accepted_upto.max(said.decided.0) >= stored);
        let is_behind = |place: Place| header.is_some_and(|(segment, _)| place.segment >= *segment);
        let reaches = |record: &Record| match record {
            Record::Accepted(accepted) => accepted.slot >= stored,
            Record::Decided { upto, .. } => *upto >= stored,
            Record::Promised(_) | Record::MemoryBegan(_) | Record::VoteRegained { .. } => false,
        };
        let reaching = records.iter().position(|found| reaches(&found.record) || is_behind(found.place));
        // The one before goes as well: the word of a head may stand between the two.
        let last = reaching.and_then(|reaching| reaching.checked_sub(1)).filter(|_| stored > Slot::ZERO);
        let first_lost = last.map(|last| rng.between(last as u64 / 2, last as u64));
        let first_lost = first_lost.and_then(|first| usize::try_from(first).ok());
        let place = first_lost.map(|first| records[first].place);
        let text = match place {
            Some(place) => {
                node.disk_was_harmed = true;
                let tlogs = super::disk::home(id).join("tlogs");
                let paths: Vec<_> = node.disk.files().into_iter().filter(|path| path.starts_with(&tlogs)).collect();
                for path in &paths {
                    match number_of(path).cmp(&Some(place.segment)) {
                        Ordering::Less => {}
                        Ordering::Equal if !is_archive(path) => node.disk.cut_short(path, place.offset),
                        Ordering::Equal | Ordering::Greater => node.disk.lose(path),
                    }
                }
                let is_cut = paths.iter().any(|path| number_of(path) == Some(place.segment) && !is_archive(path));
                // Of an archive nothing is left: the log ends behind the last record of an earlier segment.
                let before = records.iter().rfind(|found| found.place.segment < place.segment);
                let end =
                    before.map_or(Place { segment: 0, offset: 0 }, |found| Place { offset: found.end, ..found.place });
                node.kept.cut_short(if is_cut { place } else { end });
                // What was damaged before may pass for an unfinished write now, and takes what is behind it along.
                let mut scrub = super::node::new_scrub(id);
                let _ = scrub.advance(&node.disk);
                if let Some(torn) = scrub.torn() {
                    node.kept.cut_short(torn);
                }
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
        let tolerable = voters.len() >= 3 && remembering.len() == voters.len();
        !voters.contains(&id) || tolerable || self.scenario.budget != Budget::Tolerable && others > 0
    }

    /// Whether this node's votes count, and will when it starts again.
    pub(super) fn remembers(&self, id: NodeId) -> bool {
        let node = &self.nodes[usize::from(id.0) - 1];
        self.ledger.votes(id) && !node.disk_was_harmed
    }
}

/// Whether this is a segment that was compressed.
fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|form| form == "tlx")
}

/// The number of a segment of a log.
fn number_of(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.parse().ok()
}
