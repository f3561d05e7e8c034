// What keys, pointer and address do.

let pending = false;
function refresh() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    draw();
  });
  writeAddress();
}

function goTo(index) {
  view.cursor = index;
  byId("scrubber").value = index;
  follow();
  showNow();
  showStates();
  showList();
  refresh();
}

function focusOn(node) {
  view.node = view.node === node ? null : node;
  showList();
  refresh();
}

function goToFault() {
  const before = run.faults.filter((fault) => fault.index < view.cursor).at(-1) ?? run.faults.at(-1);
  if (before) goTo(before.index);
}

function find(direction) {
  const wanted = byId("find").value.toLowerCase();
  if (wanted) goTo(next(view.cursor, direction, (entry) => textOf(entry).toLowerCase().includes(wanted)));
}

function stepSameNode(direction) {
  const node = entries[view.cursor]?.node ?? entries[view.cursor]?.from;
  return next(view.cursor, direction, (entry) => entry.is === "stepped" && (node === undefined || entry.node === node));
}

const middle = () => (view.from + view.to) / 2;
const around = () => {
  const at = entries[view.cursor]?.at ?? 0;
  return at > view.from && at < view.to ? at : middle();
};
const keys = {
  ArrowLeft: (event) => goTo(event.shiftKey ? stepSameNode(-1) : next(view.cursor, -1)),
  ArrowRight: (event) => goTo(event.shiftKey ? stepSameNode(1) : next(view.cursor, 1)),
  Home: () => goTo(0),
  End: () => goTo(entries.length - 1),
  b: () => {
    const cause = causeOf(view.cursor);
    if (cause >= 0) goTo(cause);
  },
  v: () => {
    if (run.violations.length) goTo(run.violations[0]);
  },
  f: goToFault,
  a: () => {
    lookAtAll();
    refresh();
  },
  "+": () => {
    zoom(0.6, around());
    refresh();
  },
  "=": () => {
    zoom(0.6, around());
    refresh();
  },
  "-": () => {
    zoom(1 / 0.6, around());
    refresh();
  },
  "/": () => byId("find").focus(),
  "?": () => byId("help").showModal(),
  0: () => {
    view.node = null;
    showList();
    refresh();
  },
};

function onKey(event) {
  if (event.target === byId("find")) {
    if (event.key === "Enter") find(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !entries.length) return;
  const number = Number(event.key),
    act = keys[event.key];
  if (act) act(event);
  else if (header.nodes.includes(number)) focusOn(number);
  else return;
  event.preventDefault();
}

// The nearest thing under the pointer: arrows are found by their distance, all else by its box.
function under(x, y) {
  let best = null,
    distance = 6;
  for (const thing of seen) {
    if (!thing.arrow) {
      if (x >= thing.x && x <= thing.x + thing.width && y >= thing.y && y <= thing.y + thing.height) {
        best = thing;
        distance = 2;
      }
      continue;
    }
    const { x1, y1, x2, y2 } = thing.arrow,
      dx = x2 - x1,
      dy = y2 - y1;
    const share = Math.min(1, Math.max(0, ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1)));
    const away = Math.hypot(x - x1 - share * dx, y - y1 - share * dy);
    if (away < distance) {
      distance = away;
      best = thing;
    }
  }
  return best;
}

function showTip(event) {
  const tip = byId("tooltip"),
    found = under(event.offsetX, event.offsetY);
  lanes.classList.toggle("over", found !== null);
  tip.hidden = found === null;
  if (!found) return;
  tip.textContent = tipFor(found);
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
  const below = event.clientY + 18,
    above = event.clientY - tip.offsetHeight - 10;
  tip.style.top = `${below + tip.offsetHeight > window.innerHeight ? above : below}px`;
}

// On the axis a drag moves the cursor, elsewhere the view.
function holdLanes() {
  let held = null;
  lanes.addEventListener("pointerdown", (event) => {
    lanes.setPointerCapture(event.pointerId);
    held = { x: event.offsetX, from: view.from, moved: false, scrubs: event.offsetY < AXIS };
    if (held.scrubs) scrub(atOf(event.offsetX));
  });
  lanes.addEventListener("pointermove", (event) => {
    if (!held) return showTip(event);
    if (held.scrubs) return scrub(atOf(event.offsetX));
    held.moved ||= Math.abs(event.offsetX - held.x) > 3;
    if (!held.moved) return;
    lanes.classList.add("held");
    look(held.from - ((event.offsetX - held.x) / (place.width - LABELS)) * (view.to - view.from), view.to - view.from);
    refresh();
  });
  lanes.addEventListener("pointerup", (event) => {
    if (held && !held.moved && !held.scrubs) click(event);
    held = null;
    lanes.classList.remove("held");
  });
  lanes.addEventListener("pointerleave", () => {
    byId("tooltip").hidden = true;
  });
  lanes.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const sideways = event.shiftKey ? event.deltaY : event.deltaX;
      if (Math.abs(sideways) > Math.abs(event.deltaY) || event.shiftKey)
        pan((sideways / place.width) * (view.to - view.from));
      else zoom(Math.exp(event.deltaY * 0.0015), atOf(event.offsetX));
      refresh();
    },
    { passive: false },
  );
}

function click(event) {
  if (event.offsetX < LABELS) {
    for (const [node, { top }] of place.nodes)
      if (event.offsetY >= top && event.offsetY < top + place.lane) focusOn(node);
    return;
  }
  const found = under(event.offsetX, event.offsetY);
  if (found) goTo(found.index);
  else scrub(atOf(event.offsetX));
}

function scrub(at) {
  goTo(Math.max(0, countBefore(entries, (entry) => entry.at > at) - 1));
}

function holdOverview() {
  const move = (event) => {
    const at = run.begin + ((event.offsetX - 4) / (overview.clientWidth - 8)) * (run.end - run.begin),
      span = view.to - view.from;
    look(at - span / 2, span);
    scrub(at);
  };
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    move(event);
  });
  overview.addEventListener("pointermove", (event) => {
    if (event.buttons) move(event);
  });
}

function begin() {
  readColours();
  showHeader();
  showKinds();
  firstLook();
  byId("scrubber").max = Math.max(0, entries.length - 1);
  if (entries.length) goTo(view.cursor);
  holdLanes();
  holdOverview();
  byId("scrubber").addEventListener("input", (event) => goTo(Number(event.target.value)));
  byId("zoom-in").addEventListener("click", keys["+"]);
  byId("zoom-out").addEventListener("click", keys["-"]);
  byId("zoom-all").addEventListener("click", keys.a);
  byId("help-open").addEventListener("click", keys["?"]);
  byId("to-violation").addEventListener("click", keys.v);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    readAddress();
    goTo(view.cursor);
  });
  new ResizeObserver(draw).observe(stage);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    stripes.clear();
    goTo(view.cursor);
  });
  draw();
}
begin();
