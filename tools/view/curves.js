"use strict";
// The curves at the top: small multiples drawn by uPlot. A click goes to the step.

const plots = [];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const brief = (value) => (value == null || !isFinite(value) ? "–" :
  Math.abs(value) >= 1000 ? value.toFixed(0) :
  value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(+value.toPrecision(3)));

// go: what a click on a step calls. mark: the steps to mark now, those of the first source first.
function drawCurves(root, go, mark) {
  const runs = DATA.sources.filter((source) => source.kind === "run");
  const xs = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  for (const { title, unit, metrics, logarithmic } of xs.length > 1 ? DATA.panels : []) {
    const known = Object.keys(metrics).filter((name) =>
      runs.some((run) => run.curves[name]?.some(Boolean)));
    if (!known.length) continue;
    const lines = known.flatMap((name, m) => runs.map((source) => {
      const values = new Map(source.steps.map((step, i) => [step, source.curves[name]?.[i]]));
      return { source, fine: m > 0, values: xs.map((x) => values.get(x) ?? null) };
    }));
    const names = known.map((name, m) => metrics[name] && `${m ? "fine" : "bold"}: ${metrics[name]}`);
    const hint = [unit, ...names].filter(Boolean).join(", ");
    addPanel(root, { title, hint, xs, lines, log: logarithmic, go, mark });
  }
}

function addPanel(root, { title, hint, xs, lines, log, go, mark }) {
  const value = make("b"), head = make("h2", "", make("span", "", title), value);
  const panel = make("div", "panel", head);
  head.title = hint;
  root.append(panel);
  const logarithmic = log && lines.some(({ values }) => values.some((v) => v > 0));
  const data = [xs, ...lines.map(({ values }) =>
    values.map((v) => (logarithmic && !(v > 0) ? null : v)))];
  const axis = { stroke: () => css("--muted"), font: "11px system-ui", ticks: { show: false },
    grid: { stroke: () => css("--line"), width: 1 }, gap: 3 };
  const resting = () => lastWith(data, xs, mark()[0]);
  const show = (i) => {
    const bold = lines.filter(({ fine }) => !fine);
    value.replaceChildren(...bold.map(({ source, values }) =>
      make("span", bold.length > 1 ? "AB"[source.number] : "", brief(values[i]))));
    value.title = `step ${xs[i]}`;
  };
  const plot = new uPlot({
    width: 240, height: 104, legend: { show: false }, padding: [6, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "steps" },
      points: { size: 6 } },
    scales: { x: { time: false },
      y: logarithmic ? { distr: 3 } : { range: { min: { pad: 0.08 }, max: { pad: 0.08 } } } },
    axes: [{ ...axis, size: 20, space: 45 },
      { ...axis, size: 44, space: 26, ...(logarithmic ? { grid: { show: false } } : {}),
        values: (u, ticks) => ticks.map((tick) => (tick === null ? "" : brief(tick))) }],
    series: [{}, ...lines.map(({ source, fine, values }) => {
      const stroke = () => css(source.number ? "--second" : "--accent");
      const few = values.filter((v) => v !== null).length < 40;
      return { stroke, width: fine ? 0.7 : 1.6, dash: source.number ? [5, 3] : undefined,
        spanGaps: true, points: { show: few && !fine, size: 4, fill: stroke } };
    })],
    hooks: {
      draw: [(u) => drawMarks(u, mark(), lines.flatMap((l) => l.source.resets))],
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

// The place whose values a panel's corner shows: the marked step, or the last before it.
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
