"use strict";
// The curves at the top: small multiples drawn by uPlot. A click goes to the step.

// Title, unit of the value, the metrics (summed), and whether the axis is logarithmic.
const PANELS = [
  ["Reward", "", ["reward"]],
  ["Held-out pass@1", "", ["eval_accuracy"]],
  ["Length", "tokens", ["length"]],
  ["Entropy", "nats", ["entropy"]],
  ["Log-prob gap", "nats", ["logp_gap"], true],
  ["Clipped tokens", "", ["clip_fraction_high", "clip_fraction_low"]],
  ["KL to the reference", "nats", ["kl"]],
  ["Truncated", "", ["truncated"]],
];
const plots = [];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const brief = (value) => (value == null || !isFinite(value) ? "–" :
  Math.abs(value) >= 1000 ? value.toFixed(0) :
  value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(+value.toPrecision(3)));

// The sum of some metrics at each x; null where a source has none of them.
function sumOf(source, names, xs) {
  const place = new Map(source.steps.map((step, i) => [step, i]));
  return xs.map((x) => {
    const values = names.map((name) => source.curves[name]?.[place.get(x)]);
    return values.every((value) => value == null) ? null : values.reduce((a, b) => a + (b ?? 0), 0);
  });
}

// go: what a click on a step calls. mark: the steps to mark now, first source first.
function drawCurves(root, go, mark) {
  const runs = DATA.sources.filter((source) => source.kind === "run");
  const xs = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  for (const [title, unit, names, log] of xs.length > 1 ? PANELS : []) {
    const rows = runs.map((run) => sumOf(run, names, xs));
    if (rows.some((row) => row.some((value) => value !== null && value !== 0))) {
      addPanel(root, { title, unit, xs, rows, log, go, mark, sources: runs });
    }
  }
  const names = [...new Set(DATA.sources.flatMap((source) => Object.keys(source.passAtK)))];
  for (const name of names) {
    const sources = DATA.sources.filter((source) => source.passAtK[name]);
    const ks = [...new Set(sources.flatMap((s) => Object.keys(s.passAtK[name]).map(Number)))];
    ks.sort((a, b) => a - b);
    const rows = sources.map((s) => ks.map((k) => s.passAtK[name][k]?.[0] ?? null));
    const goTo = () => go(sources[0].labels.indexOf(name));
    addPanel(root, { title: `pass@k on ${name}`, unit: "", xs: ks, rows, sources, go: goTo,
      mark: () => [], powers: true });
  }
  new ResizeObserver(() => arrangePanels(root)).observe(root);
  arrangePanels(root);
}

// As many panels in each row, whatever their number and the width of the window.
function arrangePanels(root) {
  const count = root.childElementCount, fit = Math.max(1, Math.floor(root.clientWidth / 190));
  const columns = Math.max(1, Math.ceil(count / Math.ceil(count / fit)));
  root.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 28rem))`;
}

function addPanel(root, { title, unit, xs, rows, sources, log, go, mark, powers }) {
  const panel = make("div", "panel"), head = make("h2"), value = make("b");
  head.append(make("span", "", unit ? `${title}, ${unit}` : title), value);
  panel.append(head);
  root.append(panel);
  const positive = rows.flat().filter((v) => v > 0);
  const logarithmic = log && positive.length > 0;
  const data = [xs, ...rows.map((row) => row.map((v) => (logarithmic && !(v > 0) ? null : v)))];
  const axis = { stroke: () => css("--muted"), font: "11px system-ui", ticks: { show: false },
    grid: { stroke: () => css("--line"), width: 1 }, gap: 3 };
  const resting = () => (powers ? 0 : lastWith(data, xs, mark()[0]));
  const show = (i) => {
    const values = i == null ? [] : data.slice(1).map((row) => brief(row[i]));
    value.replaceChildren(...values.map((text, s) =>
      make("span", values.length > 1 ? "AB"[s] : "", text)));
    value.title = i == null ? "" : `${powers ? "k" : "step"} ${xs[i]}`;
  };
  const plot = new uPlot({
    width: 240, height: 104, legend: { show: false }, padding: [6, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, sync: powers ? undefined : { key: "steps" },
      points: { size: 6 } },
    scales: { x: { time: false, ...(powers ? { distr: 3, log: 2 } : {}) },
      y: logarithmic ? { distr: 3 } : { range: (u, low, high) => padded(low, high) } },
    axes: [{ ...axis, size: 20, space: 45 },
      { ...axis, size: 44, space: 26, ...(logarithmic ? { grid: { show: false } } : {}),
        values: (u, ticks) => ticks.map((tick) => (tick === null ? "" : brief(tick))) }],
    series: [{}, ...rows.map((row, i) => ({
      stroke: () => css(i && sources.length > 1 ? "--second" : "--accent"), width: 1.6,
      dash: i ? [5, 3] : undefined, spanGaps: true,
      points: { show: row.filter((v) => v !== null).length < 40, size: 4,
        fill: () => css(i && sources.length > 1 ? "--second" : "--accent") },
    }))],
    hooks: {
      draw: [(u) => drawMarks(u, mark(), powers ? [] : sources.flatMap((source) => source.resets))],
      setCursor: [(u) => show(u.cursor.idx ?? resting())],
    },
  }, data, panel);
  plot.over.addEventListener("click", () => {
    if (plot.cursor.idx != null) go(xs[plot.cursor.idx]);
  });
  plots.push(plot);
  plot.rest = () => show(resting());
  new ResizeObserver(() => {
    plot.setSize({ width: Math.max(120, panel.clientWidth), height: 104 });
  }).observe(panel);
}

// Some air around a curve, and a range where it is flat.
function padded(low, high) {
  if (low == null || high == null) return [0, 1];
  const air = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
  return [low - air, high + air];
}

// The place whose values stand in a panel's corner: the marked step, or the last before it.
function lastWith(data, xs, step) {
  let found = xs.length - 1;
  while (found > 0 && ((step !== undefined && xs[found] > step) ||
    data.slice(1).every((row) => row[found] === null))) found--;
  return found;
}

// A line at each step that is shown, and dotted ones where the reference was reset.
function drawMarks(u, steps, resets) {
  const { ctx, bbox } = u, pixel = devicePixelRatio;
  const line = (x, colour, dash) => {
    const left = Math.round(u.valToPos(x, "x", true));
    ctx.strokeStyle = colour;
    ctx.setLineDash(dash);
    ctx.beginPath();
    ctx.moveTo(left, bbox.top);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
  };
  ctx.save();
  ctx.lineWidth = 1.25 * pixel;
  for (const step of resets) line(step, css("--muted"), [2 * pixel, 3 * pixel]);
  steps.forEach((step, i) => {
    line(step, css(i ? "--second" : "--ink"), i ? [5 * pixel, 3 * pixel] : []);
  });
  ctx.restore();
}

function redrawCurves() {
  for (const plot of plots) {
    plot.redraw(false, true);
    plot.rest();
  }
}
