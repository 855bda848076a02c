// The page: its state, and what is drawn again when it changes. The address holds the chosen tensor, so it can be shared.

const figures = JSON.parse(document.getElementById("figures").textContent);
const place = (id) => document.getElementById(id);
let chosen = figures.tensors.length ? 0 : null;
let view = 0;

// A chart that fails must not look like an empty one.
window.addEventListener("error", (event) => {
  const trouble = place("trouble");
  trouble.hidden = false;
  trouble.textContent = `A chart could not be drawn (${event.message}). The tables are complete.`;
});

function draw(name) {
  const host = place(`${name}-chart`), spec = figures.charts[name];
  if (!host || !spec) return;
  try {
    drawers[spec.kind](host, spec, { tensors: figures.tensors, chosen, view });
  } catch (error) {
    reportError(error); // and go on with the other charts
  }
}

// Charts that show the chosen tensor are drawn again when another is chosen.
const FOLLOWING = ["drift", "network", "histogram"];

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
  const parts = figures.candidates.flatMap((name, i) => [
    tensor.sqnr[i] === null ? null : `${name} ${number(tensor.sqnr[i])} dB`,
    tensor.isolated[i] === null ? null : `${name} isolated ${number(tensor.isolated[i])} dB`,
  ]);
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
    showFigures(tensor);
    showFacts(tensor);
    place("chosen").textContent = spoken(chosen);
  }
  for (const name of FOLLOWING) draw(name);
  markWide();
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
  if (!fieldset) return;
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

function tableOf(caption, headings, rows) {
  const table = made("table"), top = made("thead"), head = made("tr"), body = made("tbody");
  table.append(made("caption", caption, { class: "unseen" }), top, body);
  top.append(head);
  headings.forEach((name, index) => head.append(made("th", name, { scope: "col", ...(index === 0 ? { class: "text" } : {}) })));
  for (const cells of rows) {
    const row = made("tr");
    cells.forEach((cell, index) => row.append(index ? made("td", cell) : made("th", cell, { scope: "row", class: "text" })));
    body.append(row);
  }
  const scroll = made("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
  scroll.append(table);
  return scroll;
}

function showRanges(tensor) {
  const rows = tensor.ranges.map((each) => [each.method, number(each.lo), number(each.hi), each.step, each.outside, each.used.join(", ") || "–"]);
  const headings = ["method", "least", "greatest", "one step", "values outside", "used by"];
  place("ranges").replaceChildren(...(rows.length ? [tableOf(`Ranges of ${tensor.name}`, headings, rows)] : []));
}

function showFigures(tensor) {
  const rows = tensor.figures;
  const headings = ["error", ...figures.candidates];
  place("figures-of").replaceChildren(...(rows.length ? [tableOf(`Error of ${tensor.name}`, headings, rows)] : []));
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
  const colours = place("colour");
  if (colours) colours.addEventListener("change", () => draw("network"));
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

// What a cell sorts by: its value, or the number that its text begins with, or its text.
function rank(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value.replace("inf", "Infinity"));
  const plain = cell.textContent.trim().replace("−", "-").replace("∞", "Infinity").replaceAll(",", "");
  return /^[-+]?([0-9.]|Infinity)/.test(plain) ? Number.parseFloat(plain) : plain === "–" ? null : plain;
}

// Numbers before texts; what is absent comes last in either direction.
function compareRanks(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}

function wireSorting() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells], body = table.tBodies[0], natural = [...body.rows];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const ranked = natural.map((row) => [rank(row.cells[column]), row]);
      ranked.sort((a, b) => compareRanks(a[0], b[0], up ? 1 : -1));
      body.append(...ranked.map((pair) => pair[1]));
    }));
  }
}

// A dozen images at first: enough to see what kind they are.
const FEW = 12;

function wireCards() {
  const list = place("cards"), everything = place("all-cards"), changedIn = place("changed-in");
  if (!list) return;
  const buttons = [...document.querySelectorAll(".filter button")];
  let kind = "all", all = false;
  const matches = (card) => {
    const kinds = card.dataset.kinds.split(","), of = changedIn && changedIn.value !== "" ? [kinds[Number(changedIn.value)]] : kinds;
    return of.some((one) => one !== "" && (kind === "all" || one === kind));
  };
  const show = () => {
    const wanted = [...list.children].filter(matches);
    const shown = new Set(all ? wanted : wanted.slice(0, FEW));
    for (const card of list.children) card.hidden = !shown.has(card);
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.kind === kind));
    everything.hidden = all || wanted.length <= FEW;
    everything.textContent = `Show all ${wanted.length}`;
    place("no-cards").hidden = wanted.length > 0;
  };
  for (const button of buttons) button.addEventListener("click", () => { kind = button.dataset.kind; show(); });
  if (changedIn) changedIn.addEventListener("change", show);
  everything.addEventListener("click", () => { all = true; show(); });
  addEventListener("beforeprint", () => { all = true; show(); });
  show();
}

function wirePictures() {
  const viewer = place("viewer");
  if (!viewer) return;
  for (const button of document.querySelectorAll("button.enlarge")) button.addEventListener("click", () => {
    const large = button.firstChild.cloneNode();
    for (const size of ["width", "height"]) large.removeAttribute(size);
    large.classList.toggle("tiny", Math.max(button.firstChild.naturalWidth, button.firstChild.naturalHeight) < 100);
    place("picture").replaceChildren(large, button.nextSibling.cloneNode(true));
    viewer.showModal();
  });
  place("close-picture").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
}

function startingTensor() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("tensor");
  const asked = figures.tensors.findIndex((tensor) => tensor.name === wanted);
  if (asked >= 0) return asked;
  const worst = document.querySelector(".losses button.tensor");
  return Math.max(worst ? figures.tensors.findIndex((tensor) => tensor.name === worst.dataset.tensor) : -1, 0);
}

wireTensors();
wireSorting();
wireCards();
wirePictures();
for (const name of Object.keys(figures.charts)) if (!FOLLOWING.includes(name)) draw(name);
if (chosen !== null) {
  const anchor = location.hash;
  choose(startingTensor());
  if (!anchor.startsWith("#tensor=")) history.replaceState(null, "", anchor || location.pathname + location.search);
}

// On a narrow page, a line below a table says that it goes on to the right.
function markWide() {
  for (const scroll of document.querySelectorAll(".scroll")) scroll.classList.toggle("wide", scroll.scrollWidth > scroll.clientWidth + 1);
}
for (const closed of document.querySelectorAll("details")) closed.addEventListener("toggle", markWide);
markWide();

let drawnAt = innerWidth;
const redraw = () => { markWide(); for (const name of Object.keys(figures.charts)) draw(name); };
addEventListener("resize", () => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; redraw(); } });
addEventListener("beforeprint", () => { for (const closed of document.querySelectorAll("details")) closed.open = true; redraw(); });
addEventListener("afterprint", redraw);
