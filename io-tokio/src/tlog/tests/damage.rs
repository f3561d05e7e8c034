//! Every way to break a small log.

use super::*;

#[test]
fn every_truncation_leaves_the_records_before_it() {
    for sealed in [true, false] {
        let (image, frames) = small_log(sealed);
        for len in 0..image["000.tlog"].len() {
            let mut broken = image.clone();
            broken.get_mut("000.tlog").unwrap().truncate(len);
            let found = reopen(&broken);

            let whole = frames[1..].iter().filter(|end| **end <= len).count().min(records().len());
            assert_eq!(found.recovered, model(&records()[..whole], None), "cut at {len}");
            assert!(found.damage.iter().all(|damage| matches!(damage, Damage::Gap { .. })), "cut at {len}");
            let is_torn = len > frames[0] && len < *frames.last().unwrap() && !frames.contains(&len);
            let notes = match len {
                0..512 => vec![Note::Recreated { segment: 0 }],
                _ if is_torn => {
                    let offset = *frames.iter().rfind(|start| **start <= len).unwrap() as u64;
                    vec![Note::TornTail { segment: 0, offset, bytes: len as u64 - offset }]
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
                    // The header of this segment stands before `MemoryBegan`, and no record is lost with it.
                    assert_eq!(found.recovered, model(&records, None), "{context}");
                    assert_eq!(found.damage, [Damage::Header { segment: 0 }], "{context}");
                }
                Some(frame) if frame < records.len() => {
                    // Position `frame` in the shorter list: everything from there on came after the loss.
                    assert_eq!(found.recovered, model(&without(&records, frame), Some(frame)), "{context}");
                    assert!(is_lost_record(&found.damage, frames[frame]), "{context}");
                    // Whatever is lost of the present life, its beginning included, costs the vote.
                    assert_eq!(found.recovered.memory, None, "{context}");
                    assert_eq!(found.notes, [], "{context}");
                }
                Some(frame) => {
                    assert_eq!(found.recovered, model(&records, None), "{context}");
                    assert_eq!(found.damage, [], "{context}");
                    let offset = frames[frame.min(frames.len() - 1)] as u64;
                    let bytes = image["000.tlog"].len() as u64 - offset;
                    assert_eq!(found.notes, [Note::TornTail { segment: 0, offset, bytes }], "{context}");
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
            assert_eq!(found.recovered, model(&without(&records, frame), Some(frame)), "byte {at}");
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
fn a_seal_torn_together_with_the_group_behind_it_proves_nothing() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    write(&mut tlog, &groups()[..1]);
    tlog.seal().unwrap();
    write(&mut tlog, &[vec![accepted(1, 1, &[1; 600]), accepted(2, 1, &[2; 600])]]);
    let mut image = disk.image();
    // Neither the seal nor the last group was synced: the sector that they share was lost, the others were written.
    let frames = frames_in(&image["000.tlog"]);
    let seal = frames[2];
    image.get_mut("000.tlog").unwrap()[seal..1024].fill(0);
    let found = reopen(&image);
    assert_eq!(found.recovered, model(&groups()[0], None));
    assert_eq!(found.damage, []);
    assert_eq!(found.notes, [Note::TornTail { segment: 0, offset: seal as u64, bytes: 4096 - seal as u64 }]);
}

#[test]
fn damage_in_a_closed_segment_is_never_taken_for_a_torn_write() {
    let (disk, first_bytes) = two_segments();
    let image = disk.image();
    let frames = frames_in(&image["000.tlog"]);
    let records = records();
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
            assert_eq!(found.recovered.memory, None, "byte {at}");
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
    assert_eq!(reopen(&image).recovered, model(&[records, vec![accepted(5, 1, &[5; 900])]].concat(), None));

    let mut extended = image.clone();
    extended.get_mut("000.tlog").unwrap().extend([0; 100]);
    assert_eq!(reopen(&extended).recovered.memory, None);
}

#[test]
fn a_file_that_is_damaged_all_over_is_left_as_it_is() {
    let garbage = vec![0xaa; 2000];
    let disk = MemDisk::from_image(&[("000.tlog".to_owned(), garbage.clone())].into());
    let found = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap().1;
    assert_eq!(found.damage, [Damage::Header { segment: 0 }, Damage::Unsearched { segment: 0, offset: 512 }]);
    assert_eq!((found.recovered, found.notes), (Recovered::blank(), vec![]));
    let image = disk.image();
    assert_eq!(image.keys().collect::<Vec<_>>(), ["000.tlog", "001.tlog"]);
    assert_eq!(image["000.tlog"], garbage);
}

#[test]
fn missing_segments_cost_the_vote_and_the_rest_is_read() {
    let mut image = two_segments().0.image();
    image.remove("000.tlog");
    let found = reopen(&image);
    let behind = Damage::StoreBehindLog { accepted_before: Slot(4), store_applied: Slot::ZERO };
    assert_eq!(found.damage[0], behind);
    assert_eq!(found.recovered.memory, None);
    assert_eq!(found.recovered.promised, ballot(1));
    assert_eq!(found.recovered.undecided, [], "slot 5 alone cannot be used");

    let mut image = two_segments().0.image();
    image.insert("007.tlog".into(), vec![]);
    let found = open(&MemDisk::from_image(&image), SEGMENT_BYTES, NOTHING_APPLIED).unwrap().1;
    // What was in them may have been newer than anything before them, so that is of no use.
    let missing = Damage::Missing { first: 2, last: 6 };
    assert_eq!(found.damage[1..], [missing, Damage::Gap { after: Slot::ZERO, upto: Slot(2) }]);
    assert_eq!(found.recovered.decided_upto, Slot::ZERO);
    assert_eq!(found.notes, [Note::Recreated { segment: 7 }]);
    assert_eq!(found.recovered.memory, None);
}

#[test]
fn damage_before_the_present_life_began_is_listed_and_costs_nothing() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, 4096, NOTHING_APPLIED).unwrap();
    let hash = hash_of(&[entry(1, 1, b"one")]);
    write(&mut tlog, &groups()[..2]);
    write(&mut tlog, &[vec![Record::Promised(ballot(2))], vec![accepted(1, 1, b"one")]]);
    write(&mut tlog, &[vec![Record::Decided { upto: Slot(1), hash }]]);
    write(
        &mut tlog,
        &[vec![Record::MemoryBegan(Incarnation(8))], vec![Record::Promised(ballot(1))], vec![regained(8)]],
    );
    tlog.seal().unwrap();
    let mut image = disk.image();
    let frames = frames_in(&image["000.tlog"]);
    let mut present = image.clone();
    present.get_mut("000.tlog").unwrap()[frames[7] + 20] ^= 1;
    let found = open(&MemDisk::from_image(&present), 4096, NOTHING_APPLIED).unwrap().1;
    assert!(is_lost_record(&found.damage, frames[7]));
    assert_eq!(found.recovered.memory, None, "a promise that was made to regain the vote counts too");

    image.get_mut("000.tlog").unwrap()[frames[3] + 20] ^= 1;
    let found = open(&MemDisk::from_image(&image), 4096, NOTHING_APPLIED).unwrap().1;
    assert!(is_lost_record(&found.damage, frames[3]));
    assert_eq!(found.recovered.promised, ballot(1), "the higher promise is the one that was lost");
    assert_eq!(found.recovered.memory.map(|memory| (memory.incarnation, memory.votes)), Some((Incarnation(8), true)));
    assert_eq!(found.recovered.decided_upto, Slot(1));
}

/// A node lost its vote again at each start until it had caught up.
#[test]
fn a_gap_among_what_an_earlier_life_accepted_costs_the_present_one_nothing() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    let hash = hash_of(&[entry(1, 1, b"one")]);
    let decided = Record::Decided { upto: Slot(1), hash };
    let accepted = [accepted(1, 1, b"one"), accepted(2, 1, b"two"), accepted(3, 1, b"three")];
    write(&mut tlog, &[vec![Record::MemoryBegan(Incarnation(7)), regained(7), decided], accepted.to_vec()]);
    tlog.seal().unwrap();
    let lost = tlog.reader().state().index.find(Slot(2)).unwrap();
    drop(tlog);
    disk.damage("000.tlog", lost.offset as usize + 20);
    let (mut tlog, found) = open(&disk, SEGMENT_BYTES, (Slot(1), hash)).unwrap();
    assert!(found.damage.contains(&Damage::Gap { after: Slot(1), upto: Slot(3) }), "{found:?}");
    assert_eq!(found.recovered.memory, None);

    write(&mut tlog, &[vec![Record::MemoryBegan(Incarnation(8)), regained(8)]]);
    drop(tlog);
    let (mut tlog, found) = open(&disk, SEGMENT_BYTES, (Slot(1), hash)).unwrap();
    assert_eq!(found.recovered.memory.map(|memory| memory.votes), Some(true), "{:?}", found.damage);
    assert_eq!((found.recovered.decided_upto, found.recovered.undecided), (Slot(1), vec![]));

    // What the present life accepts behind the gap is not forgotten for nothing.
    write(&mut tlog, &[vec![accepted[2].clone()]]);
    drop(tlog);
    assert_eq!(open(&disk, SEGMENT_BYTES, (Slot(1), hash)).unwrap().1.recovered.memory, None);
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
        let error = open(&MemDisk::from_image(&newer), SEGMENT_BYTES, NOTHING_APPLIED).err().unwrap();
        assert!(matches!(error, TlogError::NewerRecord { offset, .. } if offset == start as u64), "{error}");
    }
}

#[test]
fn the_log_of_another_node_is_refused_and_left_alone() {
    let (image, _) = small_log(true);
    let disk = MemDisk::from_image(&image);
    for other in [Identity { cluster_id: "prod".into(), ..identity() }, Identity { name: "n2".into(), ..identity() }] {
        let options = TlogOptions::default();
        assert!(Tlog::open(Arc::new(disk.clone()), Path::new("home"), other, options, NOTHING_APPLIED).is_err());
    }
    let mut renumbered = image.clone();
    renumbered.insert("001.tlog".into(), image["000.tlog"].clone());
    let error = open(&MemDisk::from_image(&renumbered), SEGMENT_BYTES, NOTHING_APPLIED).err().unwrap();
    assert!(matches!(error, TlogError::Renumbered { number: 0, .. }));
    assert_eq!(disk.image(), image);
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

/// Two nodes had decided different values then: this one, and whoever it handed the older one to.
#[test]
fn an_older_entry_does_not_pass_for_the_one_that_was_lost() {
    let disk = MemDisk::default();
    let (mut tlog, _) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    let decided = Record::Decided { upto: Slot(1), hash: hash_of(&[entry(1, 2, b"new")]) };
    let groups = [vec![accepted(1, 1, b"old")], vec![accepted(1, 2, b"new")], vec![accepted(2, 2, b"next"), decided]];
    write(&mut tlog, &groups);
    tlog.seal().unwrap();
    let lost = tlog.reader().state().index.find(Slot(1)).unwrap();
    drop(tlog);
    disk.damage("000.tlog", lost.offset as usize + 20);
    // The store has the slot already: it was applied before the damage.
    let applied = (Slot(1), hash_of(&[entry(1, 2, b"new")]));
    let (tlog, found) = open(&disk, SEGMENT_BYTES, applied).unwrap();
    assert_eq!(found.recovered.undecided, [entry(2, 2, b"next")]);
    assert_eq!(found.recovered.log_start, Slot(2), "nobody is given slot 1 from here: {found:?}");
    assert!(tlog.reader().read(Slot(1), Slot(1), 0).is_err());
    // Nor does the store take it.
    drop(tlog);
    let (_, found) = open(&disk, SEGMENT_BYTES, NOTHING_APPLIED).unwrap();
    assert_eq!((found.recovered.decided_upto, found.recovered.undecided.len()), (Slot::ZERO, 0));
}
