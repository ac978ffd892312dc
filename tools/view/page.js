"use strict";
// The page: the reader's choice, and everything drawn from it.

const byId = (id) => document.getElementById(id);
const KINDS = { train: "Training", held_out: "Held-out", benchmark: "Benchmarks" };
const MOST_LISTED = 300; // groups in the list

// All that is chosen. The address holds it too, so that loading the page again changes nothing.
// newest: the newest step is shown, also of a page that was written again. second: the place chosen
// by hand for the second pane, { source, kind, step }.
const chosen = { source: 0, kind: "", step: 0, place: 0, colour: "push", query: "",
  everywhere: false, newest: true, compare: false, second: null };

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

// --- the choice ---

const source = () => DATA.sources[chosen.source];
const kinds = () => Object.keys(KINDS).filter((kind) =>
  source().groups.some((group) => group.kind === kind));
const groupsAt = (step) => source().groups.filter((group) =>
  group.kind === chosen.kind && group.step === step);

// The groups in the list: of this step, or of all, that hold the query.
function listed(everywhere) {
  const words = chosen.query.trim().toLowerCase();
  const own = source().groups.filter((group) => group.kind === chosen.kind);
  return own.filter((group) => (everywhere || group.step === chosen.step) &&
    (!words || holds(group, words)));
}

// What is said of a group in the list, which can be searched for.
const factsOf = (group) => [
  kindOf(group),
  group.answers.some(isDisputed) && "disputed",
  group.answers.some((answer) => answer.truncated) && "truncated",
  group.source.resets.includes(group.step) && "reset",
].filter(Boolean);

const holds = (group, words) => factsOf(group).includes(words) ||
  group.problem.toLowerCase().includes(words) ||
  group.answers.some((answer) => answerText(answer).toLowerCase().includes(words));

const current = () => groupsAt(chosen.step).find((group) => group.place === chosen.place);

// Make the choice one that exists.
function settle() {
  if (!kinds().includes(chosen.kind)) chosen.kind = kinds()[0] ?? "train";
  const steps = keptSteps(source(), chosen.kind);
  if (!steps.length) return;
  if (!steps.includes(chosen.step)) chosen.step = nearest(steps, chosen.step);
  if (!current()) chosen.place = (listed(false)[0] ?? groupsAt(chosen.step)[0]).place;
}

// The same problem elsewhere. The second pane shows the nearest to the place chosen by hand, else
// to the first pane's step in the other run.
function elsewhere(group) {
  return DATA.sources.flatMap((other) => other.groups).filter((other) =>
    other !== group && other.problem === group.problem);
}

function other(group) {
  const wanted = chosen.second ??
    { source: 1 - group.source.number, kind: group.kind, step: group.step };
  const distance = (one) => (one.source.number === wanted.source ? 0 : 1e9) +
    (one.kind === wanted.kind ? 0 : 1e6) + Math.abs(one.step - wanted.step);
  return elsewhere(group).sort((a, b) => distance(a) - distance(b))[0] ?? null;
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
  byId("title").replaceChildren(...names.flatMap((name, i) => [i ? " and " : "",
    make("span", names.length < 2 ? "" : i ? "second" : "first", visible(name))]));
  const about = DATA.sources.map((one) =>
    [...Object.entries(one.about).map(([name, value]) => `${name} ${value}`), one.left_out]
      .filter(Boolean).join(" · "));
  byId("about").textContent = visible([...new Set(about)].join("   |   "));
}

function drawToolbar() {
  byId("kinds").replaceChildren(...DATA.sources.flatMap((one, i) =>
    Object.keys(KINDS).filter((kind) => one.groups.some((g) => g.kind === kind)).map((kind) => {
      const name = DATA.sources.length > 1 ? `${KINDS[kind]} ${"AB"[i]}` : KINDS[kind];
      const pressed = i === chosen.source && kind === chosen.kind;
      const button = makeButton(name, () => choose({ source: i, kind }), pressed);
      button.title = visible(one.name);
      return button;
    })));
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
  const own = source().groups.filter((group) => group.kind === "held_out");
  const places = [...new Set(own.map((group) => group.place))].sort((a, b) => a - b);
  const cell = (group) => {
    const percent = String(Math.round(100 * group.solved));
    const button = makeButton(percent, () => choose({ step: group.step, place: group.place }));
    button.title = `step ${group.step}: ${percent} % of the answers are right`;
    button.style.setProperty("--a", group.solved);
    button.setAttribute("aria-current", group === current());
    return button;
  };
  const row = (place) => {
    const groups = own.filter((group) => group.place === place);
    const name = make("th", "", visible(groups[0].problem.trim().slice(0, 80)));
    name.scope = "row";
    return make("tr", "", name, ...steps.map((step) =>
      make("td", "", ...groups.filter((group) => group.step === step).map(cell))));
  };
  const head = make("tr", "", make("th"), ...steps.map((step) => make("th", "", String(step))));
  root.replaceChildren(make("table", "", make("thead", "", head),
    make("tbody", "", ...places.map(row))));
}

function drawList() {
  const groups = listed(chosen.everywhere);
  const here = source().kind === "run" ? "at this step" : "here";
  const where = chosen.everywhere ? "in all steps" : here;
  const found = byId("found");
  found.replaceChildren(`${groups.length.toLocaleString("en")} groups ${where} `);
  const all = chosen.query.trim() || chosen.everywhere ? listed(true) : [];
  if (chosen.everywhere || all.length > groups.length) {
    const text = chosen.everywhere ? "this step only" : `all ${all.length.toLocaleString("en")}`;
    const button = makeButton(text, () => choose({ everywhere: !chosen.everywhere }));
    button.id = "everywhere";
    found.append(button);
  }
  const list = byId("groups"), top = list.scrollTop;
  list.replaceChildren(...groups.slice(0, MOST_LISTED).map(listItem));
  if (groups.length > MOST_LISTED) list.append(make("li", "nothing", "… search to find more"));
  list.scrollTop = top;
  list.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function listItem(group) {
  const dots = group.answers.slice(0, 16).map((one) => (one.robust ? "●" : "○")).join("");
  const shown = make("span", "dots", dots);
  shown.title = "● right, ○ wrong, by the robust verifier";
  const facts = [...factsOf(group),
    chosen.everywhere && group.source.kind === "run" && `step ${group.step}`];
  const button = makeButton("", () => choose({ step: group.step, place: group.place }));
  button.setAttribute("aria-current", group === current());
  button.append(make("span", "text", visible(group.problem.trim().slice(0, 200))),
    make("span", "facts", shown, ...facts.filter(Boolean).map((fact) => make("span", "", fact))));
  return make("li", "", button);
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

// One group: where it is, the problem, the gold, the answers. choices: for the second pane.
function pane(group, second, choices = []) {
  const where = make("div", "where");
  const name = make("span", group.source.number ? "run b" : "run", visible(group.source.name));
  if (DATA.sources.length > 1) where.append(name);
  if (second) where.append(placeMenu(group, choices));
  else where.append(make("span", "", `${stepName(group)}, problem ${group.place}`));
  where.append(make("span", "badge", kindOf(group)));
  for (const fact of [`${Math.round(100 * group.solved)} % solved`, ...passRates(group)]) {
    where.append(make("span", "", fact));
  }
  const { problem, gold, task } = group;
  const prompt = group.prompt && make("details", "",
    make("summary", "", "The prompt as the model saw it"), make("pre", "", visible(group.prompt)));
  return make("article", "pane", where, make("p", "problem", visible(problem.trim())),
    make("p", "gold", "Gold answer ", make("b", "", visible(gold)), task && ` · ${visible(task)}`),
    prompt, make("div", "answers",
      ...group.answers.map(answerCard)));
}

// The menu of the second pane: where else this problem was kept.
function placeMenu(group, choices) {
  const menu = make("select", "", ...choices.map((one) => make("option", "", placeName(one))));
  menu.setAttribute("aria-label", "Where else this problem was kept");
  menu.selectedIndex = choices.indexOf(group);
  menu.addEventListener("change", () => {
    const one = choices[menu.selectedIndex];
    choose({ second: { source: one.source.number, kind: one.kind, step: one.step } });
  });
  return menu;
}

const stepName = ({ source, step }) =>
  (source.kind === "run" ? `step ${step}` : source.labels[step]);

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
  if ((changes.source ?? chosen.source) !== chosen.source) chosen.second = null;
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

function nextKind() {
  const own = kinds();
  choose({ kind: own[(own.indexOf(chosen.kind) + 1) % own.length] });
}

const KEYS = {
  ArrowLeft: () => moveStep(-1), ArrowRight: () => moveStep(1),
  ArrowUp: () => moveGroup(-1), ArrowDown: () => moveGroup(1),
  c: () => choose({ compare: !chosen.compare }), h: nextKind,
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
    byId("colour").append(Object.assign(make("option", "", title), { value: name }));
  }
  byId("colour").addEventListener("change", (event) => choose({ colour: event.target.value }));
  byId("search").value = chosen.query;
  byId("search").addEventListener("input", (event) => choose({ query: event.target.value }));
  byId("earlier").addEventListener("click", () => moveStep(-1));
  byId("later").addEventListener("click", () => moveStep(1));
  byId("compare").addEventListener("click", KEYS.c);
  byId("help-button").addEventListener("click", KEYS["?"]);
  byId("meanings").append(make("dl", "", ...Object.values(COLOURS).flatMap(({ title, help }) =>
    [make("dt", "", title), make("dd", "", help)])));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCurves);
  listenToPointer();
}

function listenToPointer() {
  const tip = byId("tip");
  document.addEventListener("pointermove", (event) => {
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

async function start() {
  await unpack();
  recall();
  drawTitle();
  settle();
  drawCurves(byId("curves"), goTo, () => {
    const group = current(), second = chosen.compare && group && other(group);
    return [group, second].filter((one) => one && one.source.kind === "run").map((one) => one.step);
  });
  listen();
  draw();
  document.body.dataset.ready = true;
}

start().catch((error) => {
  byId("title").textContent = "This page could not be read";
  byId("about").textContent = `${error}. It needs a browser of 2023 or later.`;
  throw error;
});
