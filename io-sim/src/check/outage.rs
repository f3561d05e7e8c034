//! What was acknowledged outlives all processes and the power of all machines (K12).
//!
//! When the last of them is gone nothing is left but disks: of each acknowledged write a quorum of these must have the
//! value that was chosen. And whoever serves first afterwards must have applied all of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use trialbay_engine::{Record, Slot, SlotEntry, Value};

use super::history::{Ask, Certified, Operation, Response};
use super::scrub::Found;
use super::{Checked, Violation, violation};

/// A disk without power.
#[derive(Clone, Debug)]
pub struct Left {
    /// Whose it is.
    pub node: String,
    /// What its log has accepted last in each slot.
    pub accepted: BTreeMap<Slot, Value>,
    /// Its store has everything up to here.
    pub stored: Slot,
    /// It was wiped or damaged, and has not got its vote back: nobody counts on it.
    pub is_void: bool,
}

/// What is owed to clients since all power was cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outage {
    owed_upto: Slot,
}

impl Left {
    /// What is in the log of `node`.
    pub fn of(node: String, found: &[Found], stored: Slot, is_void: bool) -> Self {
        let mut accepted = BTreeMap::new();
        for Found { record, .. } in found {
            if let Record::Accepted(SlotEntry { slot, entry }) = record {
                accepted.insert(*slot, entry.value.clone());
            }
        }
        Self { node, accepted, stored, is_void }
    }

    fn has(&self, slot: Slot, value: &Value) -> bool {
        self.stored >= slot || self.accepted.get(&slot) == Some(value)
    }
}

impl Outage {
    /// All power is cut. `log` is what was chosen, as far as it is known, and these are all disks.
    ///
    /// # Errors
    /// K12: a write that was acknowledged is not on a quorum of them.
    pub fn begins(&mut self, operations: &[Operation], log: &[Certified], disks: &[Left]) -> Checked {
        let mut owed: BTreeSet<&Bytes> = operations.iter().filter_map(acknowledged).collect();
        for (certified, slot) in log.iter().zip((1..).map(Slot)) {
            let commands: Vec<Bytes> = certified.value.commands().map_while(Result::ok).collect();
            let owed_here = commands.iter().filter(|command| owed.remove(*command)).count();
            if owed_here > 0 {
                is_on_a_quorum(slot, &certified.value, disks)?;
                self.owed_upto = self.owed_upto.max(slot);
            }
        }
        match owed.first() {
            None => Ok(()),
            Some(command) => violation(
                "K12",
                format!("all power was cut, and {:?} was acknowledged and stands in no slot of the log", command),
            ),
        }
    }

    /// `node` serves, having applied this much.
    ///
    /// # Errors
    /// K12: that is less than was acknowledged when all power was cut.
    pub fn serves(&self, node: &str, applied: Slot) -> Checked {
        if applied >= self.owed_upto {
            return Ok(());
        }
        let owed = self.owed_upto;
        violation("K12", format!("{node} serves at {applied}, and {owed} was acknowledged before all power was cut"))
    }
}

fn acknowledged(operation: &Operation) -> Option<&Bytes> {
    match (&operation.ask, &operation.response) {
        (Ask::Update { command, .. }, Some((_, Response::Updated(_)))) => Some(command),
        _ => None,
    }
}

/// A quorum must have it, but for those on which nobody counts.
fn is_on_a_quorum(slot: Slot, value: &Value, disks: &[Left]) -> Result<(), Violation> {
    let has = |disk: &&Left| disk.has(slot, value);
    let counted = disks.iter().filter(|disk| disk.is_void || has(disk)).count();
    if counted > disks.len() / 2 {
        return Ok(());
    }
    let who: Vec<&str> = disks.iter().filter(has).map(|disk| disk.node.as_str()).collect();
    violation(
        "K12",
        format!("all power was cut, and {value:?} in {slot}, which was acknowledged, is left on {who:?} only"),
    )
}

#[cfg(test)]
mod tests {
    use trialbay::update::{Outcome, Update, encode_command};

    use super::*;

    fn write(text: &'static str, response: Response) -> Operation {
        let update = Update::Set { key: Bytes::from_static(b"k"), value: Bytes::from_static(text.as_bytes()) };
        let ask = Ask::Update { command: encode_command(&update), update };
        Operation { client: 1, ask, invoked: 1, response: Some((9, response)), applied: None }
    }

    fn value(of: &Operation) -> Value {
        let Ask::Update { command, .. } = &of.ask else { panic!("it is a write") };
        Value::batch([command.as_ref()])
    }

    /// Two acknowledged writes in slots 1 and 2, and one of unknown outcome, which nobody has.
    fn history() -> (Vec<Operation>, Vec<Certified>) {
        let done = || Response::Updated(Ok(Outcome::Done));
        let operations = vec![write("a", done()), write("b", done()), write("c", Response::Unknown)];
        let log = operations[..2].iter().map(|operation| Certified { value: value(operation), chosen_at: 5 });
        let log = log.collect();
        (operations, log)
    }

    /// What is said when `n1` to `n3` have what is chosen in these slots, as `change` leaves it.
    fn said(has: [&[u64]; 3], change: impl FnOnce(&mut Vec<Left>)) -> Checked {
        let (operations, log) = history();
        let left = |(node, slots): (usize, &[u64])| Left {
            node: format!("n{}", node + 1),
            accepted: slots.iter().map(|slot| (Slot(*slot), log[*slot as usize - 1].value.clone())).collect(),
            stored: Slot::ZERO,
            is_void: false,
        };
        let mut disks: Vec<Left> = has.into_iter().enumerate().map(left).collect();
        change(&mut disks);
        Outage::default().begins(&operations, &log, &disks)
    }

    fn refused(said: Checked, story: &str) {
        let broken = said.expect_err("something is lost");
        assert!(broken.checker == "K12" && broken.story.contains(story), "{broken:?}");
    }

    #[test]
    fn what_was_acknowledged_must_be_on_a_quorum_of_the_disks() {
        assert_eq!(said([&[1, 2], &[1], &[2]], |_| ()), Ok(()));
        refused(said([&[1, 2], &[1], &[]], |_| ()), "in s2, which was acknowledged, is left on [\"n1\"] only");
        refused(said([&[], &[], &[1, 2]], |_| ()), "in s1");
        refused(
            said([&[1, 2], &[1, 2], &[]], |disks| disks[1].accepted.insert(Slot(2), Value::Noop).map_or((), drop)),
            "s2",
        );
    }

    #[test]
    fn a_store_has_what_its_log_need_not_have_any_more() {
        assert_eq!(said([&[1, 2], &[2], &[]], |disks| disks[1].stored = Slot(1)), Ok(()));
        refused(said([&[1, 2], &[1], &[]], |disks| disks[1].stored = Slot(1)), "s2");
    }

    #[test]
    fn a_disk_that_lost_its_memory_is_not_counted_on_and_is_no_excuse_for_the_others() {
        assert_eq!(said([&[1, 2], &[], &[]], |disks| disks[1].is_void = true), Ok(()));
        refused(
            said([&[1], &[], &[1, 2]], |disks| {
                disks[2] = Left { is_void: true, accepted: BTreeMap::new(), ..disks[2].clone() }
            }),
            "s2",
        );
        assert_eq!(
            said([&[], &[], &[]], |disks| disks.iter_mut().take(2).for_each(|disk| disk.is_void = true)),
            Ok(())
        );
    }

    #[test]
    fn what_was_acknowledged_must_have_been_chosen() {
        let (operations, log) = history();
        let all = Left { node: "n1".into(), accepted: BTreeMap::new(), stored: Slot(9), is_void: false };
        let mut outage = Outage::default();
        refused(outage.begins(&operations, &log[..1], std::slice::from_ref(&all)), "stands in no slot");
        assert_eq!(outage.begins(&operations, &log, &[all]), Ok(()));
        assert_eq!(outage.serves("n1", Slot(2)), Ok(()));
        refused(outage.serves("n1", Slot(1)), "n1 serves at s1, and s2 was acknowledged");
    }
}
