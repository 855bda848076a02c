// The charts: functions of a place in the page, the values of the chart, and the state of the page.

function shorten(name, room) {
  const letters = Math.max(4, Math.floor(room / LETTER));
  if (name.length <= letters) return name;
  const tail = Math.ceil((letters - 1) * 0.6);
  return `${name.slice(0, letters - 1 - tail)}…${name.slice(name.length - tail)}`;
}

function extent(values) {
  const found = values.filter((value) => value !== null && value !== undefined);
  return [Math.min(...found), Math.max(...found)];
}

function drawIntervals(host, spec) {
  const rows = spec.rows;
  const box = canvas(host, rows.length * 46 + 62, { left: 1, right: 1, top: 8, bottom: 48 },
    rows.map((row) => `${row.name}: ${row.label} points`).join("; "));
  let [lo, hi] = extent(rows.flatMap((row) => [row.lo, row.hi, 0]));
  const beside = (hi - lo || 1) * 0.06;
  const x = linear(lo - beside, hi + beside, box.left, box.right);
  bottomAxis(box, x, ticks(lo - beside, hi + beside, box.width / 90), number, spec.title);
  rows.forEach((row, index) => {
    const y = box.top + 34 + index * 46, kind = colour(index);
    line(box, x(0), y - 9, x(0), y + 9, "zero");
    const room = box.width - row.label.length * LETTER - 24;
    text(box, box.left, y - 14, shorten(row.name, room), { class: "strong" }, row.name);
    text(box, box.right, y - 14, row.label, { "text-anchor": "end" });
    line(box, x(row.lo), y, x(row.hi), y, `whisker ${kind}`);
    for (const end of [row.lo, row.hi]) line(box, x(end), y - 5, x(end), y + 5, `whisker ${kind}`);
    marker(box, x(row.value), y, index, 5, `dot ${kind}`);
  });
}

function drawTradeoff(host, { models, cost }) {
  const box = canvas(host, 300, { left: 44, right: 16, top: 30, bottom: 48 },
    models.map((m) => `${m.name}: ${number(m.top1)} % at ${number(m.cost)}`).join("; ") + ` (${cost})`);
  const [cheapest, dearest] = extent(models.map((m) => m.cost));
  const [least, most] = extent(models.flatMap((m) => [m.top1, m.lo, m.hi]));
  const x = linear(Math.max(0, cheapest - (dearest - cheapest) * 0.15), dearest + (dearest - cheapest) * 0.15, box.left, box.right);
  const padding = (most - least || 1) * 0.12;
  const y = linear(least - padding, most + padding, box.bottom, box.top);
  leftAxis(box, y, ticks(least - padding, most + padding, 5), number, "top-1, %");
  bottomAxis(box, x, ticks(x.invert(box.left), x.invert(box.right), box.width / 90), number, cost);
  // The frontier: no other model is both cheaper and better.
  const best = models.filter((m) => !models.some((o) => o !== m && o.cost <= m.cost && o.top1 >= m.top1 && (o.cost < m.cost || o.top1 > m.top1)));
  best.sort((a, b) => a.cost - b.cost);
  polyline(box, best.map((m) => [x(m.cost), y(m.top1)]), "frontier");
  const taken = [];
  models.forEach((m, place) => {
    const index = place - 1, kind = colour(index), px = x(m.cost), py = y(m.top1);
    if (m.lo !== null) line(box, px, y(m.lo), px, y(m.hi), `whisker ${kind}`);
    marker(box, px, py, index, 5, `dot ${kind}`);
    const right = px > (box.left + box.right) / 2, name = shorten(m.name, box.width / 2 - 30);
    let ly = py - 8;
    while (taken.some((t) => Math.abs(t.y - ly) < 14 && t.right === right)) ly += 14;
    taken.push({ y: ly, right });
    text(box, px + (right ? -9 : 9), ly, name, { "text-anchor": right ? "end" : "start", class: `label ${kind}` });
  });
}

function drawDrift(host, { series, places }, { tensors, chosen }) {
  const isolated = tensors.some((t) => places.some((place) => t.isolated[place] !== null));
  const entries = series.map((name, index) => ({ name, index: places[index] }));
  if (isolated) entries.push({ name: "isolated", hollow: true });
  const width = Math.max(host.clientWidth, 240), top = legendHeight(width, entries) + 30;
  const box = canvas(host, 300 + top, { left: 40, right: 12, top, bottom: 48 }, driftSummary(tensors, series, places));
  legend(box, entries);
  const [least, most] = extent(tensors.flatMap((t) => places.flatMap((place) => [t.sqnr[place], t.isolated[place]])));
  const y = linear(Math.floor(least / 5) * 5, Math.ceil(most / 5) * 5 || 1, box.bottom, box.top);
  const x = linear(-0.5, tensors.length - 0.5, box.left, box.right);
  leftAxis(box, y, ticks(y.invert(box.bottom), y.invert(box.top), 6), number, "SQNR, dB (higher is better)");
  bottomAxis(box, x, ticks(0, tensors.length - 1, box.width / 90).map(Math.round), number, "tensor, from input to output");
  if (chosen !== null) line(box, x(chosen), box.top, x(chosen), box.bottom, "cursor");
  // Where points crowd, every n-th has a marker: enough to tell the lines apart by shape.
  const spacing = (box.right - box.left) / tensors.length, dots = spacing > 3 ? 2.6 : 1.6, every = Math.ceil(8 / spacing);
  for (const place of places) tensors.forEach((t, i) => {
    if (t.isolated[place] === null) return;
    const ring = node("circle", { cx: x(i), cy: y(t.isolated[place]), r: dots, class: `hollow ring ${colour(place)}` });
    box.root.append(ring);
  });
  for (const place of places) {
    const points = tensors.map((t, i) => (t.sqnr[place] === null ? null : [x(i), y(t.sqnr[place])]));
    polyline(box, points, `line ${colour(place)}`);
    points.forEach((point, i) => {
      if (point && i % every === 0) marker(box, point[0], point[1], place, 2.6, `dot ${colour(place)}`);
    });
  }
  if (chosen !== null) for (const place of places) {
    const value = tensors[chosen].sqnr[place];
    if (value !== null) box.root.append(node("circle", { cx: x(chosen), cy: y(value), r: 6.5, class: "halo" }));
  }
  const target = node("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, class: "target" });
  box.root.append(target);
  const at = (event) => {
    const area = box.root.getBoundingClientRect();
    const pixel = (event.clientX - area.left) * (box.width / area.width);
    return Math.min(tensors.length - 1, Math.max(0, Math.round(x.invert(pixel))));
  };
  return { target, at };
}

function driftSummary(tensors, series, places) {
  return series.map((name, index) => {
    const place = places[index], known = tensors.filter((t) => t.sqnr[place] !== null);
    if (!known.length) return name;
    const worst = known.reduce((a, b) => (a.sqnr[place] <= b.sqnr[place] ? a : b));
    const last = known[known.length - 1];
    return `${name}: ${number(last.sqnr[place])} dB at the last tensor, lowest ${number(worst.sqnr[place])} dB at ${worst.name}`;
  }).join("; ");
}

function usedBy(range) {
  return range.used.length ? `${range.method} (${range.used.join(", ")})` : range.method;
}

function drawHistogram(host, spec, { tensors, chosen, view: viewIndex }) {
  const tensor = tensors[chosen];
  const view = tensor.views[Math.min(viewIndex, tensor.views.length - 1)];
  const rows = tensor.ranges;
  if (!view && !rows.length) {
    host.replaceChildren("This tensor was not observed in calibration.");
    return;
  }
  const plot = view ? 210 : 0, row = 32;
  const [lo, hi] = view ? [view.lo, view.hi] : extent(rows.flatMap((r) => [r.lo, r.hi]));
  const box = canvas(host, 30 + plot + 10 + rows.length * row + 58, { left: 48, right: 14, top: 30, bottom: rows.length * row + 58 },
    `${tensor.name}: ` + rows.map((r) => `${r.method} ${number(r.lo)} to ${number(r.hi)}`).join("; "));
  const x = linear(lo, hi, box.left, box.right), inside = (value) => Math.min(Math.max(value, lo), hi);
  if (view) {
    const most = Math.max(...view.counts, 1);
    const y = logarithmic(0.7, most * 1.3, box.bottom, box.top), step = (hi - lo) / view.counts.length;
    leftAxis(box, y, decades(1, most), big, "values in a bin, log scale");
    let path = `M${x(lo).toFixed(1)} ${box.bottom}`;
    view.counts.forEach((count, i) => {
      const level = (count > 0 ? y(count) : box.bottom).toFixed(1);
      path += `V${level}H${x(lo + (i + 1) * step).toFixed(1)}`;
    });
    box.root.append(node("path", { d: `${path}V${box.bottom}Z`, class: "bars" }));
  }
  rows.forEach((r, index) => {
    if (!r.used.length || !view) return;
    for (const end of [r.lo, r.hi]) if (end >= lo && end <= hi && end !== 0) line(box, x(end), box.top, x(end), box.bottom, `edge ${colour(index)}`);
  });
  bottomAxis(box, x, ticks(lo, hi, box.width / 90), number, "value of the tensor, real units");
  // One bar a method below the axis, on the same scale.
  rows.forEach((r, index) => {
    const y = box.bottom + 68 + index * row, kind = colour(index);
    const left = x(inside(r.lo)), right = x(inside(r.hi));
    box.root.append(node("rect", { x: left, y: y - 4, width: Math.max(right - left, 1), height: 8, class: `span ${kind}` }));
    line(box, left, y, right, y, `bracket ${kind}`);
    if (r.lo >= lo) line(box, left, y - 4, left, y + 4, `bracket ${kind}`);
    if (r.hi <= hi) line(box, right, y - 4, right, y + 4, `bracket ${kind}`);
    // Above its bar; at the right end where it would run out of the page from the left one.
    const label = shorten(usedBy(r), box.width - 16), runsOut = left + label.length * LETTER > box.width;
    text(box, runsOut ? box.width : left, y - 8, label, { class: `label ${kind}`, "text-anchor": runsOut ? "end" : "start" }, usedBy(r));
  });
}

// One bar per name and series, side by side.
function drawBars(host, { series, names, title }) {
  const entries = series.map((one, index) => ({ name: one.name, index }));
  const width = Math.max(host.clientWidth, 240), top = (series.length > 1 ? legendHeight(width, entries) : 0) + 30;
  const box = canvas(host, 200 + top, { left: 48, right: 12, top, bottom: 30 },
    series.map((one) => `${one.name}: ${names[0]} ${number(one.values[0])} points`).join("; "));
  if (series.length > 1) legend(box, entries);
  const [least, most] = extent([...series.flatMap((one) => one.values), 0]);
  const y = linear(least * 1.05, most * 1.05, box.bottom, box.top), x = linear(0, names.length, box.left, box.right);
  leftAxis(box, y, ticks(least, most, 5), number, title);
  const band = (box.right - box.left) / names.length, gap = band > 4 ? 0.15 * band : 0, each = (band - gap) / series.length;
  series.forEach((one, place) => one.values.forEach((value, i) => {
    const from = y(Math.max(value, 0)), height = Math.max(Math.abs(y(value) - y(0)), value === 0 ? 0 : 0.5);
    const kind = series.length > 1 ? colour(place) : value < 0 ? "c1" : "c0";
    box.root.append(node("rect", { x: x(i) + gap / 2 + place * each, y: from, width: Math.max(each, 0.3), height, class: `dot ${kind}` }));
  }));
  line(box, box.left, y(0), box.right, y(0), "zero");
  text(box, (box.left + box.right) / 2, box.bottom + 18, `${names.length} classes`, { "text-anchor": "middle", class: "title" });
  const readout = host.parentElement.querySelector(".readout");
  if (readout) box.root.addEventListener("pointermove", (event) => {
    const area = box.root.getBoundingClientRect(), index = Math.floor(x.invert(event.clientX - area.left));
    if (names[index]) readout.textContent = `${names[index]}: ${series.map((one) => `${one.name} ${number(one.values[index])} points`).join(", ")}`;
  });
}

function drawMargins(host, { series, reference }) {
  const entries = series.map((one, index) => ({ name: one.name, index })), bins = series[0].bins;
  const width = Math.max(host.clientWidth, 240), top = (series.length > 1 ? legendHeight(width, entries) : 0) + 30;
  const box = canvas(host, 230 + top, { left: 44, right: 12, top, bottom: 56 },
    series.map((one) => `${one.name}: ${one.bins.map((b) => `margin ${number(b.lo)} to ${number(b.hi)} ${number(b.rate)} %`).join(", ")}`).join("; "));
  if (series.length > 1) legend(box, entries);
  const most = Math.max(...series.flatMap((one) => one.bins.map((b) => b.ci[1])), 1);
  const y = linear(0, most * 1.05, box.bottom, box.top), x = linear(0, bins.length, box.left, box.right);
  leftAxis(box, y, ticks(0, most, 5), number, "images that change class, %");
  const band = (box.right - box.left) / bins.length, every = band < 46 ? 2 : 1, each = (band * 0.75) / series.length;
  bins.forEach((bin, i) => {
    series.forEach((one, place) => {
      const { rate, ci } = one.bins[i], left = x(i) + band * 0.125 + place * each, middle = left + each / 2;
      box.root.append(node("rect", { x: left, y: y(rate), width: each * 0.9, height: box.bottom - y(rate), class: `pale ${colour(place)}` }));
      line(box, middle, y(ci[0]), middle, y(ci[1]), `whisker ${colour(place)}`);
    });
    if (i % every === 0) text(box, x(i), box.bottom + 18, number(Number(bin.lo.toPrecision(2))), { "text-anchor": "middle" });
  });
  text(box, box.right, box.bottom + 18, number(Number(bins[bins.length - 1].hi.toPrecision(2))), { "text-anchor": "end" });
  line(box, box.left, box.bottom, box.right, box.bottom, "axis");
  text(box, (box.left + box.right) / 2, box.bottom + 40, shorten(`margin in ${reference}, nats; equal numbers of images per group`, box.width), { "text-anchor": "middle", class: "title" });
}

// Lines over a number, on a logarithmic axis.
function drawLines(host, { series, x: at, x_title, y_title }) {
  const entries = series.map((one, index) => ({ name: one.name, index }));
  const width = Math.max(host.clientWidth, 240), top = legendHeight(width, entries) + 30;
  const box = canvas(host, 250 + top, { left: 52, right: 16, top, bottom: 48 },
    series.map((one) => `${one.name}: ${number(lastKnown(one.values))} at ${at[at.length - 1]} ${x_title}`).join("; "));
  legend(box, entries);
  const positive = series.flatMap((one) => one.values).filter((v) => v !== null && v > 0);
  const floor = positive.length ? Math.max(Math.min(...positive), 0.01) : 0.01, most = positive.length ? Math.max(...positive) : 1;
  const from = 10 ** Math.floor(Math.log10(floor)), to = 10 ** Math.ceil(Math.log10(most));
  const y = logarithmic(from, to > from ? to : from * 10, box.bottom, box.top);
  const x = linear(0, at[at.length - 1] * 1.02, box.left, box.right);
  leftAxis(box, y, decades(from, to), (value) => number(value), y_title);
  bottomAxis(box, x, ticks(0, x.invert(box.right), box.width / 100), number, x_title);
  series.forEach((one, index) => {
    const points = one.values.map((v, i) => (v === null ? null : [x(at[i]), y(v)]));
    polyline(box, points, `line ${colour(index)}`);
    for (const point of points) if (point) marker(box, point[0], point[1], index, 3, `dot ${colour(index)}`);
  });
}

function lastKnown(values) {
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i];
  return 0;
}

// By kind of chart; `state` holds the tensors, the index of the chosen one, and the chosen view of it.
const drawers = {
  intervals: drawIntervals,
  tradeoff: drawTradeoff,
  drift: (host, spec, state) => wireDrift(host, drawDrift(host, spec, state)),
  network: (host, spec, state) => drawNetwork(host, spec, state),
  histogram: (host, spec, state) => state.chosen !== null && drawHistogram(host, spec, state),
  bars: drawBars,
  margins: drawMargins,
  lines: drawLines,
};
