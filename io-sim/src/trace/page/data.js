"use strict";
// What happened, sorted by what it is drawn as. Times are nanoseconds; things refer to entries by index.

const header = JSON.parse(document.getElementById("run-header").textContent);
const entries = JSON.parse(document.getElementById("run-entries").textContent);

function sortOut() {
  const run = {
    begin: entries.length ? entries[0].at : 0,
    end: entries.length ? entries[entries.length - 1].at : 1,
    steps: new Map(),
    bands: new Map(),
    leases: new Map(),
    syncs: new Map(),
    messages: [],
    messageOf: new Map(),
    kinds: new Map(),
    clients: [],
    ops: new Map(),
    faults: [],
    violations: [],
    byEvent: new Map(),
  };
  run.end = Math.max(run.end, run.begin + 1000);
  for (const node of header.nodes) {
    run.steps.set(node, []);
    run.bands.set(node, []);
    run.leases.set(node, []);
    run.syncs.set(node, []);
  }
  entries.forEach((entry, index) => {
    if (!run.byEvent.has(entry.event)) run.byEvent.set(entry.event, index);
    sorters[entry.is]?.(run, entry, index);
  });
  run.clients.sort((a, b) => a - b);
  finishMessages(run);
  arrangeFaults(run);
  return run;
}

const sorters = {
  stepped(run, entry, index) {
    run.steps.get(entry.node)?.push(index);
    extendBand(run.bands.get(entry.node), entry);
    extendLease(run.leases.get(entry.node), entry);
  },
  synced(run, entry, index) {
    run.syncs.get(entry.node)?.push(index);
  },
  sent(run, entry, index) {
    run.kinds.set(entry.kind, (run.kinds.get(entry.kind) ?? 0) + 1);
    const message = { sent: index, at: entry.at, end: null, arrived: null, lost: null, entry };
    run.messageOf.set(entry.id, message);
    run.messages.push(message);
  },
  delivered(run, entry, index) {
    arrive(run, entry, index, "arrived");
  },
  lost(run, entry, index) {
    arrive(run, entry, index, "lost");
  },
  fault(run, entry, index) {
    run.faults.push({
      index,
      at: entry.at,
      until: entry.until ?? entry.at,
      text: entry.text,
      nodes: entry.nodes ?? header.nodes,
    });
  },
  invoked(run, entry, index) {
    if (!run.clients.includes(entry.client)) run.clients.push(entry.client);
    run.ops.set(entry.op, {
      index,
      at: entry.at,
      end: null,
      client: entry.client,
      op: entry.op,
      text: entry.text,
      outcome: null,
    });
  },
  responded(run, entry, index) {
    const op = run.ops.get(entry.op);
    if (op) Object.assign(op, { end: entry.at, outcome: entry.outcome, answer: entry.text, ended: index });
  },
  violation(run, entry, index) {
    run.violations.push(index);
  },
};

// A message may arrive more than once: each further copy is an arrow of its own.
function arrive(run, entry, index, how) {
  const first = run.messageOf.get(entry.id);
  if (!first) return;
  const message = first.end === null ? first : { ...first, arrived: null, lost: null, copy: true };
  message.end = entry.at;
  message[how] = index;
  entry.from = first.entry.from;
  entry.to = first.entry.to;
  entry.kind = first.entry.kind;
  entry.text = first.entry.text;
  if (message !== first) run.messages.push(message);
}

function finishMessages(run) {
  run.messages.sort((a, b) => a.at - b.at);
  let latest = -Infinity;
  for (const message of run.messages) {
    latest = Math.max(latest, message.end ?? message.at);
    message.latest = latest;
  }
}

function bandKey(state) {
  return [state.up, state.paused, state.role, state.promised, state.votes, state.catching_up].join();
}

function extendBand(bands, entry) {
  const last = bands?.at(-1);
  if (!bands || (last && last.key === bandKey(entry.state))) return;
  if (last) last.end = entry.at;
  bands.push({ at: entry.at, end: Infinity, key: bandKey(entry.state), state: entry.state });
}

// From step to step a lease is renewed, runs out by itself, or is given up.
function extendLease(leases, entry) {
  const last = leases?.at(-1),
    left = entry.state.lease_left_ms;
  if (!leases) return;
  if (last && (left === undefined || last.end >= entry.at)) last.end = Math.min(last.end, entry.at);
  if (left === undefined) return;
  const end = entry.at + left * 1e6;
  if (last && last.end >= entry.at) last.end = end;
  else leases.push({ at: entry.at, end });
}

// Faults that last at the same time are drawn in rows, three at most.
function arrangeFaults(run) {
  const free = [];
  for (const fault of run.faults) {
    let row = free.findIndex((end) => end <= fault.at);
    if (row < 0) row = free.length < 3 ? free.length : 2;
    free[row] = Math.min(fault.until, run.end);
    fault.row = row;
  }
  run.faultRows = free.length;
}

// The number of elements before the first that `isAfter`; the list is in order.
function countBefore(list, isAfter) {
  let low = 0,
    high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isAfter(list[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

// The index of the entry of the node's last step up to an entry, or -1.
function lastStep(node, index) {
  const steps = run.steps.get(node) ?? [];
  return steps[countBefore(steps, (step) => step > index) - 1] ?? -1;
}

function stateAt(node, index) {
  const step = lastStep(node, index);
  return step < 0 ? null : entries[step].state;
}

// The entry that led to this one, or -1: an arrival to its sending, a sending to the step, a step to what arrived.
function causeOf(index) {
  const entry = entries[index];
  switch (entry?.is) {
    case "delivered":
    case "lost":
      return run.messageOf.get(entry.id)?.sent ?? -1;
    case "sent":
      return lastStep(entry.from, index);
    case "stepped": {
      for (let i = index - 1; i >= 0 && entries[i].event === entry.event; i -= 1) {
        if (entries[i].is === "delivered" && entries[i].to === entry.node) return i;
      }
      return lastStep(entry.node, index - 1);
    }
    case "synced":
      return lastStep(entry.node, index - 1);
    case "responded": {
      const asked = run.ops.get(entry.op)?.index ?? -1;
      for (let i = index - 1; i >= 0 && entries[i].event >= entry.event - 1; i -= 1)
        if (entries[i].is === "stepped") return i;
      return asked;
    }
    case "violation": {
      for (let i = index - 1; i >= 0; i -= 1) if (entries[i].is === "stepped") return i;
      return -1;
    }
    default:
      return -1;
  }
}

const families = {
  Canvass: "canvass",
  Canvassed: "canvass",
  Prepare: "prepare",
  Promise: "prepare",
  Accept: "accept",
  Accepted: "accepted",
  Heartbeat: "lease-ask",
  Granted: "lease-ask",
  Gap: "refuse",
  Nak: "refuse",
  Resign: "resign",
  Fetch: "catch-up",
  Fetched: "catch-up",
  Gone: "catch-up",
  Recall: "canvass",
  Recalled: "canvass",
};
const familyOf = (kind) => families[kind] ?? "other";

const seconds = (at) => `${(at / 1e9).toFixed(6)} s`;

function duration(nanoseconds) {
  if (nanoseconds >= 1e9) return `${(nanoseconds / 1e9).toFixed(3)} s`;
  if (nanoseconds >= 1e6) return `${(nanoseconds / 1e6).toFixed(3)} ms`;
  return `${(nanoseconds / 1e3).toFixed(1)} µs`;
}

function textOf(entry) {
  switch (entry.is) {
    case "stepped":
      return `n${entry.node} ⇐ ${entry.cause}`;
    case "sent":
      return `n${entry.from} → n${entry.to} ${entry.text}`;
    case "delivered":
      return `n${entry.to} gets ${entry.text}`;
    case "lost":
      return `n${entry.from} ⇢ n${entry.to} lost: ${entry.why}`;
    case "synced":
      return `n${entry.node} synced: ${entry.records} records durable`;
    case "fault":
      return `≡ ${entry.text}`;
    case "invoked":
      return `c${entry.client} asks ${entry.op}: ${entry.text}`;
    case "responded":
      return `c${entry.client} is told ${entry.op}: ${entry.text} (${entry.outcome})`;
    case "violation":
      return `${entry.checker}: ${entry.story}`;
    default:
      return entry.text ?? entry.is;
  }
}

function concerns(entry, node) {
  if (entry.node !== undefined) return entry.node === node;
  if (entry.from !== undefined) return entry.from === node || entry.to === node;
  return !["invoked", "responded"].includes(entry.is) && (!entry.nodes || entry.nodes.includes(node));
}

const run = sortOut();
