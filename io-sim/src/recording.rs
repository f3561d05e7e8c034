//! Replays what a production node recorded: the same events on the same engine, which must give the same actions.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use trialbay::recorder::format::{self, Frame, Frames, Header};
use trialbay_engine::codec::{decode_event, hash_actions};
use trialbay_engine::{Actions, Engine, Event, Instant};

/// How a replay went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Files of which something could be replayed.
    pub files: u64,
    /// Events replayed.
    pub events: u64,
    /// The first event on which this engine did not do what the recorded one did.
    pub mismatch: Option<String>,
    /// What is missing, cut off, damaged, or of another build; in the order of the files.
    pub problems: Vec<String>,
}

impl Replayed {
    /// Whether there was anything to replay, and all of it went as it had gone.
    pub fn is_faithful(&self) -> bool {
        self.files > 0 && self.mismatch.is_none()
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        if let Some(mismatch) = &self.mismatch {
            writeln!(f, "first mismatch: {mismatch}")?;
        }
        let verdict = match (self.files, &self.mismatch) {
            (0, _) => "nothing could be replayed",
            (_, None) if !self.problems.is_empty() => "in what could be replayed the engine did what it had done",
            (_, None) => "the engine did what it had done",
            (_, Some(_)) => "the engine did something else",
        };
        let files = if self.files == 1 { "file" } else { "files" };
        write!(f, "{} events in {} {files}: {verdict}", self.events, self.files)?;
        match self.problems.len() {
            0 => Ok(()),
            1 => f.write_str("; the recording is not whole: 1 problem, named above"),
            count => write!(f, "; the recording is not whole: {count} problems, named above"),
        }
    }
}

/// Replays the recording in a directory, a node's `recorder`, and says a line for each event: the time (UTC), the node's
/// role, promised ballot, decided and applied slots after the event, and the event.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn replay(dir: &Path, say: &mut dyn FnMut(&str)) -> io::Result<Replayed> {
    let mut replay = Replay { say, replayed: Replayed::default(), before: None };
    for (_, path) in format::files(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match std::fs::read(&path) {
            Ok(bytes) => replay.file(&name, &bytes),
            // The node that records has removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Ok(replay.replayed)
}

struct Replay<'a> {
    say: &'a mut dyn FnMut(&str),
    replayed: Replayed,
    /// The run of the last file, and the number of its events up to that file's end.
    before: Option<(u64, u64)>,
}

impl Replay<'_> {
    fn file(&mut self, name: &str, bytes: &[u8]) {
        let (header, mut frames) = match format::read(bytes) {
            Ok(read) => read,
            Err(why) => return self.problem(format!("{name}: {why}")),
        };
        self.announce(name, &header);
        // Until its own events are replayed, the run is known up to where the file begins.
        self.before = Some((header.run, header.events_before));
        let image = match frames.next() {
            Some(Ok(Frame::Image(image))) => image,
            Some(Ok(Frame::Step { .. } | Frame::Unended { .. }) | Err(_)) | None => {
                return self.problem(format!("{name}: there is no whole image of the engine at its beginning"));
            }
        };
        match Engine::from_image(image) {
            Ok(engine) => {
                self.replayed.files += 1;
                self.steps(name, bytes.len(), &header, engine, frames);
            }
            Err(why) => self.problem(format!("{name}: the image of the engine: {why}")),
        }
    }

    fn announce(&mut self, name: &str, header: &Header) {
        match self.before {
            Some((run, events)) if run == header.run && events != header.events_before => {
                let missing = header.events_before.saturating_sub(events);
                self.problem(format!("{missing} events are missing before {name}"));
            }
            Some((run, _)) if run != header.run => (self.say)("the node was started again"),
            Some(_) | None => {}
        }
        let (date, time) = (date(header.wall), time(header.wall));
        let (node, events) = (header.node, header.events_before);
        (self.say)(&format!("{name}: {node}, from {date} {time} UTC, after {events} events of its run"));
    }

    fn steps(&mut self, name: &str, len: usize, header: &Header, mut engine: Engine, frames: Frames<'_>) {
        let mut events = header.events_before;
        for frame in frames {
            let (bytes, recorded) = match frame {
                Ok(Frame::Step { event, actions }) => (event, Some(actions)),
                Ok(Frame::Unended { event }) => (event, None),
                Ok(Frame::Image(_)) => return self.problem(format!("{name}: a second image in the middle")),
                Err(bad) => {
                    let rest = len - bad.offset;
                    let end = format!("cut off or damaged at byte {}: the last {rest} bytes are not used", bad.offset);
                    return self.problem(format!("{name}: {end}"));
                }
            };
            let Ok((now, event)) = decode_event(bytes) else {
                return self.problem(format!("{name}: event {events} of the run makes no sense"));
            };
            events += 1;
            self.before = Some((header.run, events));
            if !self.step(&mut engine, wall(header, now), now, event, recorded) {
                return;
            }
        }
    }

    /// Whether the engine did what it had done, and can go on.
    fn step(&mut self, engine: &mut Engine, wall: u64, now: Instant, event: Event, recorded: Option<u64>) -> bool {
        let (at, what) = (time(wall), describe(&event));
        let mut actions = Actions::new();
        let stepped = catch_unwind(AssertUnwindSafe(|| engine.step(now, event, &mut actions)));
        self.replayed.events += 1;
        let number = self.replayed.events;
        let mismatch = match (stepped.map_err(|panic| panic_message(&*panic)), recorded) {
            (Ok(()), Some(recorded)) => {
                let status = engine.status();
                let role = format!("{:?}", status.role).to_lowercase();
                let (ballot, decided, applied) = (status.promised, status.decided_upto, status.applied_upto);
                (self.say)(&format!("{at}  {role:<10} {ballot}  decided {decided}  applied {applied}  {what}"));
                let hash = hash_actions(actions.as_slice(), &mut Vec::new());
                if hash == recorded {
                    return true;
                }
                format!("actions hash to {hash:016x} and not to {recorded:016x}: {:?}", actions.as_slice())
            }
            (Err(message), None) => {
                (self.say)(&format!("{at}  panicked, as it had: {message}  {what}"));
                return false;
            }
            (Err(message), Some(_)) => format!("panicked, as it had not: {message}"),
            (Ok(()), None) => "did not panic, as it had".to_owned(),
        };
        let mismatch = format!("event {number}, {at}, {what}: {mismatch}");
        (self.say)(&mismatch);
        self.replayed.mismatch.get_or_insert(mismatch);
        // The rest of the file is not replayed, so nobody knows how many events the next one comes after.
        self.before = None;
        false
    }

    fn problem(&mut self, problem: String) {
        (self.say)(&problem);
        self.replayed.problems.push(problem);
    }
}

/// What happened, without the bytes of clients.
fn describe(event: &Event) -> String {
    match event {
        Event::Requested(requests) => {
            let bytes: usize = requests.iter().map(|request| request.command.len()).sum();
            format!("Requested({} updates, {bytes} B)", requests.len())
        }
        Event::Received { from, message } => format!("Received from {from}: {message:?}"),
        Event::Ticked
        | Event::Connected(_)
        | Event::Disconnected(_)
        | Event::ReadRequested(_)
        | Event::Persisted(_)
        | Event::Applied(_)
        | Event::LogRead { .. }
        | Event::HeadInstalled { .. }
        | Event::HeadFailed
        | Event::StorageFailed
        | Event::StopRequested
        | Event::DropRequested
        | Event::LogShortened { .. }
        | Event::StorePaused
        | Event::StoreResumed => format!("{event:?}"),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// When the engine's clock showed `now`, in nanoseconds since 1970.
fn wall(header: &Header, now: Instant) -> u64 {
    header.wall.saturating_add(now.0.saturating_sub(header.now.0))
}

/// The time of day, UTC.
fn time(wall: u64) -> String {
    let (seconds, micros) = (wall / 1_000_000_000, wall % 1_000_000_000 / 1_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

/// The day, UTC, in the Gregorian calendar: years are counted from March, so that leap days come last.
fn date(wall: u64) -> String {
    let days = wall / 86_400_000_000_000 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{}-{month:02}-{day:02}", era * 400 + year + next_year)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trialbay_engine::{Config, DecidedValues, NodeId, Recovered, Slot};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn engine() -> Engine {
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        let config = Config { lease: Duration::from_millis(800), clock_drift_ppm: 0, ..Config::new(NodeId(1), voters) };
        Engine::new(Instant(0), config, Recovered::blank(), 7)
    }

    /// A file of a recording, and the number of events up to its end.
    fn file(engine: &mut Engine, run: u64, events_before: u64, events: u64) -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        let header = Header { node: NodeId(1), run, events_before, wall: 1_700_000_000 * SECOND, now: Instant(SECOND) };
        format::write_beginning(&header, |out| engine.image(DecidedValues::Outlined, out), &mut bytes);
        for number in 0..events {
            step(engine, Instant(SECOND + number * SECOND / 10), Event::Ticked, 0, &mut bytes);
        }
        (bytes, events_before + events)
    }

    fn step(engine: &mut Engine, now: Instant, event: Event, error: u64, bytes: &mut Vec<u8>) {
        let start = format::begin_step(now, &event, bytes);
        let mut actions = Actions::new();
        engine.step(now, event, &mut actions);
        format::end_step(start, Some(hash_actions(actions.as_slice(), &mut Vec::new()) + error), bytes);
    }

    fn replayed(files: &[Vec<u8>]) -> (Replayed, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for (number, bytes) in files.iter().enumerate() {
            std::fs::write(dir.path().join(format!("{number:06}.rec")), bytes).unwrap();
        }
        let mut lines = Vec::new();
        let replayed = replay(dir.path(), &mut |line| lines.push(line.to_owned())).unwrap();
        (replayed, lines)
    }

    #[test]
    fn a_recording_replays_file_by_file_and_run_by_run() {
        let (mut first, mut second) = (engine(), engine());
        let (a, upto) = file(&mut first, 1, 5, 20);
        let (b, _) = file(&mut first, 1, upto, 20);
        let (c, _) = file(&mut second, 2, 0, 3);
        let (replayed, lines) = replayed(&[a, b, c]);
        assert_eq!(replayed, Replayed { files: 3, events: 43, ..Replayed::default() });
        assert!(replayed.is_faithful());
        assert_eq!(replayed.to_string(), "43 events in 3 files: the engine did what it had done");
        assert_eq!(lines[0], "000000.rec: n1, from 2023-11-14 22:13:20.000000 UTC, after 5 events of its run");
        assert_eq!(lines[3], "22:13:20.200000  slave      0.n0  decided s0  applied s0  Ticked");
        assert_eq!(lines.iter().filter(|line| line.ends_with("Ticked")).count(), 43);
        assert!(lines.contains(&"the node was started again".to_owned()));
    }

    #[test]
    fn missing_events_are_counted() {
        let mut engine = engine();
        let (a, upto) = file(&mut engine, 1, 0, 2);
        let (b, _) = file(&mut engine, 1, upto + 7, 2);
        let (replayed, _) = replayed(&[a, b]);
        assert_eq!(replayed.problems, ["7 events are missing before 000001.rec"]);
        assert_eq!(
            replayed.to_string(),
            "problem: 7 events are missing before 000001.rec\n4 events in 2 files: in what could be replayed the engine \
             did what it had done; the recording is not whole: 1 problem, named above"
        );
        assert!(replayed.is_faithful());
    }

    #[test]
    fn an_event_with_other_actions_is_the_mismatch_and_the_next_file_begins_anew() {
        let mut engine = engine();
        let (mut a, upto) = file(&mut engine, 1, 0, 2);
        step(&mut engine, Instant(2 * SECOND), Event::Connected(NodeId(2)), 1, &mut a);
        step(&mut engine, Instant(2 * SECOND), Event::Ticked, 1, &mut a);
        let (b, _) = file(&mut engine, 1, upto + 2, 2);
        let (replayed, _) = replayed(&[a, b]);
        let mismatch = replayed.mismatch.clone().unwrap();
        assert!(mismatch.starts_with("event 3, 22:13:21.000000, Connected(n2): actions hash to "), "{mismatch}");
        assert!(!replayed.is_faithful());
        assert_eq!((replayed.files, replayed.events), (2, 5));
        let said = replayed.to_string();
        assert!(said.starts_with("first mismatch: event 3, "), "{said}");
        assert!(said.ends_with("\n5 events in 2 files: the engine did something else"), "{said}");
    }

    #[test]
    fn a_panic_that_was_recorded_is_replayed() {
        let mut engine = engine();
        let (mut bytes, _) = file(&mut engine, 1, 0, 2);
        let start = format::begin_step(Instant(2 * SECOND), &Event::Applied(Slot(9)), &mut bytes);
        format::end_step(start, None, &mut bytes);
        let (good, lines) = replayed(&[bytes]);
        assert!(good.is_faithful() && good.events == 3);
        assert!(
            lines.last().unwrap().contains("panicked, as it had: s9 was applied but only s0 is decided"),
            "{lines:?}"
        );

        let (mut bytes, _) = file(&mut engine, 1, 0, 2);
        let start = format::begin_step(Instant(2 * SECOND), &Event::Applied(Slot(9)), &mut bytes);
        format::end_step(start, Some(0), &mut bytes);
        assert!(replayed(&[bytes]).0.mismatch.unwrap().contains("panicked, as it had not"));
    }

    #[test]
    fn damage_anywhere_is_reported_and_no_panic() {
        let mut engine = engine();
        let (whole, _) = file(&mut engine, 1, 0, 5);
        for at in 0..whole.len() {
            let (cut, _) = replayed(&[whole[..at].to_vec()]);
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            let (flipped, _) = replayed(&[flipped]);
            assert!(
                flipped.events < 5 && flipped.problems.len() == 1 && flipped.mismatch.is_none(),
                "{at}: {flipped:?}"
            );
            // A file that ends between two frames looks like one that went no further.
            assert!(cut.events < 5 && cut.problems.len() <= 1 && cut.mismatch.is_none(), "{at}: {cut:?}");
        }
    }

    #[test]
    fn an_image_of_another_build_is_refused_by_name() {
        let mut bytes = Vec::new();
        let header = Header { node: NodeId(1), run: 1, events_before: 0, wall: 0, now: Instant(0) };
        format::write_beginning(&header, |out| out.extend_from_slice(b"\x01\x00\x059.9.9"), &mut bytes);
        let (replayed, _) = replayed(&[bytes]);
        assert!(replayed.problems[0].contains("made by version 9.9.9"), "{replayed:?}");
        assert!(!replayed.is_faithful());
        let said = replayed.to_string();
        assert!(
            said.contains("\n0 events in 0 files: nothing could be replayed; the recording is not whole"),
            "{said}"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let day = |days: u64| date(days * 86_400 * SECOND);
        assert_eq!(
            [day(0), day(58), day(59), day(11_016), day(11_017), day(20_819)],
            ["1970-01-01", "1970-02-28", "1970-03-01", "2000-02-29", "2000-03-01", "2027-01-01"]
        );
    }
}
