"use strict";
// The page: what is chosen, and everything drawn from that.

const byId = (id) => document.getElementById(id);
const KINDS = { train: "Training", held_out: "Held-out", benchmark: "Benchmarks" };
const FILTERS = {
  mixed: (group) => kindOf(group) === "mixed",
  solved: (group) => kindOf(group) === "solved",
  failed: (group) => kindOf(group) === "failed",
  truncated: (group) => group.answers.some((answer) => answer.truncated),
  disputed: (group) => group.answers.some(isDisputed),
  resets: (group) => group.source.resets.includes(group.step),
};
const FILTER_HELP = {
  mixed: "Some answers earned more than others: these groups teach",
  solved: "All answers are right", failed: "All answers are wrong",
  truncated: "An answer was cut at the length limit",
  disputed: "One verifier accepts an answer and the other does not",
  resets: "Steps at which the reference was reset",
};
const MOST_LISTED = 300; // groups in the list

// All that is chosen. It stands in the address too, so that loading the page again changes nothing.
// pin: the step of the other pane, where one was chosen by hand. newest: the newest step is shown,
// so a page that is renewed goes on with its run.
const chosen = { source: 0, kind: "", step: 0, place: 0, colour: "push", filters: [], query: "",
  everywhere: false, newest: true, compare: false, otherSource: null, otherKind: "", pin: null,
  theme: "" };

function remember() {
  chosen.newest = chosen.step === keptSteps(source(), chosen.kind).at(-1);
  history.replaceState(null, "", "#" + encodeURIComponent(JSON.stringify(chosen)));
}

function recall() {
  try {
    Object.assign(chosen, JSON.parse(decodeURIComponent(location.hash.slice(1))));
  } catch { /* no hash, or not one of ours */ }
  if (!(chosen.source in DATA.sources)) chosen.source = 0;
  if (chosen.newest) chosen.step = keptSteps(source(), chosen.kind || "train").at(-1) ?? 0;
}

// --- what is chosen ---

const source = () => DATA.sources[chosen.source];
const kinds = () => Object.keys(KINDS).filter((kind) =>
  source().groups.some((group) => group.kind === kind));
const groupsAt = (step) => source().groups.filter((group) =>
  group.kind === chosen.kind && group.step === step);

// The groups in the list: of this step, or of all, that pass the filters and hold the query.
function listed(everywhere) {
  const words = chosen.query.trim().toLowerCase();
  const own = source().groups.filter((group) => group.kind === chosen.kind);
  return own.filter((group) => (everywhere || group.step === chosen.step) &&
    chosen.filters.every((name) => FILTERS[name](group)) && (!words || holds(group, words)));
}

const holds = (group, words) => problemOf(group)[0].toLowerCase().includes(words) ||
  group.answers.some((answer) => answerText(answer).toLowerCase().includes(words));

const current = () => groupsAt(chosen.step).find((group) => group.place === chosen.place);

// Bring the choice back to something that exists.
function settle() {
  if (!kinds().includes(chosen.kind)) chosen.kind = kinds()[0] ?? "train";
  const steps = keptSteps(source(), chosen.kind);
  if (!steps.length) return;
  if (!steps.includes(chosen.step)) chosen.step = nearest(steps, chosen.step);
  if (!current()) chosen.place = (listed(false)[0] ?? groupsAt(chosen.step)[0]).place;
}

// The same problem elsewhere, and which of these the second pane shows: at the step chosen by hand,
// or the step of the first pane in the other run, or else the nearest other step of this run.
function elsewhere(group) {
  return DATA.sources.flatMap((other) => other.groups).filter((other) =>
    other !== group && other.problem === group.problem);
}

function other(group) {
  const all = elsewhere(group);
  let preferred = all.filter((one) => one.source.number === chosen.otherSource &&
    (!chosen.otherKind || one.kind === chosen.otherKind));
  if (!preferred.length) preferred = all.filter((one) => one.source !== group.source);
  if (!preferred.length) preferred = all;
  const step = chosen.pin ?? group.step;
  return preferred.length ? preferred.reduce((a, b) =>
    (Math.abs(b.step - step) < Math.abs(a.step - step) ? b : a)) : null;
}

// --- drawing ---

function draw() {
  settle();
  drawToolbar();
  drawFollowed();
  drawList();
  drawPanes();
  redrawCurves();
  remember();
}

function drawTitle() {
  const names = DATA.sources.map((one) => one.name);
  document.title = names.join(" vs ");
  const parts = names.flatMap((name, i) => [
    ...(i ? [make("span", "versus", " and ")] : []),
    make("span", names.length < 2 ? "" : i ? "second" : "first", visible(name)),
  ]);
  byId("title").replaceChildren(...parts);
  const about = DATA.sources.map((one) =>
    [...Object.entries(one.about).map(([name, value]) => `${name} ${value}`), one.leftOut]
      .filter(Boolean).join(" · "));
  byId("live").hidden = !DATA.watch;
  byId("about").textContent = visible([...new Set(about)].join("   |   "));
}

function drawToolbar() {
  const buttons = [];
  DATA.sources.forEach((one, i) => {
    const own = Object.keys(KINDS).filter((kind) => one.groups.some((g) => g.kind === kind));
    for (const kind of own) {
      const name = DATA.sources.length > 1 ? `${KINDS[kind]} ${"AB"[i]}` : KINDS[kind];
      const button = make("button", "", name);
      button.type = "button";
      button.title = visible(one.name);
      button.setAttribute("aria-pressed", i === chosen.source && kind === chosen.kind);
      button.addEventListener("click", () => choose({ source: i, kind }));
      buttons.push(button);
    }
  });
  byId("kinds").replaceChildren(...buttons);
  const steps = keptSteps(source(), chosen.kind);
  byId("step").textContent = !steps.length ? "no rollouts kept" : source().kind === "run" ?
    `step ${chosen.step}` : source().labels[chosen.step];
  byId("earlier").disabled = !steps.length || chosen.step <= steps[0];
  byId("later").disabled = !steps.length || chosen.step >= steps.at(-1);
  byId("compare").setAttribute("aria-pressed", chosen.compare);
  byId("colour").value = chosen.colour;
  byId("colour").parentElement.hidden = chosen.kind === "benchmark"; // only texts are known there
}

// Held-out problems by evaluations: the share that was solved. A click shows the answers.
function drawFollowed() {
  const root = byId("followed"), steps = keptSteps(source(), "held_out");
  root.hidden = chosen.kind !== "held_out" || steps.length < 2;
  if (root.hidden) return;
  const table = make("table"), head = make("tr"), body = make("tbody");
  head.append(make("th"), ...steps.map((step) => make("th", "", String(step))));
  const own = source().groups.filter((group) => group.kind === "held_out");
  for (const place of [...new Set(own.map((group) => group.place))].sort((a, b) => a - b)) {
    const row = make("tr"), groups = own.filter((group) => group.place === place);
    const name = make("th", "", visible(problemOf(groups[0])[0].trim().slice(0, 80)));
    name.scope = "row";
    row.append(name);
    for (const step of steps) {
      const cell = make("td"), group = groups.find((one) => one.step === step);
      if (group) {
        const button = make("button", "", String(Math.round(100 * group.solved)));
        button.type = "button";
        button.title = `step ${step}: ${Math.round(100 * group.solved)} % of the answers are right`;
        button.style.setProperty("--a", group.solved);
        button.setAttribute("aria-current", group === current());
        button.addEventListener("click", () => choose({ step, place }));
        cell.append(button);
      }
      row.append(cell);
    }
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  root.replaceChildren(table);
}

function drawList() {
  for (const button of byId("filters").children) {
    button.setAttribute("aria-pressed", chosen.filters.includes(button.dataset.name));
  }
  const narrowed = chosen.filters.length > 0 || chosen.query.trim() !== "";
  const groups = listed(chosen.everywhere);
  const found = byId("found");
  found.replaceChildren();
  const here = source().kind === "run" ? "at this step" : "here";
  const where = chosen.everywhere ? "in all steps" : here;
  found.append(`${groups.length.toLocaleString("en")} groups ${where} `);
  const all = narrowed || chosen.everywhere ? listed(true) : [];
  if (chosen.everywhere || all.length > groups.length) {
    const text = chosen.everywhere ? "this step only" : `all ${all.length.toLocaleString("en")}`;
    const button = make("button", "", text);
    button.type = "button";
    button.id = "everywhere";
    button.addEventListener("click", () => choose({ everywhere: !chosen.everywhere }));
    found.append(button);
  }
  const list = byId("groups"), top = list.scrollTop;
  list.replaceChildren(...groups.slice(0, MOST_LISTED).map(listItem));
  if (groups.length > MOST_LISTED) list.append(make("li", "nothing", "… search to find more"));
  list.scrollTop = top;
  list.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function listItem(group) {
  const item = make("li"), button = make("button"), facts = make("span", "facts");
  button.type = "button";
  button.setAttribute("aria-current", group === current());
  const text = make("span", "text", visible(problemOf(group)[0].trim().slice(0, 200)));
  const dots = group.answers.slice(0, 16).map((one) => (one.robust ? "●" : "○")).join("");
  const shown = make("span", "dots", dots);
  shown.title = "● right, ○ wrong, by the robust verifier";
  const cut = group.answers.filter((answer) => answer.truncated).length;
  facts.append(shown, make("span", "", kindOf(group)));
  if (cut) facts.append(make("span", "", `${cut} truncated`));
  if (chosen.everywhere && group.source.kind === "run") {
    facts.append(make("span", "", `step ${group.step}`));
  }
  button.append(text, facts);
  button.addEventListener("click", () => choose({ step: group.step, place: group.place }));
  item.append(button);
  return item;
}

function drawPanes() {
  const panes = byId("panes"), group = current();
  panes.classList.toggle("two", chosen.compare);
  if (!group) {
    const text = "No rollouts to show. A run keeps a few groups a step unless it was started " +
      "with --keep_rollouts 0; they appear after its first step.";
    panes.replaceChildren(make("p", "nothing", text));
    return;
  }
  panes.replaceChildren(pane(group, false));
  if (chosen.compare) {
    const second = other(group);
    panes.append(second ? pane(second, true, elsewhere(group)) :
      make("p", "nothing", "This problem was kept nowhere else. The held-out problems are kept " +
        "at every evaluation."));
  }
  recolour();
}

// One group: where it stands, the problem, the gold, the answers. choices: for the second pane.
function pane(group, second, choices = []) {
  const root = make("article", "pane"), where = make("div", "where");
  const name = make("span", group.source.number ? "run b" : "run", visible(group.source.name));
  if (DATA.sources.length > 1) where.append(name);
  if (second) {
    const select = make("select");
    select.setAttribute("aria-label", "Where else this problem was kept");
    choices.forEach((one, i) => {
      const option = make("option", "", placeName(one));
      option.value = i;
      option.selected = one === group;
      select.append(option);
    });
    select.addEventListener("change", () => {
      const one = choices[select.value];
      choose({ otherSource: one.source.number, otherKind: one.kind, pin: one.step });
    });
    where.append(select);
  } else {
    where.append(make("span", "", stepName(group)));
    where.append(make("span", "", `problem ${group.place} of ${placeOf(group)}`));
  }
  where.append(make("span", "badge", kindOf(group)));
  where.append(make("span", "", `${Math.round(100 * group.solved)} % solved`));
  for (const text of passRates(group)) where.append(make("span", "", text));
  const [text, gold, task] = problemOf(group);
  const problem = make("p", "problem", visible(text.trim()));
  const goldLine = make("p", "gold", "Gold answer ");
  goldLine.append(make("b", "", visible(gold)), task ? ` · ${visible(task)}` : "");
  root.append(where, problem, goldLine);
  if (group.prompt) {
    const details = make("details");
    details.append(make("summary", "", "The prompt as the model saw it"));
    details.append(make("pre", "", visible(group.prompt)));
    root.append(details);
  }
  const answers = make("div", "answers");
  answers.append(...group.answers.map((answer) => answerCard(answer, chosen.query.trim())));
  root.append(answers);
  return root;
}

const stepName = ({ source, step }) =>
  (source.kind === "run" ? `step ${step}` : source.labels[step]);
const placeOf = (group) => (group.kind === "train" ? "the batch" : group.kind === "held_out" ?
  "the held-out set" : "the benchmark");

function placeName(group) {
  const run = DATA.sources.length > 1 ? `${"AB"[group.source.number]}: ` : "";
  const where = stepName(group);
  return `${run}${where}, ${KINDS[group.kind].toLowerCase()}, ${Math.round(100 * group.solved)} %`;
}

// pass@k of one problem, from all its answers.
function passRates(group) {
  const { n, robust, strict } = group.counts;
  if (!n) return [];
  const ks = [];
  for (let k = 1; k < n; k *= 2) ks.push(k);
  const rates = [...ks, n].map((k) => `@${k} ${brief(passAtK(n, robust, k))}`);
  return [`${robust} of ${n} right, ${strict} to the letter`, `pass ${rates.join("  ")}`];
}

function recolour() {
  const colours = colourTokens(byId("panes"), chosen.colour, source().clip);
  drawLegend(byId("legend"), chosen.kind === "benchmark" ? "none" : chosen.colour, colours);
}

// --- what the reader does ---

function choose(changes) {
  const moved = "source" in changes && changes.source !== chosen.source;
  if (moved) chosen.otherSource = chosen.pin = null;
  Object.assign(chosen, changes);
  draw();
}

// step: from a click on a curve. The nearest step that has groups is shown.
function goTo(step) {
  const steps = keptSteps(source(), chosen.kind);
  if (steps.length) choose({ step: nearest(steps, step) });
}

function moveStep(by) {
  const steps = keptSteps(source(), chosen.kind);
  const step = steps[steps.indexOf(chosen.step) + by];
  if (step !== undefined) choose({ step });
}

function moveGroup(by) {
  const groups = listed(chosen.everywhere), at = groups.indexOf(current());
  const group = groups[at < 0 ? 0 : at + by];
  if (group) choose({ step: group.step, place: group.place });
}

function setTheme(theme) {
  chosen.theme = theme;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = `Theme: ${theme || "system"}`;
  redrawCurves();
  remember();
}

const nextTheme = () => setTheme({ "": "dark", dark: "light", light: "" }[chosen.theme]);

function nextKind() {
  const own = kinds();
  choose({ kind: own[(own.indexOf(chosen.kind) + 1) % own.length] });
}

const KEYS = {
  ArrowLeft: () => moveStep(-1), ArrowRight: () => moveStep(1),
  ArrowUp: () => moveGroup(-1), ArrowDown: () => moveGroup(1),
  c: () => choose({ compare: !chosen.compare }), h: nextKind, t: nextTheme,
  "/": () => byId("search").focus(), "?": () => byId("help").showModal(),
};

function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target === byId("search")) event.target.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    if (event.target.closest("input, select, textarea")) return;
    const colour = Object.keys(COLOURS)[Number(event.key) - 1];
    const act = colour ? () => choose({ colour }) : KEYS[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  for (const [name, { title }] of Object.entries(COLOURS)) {
    const option = make("option", "", title);
    option.value = name;
    byId("colour").append(option);
  }
  byId("colour").addEventListener("change", (event) => choose({ colour: event.target.value }));
  for (const name of Object.keys(FILTERS)) {
    if (name === "resets" && !DATA.sources.some((one) => one.resets.length)) continue;
    const button = make("button", "", name);
    Object.assign(button, { type: "button", title: FILTER_HELP[name] });
    button.dataset.name = name;
    button.addEventListener("click", () => toggleFilter(name));
    byId("filters").append(button);
  }
  byId("search").value = chosen.query;
  byId("search").addEventListener("input", (event) => choose({ query: event.target.value }));
  byId("earlier").addEventListener("click", () => moveStep(-1));
  byId("later").addEventListener("click", () => moveStep(1));
  byId("compare").addEventListener("click", KEYS.c);
  byId("theme").addEventListener("click", nextTheme);
  byId("help-button").addEventListener("click", KEYS["?"]);
  const meanings = make("dl");
  for (const { title, help } of Object.values(COLOURS)) {
    meanings.append(make("dt", "", title), make("dd", "", help));
  }
  byId("meanings").append(meanings);
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", () => setTheme(chosen.theme));
  listenToPointer();
}

// Resets are few: choosing them looks through all steps at once.
function toggleFilter(name) {
  const on = !chosen.filters.includes(name);
  const filters = on ? [...chosen.filters, name] : chosen.filters.filter((one) => one !== name);
  choose({ filters, everywhere: chosen.everywhere || (on && name === "resets") });
}

let lastMoved = 0;

function listenToPointer() {
  const tip = byId("tip");
  document.addEventListener("pointermove", (event) => {
    lastMoved = performance.now();
    const element = event.target.closest?.(".t");
    tip.hidden = !element;
    if (!element) return;
    if (tip.of !== element) tip.replaceChildren(tipFor(element));
    tip.of = element;
    const { width, height } = tip.getBoundingClientRect();
    const below = event.clientY + 18 + height < innerHeight;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - width - 8))}px`;
    tip.style.top = `${below ? event.clientY + 18 : Math.max(4, event.clientY - height - 12)}px`;
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);
}

// While a run goes on: load the page again, unless somebody is reading a token or typing.
function watch() {
  setInterval(() => {
    const busy = performance.now() - lastMoved < 3000 || document.activeElement === byId("search");
    if (!document.hidden && !busy && !byId("help").open) location.reload();
  }, DATA.watch * 1000);
}

async function start() {
  await unpack();
  recall();
  drawTitle();
  settle();
  drawCurves(byId("curves"), goTo, () => {
    const group = current(), second = chosen.compare && group && other(group);
    const run = group?.source.kind === "run" ? [group.step] : [];
    return second && second.source.kind === "run" ? [...run, second.step] : run;
  });
  listen();
  setTheme(chosen.theme);
  draw();
  if (DATA.watch) watch();
  document.body.dataset.ready = DATA.watch ? "live" : "done";
}

start().catch((error) => {
  byId("title").textContent = "This page could not be read";
  byId("live").hidden = !DATA.watch;
  byId("about").textContent = `${error}. It needs a browser of 2023 or later.`;
  throw error;
});
