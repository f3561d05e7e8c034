// Arrows, and the path of causes.

// The two ends of a message's arrow, or null if it is out of view.
function arrowOf(message) {
  const { from, to } = message.entry,
    a = place.nodes.get(from),
    b = place.nodes.get(to);
  if (!a || !b) return null;
  const end = message.end ?? run.end,
    down = b.rail > a.rail;
  const arrow = {
    x1: xOf(message.at),
    y1: down ? a.rail + RAIL : a.rail,
    x2: xOf(end),
    y2: down ? b.rail : b.rail + RAIL,
    message,
  };
  if (message.arrived === null) {
    // It got nowhere: most of the way, for the cross to be seen between the lanes.
    const share = message.lost === null ? 0.3 : 0.6;
    arrow.x2 = message.lost === null ? arrow.x1 + 10 : Math.max(arrow.x2, arrow.x1 + 6);
    arrow.y2 = arrow.y1 + (arrow.y2 - arrow.y1) * share;
  }
  return arrow.x2 < LABELS || arrow.x1 > place.width ? null : arrow;
}

function drawMessages(pen) {
  const messages = run.messages,
    groups = new Map(),
    taken = new Set();
  const first = countBefore(messages, (message) => message.latest >= view.from - 1e7);
  for (let i = first; i < messages.length && messages[i].at <= view.to; i += 1) {
    const message = messages[i],
      kind = message.entry.kind;
    if (view.hidden.has(kind)) continue;
    if (view.node !== null && message.entry.from !== view.node && message.entry.to !== view.node) continue;
    const arrow = arrowOf(message);
    if (!arrow) continue;
    const { from, to } = message.entry,
      long = arrow.x2 - arrow.x1 > 3 ? arrow.x2 >> 1 : "";
    const key = `${arrow.x1 >> 1},${long},${from},${to},${kind},${message.lost === null}`;
    // What would be drawn over another one is left out.
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
  for (const { x1, y1, x2, y2 } of arrows) {
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
  }
  pen.stroke();
  pen.setLineDash([]);
  if (fate === "lost") {
    pen.globalAlpha = 1;
    drawCrosses(pen, arrows, crowd);
  } else if (crowd < 1500) drawHeads(pen, arrows);
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
    pen.moveTo(x2 - arm, y2 - arm);
    pen.lineTo(x2 + arm, y2 + arm);
    pen.moveTo(x2 - arm, y2 + arm);
    pen.lineTo(x2 + arm, y2 - arm);
  }
  pen.stroke();
}

// What led to the cursor's entry, a few hops back, as pairs of entries: cause and effect.
function causes() {
  const path = [],
    seenEntries = new Set();
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
    const entry = entries[index],
      node = entry.is === "sent" ? entry.from : entry.is === "delivered" ? entry.to : entry.node;
    const lane = place.nodes.get(node);
    return lane && { x: xOf(entry.at), y: lane.rail + RAIL / 2 };
  };
  pen.strokeStyle = colours.accent;
  pen.lineCap = "round";
  path.forEach(([cause, effect], hop) => {
    const a = spots(cause),
      b = spots(effect);
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
