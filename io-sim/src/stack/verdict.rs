//! What must hold at the end of a run.

use std::collections::BTreeMap;

use bytes::Bytes;
use trialbay::node::NodeHandle;
use trialbay::store::{Direction, KeyRange, Options, Snapshot, Store, StoreError};
use trialbay::update::decode_command;

use super::node::Machine;
use super::plan::{StackFault, Who};
use super::world::{Calls, StackWorld};
use crate::check::Violation;
use crate::check::history::{self, Certified, Operation, Response};
use crate::check::model::Model;

/// What a store holds.
type Contents = BTreeMap<Bytes, Bytes>;

/// Waits until the cluster is at rest, stops it, and says what does not hold.
pub(super) fn reach(world: &mut StackWorld<'_>) {
    let settled = settle(world);
    for machine in world.machines.clone() {
        world.examine(&machine);
    }
    let log = world.certificate.log();
    let explained = history::check(&world.history.operations(), &log).map(drop);
    // Stores of nodes that were not at rest need not be equal.
    let equal = if settled.is_ok() { check_stores(world, &log) } else { Ok(()) };
    world.violations.extend([settled, explained, equal].into_iter().filter_map(Result::err));
}

/// Lets the clients end, and the nodes come to hold the same (K9). Then they stop.
fn settle(world: &mut StackWorld<'_>) -> Result<(), Violation> {
    let end = world.sim.elapsed() + world.plan.converge_max;
    let mut clients_ended = false;
    while !(clients_ended && are_level(&world.machines.iter().map(|machine| machine.handle()).collect::<Vec<_>>())) {
        if world.sim.elapsed() >= end {
            let nodes: Vec<_> = world.machines.iter().map(|machine| standing(machine)).collect();
            return violation("K9", format!("the nodes are not level in time: {}", nodes.join(", ")));
        }
        clients_ended = world.step();
    }
    world.restarts_all = false;
    world.strike(&StackFault::Stop(Who::Nodes));
    while world.machines.iter().any(|machine| machine.handle().is_some()) {
        if world.sim.elapsed() >= end + world.plan.converge_max {
            return violation("K9", "the nodes do not stop when they are asked to".to_owned());
        }
        world.step();
    }
    Ok(())
}

fn are_level(handles: &[Option<NodeHandle>]) -> bool {
    let applied = |handle: &Option<NodeHandle>| handle.as_ref().map(NodeHandle::applied);
    let first = handles.first().and_then(applied);
    let has_master = handles.iter().flatten().any(|handle| handle.master_name().as_deref() == Some(handle.node_name()));
    has_master && first.is_some() && handles.iter().all(|handle| applied(handle) == first)
}

fn standing(machine: &Machine) -> String {
    let applied =
        machine.handle().map_or_else(|| "does not run".to_owned(), |handle| format!("at {:?}", handle.applied()));
    format!("{} {applied}", machine.name)
}

/// Each store holds what the log adds up to (K5, K11), acknowledged writes included (K12).
fn check_stores(world: &StackWorld<'_>, log: &[Certified]) -> Result<(), Violation> {
    let expected = replay(log)?;
    for machine in &world.machines {
        let held = contents(machine).map_err(|error| Violation {
            checker: "K11",
            story: format!("the store of {} cannot be read: {error}", machine.name),
            event: None,
        })?;
        if let Some(key) = difference(&expected, &held) {
            let (wanted, found) = (expected.get(key), held.get(key));
            let story = format!("{} holds {found:?} under {key:?}, and the log gives {wanted:?}", machine.name);
            return violation("K11", story);
        }
    }
    Ok(())
}

/// What the log adds up to.
fn replay(log: &[Certified]) -> Result<Contents, Violation> {
    let mut model = Model::default();
    for certified in log {
        for command in certified.value.commands().flatten() {
            let decoded = decode_command(command);
            let Ok(command) = decoded else { return violation("K8", format!("a chosen command is none: {decoded:?}")) };
            // What it gives was compared with what the client was told.
            let _ = model.run(&command.update);
        }
    }
    Ok(model.map().clone())
}

/// Reads the store from the disk of a node that has stopped.
fn contents(machine: &Machine) -> Result<Contents, StoreError> {
    let options = Options { check_on_open: true, ..Options::default() };
    let store = Store::open(&machine.disk, &machine.store_path(), &machine.identity(), options)?;
    let snapshot: Snapshot = store.reader().snapshot()?;
    let held = snapshot.range(&KeyRange::all(), Direction::Ascending)?.collect();
    drop(snapshot);
    store.close()?;
    held
}

fn difference<'a>(a: &'a Contents, b: &'a Contents) -> Option<&'a Bytes> {
    a.keys().chain(b.keys()).find(|key| a.get(*key) != b.get(*key))
}

/// Counts the calls by what their clients were told.
pub(super) fn calls(operations: &[Operation]) -> Calls {
    let mut calls = Calls::default();
    for operation in operations {
        match &operation.response {
            Some((_, Response::Updated(_) | Response::Read(_))) => calls.answered += 1,
            Some((_, Response::Refused)) => calls.refused += 1,
            Some((_, Response::Unknown)) | None => calls.unknown += 1,
        }
    }
    calls
}

fn violation<T>(checker: &'static str, story: String) -> Result<T, Violation> {
    Err(Violation { checker, story, event: None })
}
