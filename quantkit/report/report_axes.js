"use strict";
// Drawing primitives: SVG elements, scales, ticks, axes. A chart is drawn anew at each width, so its text stays legible.

const SVG = "http://www.w3.org/2000/svg";
const LETTER = 6.6; // mean width of a letter at 12 px, to keep labels from running into each other

function node(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  for (const child of children) made.append(child);
  return made;
}

function linear(from, to, start, end) {
  const scale = (value) => start + ((value - from) / (to - from || 1)) * (end - start);
  scale.invert = (pixel) => from + ((pixel - start) / (end - start || 1)) * (to - from);
  return scale;
}

// A logarithmic scale that starts at `from` > 0.
function logarithmic(from, to, start, end) {
  const straight = linear(Math.log10(from), Math.log10(to), start, end);
  return (value) => straight(Math.log10(Math.max(value, from)));
}

function ticks(from, to, count) {
  const span = to - from;
  if (!(span > 0)) return [from];
  const rough = span / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(from / step - 1e-9); k * step <= to + step * 1e-9; k++) found.push(k * step);
  return found;
}

function decades(from, to) {
  const found = [];
  const first = Math.ceil(Math.log10(from) - 1e-9), last = Math.floor(Math.log10(to) + 1e-9);
  const step = Math.max(1, Math.ceil((last - first) / 5));
  for (let exponent = first; exponent <= last; exponent += step) found.push(10 ** exponent);
  return found;
}

// Numbers with the typographic minus and no more digits than tell neighbouring ticks apart.
function number(value, step) {
  const digits = step === undefined ? 3 : Math.max(0, Math.ceil(-Math.log10(Math.abs(step) || 1) - 1e-9));
  const small = step === undefined || digits > 4;
  const text = small ? String(Number(value.toPrecision(3))) : value.toFixed(digits);
  return text.replace(/^-(?=0(\.0+)?$)/, "").replace("-", "−");
}

function big(value) {
  if (value >= 1e9) return `${number(value / 1e9)} G`;
  if (value >= 1e6) return `${number(value / 1e6)} M`;
  if (value >= 1e3) return `${number(value / 1e3)} k`;
  return number(value);
}

// An empty chart in `host`: svg, its size, and the inner box.
function canvas(host, height, margin, summary) {
  const width = Math.max(host.clientWidth, 240);
  const root = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": summary });
  host.replaceChildren(root);
  return { root, width, height, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
}

// Text; where it is shortened, `whole` is shown when the pointer rests on it.
function text(box, x, y, content, attributes, whole) {
  const made = node("text", { x, y, ...attributes });
  made.textContent = content;
  if (whole !== undefined && whole !== content) {
    const title = node("title");
    title.textContent = whole;
    made.append(title);
  }
  box.root.append(made);
  return made;
}

function line(box, x1, y1, x2, y2, kind) {
  box.root.append(node("line", { x1, y1, x2, y2, class: kind }));
}

function bottomAxis(box, scale, values, format, title) {
  const step = values.length > 1 ? values[1] - values[0] : undefined;
  line(box, box.left, box.bottom, box.right, box.bottom, "axis");
  for (const value of values) {
    const x = scale(value);
    line(box, x, box.bottom, x, box.bottom + 4, "axis");
    text(box, x, box.bottom + 18, format(value, step), { "text-anchor": "middle" });
  }
  text(box, (box.left + box.right) / 2, box.bottom + 38, title, { "text-anchor": "middle", class: "title" });
}

function leftAxis(box, scale, values, format, title) {
  const step = values.length > 1 ? values[1] - values[0] : undefined;
  for (const value of values) {
    const y = scale(value);
    line(box, box.left, y, box.right, y, "grid");
    text(box, box.left - 8, y + 4, format(value, step), { "text-anchor": "end" });
  }
  text(box, 0, box.top - 12, title, { class: "title" });
}

function polyline(box, points, kind) {
  let path = "", pen = "M";
  for (const point of points) {
    if (point === null) { pen = "M"; continue; }
    path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  if (path) box.root.append(node("path", { d: path, class: kind }));
}

// Every series has a colour and a shape, so that neither is needed alone.
function marker(box, x, y, index, size, kind) {
  const s = size, shapes = [
    () => node("circle", { cx: x, cy: y, r: s }),
    () => node("rect", { x: x - s * 0.9, y: y - s * 0.9, width: s * 1.8, height: s * 1.8 }),
    () => node("path", { d: `M${x} ${y - s * 1.2}L${x + s * 1.1} ${y + s * 0.8}L${x - s * 1.1} ${y + s * 0.8}Z` }),
    () => node("path", { d: `M${x} ${y - s * 1.3}L${x + s * 1.3} ${y}L${x} ${y + s * 1.3}L${x - s * 1.3} ${y}Z` }),
    () => node("path", { d: `M${x} ${y + s * 1.2}L${x + s * 1.1} ${y - s * 0.8}L${x - s * 1.1} ${y - s * 0.8}Z` }),
    () => node("rect", { x: x - s * 1.3, y: y - s * 0.5, width: s * 2.6, height: s }),
  ];
  const made = shapes[Math.max(index, 0) % shapes.length]();
  made.setAttribute("class", kind);
  box.root.append(made);
  return made;
}

function colour(index) {
  return index < 0 ? "cref" : `c${index % 6}`;
}

// A legend in a row above the plot, wrapped to the width; returns the height it took.
function legend(box, entries) {
  let x = 0, y = 12;
  for (const entry of entries) {
    const name = shorten(entry.name, box.width - 30), needed = 22 + name.length * LETTER;
    if (x > 0 && x + needed > box.width) { x = 0; y += 18; }
    if (entry.hollow) box.root.append(node("circle", { cx: x + 6, cy: y - 4, r: 3.5, class: "hollow" }));
    else marker(box, x + 6, y - 4, entry.index, 4, `dot ${colour(entry.index)}`);
    text(box, x + 16, y, name, {}, entry.name);
    x += needed + 14;
  }
  return y + 8;
}

function legendHeight(width, entries) {
  let x = 0, rows = 1;
  for (const entry of entries) {
    const needed = 22 + shorten(entry.name, width - 30).length * LETTER;
    if (x > 0 && x + needed > width) { x = 0; rows += 1; }
    x += needed + 14;
  }
  return rows * 18 + 2;
}
