// The page: what is chosen, and who is told when that changes. The chosen tensor is in the address, so it can be sent.

const figures = JSON.parse(document.getElementById("figures").textContent);
const place = (id) => document.getElementById(id);
let chosen = figures.tensors.length ? 0 : null;
let view = 0;

// A chart that fails must not be taken for an empty one.
window.addEventListener("error", (event) => {
  const trouble = place("trouble");
  trouble.hidden = false;
  trouble.textContent = `A chart could not be drawn (${event.message}). The tables are complete.`;
});

const charts = {
  deltas: drawDeltas,
  tradeoff: drawTradeoff,
  drift: (host) => wireDrift(host, drawDrift(host, figures, chosen)),
  histogram: (host) => chosen !== null && drawHistogram(host, figures.tensors[chosen], view),
  classes: drawClasses,
  margins: drawMargins,
  convergence: drawConvergence,
};

function draw(name) {
  const host = place(`${name}-chart`);
  if (!host) return;
  try {
    charts[name](host, figures);
  } catch (error) {
    reportError(error); // and go on with the other charts
  }
}

function wireDrift(host, { target, at }) {
  const readout = place("drift-readout");
  target.addEventListener("click", (event) => choose(at(event)));
  target.addEventListener("pointermove", (event) => { readout.textContent = spoken(at(event)); });
  target.addEventListener("pointerleave", () => { readout.textContent = chosen === null ? "" : spoken(chosen); });
  host.setAttribute("aria-valuenow", chosen);
  host.setAttribute("aria-valuetext", spoken(chosen));
  readout.textContent = spoken(chosen);
}

function spoken(index) {
  const tensor = figures.tensors[index];
  const parts = figures.series.map((name, i) => (tensor.sqnr[i] === null ? null : `${name} ${number(tensor.sqnr[i])} dB`));
  if (tensor.local !== null) parts.push(`alone ${number(tensor.local)} dB`);
  return [tensor.name, ...parts.filter((part) => part !== null)].join(", ");
}

function choose(index, { move = false } = {}) {
  chosen = Math.min(Math.max(index, 0), figures.tensors.length - 1);
  view = 0;
  const tensor = figures.tensors[chosen];
  const select = place("choose");
  if (select) {
    select.value = String(chosen);
    showViews(tensor);
    showRanges(tensor);
    showFacts(tensor);
    place("chosen").textContent = spoken(chosen);
    draw("histogram");
  }
  draw("drift");
  for (const row of document.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
  for (const button of document.querySelectorAll("td button.tensor, th button.tensor")) {
    if (button.dataset.tensor === tensor.name) button.closest("tr").classList.add("chosen");
  }
  history.replaceState(null, "", `#tensor=${encodeURIComponent(tensor.name)}`);
  if (move && place("tensor")) place("tensor").scrollIntoView({ block: "start" });
}

function made(tag, content, attributes) {
  const found = document.createElement(tag);
  if (content !== undefined) found.textContent = content;
  for (const [name, value] of Object.entries(attributes || {})) found.setAttribute(name, value);
  return found;
}

function showViews(tensor) {
  const fieldset = place("views");
  fieldset.hidden = tensor.views.length < 2;
  const options = tensor.views.map((each, index) => {
    const label = made("label"), input = made("input", undefined, { type: "radio", name: "view", value: index });
    input.checked = index === view;
    input.addEventListener("change", () => { view = index; draw("histogram"); });
    label.append(input, ` ${each.name}`);
    return label;
  });
  fieldset.replaceChildren(fieldset.querySelector("legend"), ...options);
}

function showRanges(tensor) {
  if (!tensor.ranges.length) { place("ranges").replaceChildren(); return; }
  const table = made("table"), head = made("tr"), body = made("tbody");
  table.append(made("caption", `Ranges of ${tensor.name}`, { class: "unseen" }));
  for (const name of ["method", "least", "greatest", "one step", "values outside"]) head.append(made("th", name, { scope: "col" }));
  const top = made("thead");
  top.append(head);
  for (const each of tensor.ranges) {
    const row = made("tr");
    row.append(made("th", each.used ? `${each.method} (used)` : each.method, { scope: "row" }));
    for (const cell of [number(each.lo), number(each.hi), each.step, each.outside]) row.append(made("td", cell));
    body.append(row);
  }
  table.append(top, body);
  const scroll = made("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": "Ranges by method" });
  scroll.append(table);
  place("ranges").replaceChildren(scroll);
}

function showFacts(tensor) {
  place("facts").replaceChildren(...tensor.facts.map(([name, value]) => {
    const pair = made("div");
    pair.append(made("dt", name), made("dd", value));
    return pair;
  }));
}

function wireTensors() {
  const select = place("choose");
  if (select) {
    figures.tensors.forEach((tensor, index) => select.append(made("option", tensor.name, { value: index })));
    select.addEventListener("change", () => choose(Number(select.value)));
    place("previous").addEventListener("click", () => choose(chosen - 1));
    place("next").addEventListener("click", () => choose(chosen + 1));
  }
  for (const button of document.querySelectorAll("button.tensor")) {
    const index = figures.tensors.findIndex((tensor) => tensor.name === button.dataset.tensor);
    if (index >= 0) button.addEventListener("click", () => choose(index, { move: true }));
    else button.disabled = true;
  }
  const host = place("drift-chart");
  if (!host || chosen === null) return;
  for (const [name, value] of Object.entries({
    tabindex: "0", role: "slider", "aria-labelledby": "drift-caption", "aria-valuemin": 0,
    "aria-valuemax": figures.tensors.length - 1,
  })) host.setAttribute(name, value);
  host.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    choose(chosen + steps[event.key]);
  });
}

function wireSorting() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], natural = [...body.rows];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rank = (row) => {
        const cell = row.cells[column].textContent.replace("−", "-").replace("∞", "Infinity");
        const value = Number.parseFloat(cell);
        return Number.isNaN(value) || column < 2 ? cell : value;
      };
      const sorted = [...natural].sort((a, b) => {
        const [p, q] = [rank(a), rank(b)];
        return typeof p === "number" && typeof q === "number" ? p - q : String(p).localeCompare(String(q));
      });
      body.append(...(up ? sorted : sorted.reverse()));
    }));
  }
}

// A dozen images at first: enough to see what kind they are.
const FEW = 12;

function wireCards() {
  const list = place("cards"), everything = place("all-cards");
  if (!list) return;
  const buttons = [...document.querySelectorAll(".filter button")];
  let kind = "all", all = false;
  const show = () => {
    const wanted = [...list.children].filter((card) => kind === "all" || card.dataset.kind === kind);
    const shown = new Set(all ? wanted : wanted.slice(0, FEW));
    for (const card of list.children) card.hidden = !shown.has(card);
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    everything.hidden = all || wanted.length <= FEW;
    everything.textContent = `Show all ${wanted.length}`;
  };
  for (const button of buttons) button.addEventListener("click", () => { kind = button.dataset.kind; show(); });
  everything.addEventListener("click", () => { all = true; show(); });
  show();
}

function startingTensor() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("tensor");
  const asked = figures.tensors.findIndex((tensor) => tensor.name === wanted);
  if (asked >= 0) return asked;
  const blamed = document.querySelector(".blame button.tensor");
  const worst = blamed ? figures.tensors.findIndex((tensor) => tensor.name === blamed.dataset.tensor) : -1;
  return Math.max(worst, 0);
}

wireTensors();
wireSorting();
wireCards();
for (const name of Object.keys(charts)) if (name !== "drift" && name !== "histogram") draw(name);
if (chosen !== null) {
  const anchor = location.hash;
  choose(startingTensor());
  if (!anchor.startsWith("#tensor=")) history.replaceState(null, "", anchor || location.pathname + location.search);
}

let drawnAt = innerWidth;
const redraw = () => { for (const name of Object.keys(charts)) draw(name); };
addEventListener("resize", () => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; redraw(); } });
addEventListener("beforeprint", () => { for (const closed of document.querySelectorAll("details")) closed.open = true; redraw(); });
addEventListener("afterprint", redraw);
