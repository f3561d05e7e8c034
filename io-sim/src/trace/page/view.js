// What is looked at: a span of time, a cursor at an entry, and what is left out.

const view = { from: run.begin, to: run.end, cursor: 0, hidden: new Set(), node: null };

const MARGIN = 0.04;
const SPAN_MIN = 2000;
// So many messages before a violation are what is seen first.
const FIRST_LOOK = 60;

const whole = () => (run.end - run.begin) * (1 + 2 * MARGIN);

function look(from, span) {
  span = Math.min(Math.max(span, SPAN_MIN), whole());
  const margin = Math.max(span, (run.end - run.begin) * MARGIN * 2) * 0.5;
  from = Math.min(Math.max(from, run.begin - margin), run.end + margin - span);
  if (span >= whole()) from = run.begin - (run.end - run.begin) * MARGIN;
  view.from = from;
  view.to = from + span;
}

function zoom(factor, around) {
  const span = Math.min(Math.max((view.to - view.from) * factor, SPAN_MIN), whole());
  const share = (around - view.from) / (view.to - view.from);
  look(around - span * share, span);
}

function pan(by) {
  look(view.from + by, view.to - view.from);
}

function lookAtAll() {
  look(run.begin, whole());
}

// Moves the view only as far as the cursor would leave it.
function follow() {
  const at = entries[view.cursor]?.at ?? run.begin,
    span = view.to - view.from;
  if (at < view.from + span * 0.05 || at > view.to - span * 0.05) look(at - span / 2, span);
}

function isListed(index) {
  const entry = entries[index];
  if (entry.is === "delivered") return false;
  if (entry.is === "violation") return true;
  if ((entry.is === "sent" || entry.is === "lost") && view.hidden.has(entry.kind)) return false;
  return view.node === null || concerns(entry, view.node);
}

// The next listed entry in this direction that fits, or where it is.
function next(index, direction, fits = () => true) {
  for (let i = index + direction; i >= 0 && i < entries.length; i += direction)
    if (isListed(i) && fits(entries[i])) return i;
  return index;
}

// Without a word in the address: what led to the violation, or the whole run.
function firstLook() {
  lookAtAll();
  const at = run.violations[0];
  view.cursor = at ?? 0;
  if (at !== undefined) {
    const before = countBefore(run.messages, (message) => message.at > entries[at].at);
    const from = run.messages[Math.max(0, before - FIRST_LOOK)]?.at ?? run.begin,
      end = entries[at].at;
    look(from, (end - from) * 1.12);
  }
  readAddress();
}

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const zoomed = parseFloat(words.get("zoom"));
  if (zoomed > 0) look(view.from, whole() / zoomed);
  const entry = parseInt(words.get("entry"), 10),
    t = parseFloat(words.get("t"));
  if (entry >= 0 && entry < entries.length) view.cursor = entry;
  else if (t >= 0) view.cursor = Math.max(0, countBefore(entries, (entry) => entry.at > t * 1e9) - 1);
  else return;
  const span = view.to - view.from;
  look((t >= 0 ? t * 1e9 : entries[view.cursor].at) - span / 2, span);
}

let addressTimer = 0;
function writeAddress() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    const at = (entries[view.cursor]?.at ?? 0) / 1e9,
      zoomed = whole() / (view.to - view.from);
    history.replaceState(null, "", `#t=${at.toFixed(6)}s&zoom=${zoomed.toFixed(2)}&entry=${view.cursor}`);
  }, 300);
}
