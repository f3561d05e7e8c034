//! Looking at a log that no node has open.

use proptest::prelude::*;

use super::archive::{compress_all, entries, log_of};
use super::*;

const SEGMENT_BYTES: u64 = 4096;

/// Some archives, and segments behind them.
fn image() -> Image {
    let disk = MemDisk::default();
    let mut tlog = log_of(&disk);
    compress_all(&tlog).unwrap();
    for slot in 41..=60 {
        write(&mut tlog, &[vec![accepted(slot, 1, &[0; 300])]]);
    }
    disk.image()
}

fn place(disk: &MemDisk) -> LogPlace {
    LogPlace::new(Arc::new(disk.clone()), Path::new("home"), identity()).unwrap()
}

/// All that is there, until the first file that cannot be used.
fn dumped(disk: &MemDisk) -> Vec<(u32, u64, Logged)> {
    let mut found = Vec::new();
    let _ = place(disk).records(&mut |segment, byte, logged| {
        found.push((segment, byte, logged));
        Ok(())
    });
    found
}

#[test]
fn every_record_is_told_in_order_and_every_segment_is_described() {
    let disk = MemDisk::from_image(&image());
    let told = dumped(&disk);
    let slots = told.iter().filter_map(|(_, _, logged)| match logged {
        Logged::Record(Record::Accepted(entry)) => Some(entry.clone()),
        _ => None,
    });
    let expected = entries().into_iter().chain((41..=60).map(|slot| entry(slot, 1, &[0; 300])));
    assert!(slots.eq(expected));
    assert!(told.is_sorted_by_key(|(segment, byte, _)| (*segment, *byte)));

    let inspection = place(&disk).inspect(NOTHING_APPLIED).unwrap();
    assert!(inspection.log.damage.is_empty());
    let views = inspection.segments;
    assert!(views[0].is_compressed && !views.last().unwrap().is_compressed && views.len() > 4);
    for (at, view) in views.iter().enumerate() {
        assert_eq!((view.segment as usize, view.damage), (at, 0));
        assert_eq!(view.records as usize, told.iter().filter(|(segment, ..)| *segment == view.segment).count());
        let next = views.get(at + 1).and_then(|next| next.slots);
        assert!(next.is_none_or(|(first, _)| first == view.slots.unwrap().1.next()), "{view:?}");
    }
}

proptest! {
    #[test]
    fn whatever_the_bytes_are_it_is_found_what_a_start_finds_and_nothing_is_changed(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u8..), 0..4),
        cut in proptest::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        gone in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut image = image();
        let names: Vec<String> = image.keys().cloned().collect();
        for (file, at, bits) in damage {
            let bytes = image.get_mut(file.get(&names)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        if let Some((file, at)) = cut {
            let bytes = image.get_mut(file.get(&names)).unwrap();
            bytes.truncate(at.index(bytes.len()));
        }
        if let Some(file) = gone {
            image.remove(file.get(&names));
        }
        let disk = MemDisk::from_image(&image);
        let _ = dumped(&disk);
        let seen = place(&disk).inspect(NOTHING_APPLIED);
        prop_assert!(disk.image() == image);
        match (seen, open(&disk, SEGMENT_BYTES, NOTHING_APPLIED)) {
            (Ok(seen), Ok((_, found))) => {
                prop_assert_eq!(seen.log.damage, found.damage);
                prop_assert_eq!(seen.log.notes, found.notes);
                prop_assert_eq!(seen.log.recovered, found.recovered);
            }
            (Err(seen), Err(found)) => prop_assert_eq!(seen.to_string(), found.to_string()),
            (seen, found) => prop_assert!(false, "{:?} {:?}", seen.err(), found.err()),
        }
    }
}
