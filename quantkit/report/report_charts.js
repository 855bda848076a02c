// The charts. Each takes its place in the page and the figures, and draws.

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

function drawDeltas(host, figures) {
  const rows = figures.deltas;
  if (!rows.length) return;
  const box = canvas(host, rows.length * 46 + 62, { left: 1, right: 1, top: 8, bottom: 48 },
    rows.map((row) => `${row.name}: ${row.label} points`).join("; "));
  let [lo, hi] = extent(rows.flatMap((row) => [row.lo, row.hi, 0]));
  const beside = (hi - lo || 1) * 0.06;
  const x = linear(lo - beside, hi + beside, box.left, box.right);
  bottomAxis(box, x, ticks(lo - beside, hi + beside, box.width / 90), number, `top-1 minus that of ${figures.reference}, points`);
  rows.forEach((row, index) => {
    const y = box.top + 34 + index * 46, kind = colour(index);
    line(box, x(0), y - 9, x(0), y + 9, "zero");
    const room = box.width - row.label.length * LETTER - 24;
    text(box, box.left, y - 14, shorten(row.name, room), { class: "strong" });
    text(box, box.right, y - 14, row.label, { "text-anchor": "end" });
    line(box, x(row.lo), y, x(row.hi), y, `whisker ${kind}`);
    for (const end of [row.lo, row.hi]) line(box, x(end), y - 5, x(end), y + 5, `whisker ${kind}`);
    marker(box, x(row.value), y, index, 5, `dot ${kind}`);
  });
}

function drawTradeoff(host, figures) {
  if (!figures.tradeoff) return;
  const { models, cost } = figures.tradeoff;
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

function drawDrift(host, figures, chosen) {
  const { tensors, series } = figures;
  const alone = tensors.some((t) => t.local !== null);
  const entries = series.map((name, index) => ({ name, index }));
  if (alone) entries.push({ name: "layer alone", hollow: true });
  const width = Math.max(host.clientWidth, 240), top = legendHeight(width, entries) + 30;
  const box = canvas(host, 300 + top, { left: 40, right: 12, top, bottom: 48 }, driftSummary(tensors, series));
  legend(box, entries);
  const [least, most] = extent(tensors.flatMap((t) => [...t.sqnr, t.local]));
  const y = linear(Math.floor(least / 5) * 5, Math.ceil(most / 5) * 5 || 1, box.bottom, box.top);
  const x = linear(-0.5, tensors.length - 0.5, box.left, box.right);
  leftAxis(box, y, ticks(y.invert(box.bottom), y.invert(box.top), 6), number, "SQNR, dB (higher is better)");
  bottomAxis(box, x, ticks(0, tensors.length - 1, box.width / 90).map(Math.round), number, "tensor, from input to output");
  if (chosen !== null) line(box, x(chosen), box.top, x(chosen), box.bottom, "cursor");
  // Where points crowd, every n-th carries its mark: enough to tell the lines apart by shape.
  const spacing = (box.right - box.left) / tensors.length, dots = spacing > 3 ? 2.6 : 1.6, every = Math.ceil(8 / spacing);
  if (alone) tensors.forEach((t, i) => {
    if (t.local !== null) box.root.append(node("circle", { cx: x(i), cy: y(t.local), r: dots, class: "hollow" }));
  });
  series.forEach((_, index) => {
    const points = tensors.map((t, i) => (t.sqnr[index] === null ? null : [x(i), y(t.sqnr[index])]));
    polyline(box, points, `line ${colour(index)}`);
    points.forEach((point, i) => {
      if (point && i % every === 0) marker(box, point[0], point[1], index, 2.6, `dot ${colour(index)}`);
    });
  });
  if (chosen !== null) {
    for (const value of tensors[chosen].sqnr) if (value !== null) box.root.append(node("circle", { cx: x(chosen), cy: y(value), r: 6.5, class: "halo" }));
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

function driftSummary(tensors, series) {
  return series.map((name, index) => {
    const known = tensors.filter((t) => t.sqnr[index] !== null);
    if (!known.length) return name;
    const worst = known.reduce((a, b) => (a.sqnr[index] <= b.sqnr[index] ? a : b));
    const last = known[known.length - 1];
    return `${name}: ${number(last.sqnr[index])} dB at the last tensor, lowest ${number(worst.sqnr[index])} dB at ${worst.name}`;
  }).join("; ");
}

function drawHistogram(host, tensor, viewIndex) {
  const view = tensor.views[Math.min(viewIndex, tensor.views.length - 1)];
  const rows = tensor.ranges;
  if (!view && !rows.length) {
    host.replaceChildren("This tensor was not observed in calibration.");
    return;
  }
  const plot = view ? 210 : 0, row = 24;
  const [lo, hi] = view ? [view.lo, view.hi] : extent(rows.flatMap((r) => [r.lo, r.hi]));
  const box = canvas(host, 30 + plot + 10 + rows.length * row + 52, { left: 48, right: 14, top: 30, bottom: rows.length * row + 56 },
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
    if (!r.used || !view) return;
    for (const end of [r.lo, r.hi]) if (end >= lo && end <= hi && end !== 0) line(box, x(end), box.top, x(end), box.bottom, `edge ${colour(index)}`);
  });
  bottomAxis(box, x, ticks(lo, hi, box.width / 90), number, "value of the tensor, real units");
  // One bar a method below the axis, on the same scale.
  rows.forEach((r, index) => {
    const y = box.bottom + 56 + index * row, kind = colour(index);
    const left = x(inside(r.lo)), right = x(inside(r.hi));
    box.root.append(node("rect", { x: left, y: y - 7, width: Math.max(right - left, 1), height: 14, class: `span ${kind}` }));
    line(box, left, y, right, y, `bracket ${kind}`);
    if (r.lo >= lo) line(box, left, y - 7, left, y + 7, `bracket ${kind}`);
    if (r.hi <= hi) line(box, right, y - 7, right, y + 7, `bracket ${kind}`);
    const label = r.used ? `${r.method} (used)` : r.method, outside = box.right - right > label.length * LETTER + 10;
    text(box, outside ? right + 8 : right - 8, y + 4, label, { class: `label ${kind}`, "text-anchor": outside ? "start" : "end" });
  });
}

function drawClasses(host, figures) {
  const moved = figures.classes;
  if (!moved.length) return;
  const box = canvas(host, 230, { left: 48, right: 12, top: 30, bottom: 46 },
    `${moved.length} classes moved; most lost: ${moved[0][0]}, ${number(moved[0][1])} points`);
  const [least, most] = extent([...moved.map((c) => c[1]), 0]);
  const y = linear(least * 1.05, most * 1.05, box.bottom, box.top), x = linear(0, moved.length, box.left, box.right);
  leftAxis(box, y, ticks(least, most, 5), number, "change of top-1, points");
  const gap = (box.right - box.left) / moved.length > 4 ? 1 : 0;
  moved.forEach(([, delta], i) => {
    const top = y(Math.max(delta, 0)), height = Math.max(Math.abs(y(delta) - y(0)), delta === 0 ? 0 : 0.5);
    box.root.append(node("rect", { x: x(i), y: top, width: Math.max(x(i + 1) - x(i) - gap, 0.3), height, class: `dot ${delta < 0 ? "c1" : "c0"}` }));
  });
  line(box, box.left, y(0), box.right, y(0), "zero");
  text(box, (box.left + box.right) / 2, box.bottom + 28, `${moved.length} classes that moved, most lost first`, { "text-anchor": "middle", class: "title" });
  const readout = document.getElementById("classes-readout");
  box.root.addEventListener("pointermove", (event) => {
    const area = box.root.getBoundingClientRect(), index = Math.floor(x.invert(event.clientX - area.left));
    if (moved[index]) readout.textContent = `${moved[index][0]}: ${number(moved[index][1])} points, ${moved[index][2]} images`;
  });
}

function drawMargins(host, figures) {
  const bins = figures.margins;
  if (!bins.length) return;
  const box = canvas(host, 260, { left: 44, right: 12, top: 30, bottom: 56 },
    bins.map((b) => `margin ${number(b.lo)} to ${number(b.hi)}: ${number(b.rate)} %`).join("; "));
  const most = Math.max(...bins.map((b) => b.ci[1]), 1);
  const y = linear(0, most * 1.05, box.bottom, box.top), x = linear(0, bins.length, box.left, box.right);
  leftAxis(box, y, ticks(0, most, 5), number, "images that change class, %");
  const band = (box.right - box.left) / bins.length, every = band < 46 ? 2 : 1;
  bins.forEach((bin, i) => {
    const middle = x(i + 0.5);
    box.root.append(node("rect", { x: x(i) + band * 0.15, y: y(bin.rate), width: band * 0.7, height: box.bottom - y(bin.rate), class: "bars" }));
    line(box, middle, y(bin.ci[0]), middle, y(bin.ci[1]), "whisker c0");
    if (i % every === 0) text(box, x(i), box.bottom + 18, number(Number(bin.lo.toPrecision(2))), { "text-anchor": "middle" });
  });
  text(box, box.right, box.bottom + 18, number(Number(bins[bins.length - 1].hi.toPrecision(2))), { "text-anchor": "end" });
  line(box, box.left, box.bottom, box.right, box.bottom, "axis");
  text(box, (box.left + box.right) / 2, box.bottom + 40, `margin in ${figures.reference}, nats; each bar holds as many images`, { "text-anchor": "middle", class: "title" });
}

function drawConvergence(host, figures) {
  const curve = figures.convergence;
  if (!curve) return;
  const entries = curve.methods.map((name, index) => ({ name, index }));
  const width = Math.max(host.clientWidth, 240), top = legendHeight(width, entries) + 30;
  const box = canvas(host, 250 + top, { left: 52, right: 16, top, bottom: 48 },
    curve.methods.map((name, i) => `${name}: ${number(lastKnown(curve.movement[i]))} % at ${curve.images[curve.images.length - 1]} images`).join("; "));
  legend(box, entries);
  const positive = curve.movement.flat().filter((v) => v !== null && v > 0);
  const floor = positive.length ? Math.max(Math.min(...positive), 0.01) : 0.01, most = positive.length ? Math.max(...positive) : 1;
  const from = 10 ** Math.floor(Math.log10(floor)), to = 10 ** Math.ceil(Math.log10(most));
  const y = logarithmic(from, to > from ? to : from * 10, box.bottom, box.top);
  const x = linear(0, curve.images[curve.images.length - 1] * 1.02, box.left, box.right);
  leftAxis(box, y, decades(from, to), (value) => number(value), "greatest move since the point before, % of the width");
  bottomAxis(box, x, ticks(0, x.invert(box.right), box.width / 100), number, "calibration images");
  curve.movement.forEach((values, index) => {
    const points = values.map((v, i) => (v === null ? null : [x(curve.images[i]), y(v)]));
    polyline(box, points, `line ${colour(index)}`);
    for (const point of points) if (point) marker(box, point[0], point[1], index, 3, `dot ${colour(index)}`);
  });
}

function lastKnown(values) {
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i];
  return 0;
}
