// The whole run in a strip: who was what when, how busy it was, the faults, the violation, what the lanes show.
function drawOverview() {
  const width = document.body.clientWidth - 24,
    height = 58,
    pen = sized(overview, width, height);
  const x = (at) => ((at - run.begin) / (run.end - run.begin)) * (width - 8) + 4;
  pen.fillStyle = colours.lane;
  pen.fillRect(0, 0, width, height);
  drawBusyness(pen, x, width, height);
  const row = Math.min(7, 34 / header.nodes.length);
  header.nodes.forEach((node, i) => {
    for (const band of run.bands.get(node)) {
      const owner = parseInt(band.state.promised.split(".n")[1], 10) || 0,
        from = x(band.at);
      pen.globalAlpha = !band.state.up ? 0.15 : band.state.role === "master" ? 1 : 0.3;
      pen.fillStyle = band.state.up && owner ? nodeColour(owner) : colours.faint;
      pen.fillRect(from, 12 + i * row, Math.max(0.5, x(Math.min(band.end, run.end)) - from), row - 1);
    }
  });
  pen.globalAlpha = 0.8;
  pen.fillStyle = colours.fault;
  for (const fault of run.faults)
    pen.fillRect(x(fault.at), 2 + fault.row * 3, Math.max(2, x(Math.min(fault.until, run.end)) - x(fault.at)), 2);
  pen.globalAlpha = 1;
  pen.fillStyle = colours.bad;
  for (const index of run.violations) pen.fillRect(x(entries[index].at) - 1.5, 0, 3, height);
  pen.fillStyle = colours.accent;
  pen.fillRect(x(entries[view.cursor]?.at ?? 0) - 0.5, 0, 1.5, height);
  const from = Math.max(0, x(view.from)),
    to = Math.min(width, x(view.to));
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
  busyness.forEach((count, column) => {
    const tall = Math.sqrt(count / most) * 11;
    pen.fillRect(column * 3, height - tall, 2.4, tall);
  });
  pen.globalAlpha = 1;
}
