// The lanes and the overview, drawn anew from `view` each time; only what is in view costs anything.

const lanes = document.getElementById("lanes"), overview = document.getElementById("overview");
const stage = document.getElementById("stage");
const LABELS = 46, AXIS = 24, RAIL = 18, FAULT_ROW = 18, CLIENT = 22;

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "ink", "faint", "line", "lane", "bad", "accent", "fault", "lease", "ok", "refused", "unknown", "open",
    "canvass", "prepare", "accept", "accepted", "lease-ask", "refuse", "resign", "catch-up", "other"];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  colours.nodes = Array.from({ length: 7 }, (_, i) => style.getPropertyValue(`--n${i}`).trim());
}
const nodeColour = (node) => colours.nodes[Math.max(0, header.nodes.indexOf(node)) % 7];

// Where things are: lanes from top to bottom.
let place = { width: 0, height: 0, nodes: new Map(), clients: new Map(), faults: 0 };
function arrange() {
  const width = stage.clientWidth, room = stage.clientHeight;
  const faults = run.faultRows * FAULT_ROW + (run.faultRows ? 6 : 0);
  const client = run.clients.length > 8 ? 14 : CLIENT;
  const below = run.clients.length * client + 10;
  const lane = Math.min(150, Math.max(58, (room - AXIS - faults - below) / Math.max(1, header.nodes.length)));
  place = { width, faults: AXIS + 3, nodes: new Map(), clients: new Map(), lane, client };
  let y = AXIS + faults;
  for (const node of header.nodes) { place.nodes.set(node, { top: y, rail: y + (lane - RAIL) / 2 }); y += lane; }
  for (const id of run.clients) { place.clients.set(id, y + 4); y += client; }
  place.height = Math.max(room, y + 10);
}

const xOf = (at) => LABELS + (at - view.from) / (view.to - view.from) * (place.width - LABELS);
const atOf = (x) => view.from + (x - LABELS) / (place.width - LABELS) * (view.to - view.from);
const clip = (x) => Math.min(Math.max(x, LABELS - 20), place.width + 20);

function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
  pen.textBaseline = "middle";
  return pen;
}

// What the pointer can find: filled while drawing, asked on hover.
let seen = [];

function draw() {
  arrange();
  const pen = sized(lanes, place.width, place.height);
  seen = [];
  const path = causes();
  drawGround(pen);
  drawFaults(pen);
  pen.save();
  pen.beginPath();
  pen.rect(LABELS, AXIS, place.width - LABELS, place.height);
  pen.clip();
  drawMessages(pen);
  for (const node of header.nodes) drawNode(pen, node);
  for (const op of run.ops.values()) drawOperation(pen, op);
  drawPath(pen, path);
  drawViolations(pen);
  pen.restore();
  drawLabels(pen);
  drawCursor(pen);
  drawOverview();
}

function drawGround(pen) {
  for (const { top } of place.nodes.values()) {
    pen.fillStyle = colours.line;
    pen.fillRect(0, Math.round(top), place.width, 1);
  }
  if (place.clients.size) pen.fillRect(0, Math.round(Math.min(...place.clients.values())) - 4, place.width, 1);
  const step = tick(view.to - view.from);
  pen.textAlign = "center";
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    if (at < 0) continue;
    const x = xOf(at);
    if (x < LABELS) continue;
    pen.fillStyle = colours.line;
    pen.fillRect(Math.round(x), AXIS - 6, 1, place.height);
    pen.fillStyle = colours.faint;
    pen.fillText(tickText(at, step), x, 10);
  }
  pen.textAlign = "left";
}

function tick(span) {
  const rough = span / Math.max(3, (place.width - LABELS) / 110), power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((times) => times * power >= rough);
}
const tickText = (at, step) => `${(at / 1e9).toFixed(Math.min(9, Math.max(0, Math.ceil(9 - Math.log10(step)))))}s`;

function drawFaults(pen) {
  pen.save();
  pen.beginPath();
  pen.rect(LABELS, AXIS - 4, place.width - LABELS, place.height);
  pen.clip();
  for (const fault of run.faults) {
    const from = clip(xOf(fault.at)), to = clip(xOf(Math.min(fault.until, run.end)));
    if (to < LABELS || from > place.width) continue;
    const width = Math.max(2, to - from), y = place.faults + fault.row * FAULT_ROW;
    pen.fillStyle = colours.fault;
    for (const node of fault.nodes) {
      const lane = place.nodes.get(node);
      if (!lane) continue;
      pen.globalAlpha = fault.until > fault.at ? 0.1 : 0.75;
      pen.fillRect(from, lane.top + 1, width, place.lane - 1);
      pen.globalAlpha = 0.75;
      pen.fillRect(from, lane.top + 1, 1.5, place.lane - 1);
    }
    pen.globalAlpha = 0.25;
    pen.fillRect(from, y, Math.max(4, width), FAULT_ROW - 3);
    pen.globalAlpha = 1;
    pen.fillRect(from, y, 2, FAULT_ROW - 3);
    seen.push({ x: from - 2, y, width: width + 4, height: FAULT_ROW - 3, index: fault.index, fault });
  }
  drawFaultTexts(pen);
  pen.restore();
}

// A text may run beyond its band, up to the next one in its row.
function drawFaultTexts(pen) {
  const ends = [];
  pen.fillStyle = colours.ink;
  for (const fault of [...run.faults].reverse()) {
    const x = clip(xOf(fault.at)), end = ends[fault.row] ?? place.width;
    if (x > place.width || xOf(Math.min(fault.until, run.end)) < LABELS && x <= LABELS) continue;
    ends[fault.row] = x;
    label(pen, fault.text, Math.max(LABELS, x) + 5, place.faults + fault.row * FAULT_ROW + 8, end - Math.max(LABELS, x) - 8);
  }
}

// As much of a text as there is room for, or nothing.
function label(pen, text, x, y, room, haloed = false) {
  const letters = Math.floor(room / 6.7);
  if (letters < 2 || (letters < 4 && text.length > letters)) return;
  const fitting = text.length <= letters ? text : `${text.slice(0, letters - 1)}…`;
  if (haloed) { pen.globalAlpha = 0.6; pen.lineWidth = 4; pen.lineJoin = "round"; pen.strokeText(fitting, x, y); pen.globalAlpha = 1; }
  pen.fillText(fitting, x, y);
}

const stripes = new Map();
function striped(pen, colour, gap) {
  const key = `${colour}${gap}`;
  if (!stripes.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = gap;
    const brush = tile.getContext("2d");
    brush.strokeStyle = colour;
    brush.lineWidth = gap / 4;
    brush.beginPath();
    for (const shift of [-gap, 0, gap]) { brush.moveTo(shift - 1, gap + 1); brush.lineTo(shift + gap + 1, -1); }
    brush.stroke();
    stripes.set(key, pen.createPattern(tile, "repeat"));
  }
  return stripes.get(key);
}

function drawNode(pen, node) {
  const { rail } = place.nodes.get(node), bands = run.bands.get(node);
  pen.fillStyle = colours.line;
  pen.fillRect(LABELS, rail + RAIL / 2, place.width, 1);
  const first = Math.max(0, countBefore(bands, (band) => band.at > view.from) - 1);
  for (let i = first; i < bands.length && bands[i].at <= view.to; i += 1) drawBand(pen, node, bands[i], rail);
  pen.fillStyle = colours.lease;
  for (const lease of run.leases.get(node)) {
    const from = clip(xOf(lease.at)), to = clip(xOf(lease.end));
    if (to >= LABELS && from <= place.width) pen.fillRect(from, rail + RAIL + 2, Math.max(1, to - from), 5);
  }
  drawMarks(pen, run.steps.get(node), rail + 2, RAIL - 4, colours.ink, 0.4);
  drawMarks(pen, run.syncs.get(node), rail + RAIL - 2, 7, colours.ink, 1);
  for (let i = first; i < bands.length && bands[i].at <= view.to; i += 1) drawBandText(pen, bands[i], rail);
}

function drawBand(pen, node, band, rail) {
  const from = clip(xOf(band.at)), to = clip(Math.min(xOf(band.end), xOf(run.end)));
  if (to < LABELS) return;
  const width = Math.max(0.7, to - from), state = band.state;
  const owner = parseInt(state.promised.split(".n")[1], 10) || 0;
  const colour = owner ? nodeColour(owner) : colours.faint;
  const fill = (style, alpha) => { pen.globalAlpha = alpha; pen.fillStyle = style; pen.fillRect(from, rail, width, RAIL); pen.globalAlpha = 1; };
  if (!state.up) {
    fill(striped(pen, colours.faint, 8), 0.9);
  } else {
    fill(colours.paper, 1);
    const campaigns = state.role === "candidate" || state.role === "canvassing";
    if (state.role === "halted") fill(colours.bad, 0.5);
    else if (state.role === "master") fill(colour, 1);
    else if (campaigns) { fill(nodeColour(node), 0.15); fill(striped(pen, nodeColour(node), 8), 0.6); }
    else fill(colour, 0.25);
    if (state.paused) fill(striped(pen, colours.ink, 6), 0.8);
  }
  pen.fillStyle = colours.ink;
  pen.fillRect(from, rail, 1, RAIL);
}

function drawBandText(pen, band, rail) {
  const from = Math.max(LABELS, xOf(band.at)), to = Math.min(place.width, xOf(Math.min(band.end, run.end)));
  const [text, background] = band.state.role === "master" ? [colours.paper, colours.ink] : [colours.ink, colours.paper];
  pen.fillStyle = text;
  pen.strokeStyle = background;
  label(pen, bandText(band.state), from + 5, rail + RAIL / 2 + 1, to - from - 8, true);
}

function bandText(state) {
  if (!state.up) return "down";
  const words = [state.promised, state.role];
  if (state.paused) words.push("paused");
  if (!state.votes) words.push("no vote");
  if (state.catching_up) words.push("catching up");
  return words.join(" ");
}

// Marks of single moments, left out where they would run into each other.
function drawMarks(pen, list, y, height, colour, alpha) {
  const first = countBefore(list, (index) => entries[index].at >= view.from);
  const last = countBefore(list, (index) => entries[index].at > view.to);
  if (last - first > (place.width - LABELS) / 9) return;
  pen.fillStyle = colour;
  pen.globalAlpha = alpha;
  for (let i = first; i < last; i += 1) {
    const x = xOf(entries[list[i]].at);
    pen.fillRect(x - 0.5, y, 1.2, height);
    seen.push({ x: x - 3, y, width: 6, height, index: list[i] });
  }
  pen.globalAlpha = 1;
}

function drawOperation(pen, op) {
  const y = place.clients.get(op.client), from = clip(xOf(op.at)), to = clip(xOf(op.end ?? run.end));
  if (to < LABELS || from > place.width) return;
  const width = Math.max(1.5, to - from - 1), height = place.client - 5;
  pen.fillStyle = op.outcome ? colours[op.outcome] : striped(pen, colours.open, 8);
  pen.globalAlpha = op.outcome ? 0.4 : 0.8;
  pen.fillRect(from, y, width, height);
  pen.globalAlpha = 1;
  pen.fillStyle = op.outcome ? colours[op.outcome] : colours.open;
  pen.fillRect(from, y, Math.min(2, width), height);
  pen.fillStyle = colours.ink;
  const left = Math.max(from, LABELS);
  if (height > 12) label(pen, `${op.op} ${op.text}${op.answer ? ` = ${op.answer}` : ""}`, left + 4, y + height / 2 + 1, to - left - 6);
  seen.push({ x: from, y, width: Math.max(4, width), height, index: op.index, op });
}

// The two ends of a message's arrow, or null if it is out of view.
function arrowOf(message) {
  const { from, to } = message.entry, a = place.nodes.get(from), b = place.nodes.get(to);
  if (!a || !b) return null;
  const end = message.end ?? run.end, down = b.rail > a.rail;
  const arrow = { x1: xOf(message.at), y1: down ? a.rail + RAIL : a.rail, x2: xOf(end), y2: down ? b.rail : b.rail + RAIL, message };
  if (message.arrived === null) {
    // It got nowhere: most of the way, for the cross to be seen between the lanes.
    const share = message.lost === null ? 0.3 : 0.6;
    arrow.x2 = message.lost === null ? arrow.x1 + 10 : Math.max(arrow.x2, arrow.x1 + 6);
    arrow.y2 = arrow.y1 + (arrow.y2 - arrow.y1) * share;
  }
  return arrow.x2 < LABELS || arrow.x1 > place.width ? null : arrow;
}

function drawMessages(pen) {
  const messages = run.messages, groups = new Map(), taken = new Set();
  const first = countBefore(messages, (message) => message.latest >= view.from - 1e7);
  for (let i = first; i < messages.length && messages[i].at <= view.to; i += 1) {
    const message = messages[i], kind = message.entry.kind;
    if (view.hidden.has(kind)) continue;
    if (view.node !== null && message.entry.from !== view.node && message.entry.to !== view.node) continue;
    const arrow = arrowOf(message);
    if (!arrow) continue;
    const key = `${arrow.x1 | 0},${arrow.x2 | 0},${arrow.y1 | 0},${arrow.y2 | 0},${kind}`;
    if (taken.has(key)) continue;
    taken.add(key);
    const group = `${familyOf(kind)} ${message.arrived === null ? "lost" : message.copy ? "copy" : ""}`;
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(arrow);
    seen.push({ arrow, index: message.sent, message });
  }
  const crowd = taken.size;
  for (const [group, arrows] of groups) drawArrows(pen, group.split(" "), arrows, crowd);
}

function drawArrows(pen, [family, fate], arrows, crowd) {
  pen.strokeStyle = pen.fillStyle = colours[family];
  pen.globalAlpha = (family === "lease-ask" ? 0.7 : 0.95) * (crowd > 3000 ? 0.35 : crowd > 800 ? 0.6 : 1);
  pen.lineWidth = crowd > 800 ? 0.7 : 1.2;
  pen.setLineDash(fate === "lost" ? [5, 3] : fate === "copy" ? [2, 2] : []);
  pen.beginPath();
  for (const { x1, y1, x2, y2 } of arrows) { pen.moveTo(x1, y1); pen.lineTo(x2, y2); }
  pen.stroke();
  pen.setLineDash([]);
  if (fate === "lost") { pen.globalAlpha = 1; drawCrosses(pen, arrows, crowd); }
  else if (crowd < 1500) drawHeads(pen, arrows);
  pen.globalAlpha = 1;
}

function drawHeads(pen, arrows) {
  pen.beginPath();
  for (const { x1, y1, x2, y2 } of arrows) {
    const angle = Math.atan2(y2 - y1, x2 - x1);
    pen.moveTo(x2, y2);
    pen.lineTo(x2 - 7 * Math.cos(angle - 0.4), y2 - 7 * Math.sin(angle - 0.4));
    pen.lineTo(x2 - 7 * Math.cos(angle + 0.4), y2 - 7 * Math.sin(angle + 0.4));
    pen.closePath();
  }
  pen.fill();
}

function drawCrosses(pen, arrows, crowd) {
  pen.strokeStyle = colours.bad;
  pen.lineWidth = crowd > 800 ? 1 : 1.6;
  pen.beginPath();
  const arm = crowd > 800 ? 2.2 : 3.5;
  for (const { x2, y2, message } of arrows) {
    if (message.lost === null) continue;
    pen.moveTo(x2 - arm, y2 - arm); pen.lineTo(x2 + arm, y2 + arm);
    pen.moveTo(x2 - arm, y2 + arm); pen.lineTo(x2 + arm, y2 - arm);
  }
  pen.stroke();
}

// What led to the cursor's entry, a few hops back, as pairs of entries: cause and effect.
function causes() {
  const path = [], seenEntries = new Set();
  let index = view.cursor;
  while (path.length < 14) {
    const cause = causeOf(index);
    if (cause < 0 || seenEntries.has(cause)) break;
    seenEntries.add(cause);
    path.push([cause, index]);
    index = cause;
  }
  return path;
}

function drawPath(pen, path) {
  const spots = (index) => {
    const entry = entries[index], node = entry.is === "sent" ? entry.from : entry.is === "delivered" ? entry.to : entry.node;
    const lane = place.nodes.get(node);
    return lane && { x: xOf(entry.at), y: lane.rail + RAIL / 2 };
  };
  pen.strokeStyle = colours.accent;
  pen.lineCap = "round";
  path.forEach(([cause, effect], hop) => {
    const a = spots(cause), b = spots(effect);
    if (!a || !b) return;
    pen.globalAlpha = Math.max(0.25, 1 - hop * 0.06);
    pen.lineWidth = Math.max(1.5, 3 - hop * 0.15);
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.lineTo(b.x, b.y);
    pen.stroke();
  });
  pen.globalAlpha = 1;
  const here = entries[view.cursor] && spots(view.cursor);
  if (here) {
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(here.x, here.y, 6, 0, 7);
    pen.stroke();
  }
}

function drawViolations(pen) {
  for (const index of run.violations) {
    const x = xOf(entries[index].at);
    if (x < LABELS || x > place.width) continue;
    pen.fillStyle = colours.bad;
    pen.globalAlpha = 0.1;
    pen.fillRect(x, AXIS, place.width - x, place.height);
    pen.globalAlpha = 1;
    pen.fillRect(x - 1, AXIS, 3, place.height);
    const text = ` ${entries[index].checker} `, width = text.length * 7;
    const y = Math.min(...[...place.nodes.values()].map(({ top }) => top));
    pen.fillRect(x - 1, y, width, 18);
    pen.fillStyle = colours.paper;
    pen.fillText(text, x, y + 10);
    for (const node of namedIn(entries[index].story)) {
      const lane = place.nodes.get(node);
      if (!lane) continue;
      pen.strokeStyle = colours.bad;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, lane.rail + RAIL / 2, 11, 0, 7);
      pen.stroke();
    }
    seen.push({ x: x - 3, y, width: 6 + width, height: 18, index });
  }
}

const namedIn = (story) => [...story.matchAll(/\bn(\d+)\b/g)].map((match) => Number(match[1]));

function drawLabels(pen) {
  pen.fillStyle = colours.paper;
  pen.fillRect(0, AXIS, LABELS - 1, place.height);
  const named = new Set(run.violations.flatMap((index) => namedIn(entries[index].story)));
  for (const [node, { top, rail }] of place.nodes) {
    pen.fillStyle = colours.line;
    pen.fillRect(0, Math.round(top), LABELS, 1);
    pen.fillStyle = nodeColour(node);
    pen.fillRect(4, rail, 4, RAIL);
    pen.fillStyle = named.has(node) ? colours.bad : view.node === null || view.node === node ? colours.ink : colours.faint;
    pen.font = `${view.node === node ? "bold " : ""}13px system-ui, sans-serif`;
    pen.fillText(`n${node}`, 14, rail + RAIL / 2 + 1);
  }
  pen.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
  pen.fillStyle = colours.faint;
  for (const [client, y] of place.clients) pen.fillText(`c${client}`, 14, y + (place.client - 5) / 2 + 1);
}

function drawCursor(pen) {
  const x = xOf(entries[view.cursor]?.at ?? run.begin);
  if (x < LABELS || x > place.width) return;
  pen.fillStyle = colours.accent;
  pen.fillRect(x - 0.5, AXIS - 6, 1.5, place.height);
  pen.beginPath();
  pen.moveTo(x - 6, AXIS - 9); pen.lineTo(x + 6, AXIS - 9); pen.lineTo(x, AXIS); pen.closePath();
  pen.fill();
}

// The whole run: who was what when, how busy it was, the faults, the violation, and what the lanes show of it.
function drawOverview() {
  const width = document.body.clientWidth - 24, height = 58, pen = sized(overview, width, height);
  const x = (at) => (at - run.begin) / (run.end - run.begin) * (width - 8) + 4;
  pen.fillStyle = colours.lane;
  pen.fillRect(0, 0, width, height);
  drawBusyness(pen, x, width, height);
  const row = Math.min(7, 34 / header.nodes.length);
  header.nodes.forEach((node, i) => {
    for (const band of run.bands.get(node)) {
      const owner = parseInt(band.state.promised.split(".n")[1], 10) || 0, from = x(band.at);
      pen.globalAlpha = !band.state.up ? 0.15 : band.state.role === "master" ? 1 : 0.3;
      pen.fillStyle = band.state.up && owner ? nodeColour(owner) : colours.faint;
      pen.fillRect(from, 12 + i * row, Math.max(0.5, x(Math.min(band.end, run.end)) - from), row - 1);
    }
  });
  pen.globalAlpha = 0.8;
  pen.fillStyle = colours.fault;
  for (const fault of run.faults) pen.fillRect(x(fault.at), 2 + fault.row * 3, Math.max(2, x(Math.min(fault.until, run.end)) - x(fault.at)), 2);
  pen.globalAlpha = 1;
  pen.fillStyle = colours.bad;
  for (const index of run.violations) pen.fillRect(x(entries[index].at) - 1.5, 0, 3, height);
  pen.fillStyle = colours.accent;
  pen.fillRect(x(entries[view.cursor]?.at ?? 0) - 0.5, 0, 1.5, height);
  const from = Math.max(0, x(view.from)), to = Math.min(width, x(view.to));
  pen.fillStyle = colours.ink;
  pen.globalAlpha = 0.12;
  pen.fillRect(0, 0, from, height);
  pen.fillRect(to, 0, width - to, height);
  pen.globalAlpha = 0.7;
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 1;
  pen.strokeRect(from + 0.5, 0.5, Math.max(2, to - from - 1), height - 1);
  pen.globalAlpha = 1;
}

let busyness = null;
function drawBusyness(pen, x, width, height) {
  const columns = Math.ceil(width / 3);
  if (busyness?.length !== columns) {
    busyness = new Uint32Array(columns);
    for (const message of run.messages) busyness[Math.min(columns - 1, (x(message.at) / 3) | 0)] += 1;
  }
  const most = Math.max(1, ...busyness);
  pen.fillStyle = colours.faint;
  pen.globalAlpha = 0.5;
  busyness.forEach((count, column) => { const tall = Math.sqrt(count / most) * 11; pen.fillRect(column * 3, height - tall, 2.4, tall); });
  pen.globalAlpha = 1;
}
