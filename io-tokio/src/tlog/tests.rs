//! Tests of the log as a whole: every way to break a small one, and power cuts at every moment.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trialbay_engine::{Ballot, HistoryHash, Incarnation, Memory, Record, Recovered, Slot, SlotEntry};

use super::record::{HEAD_BYTES, Head};
use super::segment::HEADER_BYTES;
use super::testing::*;
use super::*;

const SEGMENT_BYTES: u64 = 1200;

/// One group each.
fn groups() -> Vec<Vec<Record>> {
    let hash = hash_of(&[entry(1, 1, b"one"), entry(2, 1, b"two")]);
    vec![
        vec![Record::MemoryBegan(Incarnation(7)), regained(7)],
        vec![Record::Promised(ballot(1))],
        vec![accepted(1, 1, b"one"), accepted(2, 1, b"two")],
        vec![
            accepted(3, 1, b"three"),
            Record::Decided { upto: Slot(2), hash },
            accepted(4, 1, b"four"),
        ],
    ]
}

fn records() -> Vec<Record> {
    groups().concat()
}

fn write(tlog: &mut Tlog, groups: &[Vec<Record>]) {
    for group in groups {
        tlog.append(group).unwrap();
        tlog.sync().unwrap();
    }
}

/// The one segment of a log that holds `groups()`, and where each frame begins, the end of the last one included.
fn small_log(sealed: bool) -> (Image, Vec<usize>) {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups());
    if sealed {
        tlog.seal().unwrap();
    }
    let image = disk.image();
    let frames = frames_in(&image["000.tlog"]);
    assert_eq!(frames.len(), records().len() + 1 + usize::from(sealed));
    (image, frames)
}

fn frames_in(segment: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEADER_BYTES as usize];
    loop {
        let at = *starts.last().unwrap();
        match segment
            .get(at..at + HEAD_BYTES)
            .map(|head| Head::parse(head.try_into().unwrap()))
        {
            Some(head) if !head.is_unwritten() => starts.push(at + head.frame_bytes()),
            _ => return starts,
        }
    }
}

/// What sound records tell, written down a second time as simply as can be.
fn model(records: &[Record], lost_since: Option<usize>) -> Recovered {
    let mut recovered = Recovered::blank();
    let mut entries: BTreeMap<Slot, SlotEntry> = BTreeMap::new();
    let mut regained_at = None;
    for (at, record) in records.iter().enumerate() {
        match record {
            Record::Promised(ballot) => recovered.promised = recovered.promised.max(*ballot),
            Record::Accepted(entry) => {
                recovered.promised = recovered.promised.max(entry.entry.ballot);
                entries.insert(entry.slot, entry.clone());
            }
            Record::Decided { upto, .. } => recovered.decided_upto = *upto,
            Record::MemoryBegan(incarnation) => {
                recovered.memory = Some(Memory {
                    incarnation: *incarnation,
                    votes: false,
                    genesis: vec![],
                });
            }
            Record::VoteRegained { incarnation, genesis } => {
                regained_at = Some(at);
                recovered.memory = Some(Memory {
                    incarnation: *incarnation,
                    votes: true,
                    genesis: genesis.clone(),
                });
            }
        }
    }
    let present = (1..)
        .map(Slot)
        .take_while(|slot| entries.contains_key(slot))
        .last()
        .unwrap_or_default();
    let wanted = recovered.decided_upto;
    recovered.decided_upto = wanted.min(present);
    let decided: Vec<SlotEntry> = entries
        .range(..=recovered.decided_upto)
        .map(|(_, entry)| entry.clone())
        .collect();
    recovered.decided_hash = hash_of(&decided[..recovered.decided_upto.0 as usize]);
    let undecided = entries.range(recovered.decided_upto.next()..=present.max(recovered.decided_upto.next()));
    recovered.undecided = undecided
        .filter(|(slot, _)| **slot <= present)
        .map(|(_, entry)| entry.clone())
        .collect();
    let has_gap = entries.keys().any(|slot| *slot > present) || wanted > present;
    if has_gap || lost_since.is_some_and(|lost| regained_at.is_none_or(|at| lost > at)) {
        recovered.memory = None;
    }
    recovered
}

/// Opens a broken log, and checks that it can then be written, and opens again with what it had and what was added.
fn reopen(image: &Image) -> RecoveredLog {
    let disk = MemDisk::from_image(image);
    let (mut tlog, found) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    assert!(found.recovered.is_well_formed());
    let upto = found
        .recovered
        .undecided
        .last()
        .map_or(found.recovered.decided_upto, |entry| entry.slot);
    let next = upto.next().0;
    write(
        &mut tlog,
        &[
            vec![accepted(next, 9, b"next"), Record::MemoryBegan(Incarnation(8))],
            vec![regained(8)],
        ],
    );
    tlog.seal().unwrap();
    assert_eq!(
        tlog.reader().read(Slot(next), Slot(next), 0).unwrap(),
        [entry(next, 9, b"next")]
    );

    let (tlog, again) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    // Where the new record closed a gap, what was behind it is of use again.
    assert!(again.recovered.decided_upto >= found.recovered.decided_upto);
    assert_eq!(again.recovered.promised, ballot(9));
    assert_eq!(
        tlog.reader().read(Slot(next), Slot(next), 0).unwrap(),
        [entry(next, 9, b"next")]
    );
    let memory = again.recovered.memory;
    if !again.damage.iter().any(|damage| matches!(damage, Damage::Gap { .. })) {
        assert_eq!(
            memory.map(|memory| (memory.incarnation, memory.votes)),
            Some((Incarnation(8), true))
        );
    }
    assert_eq!(again.notes, []);
    found
}

fn without(records: &[Record], lost: usize) -> Vec<Record> {
    let mut records = records.to_vec();
    records.remove(lost);
    records
}

/// The first thing wrong, apart from the gap in the slots that it may have left.
fn is_lost_record(damage: &[Damage], at: usize) -> bool {
    let others = damage.iter().filter(|damage| !matches!(damage, Damage::Gap { .. }));
    others
        .map(|damage| matches!(damage, Damage::Record { segment: 0, offset, .. } if *offset == at as u64))
        .eq([true])
}

#[test]
fn every_truncation_leaves_the_records_before_it() {
    for sealed in [true, false] {
        let (image, frames) = small_log(sealed);
        for len in 0..image["000.tlog"].len() {
            let mut broken = image.clone();
            broken.get_mut("000.tlog").unwrap().truncate(len);
            let found = reopen(&broken);

            let whole = frames[1..]
                .iter()
                .filter(|end| **end <= len)
                .count()
                .min(records().len());
            assert_eq!(found.recovered, model(&records()[..whole], None), "cut at {len}");
            assert!(
                found.damage.iter().all(|damage| matches!(damage, Damage::Gap { .. })),
                "cut at {len}"
            );
            let is_torn = len > frames[0] && len < *frames.last().unwrap() && !frames.contains(&len);
            let notes = match len {
                0..512 => vec![Note::Recreated { segment: 0 }],
                _ if is_torn => {
                    let offset = *frames.iter().filter(|start| **start <= len).last().unwrap() as u64;
                    vec![Note::TornTail {
                        segment: 0,
                        offset,
                        bytes: len as u64 - offset,
                    }]
                }
                _ => vec![],
            };
            assert_eq!(found.notes, notes, "cut at {len}");
        }
    }
}

#[test]
fn a_flipped_byte_before_the_seal_loses_its_record_and_the_vote_and_cuts_nothing() {
    let (image, frames) = small_log(true);
    let records = records();
    for at in 0..image["000.tlog"].len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut broken = image.clone();
            broken.get_mut("000.tlog").unwrap()[at] ^= mask;
            let found = reopen(&broken);
            let frame = frames.iter().filter(|start| **start <= at).count().checked_sub(1);
            let context = format!("byte {at} ^ {mask:#x}: {found:?}");
            match frame {
                None => {
                    // The header of this segment stands before `VoteRegained`, and no record is lost with it.
                    assert_eq!(found.recovered, model(&records, None), "{context}");
                    assert_eq!(found.damage, [Damage::Header { segment: 0 }], "{context}");
                }
                Some(frame) if frame < records.len() => {
                    // Position `frame` in the shorter list: everything from there on came after the loss.
                    assert_eq!(
                        found.recovered,
                        model(&without(&records, frame), Some(frame)),
                        "{context}"
                    );
                    assert!(is_lost_record(&found.damage, frames[frame]), "{context}");
                    // A record before `VoteRegained` costs nothing.
                    assert_eq!(found.recovered.memory.is_some(), frame == 0, "{context}");
                    assert_eq!(found.notes, [], "{context}");
                }
                Some(frame) => {
                    assert_eq!(found.recovered, model(&records, None), "{context}");
                    assert_eq!(found.damage, [], "{context}");
                    let offset = frames[frame.min(frames.len() - 1)] as u64;
                    let bytes = image["000.tlog"].len() as u64 - offset;
                    assert_eq!(
                        found.notes,
                        [Note::TornTail {
                            segment: 0,
                            offset,
                            bytes
                        }],
                        "{context}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_flipped_byte_in_the_last_group_is_a_torn_write_as_long_as_nothing_proves_otherwise() {
    let (image, frames) = small_log(false);
    let records = records();
    let last_group = records.len() - groups().last().unwrap().len();
    for at in frames[0]..*frames.last().unwrap() {
        let mut broken = image.clone();
        broken.get_mut("000.tlog").unwrap()[at] ^= 0x10;
        let found = reopen(&broken);
        let frame = frames.iter().filter(|start| **start <= at).count() - 1;
        if frame < last_group {
            assert_eq!(
                found.recovered,
                model(&without(&records, frame), Some(frame)),
                "byte {at}"
            );
            assert!(is_lost_record(&found.damage, frames[frame]), "byte {at}");
        } else {
            assert_eq!(found.recovered, model(&records[..frame], None), "byte {at}");
            assert_eq!(found.damage, [], "byte {at}");
            assert!(
                matches!(found.notes[..], [Note::TornTail { segment: 0, offset, .. }] if offset == frames[frame] as u64)
            );
        }
    }
}

#[test]
fn damage_in_a_closed_segment_is_never_taken_for_a_torn_write() {
    let (disk, first_bytes) = two_segments();
    let image = disk.image();
    let frames = frames_in(&image["000.tlog"]);
    let records = records();
    let vote_lost = |frame: usize| frame > 0;
    for at in 0..first_bytes {
        let mut flipped = image.clone();
        flipped.get_mut("000.tlog").unwrap()[at] ^= 0x04;
        let found = reopen(&flipped);
        if at >= frames[0] {
            let frame = frames.iter().filter(|start| **start <= at).count() - 1;
            // The seal is the last frame and says nothing that a record would.
            let is_seal = frame == frames.len() - 2;
            let offset = frames[frame] as u64;
            assert!(
                matches!(found.damage[0], Damage::Record { segment: 0, offset: o, .. } if o == offset),
                "byte {at}"
            );
            assert_eq!(found.recovered.memory.is_none(), vote_lost(frame), "byte {at}");
            assert!(is_seal || found.recovered.promised == ballot(1), "byte {at}");
        } else {
            assert_eq!(found.damage, [Damage::Header { segment: 0 }]);
        }
        assert_eq!(found.notes, []);

        let mut cut = image.clone();
        cut.get_mut("000.tlog").unwrap().truncate(at);
        let found = reopen(&cut);
        assert_ne!(found.damage, [], "cut at {at}");
        assert_eq!(found.recovered.memory, None, "cut at {at}");
        assert_eq!(found.notes, []);
    }
    assert_eq!(
        reopen(&image).recovered,
        model(&[records, vec![accepted(5, 1, &[5; 900])]].concat(), None)
    );

    let mut extended = image.clone();
    extended.get_mut("000.tlog").unwrap().extend([0; 100]);
    assert_eq!(reopen(&extended).recovered.memory, None);
}

/// A closed segment with `groups()`, and an open one with slot 5; the length of the first.
fn two_segments() -> (MemDisk, usize) {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups());
    tlog.seal().unwrap();
    write(&mut tlog, &[vec![accepted(5, 1, &[5; 900])]]);
    let image = disk.image();
    assert_eq!(image.keys().collect::<Vec<_>>(), ["000.tlog", "001.tlog"]);
    (disk, image["000.tlog"].len())
}

#[test]
fn missing_segments_cost_the_vote_and_the_rest_is_read() {
    let mut image = two_segments().0.image();
    image.remove("000.tlog");
    let found = reopen(&image);
    assert_eq!(found.damage[0], Damage::Missing { first: 0, last: 0 });
    assert_eq!(found.recovered.memory, None);
    assert_eq!(found.recovered.promised, ballot(1));
    assert_eq!(found.recovered.undecided, [], "slot 5 alone cannot be used");

    let mut image = two_segments().0.image();
    image.insert("007.tlog".into(), vec![]);
    let found = open(&MemDisk::from_image(&image), SEGMENT_BYTES, NOTHING_APPLIED)
        .unwrap()
        .1;
    assert_eq!(found.damage.last(), Some(&Damage::Missing { first: 2, last: 6 }));
    assert_eq!(found.notes, [Note::Recreated { segment: 7 }]);
    assert_eq!(found.recovered.memory, None);
}

#[test]
fn damage_before_the_vote_was_regained_is_listed_and_costs_nothing() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    let hash = hash_of(&[entry(1, 1, b"one")]);
    write(&mut tlog, &groups()[..2]);
    write(
        &mut tlog,
        &[vec![Record::Promised(ballot(2))], vec![accepted(1, 1, b"one")]],
    );
    write(
        &mut tlog,
        &[vec![Record::Decided { upto: Slot(1), hash }], vec![regained(8)]],
    );
    tlog.seal().unwrap();
    let mut image = disk.image();
    let frames = frames_in(&image["000.tlog"]);
    image.get_mut("000.tlog").unwrap()[frames[3] + 20] ^= 1;
    let found = open(&MemDisk::from_image(&image), 4096, NOTHING_APPLIED).unwrap().1;
    assert!(is_lost_record(&found.damage, frames[3]));
    assert_eq!(
        found.recovered.promised,
        ballot(1),
        "the higher promise is the one that was lost"
    );
    assert_eq!(
        found.recovered.memory.map(|memory| (memory.incarnation, memory.votes)),
        Some((Incarnation(8), true))
    );
    assert_eq!(found.recovered.decided_upto, Slot(1));
}

#[test]
fn an_unknown_record_or_file_stops_the_start() {
    let (image, frames) = small_log(true);
    for (at, byte) in [(8, 2), (9, 7)] {
        let mut newer = image.clone();
        let bytes = newer.get_mut("000.tlog").unwrap();
        let (start, end) = (frames[3], frames[4]);
        bytes[start + at] = byte;
        let synced = u32::from_le_bytes(bytes[start + 10..start + 14].try_into().unwrap());
        record::finish(&mut bytes[start..end], identity().salt(0), start as u64, synced);
        let error = open(&MemDisk::from_image(&newer), SEGMENT_BYTES, NOTHING_APPLIED)
            .err()
            .unwrap();
        assert!(
            matches!(error, TlogError::NewerRecord { offset, .. } if offset == start as u64),
            "{error}"
        );
    }
    let mut compressed = image.clone();
    compressed.insert("000.tlx".into(), vec![]);
    let error = open(&MemDisk::from_image(&compressed), SEGMENT_BYTES, NOTHING_APPLIED)
        .err()
        .unwrap();
    assert!(matches!(error, TlogError::NewerFormat { .. }));
}

#[test]
fn the_log_of_another_node_is_refused_and_left_alone() {
    let (image, _) = small_log(true);
    let disk = MemDisk::from_image(&image);
    for other in [
        Identity {
            cluster_id: "prod".into(),
            ..identity()
        },
        Identity {
            node_name: "n2".into(),
            ..identity()
        },
    ] {
        let options = TlogOptions::default();
        assert!(
            Tlog::open(
                Arc::new(disk.clone()),
                Path::new("home"),
                other,
                options,
                NOTHING_APPLIED
            )
            .is_err()
        );
    }
    let mut renumbered = image.clone();
    renumbered.insert("001.tlog".into(), image["000.tlog"].clone());
    let error = open(&MemDisk::from_image(&renumbered), SEGMENT_BYTES, NOTHING_APPLIED)
        .err()
        .unwrap();
    assert!(matches!(error, TlogError::Renumbered { number: 0, .. }));
    assert_eq!(disk.image(), image);
}

#[test]
fn a_store_ahead_of_the_log_means_that_the_log_was_lost() {
    let store = (Slot(9), HistoryHash(77));
    let found = open(&MemDisk::default(), SEGMENT_BYTES, store).unwrap().1;
    let lost = |log_end| Damage::LogBehindStore {
        log_end,
        store_applied: Slot(9),
    };
    assert_eq!(found.damage, [lost(Slot::ZERO)]);
    assert_eq!(
        found.recovered,
        Recovered {
            decided_upto: Slot(9),
            decided_hash: HistoryHash(77),
            log_start: Slot(10),
            ..Recovered::blank()
        }
    );

    let found = open(&MemDisk::from_image(&small_log(true).0), SEGMENT_BYTES, store)
        .unwrap()
        .1;
    assert_eq!(found.damage, [lost(Slot(4))]);
    assert_eq!((found.recovered.decided_upto, found.recovered.memory), (Slot(9), None));
    assert_eq!(
        (found.recovered.promised, found.recovered.undecided),
        (ballot(1), vec![])
    );
}

#[test]
fn a_head_beyond_the_log_is_no_loss_once_the_log_knows_of_it() {
    let disk = MemDisk::from_image(&small_log(true).0);
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    let hash = HistoryHash(77);
    write(
        &mut tlog,
        &[
            vec![Record::Decided { upto: Slot(9), hash }],
            vec![accepted(10, 2, b"ten")],
        ],
    );
    assert_eq!(tlog.reader().log_start(), Some(Slot(10)));
    let found = open(&disk, 4096, (Slot(9), hash)).unwrap().1;
    assert_eq!(found.damage, []);
    assert_eq!(
        (found.recovered.decided_upto, found.recovered.decided_hash),
        (Slot(9), hash)
    );
    assert_eq!(
        (found.recovered.undecided, found.recovered.log_start),
        (vec![entry(10, 2, b"ten")], Slot(10))
    );
    assert!(found.recovered.memory.unwrap().votes);

    let error = open(&disk, 4096, (Slot(9), HistoryHash(78))).err().unwrap();
    assert!(matches!(error, TlogError::StoreAndLogDisagree { slot: Slot(9), .. }));
    // With the store lost as well, the log alone does not lead up to slot 9.
    let found = open(&disk, 4096, NOTHING_APPLIED).unwrap().1;
    assert_eq!(
        found.damage,
        [Damage::Gap {
            after: Slot(4),
            upto: Slot(10)
        }]
    );
    let decided = [
        entry(1, 1, b"one"),
        entry(2, 1, b"two"),
        entry(3, 1, b"three"),
        entry(4, 1, b"four"),
    ];
    assert_eq!(
        (found.recovered.decided_upto, found.recovered.decided_hash),
        (Slot(4), hash_of(&decided))
    );
    assert_eq!(found.recovered.memory, None);
}

#[test]
fn a_store_behind_the_log_replays_from_it() {
    let disk = MemDisk::from_image(&small_log(true).0);
    let (tlog, found) = open(&disk, SEGMENT_BYTES, (Slot(1), hash_of(&[entry(1, 1, b"one")]))).unwrap();
    let replayed: Result<Vec<_>, _> = tlog.reader().entries(Slot(2), found.recovered.decided_upto).collect();
    assert_eq!(replayed.unwrap(), [entry(2, 1, b"two")]);
}

#[test]
fn a_value_that_looks_like_a_log_is_still_a_value() {
    let (image, frames) = small_log(true);
    let copied = image["000.tlog"][frames[0]..frames[6]].to_vec();
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &[groups()[0].clone(), vec![accepted(1, 1, &copied)]]);
    let mut image = disk.image();
    let last = frames_in(&image["000.tlog"])[2];
    image.get_mut("000.tlog").unwrap()[last + 4] ^= 1;
    let found = reopen(&image);
    assert_eq!(found.damage, []);
    assert!(matches!(found.notes[..], [Note::TornTail { offset, .. }] if offset == last as u64));
}

proptest! {
    #[test]
    fn no_bytes_make_the_scan_panic(
        garbage in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..600),
        at in 0_usize..1200,
        other in any::<bool>(),
    ) {
        let mut image = two_segments().0.image();
        let segment = image.get_mut(if other { "000.tlog" } else { "001.tlog" }).unwrap();
        let at = at.min(segment.len());
        segment.truncate(at + garbage.len());
        segment.resize(at + garbage.len(), 0);
        segment[at..].copy_from_slice(&garbage);
        reopen(&image);
    }

    #[test]
    fn a_power_cut_loses_nothing_that_was_synced_and_costs_no_vote(seed in any::<u64>(), changes in 0_u64..80) {
        let disk = MemDisk::default();
        let mut dice = Dice(seed);
        disk.power_fails_after(changes);
        // Everything that was ever given to the log, and how much of it was reported durable.
        let mut given = Vec::new();
        let mut synced = 0;
        if let Ok((mut tlog, _)) = open(&disk, 2048, NOTHING_APPLIED) {
            for group in 0.. {
                let records = if group == 0 { groups()[0].clone() } else { random_group(&given, &mut dice) };
                given.extend_from_slice(&records);
                if tlog.append(&records).and_then(|()| tlog.sync()).is_err() {
                    break;
                }
                synced = given.len();
                if dice.below(3) == 0 && tlog.seal().is_err() {
                    break;
                }
            }
        }
        // Only the process may have died, or the whole machine.
        let disk = if dice.below(2) == 0 { disk.after_power_cut(&mut dice) } else { disk.after_kill() };
        let (_, found) = open(&disk, 2048, NOTHING_APPLIED).unwrap();
        prop_assert_eq!(&found.damage, &[]);
        let kept = (synced..=given.len()).find(|kept| model(&given[..*kept], None) == found.recovered);
        prop_assert!(kept.is_some(), "{:?}\nis no continuation of\n{:?}", found, &given[..synced]);

        // What was found has to stay, for the engine acts on it.
        let again = open(&disk.after_power_cut(&mut dice), 2048, NOTHING_APPLIED).unwrap().1;
        prop_assert_eq!(again.damage, &[]);
        prop_assert_eq!(again.recovered, found.recovered);
    }
}

fn random_group(given: &[Record], dice: &mut Dice) -> Vec<Record> {
    let mut accepted_upto = 0;
    let mut round = 1;
    for record in given {
        match record {
            Record::Accepted(entry) => accepted_upto = accepted_upto.max(entry.slot.0),
            Record::Promised(ballot) => round = ballot.round,
            _ => {}
        }
    }
    let mut records = Vec::new();
    for _ in 0..=dice.below(4) {
        records.push(match dice.below(6) {
            0 => {
                round += 1;
                Record::Promised(Ballot { round, ..ballot(0) })
            }
            // Accepted once more, in a higher ballot.
            1 if accepted_upto > 0 => accepted(accepted_upto, round, &[2; 50]),
            _ => {
                accepted_upto += 1;
                accepted(accepted_upto, round, &vec![1; dice.below(900) as usize])
            }
        });
    }
    records
}
