// The graph of the network: one square per tensor, in rows that wrap at the width of the page.

const CELL = 22; // distance of two squares
const SIDE = 13; // of a square
const LEVELS = [10, 20, 30, 40]; // dB, between the colours q0 (worst) to q4

function quality(value) {
  return value === null ? "qnone" : `q${LEVELS.filter((level) => value >= level).length}`;
}

// Column of each tensor: one behind its last input. Lane: the first that is free in this column, its input's if it can be.
function arrange(tensors) {
  const column = [], lane = [], taken = new Map();
  tensors.forEach((tensor, index) => {
    const inputs = tensor.inputs.filter((input) => input < index);
    column[index] = inputs.length ? Math.max(...inputs.map((input) => column[input])) + 1 : 0;
    const used = taken.get(column[index]) || new Set();
    let wanted = inputs.length ? Math.min(...inputs.map((input) => lane[input])) : 0;
    while (used.has(wanted)) wanted += 1;
    used.add(wanted);
    taken.set(column[index], used);
    lane[index] = wanted;
  });
  return { column, lane };
}

function drawNetwork(host, spec, { tensors, chosen }) {
  const select = document.getElementById("colour"), [field, place] = select.value.split(":");
  const { column, lane } = arrange(tensors);
  const width = Math.max(host.clientWidth, 240), left = 14, top = 40;
  const inRow = Math.max(4, Math.floor((width - 2 * left) / CELL));
  const rows = Math.floor(Math.max(...column) / inRow) + 1;
  // A row is as high as the most lanes in it need, with room for arcs.
  const lanes = Array.from({ length: rows }, () => 0);
  tensors.forEach((_, i) => { const row = Math.floor(column[i] / inRow); lanes[row] = Math.max(lanes[row], lane[i] + 1); });
  const starts = [];
  let height = top;
  for (const count of lanes) { starts.push(height); height += count * CELL + 22; }
  const box = canvas(host, height, { left, right: left, top, bottom: 0 }, `${tensors.length} tensors by ${select.selectedOptions[0].textContent}`);
  const at = (i) => {
    const row = Math.floor(column[i] / inRow);
    return [left + (column[i] % inRow) * CELL + CELL / 2, starts[row] + lane[i] * CELL + CELL / 2, row];
  };
  networkLegend(box);
  const edges = node("g", { class: "edges" });
  box.root.append(edges);
  tensors.forEach((tensor, i) => {
    for (const input of tensor.inputs) edges.append(node("path", { d: edge(at(input), at(i), width - left) }));
  });
  tensors.forEach((tensor, i) => {
    const [x, y] = at(i), value = tensor[field][Number(place)];
    const square = node("rect", {
      x: x - SIDE / 2, y: y - SIDE / 2, width: SIDE, height: SIDE, rx: 2,
      class: `tensor ${quality(value)}${i === chosen ? " chosen" : ""}`, "data-index": i,
    });
    const title = node("title");
    title.textContent = `${tensor.name}${tensor.op ? `, ${tensor.op}` : ""}: ${value === null ? "not measured" : `${number(value)} dB`}`;
    square.append(title);
    square.addEventListener("click", () => choose(i));
    square.addEventListener("pointerenter", () => { readoutOf(host).textContent = title.textContent; });
    box.root.append(square);
  });
  if (chosen !== null) {
    const value = tensors[chosen][field][Number(place)];
    readoutOf(host).textContent = `${tensors[chosen].name}: ${value === null ? "not measured" : `${number(value)} dB`}`;
  }
}

function readoutOf(host) {
  return host.parentElement.querySelector(".readout");
}

// A line to the next square, an arc below the row to one further on, stubs where the rows wrap.
function edge([x1, y1, row1], [x2, y2, row2], right) {
  const from = x1 + SIDE / 2, to = x2 - SIDE / 2;
  if (row1 !== row2) return `M${from} ${y1}H${Math.min(from + 6, right)}M${Math.max(to - 6, 0)} ${y2}H${to}`;
  if (x2 - x1 <= CELL) return y1 === y2 ? `M${from} ${y1}H${to}` : `M${from} ${y1}C${from + 5} ${y1} ${to - 5} ${y2} ${to} ${y2}`;
  const deep = Math.max(y1, y2) + SIDE / 2 + 7;
  return `M${x1} ${y1 + SIDE / 2}C${x1} ${deep} ${x2} ${deep} ${x2} ${y2 + SIDE / 2}`;
}

function networkLegend(box) {
  const names = ["below 10 dB", "10–20", "20–30", "30–40", "40 or more", "not measured"];
  let x = 0, y = 12;
  names.forEach((name, index) => {
    const needed = 20 + name.length * LETTER;
    if (x > 0 && x + needed > box.width) { x = 0; y += 18; }
    box.root.append(node("rect", { x, y: y - 10, width: 11, height: 11, rx: 2, class: `tensor ${index < 5 ? `q${index}` : "qnone"}` }));
    text(box, x + 16, y, name, {});
    x += needed + 12;
  });
}
