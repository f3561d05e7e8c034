// The lanes and the overview, drawn anew from `view` each time; only what is in view costs anything.

const lanes = document.getElementById("lanes"),
  overview = document.getElementById("overview");
const stage = document.getElementById("stage");
const LABELS = 46,
  AXIS = 24,
  RAIL = 18,
  FAULT_ROW = 18,
  CLIENT = 22;

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = [
    "paper",
    "ink",
    "faint",
    "line",
    "lane",
    "bad",
    "accent",
    "fault",
    "lease",
    "ok",
    "refused",
    "unknown",
    "open",
    "canvass",
    "prepare",
    "accept",
    "accepted",
    "lease-ask",
    "refuse",
    "resign",
    "catch-up",
    "other",
  ];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  colours.nodes = Array.from({ length: 7 }, (_, i) => style.getPropertyValue(`--n${i}`).trim());
}
const nodeColour = (node) => colours.nodes[Math.max(0, header.nodes.indexOf(node)) % 7];

// Where things are: lanes from top to bottom.
let place = { width: 0, height: 0, nodes: new Map(), clients: new Map(), faults: 0 };
function arrange() {
  const width = stage.clientWidth,
    room = stage.clientHeight;
  const faults = run.faultRows * FAULT_ROW + (run.faultRows ? 6 : 0);
  const client = run.clients.length > 8 ? 14 : CLIENT;
  const below = run.clients.length * client + 10;
  const lane = Math.min(150, Math.max(58, (room - AXIS - faults - below) / Math.max(1, header.nodes.length)));
  place = { width, faults: AXIS + 3, nodes: new Map(), clients: new Map(), lane, client };
  let y = AXIS + faults;
  for (const node of header.nodes) {
    place.nodes.set(node, { top: y, rail: y + (lane - RAIL) / 2 });
    y += lane;
  }
  for (const id of run.clients) {
    place.clients.set(id, y + 4);
    y += client;
  }
  place.height = Math.max(room, y + 10);
}

const xOf = (at) => LABELS + ((at - view.from) / (view.to - view.from)) * (place.width - LABELS);
const atOf = (x) => view.from + ((x - LABELS) / (place.width - LABELS)) * (view.to - view.from);
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
  const rough = span / Math.max(3, (place.width - LABELS) / 110),
    power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((times) => times * power >= rough);
}
const tickText = (at, step) => `${(at / 1e9).toFixed(Math.min(9, Math.max(0, Math.ceil(9 - Math.log10(step)))))}s`;

function drawFaults(pen) {
  pen.save();
  pen.beginPath();
  pen.rect(LABELS, AXIS - 4, place.width - LABELS, place.height);
  pen.clip();
  for (const fault of run.faults) {
    const from = clip(xOf(fault.at)),
      to = clip(xOf(Math.min(fault.until, run.end)));
    if (to < LABELS || from > place.width) continue;
    const width = Math.max(2, to - from),
      y = place.faults + fault.row * FAULT_ROW;
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
    const x = clip(xOf(fault.at)),
      end = ends[fault.row] ?? place.width;
    if (x > place.width || (xOf(Math.min(fault.until, run.end)) < LABELS && x <= LABELS)) continue;
    ends[fault.row] = x;
    label(
      pen,
      fault.text,
      Math.max(LABELS, x) + 5,
      place.faults + fault.row * FAULT_ROW + 8,
      end - Math.max(LABELS, x) - 8,
    );
  }
}

// As much of a text as there is room for, or nothing.
function label(pen, text, x, y, room, haloed = false) {
  const letters = Math.floor(room / 6.7);
  if (letters < 2 || (letters < 4 && text.length > letters)) return;
  const fitting = text.length <= letters ? text : `${text.slice(0, letters - 1)}…`;
  if (haloed) {
    pen.globalAlpha = 0.6;
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    pen.strokeText(fitting, x, y);
    pen.globalAlpha = 1;
  }
  pen.fillText(fitting, x, y);
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
    const text = ` ${entries[index].checker} `,
      width = text.length * 7;
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

// Nodes, but not the owners of ballots such as 4.n1.
const namedIn = (story) => [...story.matchAll(/(?<![.\w])n(\d+)\b/g)].map((match) => Number(match[1]));

function drawLabels(pen) {
  pen.fillStyle = colours.paper;
  pen.fillRect(0, AXIS, LABELS - 1, place.height);
  const named = new Set(run.violations.flatMap((index) => namedIn(entries[index].story)));
  for (const [node, { top, rail }] of place.nodes) {
    pen.fillStyle = colours.line;
    pen.fillRect(0, Math.round(top), LABELS, 1);
    pen.fillStyle = nodeColour(node);
    pen.fillRect(4, rail, 4, RAIL);
    pen.fillStyle = named.has(node)
      ? colours.bad
      : view.node === null || view.node === node
        ? colours.ink
        : colours.faint;
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
  pen.moveTo(x - 6, AXIS - 9);
  pen.lineTo(x + 6, AXIS - 9);
  pen.lineTo(x, AXIS);
  pen.closePath();
  pen.fill();
}
