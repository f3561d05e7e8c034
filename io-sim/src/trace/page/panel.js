// What stands beside the lanes: the header, the kinds of messages, the state at the cursor, the entries around it.

const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return Object.assign(made, attributes);
}

function showHeader() {
  document.querySelector("aside").style.width = `${Math.max(424, 82 + header.nodes.length * 62)}px`;
  byId("verdict").textContent = header.verdict;
  byId("verdict").classList.toggle("good", header.good);
  byId("title").textContent = header.title;
  const facts = [
    ["seed", header.seed],
    ["trace hash", header.hash],
    ["simulated", duration(run.end)],
    ["entries", entries.length.toLocaleString("en")],
  ];
  for (const [name, value] of facts) {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    byId("facts").append(pair);
  }
  for (const [name, command] of header.commands) {
    const button = element("button", `$ ${name}`, { title: `Copy: ${command}` });
    button.addEventListener("click", () => copy(button, command));
    byId("commands").append(button);
  }
  showStory();
}

function copy(button, command) {
  const shown = button.textContent,
    box = element("textarea", command);
  document.body.append(box);
  box.select();
  button.textContent = document.execCommand("copy") ? "copied" : command;
  box.remove();
  setTimeout(() => {
    button.textContent = shown;
  }, 1200);
}

// What a story names by number can be gone to.
function showStory() {
  const index = run.violations[0];
  if (index === undefined) return;
  byId("violation").hidden = false;
  byId("checker").textContent = entries[index].checker;
  for (const part of entries[index].story.split(/((?<![.\w])n\d+\b|\b(?:operation|op|read|event) \d+)/)) {
    const [, word, number] = part.match(/^(n|operation|op|read|event) ?(\d+)$/) ?? [];
    if (!word) {
      byId("story").append(part);
      continue;
    }
    const link = element("a", part);
    link.addEventListener("click", () => goToNamed(word, Number(number)));
    byId("story").append(link);
  }
}

function goToNamed(word, number) {
  if (word === "n") return focusOn(number);
  const index = word === "event" ? run.byEvent.get(number) : run.ops.get(number)?.index;
  if (index !== undefined) goTo(index);
}

function showKinds() {
  const order = Object.keys(families),
    rank = (kind) => order.indexOf(kind) + 1 || 99;
  const kinds = [...run.kinds.keys()].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  byId("kinds").replaceChildren(
    ...kinds.map((kind) => {
      const button = element("button");
      const line = element("i");
      line.style.background = `var(--${familyOf(kind)})`;
      button.append(line, kind, element("small", run.kinds.get(kind)));
      button.classList.toggle("off", view.hidden.has(kind));
      button.addEventListener("click", (event) => toggleKind(kind, kinds, event.shiftKey));
      return button;
    }),
  );
}

function toggleKind(kind, kinds, alone) {
  if (alone) {
    const isAlone = !view.hidden.has(kind) && view.hidden.size === kinds.length - 1;
    view.hidden = new Set(isAlone ? [] : kinds.filter((other) => other !== kind));
  } else if (!view.hidden.delete(kind)) view.hidden.add(kind);
  showKinds();
  refresh();
}

function showNow() {
  const entry = entries[view.cursor];
  if (!entry) return;
  const where = element(
    "div",
    `${seconds(entry.at)} · event ${entry.event} · entry ${view.cursor + 1} of ${entries.length}`,
    { className: "where" },
  );
  const what = element("div", textOf(entry), { className: entry.is });
  byId("now").replaceChildren(where, what);
}

const rows = {
  role: (state) => (!state.up ? "down" : state.paused ? "paused" : state.role),
  promised: (state) => state.promised,
  master: (state) => (state.master ? `n${state.master}` : "–"),
  accepted: (state) => state.accepted,
  durable: (state) => state.durable,
  decided: (state) => state.decided,
  applied: (state) => state.applied,
  lease: (state) => (state.lease_left_ms === undefined ? "–" : `${state.lease_left_ms} ms`),
  votes: (state) => (state.votes ? "yes" : "no"),
  "catch-up": (state) => (state.catching_up ? "yes" : "–"),
};

// Of a node that is down, only what its disk holds.
function shown(state, name) {
  return state && (state.up || name === "role" || name === "durable") ? String(rows[name](state)) : "";
}

// A lease that only grows shorter is no change.
function isChange(name, before, now) {
  if (name === "lease" && before?.lease_left_ms >= now?.lease_left_ms) return false;
  return shown(before, name) !== shown(now, name);
}

function showStates() {
  const entry = entries[view.cursor],
    acting = entry.node ?? (entry.is === "sent" ? entry.from : entry.to);
  const columns = header.nodes.map((node) => {
    const step = lastStep(node, view.cursor),
      now = step < 0 ? null : entries[step].state;
    return { node, now, before: node === acting ? stateAt(node, step - 1) : now };
  });
  const head = element("tr");
  head.append(
    element("th", "state"),
    ...columns.map(({ node }) => {
      const cell = element("th", `n${node}`, { title: "Only what concerns this node" });
      cell.style.color = nodeColour(node);
      cell.addEventListener("click", () => focusOn(node));
      return cell;
    }),
  );
  const body = Object.keys(rows).map((name) => {
    const row = element("tr");
    row.append(
      element("th", name),
      ...columns.map(({ node, now, before }) => {
        const cell = element("td", shown(now, name));
        cell.classList.toggle("acts", node === acting);
        cell.classList.toggle("changed", isChange(name, before, now));
        return cell;
      }),
    );
    return row;
  });
  const [thead, tbody] = [element("thead"), element("tbody")];
  thead.append(head);
  tbody.append(...body);
  byId("states").replaceChildren(thead, tbody);
  showChanges(columns.find(({ node }) => node === acting));
}

function showChanges(column) {
  const changes = byId("changes");
  changes.replaceChildren();
  if (!column) return;
  const { node, before, now } = column,
    changed = Object.keys(rows).filter((name) => isChange(name, before, now));
  changes.append(changed.length ? `n${node}: ` : `n${node}: no change in this step`);
  changed.forEach((name, i) => {
    const [old, next] = [before, now].map((state) => shown(state, name) || "–");
    changes.append(`${i ? ", " : ""}${name} ${old} → `, element("b", next));
  });
}

// As many entries as anybody scrolls through, around the cursor.
const AROUND = 60;
function showList() {
  const shownEntries = [view.cursor];
  for (const direction of [-1, 1]) {
    for (let i = view.cursor, count = 0; count < AROUND; count += 1) {
      const other = next(i, direction);
      if (other === i) break;
      i = other;
      if (direction < 0) shownEntries.unshift(i);
      else shownEntries.push(i);
    }
  }
  const list = byId("list");
  let here = null;
  list.replaceChildren(
    ...shownEntries.map((index) => {
      const entry = entries[index],
        line = element("div", undefined, { className: entry.is, title: textOf(entry) });
      const node = entry.node ?? entry.from;
      if (node !== undefined) line.style.borderLeftColor = nodeColour(node);
      line.append(element("time", (entry.at / 1e9).toFixed(6)), element("span", textOf(entry)));
      line.addEventListener("click", () => goTo(index));
      if (index === view.cursor) {
        line.classList.add("cursor");
        here = line;
      }
      return line;
    }),
  );
  list.scrollTop = here.offsetTop - list.offsetTop - list.clientHeight / 2;
}

function tipFor(found) {
  const entry = entries[found.index];
  if (found.message) {
    const { message } = found,
      end = message.end === null ? "still on its way" : duration(message.end - message.at);
    const fate =
      message.lost !== null ? `lost: ${entries[message.lost].why}` : message.copy ? `another copy, after ${end}` : end;
    return `n${entry.from} → n${entry.to}  ${seconds(entry.at)}\n${entry.text}\n${fate}`;
  }
  if (found.op) {
    const { op } = found,
      end = op.end === null ? "no response" : `${op.answer} (${op.outcome}) after ${duration(op.end - op.at)}`;
    return `c${op.client}  operation ${op.op}  ${seconds(op.at)}\n${op.text}\n${end}`;
  }
  if (found.fault && found.fault.until > found.fault.at) {
    return `${seconds(entry.at)}, for ${duration(found.fault.until - found.fault.at)}\n${entry.text}`;
  }
  return `${seconds(entry.at)}  event ${entry.event}\n${textOf(entry)}`;
}
