//! What was durable in a log stays there, at its place, but for the records that were damaged (K6).

use std::collections::BTreeMap;

use trialbay_engine::{Memory, Record, Slot};

use super::scrub::{Damage, Found, Place, Scrub, Summary};
use super::{Checked, violation};

/// What is known to be durable in one log.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// By place: where the record ends, and the record.
    records: BTreeMap<Place, (u64, Record)>,
    /// Those that damage took. Whoever damages the same bit once more brings one back.
    lost: BTreeMap<Place, (u64, Record)>,
    /// The bytes that were damaged since the log was compared last.
    damaged: Vec<Place>,
    /// Where the log was cut short. What was behind is gone, and others can come to stand there.
    cut: Option<Place>,
}

impl Kept {
    /// These became durable.
    pub fn learn(&mut self, found: &[Found]) {
        self.records.extend(found.iter().map(|found| (found.place, (found.end, found.record.clone()))));
    }

    /// This byte was damaged.
    pub fn damaged(&mut self, byte: Place) {
        self.damaged.push(byte);
    }

    /// Whether anything is known to have been durable there or behind.
    pub fn reaches(&self, place: Place) -> bool {
        self.records.keys().chain(self.lost.keys()).any(|kept| *kept >= place)
    }

    /// The log was cut off here, between two records, or ends here as it is now.
    pub fn cut_short(&mut self, place: Place) {
        self.records.retain(|kept, _| *kept < place);
        self.lost.retain(|lost, _| *lost < place);
        self.cut = Some(self.cut.map_or(place, |earlier| earlier.min(place)));
    }

    /// Whether the owner of this log, of which the store has durably applied everything up to `stored`, may vote: see
    /// [`votes`]. What was cut off is lost, too.
    pub fn may_vote(&self, found: &[Found], scrub: &Scrub, stored: Slot) -> bool {
        let cut = self.cut.map(Damage::Record);
        let damage: Vec<Damage> = scrub.damage().iter().copied().chain(cut).collect();
        votes(found, &damage, scrub.restated(), stored)
    }

    /// Compares with all that is in the log now, of which the segments before `first` were removed. Gives what is new.
    ///
    /// # Errors
    /// K6, with the name of the log's owner: something is gone that nobody damaged, or appeared before what was known.
    pub fn compare<'a>(
        &mut self,
        owner: &str,
        found: &'a [Found],
        first: u32,
    ) -> Result<&'a [Found], super::Violation> {
        self.records.retain(|place, _| place.segment >= first);
        self.lost.retain(|place, _| place.segment >= first);
        let now: BTreeMap<Place, (u64, Record)> =
            found.iter().map(|found| (found.place, (found.end, found.record.clone()))).collect();
        for (place, noted) in &self.records {
            if now.get(place) == Some(noted) {
                continue;
            }
            if !self.is_taken(*place, noted.0) {
                let (record, is) = (&noted.1, now.get(place));
                return violation("K6", format!("{owner} had {record:?} durable at {place:?}, and there is {is:?}"));
            }
            self.lost.insert(*place, noted.clone());
        }
        let end = self.records.keys().chain(self.lost.keys()).max().copied();
        let is_new = |found: &&Found| !self.records.contains_key(&found.place) && !self.lost.contains_key(&found.place);
        if let Some(early) = found.iter().filter(is_new).find(|found| Some(found.place) < end) {
            return violation("K6", format!("{owner} has {early:?}, which was not there when {end:?} was written"));
        }
        let new = end.map_or(0, |end| found.partition_point(|found| found.place <= end));
        self.lost.retain(|place, _| !now.contains_key(place));
        (self.records, self.damaged) = (now, Vec::new());
        Ok(&found[new..])
    }

    /// Whether damage took the record from here to `end`.
    fn is_taken(&self, place: Place, end: u64) -> bool {
        self.damaged.iter().any(|byte| byte.segment == place.segment && (place.offset..end).contains(&byte.offset))
    }
}

/// Whether the owner of a log with these records and this damage votes: in the life that began last, nothing may be lost
/// since it began, for that may have been a promise (rule V1). A header makes up for all that is lost before it (rule D4), if
/// the store has the entries.
pub fn votes(found: &[Found], damage: &[Damage], restated: &[(u32, Summary)], stored: Slot) -> bool {
    let (mut began, mut votes) = (None, false);
    for said in in_order(found, restated) {
        match said {
            Said::Record(Found { place, record: Record::MemoryBegan(_), .. }) => (began, votes) = (Some(*place), false),
            Said::Record(Found { record: Record::VoteRegained { .. }, .. }) => votes = true,
            Said::Record(_) => {}
            Said::Header(segment, summary) => {
                votes = summary.memory.as_ref().is_some_and(|memory| memory.votes);
                if summary.accepted_upto <= stored {
                    began = began.max(Some(Place { segment, offset: 0 }));
                }
            }
        }
    }
    votes && damage.iter().all(|damage| Some(damage.place()) <= began)
}

/// All that is known of a log: the records that are left, and in their place what headers say of those that are not.
pub fn left(found: &[Found], restated: &[(u32, Summary)]) -> Vec<Record> {
    let mut left = Vec::new();
    let mut life = None;
    for said in in_order(found, restated) {
        match said {
            Said::Record(found) => match found.record {
                // The beginning of that life is lost. A header behind it says it again, or it has no vote.
                Record::VoteRegained { incarnation, .. } if life != Some(incarnation) => {}
                ref record => {
                    if let Record::MemoryBegan(began) = record {
                        life = Some(*began);
                    }
                    left.push(record.clone());
                }
            },
            Said::Header(_, summary) => {
                left.push(Record::Promised(summary.promised));
                let Some(Memory { incarnation, votes, genesis }) = summary.memory.clone() else { continue };
                if life != Some(incarnation) {
                    life = Some(incarnation);
                    left.push(Record::MemoryBegan(incarnation));
                }
                if votes {
                    left.push(Record::VoteRegained { incarnation, genesis });
                }
            }
        }
    }
    left
}

enum Said<'a> {
    Record(&'a Found),
    Header(u32, &'a Summary),
}

fn in_order<'a>(found: &'a [Found], restated: &'a [(u32, Summary)]) -> Vec<Said<'a>> {
    let mut all = Vec::new();
    let mut headers = restated.iter().peekable();
    for found in found {
        while let Some((segment, summary)) = headers.next_if(|(segment, _)| *segment <= found.place.segment) {
            all.push(Said::Header(*segment, summary));
        }
        all.push(Said::Record(found));
    }
    all.extend(headers.map(|(segment, summary)| Said::Header(*segment, summary)));
    all
}

/// K6: whoever lost what may have bound it gives up its vote, and nobody gives it up for nothing.
///
/// # Errors
/// K6.
pub fn votes_as_it_may(owner: &str, now: bool, before: bool, was_harmed: bool, may: bool) -> Checked {
    match (now, before) {
        (true, _) if !may => violation(
            "K6",
            format!("{owner} votes, and its disk lacks what may have been a promise of its present life"),
        ),
        (false, true) if !was_harmed => {
            violation("K6", format!("{owner} gives up its vote, and nothing was taken from it"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use trialbay_engine::{Ballot, Incarnation, NodeId};

    use super::*;

    const LIFE: Incarnation = Incarnation(7);

    fn place(segment: u32, offset: u64) -> Place {
        Place { segment, offset }
    }

    fn promised(round: u64) -> Record {
        Record::Promised(Ballot { round, node: NodeId(1) })
    }

    /// Four records of 20 bytes, two in each segment, the last two in one group.
    fn log() -> Vec<Found> {
        let vote = Record::VoteRegained { incarnation: LIFE, genesis: Vec::new() };
        let records = [Record::MemoryBegan(LIFE), vote, promised(1), promised(2)];
        let places = [place(0, 512), place(0, 532), place(1, 512), place(1, 532)];
        let found = places.into_iter().zip(records);
        found.map(|(place, record)| Found { place, end: place.offset + 20, record }).collect()
    }

    /// What is said when `n1` had the whole log, this byte was damaged, and this is left.
    fn compared(damaged: Option<Place>, left: impl Fn(&mut Vec<Found>)) -> Option<String> {
        let (mut kept, mut now) = (Kept::default(), log());
        kept.learn(&log());
        damaged.into_iter().for_each(|byte| kept.damaged(byte));
        left(&mut now);
        kept.compare("n1", &now, 0).err().map(|broken| format!("{}: {}", broken.checker, broken.story))
    }

    #[test]
    fn a_log_that_only_grew_is_kept_and_what_is_new_is_told() {
        let (mut kept, log) = (Kept::default(), log());
        assert_eq!(kept.compare("n1", &log[..2], 0), Ok(&log[..2]));
        assert_eq!(kept.compare("n1", &log, 0), Ok(&log[2..]));
        assert_eq!(kept.compare("n1", &log, 0), Ok(&[][..]));
    }

    #[test]
    fn what_was_removed_from_the_front_is_not_missed() {
        let (mut kept, log) = (Kept::default(), log());
        kept.learn(&log);
        assert_eq!(kept.compare("n1", &log[2..], 1), Ok(&[][..]));
        assert!(kept.compare("n1", &log[3..], 1).is_err(), "a part of a segment is not removed");
    }

    #[test]
    fn nothing_is_missing_but_what_was_damaged() {
        assert_eq!(compared(None, |_| ()), None);
        for missing in 0..4 {
            let gone = |left: &mut Vec<Found>| drop(left.remove(missing));
            let found = &log()[missing];
            let (first, last) = (found.place, place(found.place.segment, found.end - 1));
            assert_eq!(compared(Some(first), gone), None);
            assert_eq!(compared(Some(last), gone), None);
            let beside =
                [place(first.segment, first.offset - 1), place(first.segment, found.end), place(2, first.offset)];
            for byte in beside.into_iter().map(Some).chain([None]) {
                let story = compared(byte, gone).expect("that was not damaged");
                assert!(story.starts_with("K6: n1 had"), "{story}");
            }
        }
    }

    #[test]
    fn another_record_in_its_place_is_no_record_kept() {
        assert!(compared(None, |left| left[2].record = promised(3)).is_some());
    }

    #[test]
    fn what_was_cut_off_is_not_missed_and_others_may_come_to_stand_there() {
        let (mut kept, mut log) = (Kept::default(), log());
        kept.learn(&log);
        kept.damaged(log[3].place);
        assert_eq!(kept.compare("n1", &log[..3], 0), Ok(&[][..]));
        assert!(kept.reaches(log[3].place) && !kept.reaches(place(1, log[3].end)));
        kept.cut_short(log[2].place);
        assert!(!kept.reaches(log[2].place), "not even what was damaged there");
        (log[2].record, log[2].end) = (promised(3), 540);
        log[3].place.offset = 540;
        assert_eq!(kept.compare("n1", &log, 0), Ok(&log[2..]));
    }

    #[test]
    fn nothing_appears_where_something_was_written_behind_it() {
        let (mut kept, log) = (Kept::default(), log());
        kept.learn(&[log[0].clone(), log[3].clone()]);
        assert!(kept.compare("n1", &log, 0).unwrap_err().story.contains("was not there"));
    }

    #[test]
    fn what_damage_took_comes_back_when_the_same_bit_flips_again() {
        let (mut kept, log) = (Kept::default(), log());
        kept.learn(&log);
        kept.damaged(log[1].place);
        let left = [&log[..1], &log[2..]].concat();
        assert_eq!(kept.compare("n1", &left, 0), Ok(&[][..]));
        assert_eq!(kept.compare("n1", &log, 0), Ok(&[][..]));
        kept.compare("n1", &left, 0).expect_err("it is known again");
    }

    #[test]
    fn a_vote_ends_with_what_was_lost_of_its_life() {
        let log = log();
        assert!(votes(&log, &[], &[], Slot::ZERO));
        assert!(!votes(&log[..1], &[], &[], Slot::ZERO), "it never had it");
        assert!(!votes(&log, &[Damage::Record(place(1, 552))], &[], Slot::ZERO));
        assert!(!votes(&log, &[Damage::Header { segment: 1 }], &[], Slot::ZERO));
        assert!(votes(&log, &[Damage::Header { segment: 0 }], &[], Slot::ZERO));
        assert!(!votes(&log[1..], &[Damage::Record(place(0, 512))], &[], Slot::ZERO), "the life itself");
        assert!(!votes(&[&log[..], &log[..1]].concat(), &[], &[], Slot::ZERO), "another life began");
    }

    #[test]
    fn a_header_makes_up_for_what_is_lost_before_it_if_the_store_has_the_entries() {
        let memory = |votes| Some(Memory { incarnation: LIFE, votes, genesis: Vec::new() });
        let header = |memory| {
            let promised = Ballot { round: 1, node: NodeId(1) };
            (1, Summary { promised, accepted_upto: Slot(5), memory, ..Summary::empty() })
        };
        let lost = [Damage::Header { segment: 0 }, Damage::Record(place(0, 512))];
        let behind = &log()[2..];
        assert!(votes(behind, &lost, &[header(memory(true))], Slot(5)));
        assert!(!votes(behind, &lost, &[header(memory(true))], Slot(4)), "entries are lost");
        assert!(!votes(behind, &lost, &[header(memory(false))], Slot(5)));
        assert!(!votes(behind, &lost, &[header(None)], Slot(5)));
        let more = [lost[0], Damage::Record(place(1, 512))];
        assert!(!votes(behind, &more, &[header(memory(true))], Slot(5)), "and something behind it");
        let vote = Record::VoteRegained { incarnation: LIFE, genesis: Vec::new() };
        let said = [promised(1), Record::MemoryBegan(LIFE), vote, promised(1), promised(2)];
        assert_eq!(left(behind, &[header(memory(true))]), said);
        assert_eq!(left(&log()[1..], &[header(memory(true))]), said, "whose vote the first record is, is not known");
    }

    #[test]
    fn a_vote_is_kept_exactly_when_it_may_be() {
        for (now, before, was_harmed, may) in
            [(true, true, false, true), (true, true, true, true), (false, true, true, false)]
        {
            assert_eq!(votes_as_it_may("n1", now, before, was_harmed, may), Ok(()));
        }
        for (now, before, was_harmed, may) in
            [(true, true, true, false), (true, false, false, false), (false, true, false, true)]
        {
            assert_eq!(votes_as_it_may("n1", now, before, was_harmed, may).unwrap_err().checker, "K6");
        }
    }
}
