// Bands, leases, marks and client operations.

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
    for (const shift of [-gap, 0, gap]) {
      brush.moveTo(shift - 1, gap + 1);
      brush.lineTo(shift + gap + 1, -1);
    }
    brush.stroke();
    stripes.set(key, pen.createPattern(tile, "repeat"));
  }
  return stripes.get(key);
}

function drawNode(pen, node) {
  const { rail } = place.nodes.get(node),
    bands = run.bands.get(node);
  pen.fillStyle = colours.line;
  pen.fillRect(LABELS, rail + RAIL / 2, place.width, 1);
  const first = Math.max(0, countBefore(bands, (band) => band.at > view.from) - 1);
  for (let i = first; i < bands.length && bands[i].at <= view.to; i += 1) drawBand(pen, node, bands[i], rail);
  pen.fillStyle = colours.lease;
  for (const lease of run.leases.get(node)) {
    const from = clip(xOf(lease.at)),
      to = clip(xOf(lease.end));
    if (to >= LABELS && from <= place.width) pen.fillRect(from, rail + RAIL + 2, Math.max(1, to - from), 5);
  }
  drawMarks(pen, run.steps.get(node), rail + 2, RAIL - 4, colours.ink, 0.4);
  drawMarks(pen, run.syncs.get(node), rail + RAIL - 2, 7, colours.ink, 1);
  for (let i = first; i < bands.length && bands[i].at <= view.to; i += 1) drawBandText(pen, bands[i], rail);
}

function drawBand(pen, node, band, rail) {
  const from = clip(xOf(band.at)),
    to = clip(Math.min(xOf(band.end), xOf(run.end)));
  if (to < LABELS) return;
  const width = Math.max(0.7, to - from),
    state = band.state;
  const owner = parseInt(state.promised.split(".n")[1], 10) || 0;
  const colour = owner ? nodeColour(owner) : colours.faint;
  const fill = (style, alpha) => {
    pen.globalAlpha = alpha;
    pen.fillStyle = style;
    pen.fillRect(from, rail, width, RAIL);
    pen.globalAlpha = 1;
  };
  if (!state.up) {
    fill(striped(pen, colours.faint, 8), 0.9);
  } else {
    fill(colours.paper, 1);
    const campaigns = state.role === "candidate" || state.role === "canvassing";
    if (state.role === "halted") fill(colours.bad, 0.5);
    else if (state.role === "master") fill(colour, 1);
    else if (campaigns) {
      fill(nodeColour(node), 0.15);
      fill(striped(pen, nodeColour(node), 8), 0.6);
    } else fill(colour, 0.25);
    if (state.paused) fill(striped(pen, colours.ink, 6), 0.8);
  }
  pen.fillStyle = colours.ink;
  pen.fillRect(from, rail, 1, RAIL);
}

function drawBandText(pen, band, rail) {
  const from = Math.max(LABELS, xOf(band.at)),
    to = Math.min(place.width, xOf(Math.min(band.end, run.end)));
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
  const y = place.clients.get(op.client),
    from = clip(xOf(op.at)),
    to = clip(xOf(op.end ?? run.end));
  if (to < LABELS || from > place.width) return;
  const width = Math.max(1.5, to - from - 1),
    height = place.client - 5;
  pen.fillStyle = op.outcome ? colours[op.outcome] : striped(pen, colours.open, 8);
  pen.globalAlpha = op.outcome ? 0.4 : 0.8;
  pen.fillRect(from, y, width, height);
  pen.globalAlpha = 1;
  pen.fillStyle = op.outcome ? colours[op.outcome] : colours.open;
  pen.fillRect(from, y, Math.min(2, width), height);
  pen.fillStyle = colours.ink;
  const left = Math.max(from, LABELS);
  if (height > 12)
    label(pen, `${op.op} ${op.text}${op.answer ? ` = ${op.answer}` : ""}`, left + 4, y + height / 2 + 1, to - left - 6);
  seen.push({ x: from, y, width: Math.max(4, width), height, index: op.index, op });
}
