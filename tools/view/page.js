"use strict";
// The page: the reader's choice, and everything drawn from it.

const byId = (id) => document.getElementById(id);
const KINDS = { train: "Training", held_out: "Held-out", benchmark: "Benchmarks" };
const MOST_LISTED = 300; // groups in the list

// All that is chosen. The address holds it too, so that loading the page again changes nothing.
// newest: the newest step is shown, also of a page that was written again. second: what was chosen by
// hand for the second pane, { source, step }.
const chosen = { source: 0, kind: "", step: 0, place: 0, colour: "push", query: "",
  newest: true, compare: false, second: null };

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
const kindsIn = ({ groups }) => Object.keys(KINDS).filter((kind) =>
  groups.some((group) => group.kind === kind));
const query = () => chosen.query.trim().toLowerCase();

// The groups in the list: those of this step, or those of all steps that hold the query.
function listed() {
  const words = query(), own = source().groups.filter((group) => group.kind === chosen.kind);
  return own.filter((group) => (words ? holds(group, words) : group.step === chosen.step));
}

// A step of a run, or a benchmark of an evaluation.
const stepName = (step, of = source()) => (of.kind === "run" ? `step ${step}` : of.labels[step]);

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

const groupsHere = () => source().groups.filter((group) =>
  group.kind === chosen.kind && group.step === chosen.step);
const current = () => groupsHere().find((group) => group.place === chosen.place);

// Make the choice one that exists: the nearest step, and its first group.
function settle() {
  const kinds = kindsIn(source());
  if (!kinds.includes(chosen.kind)) chosen.kind = kinds[0] ?? "train";
  const steps = keptSteps(source(), chosen.kind);
  if (!steps.length) return;
  chosen.step = nearest(steps, chosen.step);
  if (!current()) chosen.place = groupsHere()[0].place;
}

// The same problem at other steps and in the other run.
const elsewhere = (group) => DATA.sources.flatMap(({ groups }) => groups).filter((other) =>
  other !== group && other.problem === group.problem);

// The groups in the panes. The second is the nearest to what was chosen by hand, else to the first
// pane's step in the other run.
function shown() {
  const group = current();
  if (!group || !chosen.compare) return [group].filter(Boolean);
  const wanted = chosen.second ?? { source: 1 - chosen.source, step: group.step };
  const distance = (one) => (one.source.number === wanted.source ? 0 : 1e9) +
    Math.abs(one.step - wanted.step);
  return [group, ...elsewhere(group).sort((a, b) => distance(a) - distance(b)).slice(0, 1)];
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
    make("span", names.length > 1 ? "AB"[i] : "", visible(name))]));
  const about = DATA.sources.map((one) =>
    [...Object.entries(one.about).map(([name, value]) => `${name} ${value}`), one.left_out]
      .filter(Boolean).join(" · "));
  byId("about").textContent = visible([...new Set(about)].join("   |   "));
}

function drawToolbar() {
  byId("kinds").replaceChildren(...DATA.sources.flatMap((one, i) => kindsIn(one).map((kind) => {
    const name = DATA.sources.length > 1 ? `${KINDS[kind]} ${"AB"[i]}` : KINDS[kind];
    const button = makeButton(name, () => choose({ source: i, kind }));
    button.setAttribute("aria-pressed", one === source() && kind === chosen.kind);
    button.title = visible(one.name);
    return button;
  })));
  const steps = keptSteps(source(), chosen.kind);
  byId("step").textContent = steps.length ? stepName(chosen.step) : "no rollouts kept";
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
    const percent = String(Math.round(100 * group.solved)), button = groupButton(group, percent);
    button.title = `step ${group.step}: ${percent} % of the answers are right`;
    button.style.setProperty("--a", group.solved);
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

// A button that shows a group.
function groupButton(group, ...children) {
  const button = makeButton("", () => choose({ step: group.step, place: group.place }));
  button.append(...children);
  button.setAttribute("aria-current", group === current());
  return button;
}

function drawList() {
  const groups = listed(), where = query() ? "found" : "here";
  byId("found").textContent = `${groups.length.toLocaleString("en")} groups ${where}`;
  const list = byId("groups"), top = list.scrollTop;
  list.replaceChildren(...groups.slice(0, MOST_LISTED).map(listItem));
  if (groups.length > MOST_LISTED) list.append(make("li", "nothing", "… search to find more"));
  list.scrollTop = top;
}

function listItem(group) {
  const circles = group.answers.slice(0, 16).map((one) => (one.robust ? "●" : "○")).join("");
  const dots = make("span", "dots", circles);
  dots.title = "● right, ○ wrong, by the robust verifier";
  const facts = [...factsOf(group), ...(query() ? [stepName(group.step)] : [])];
  const button = groupButton(group, make("span", "text", visible(group.problem.trim().slice(0, 200))),
    make("span", "facts", dots, ...facts.map((fact) => make("span", "", fact))));
  return make("li", "", button);
}

function drawPanes() {
  const panes = byId("panes"), [group, second] = shown();
  if (!group) {
    const text = "No rollouts to show. A run keeps a few groups a step unless it was started " +
      "with --keep_rollouts 0; they appear after its first step.";
    panes.replaceChildren(make("p", "nothing", text));
    return;
  }
  panes.replaceChildren(pane(group, `${stepName(group.step)}, problem ${group.place}`));
  if (second) {
    panes.append(pane(second, placeMenu(second, elsewhere(group))));
  } else if (chosen.compare) {
    panes.append(make("p", "nothing", "This problem was kept nowhere else. The held-out problems " +
      "are kept at every evaluation."));
  }
  recolour();
}

// One group: where it is, the problem, the gold, the answers.
function pane(group, place) {
  const { problem, gold, task, prompt } = group, where = make("div", "where");
  const name = make("span", `run ${"AB"[group.source.number]}`, visible(group.source.name));
  if (DATA.sources.length > 1) where.append(name);
  const facts = [`${Math.round(100 * group.solved)} % solved`, ...group.facts];
  where.append(make("span", "", place), make("span", "badge", kindOf(group)),
    ...facts.map((fact) => make("span", "", fact)));
  const details = prompt && make("details", "",
    make("summary", "", "The prompt as the model saw it"), make("pre", "", visible(prompt)));
  return make("article", "pane", where, make("p", "problem", visible(problem.trim())),
    make("p", "gold", "Gold answer ", make("b", "", visible(gold)), task && ` · ${visible(task)}`),
    details, make("div", "answers", ...group.answers.map(answerCard)));
}

// The menu of the second pane: where else this problem was kept.
function placeMenu(group, choices) {
  const menu = make("select", "", ...choices.map(({ source, step, kind, solved }) => {
    const run = DATA.sources.length > 1 ? `${"AB"[source.number]}: ` : "";
    const percent = Math.round(100 * solved);
    return make("option", "",
      `${run}${stepName(step, source)}, ${KINDS[kind].toLowerCase()}, ${percent} %`);
  }));
  menu.setAttribute("aria-label", "Where else this problem was kept");
  menu.selectedIndex = choices.indexOf(group);
  menu.addEventListener("change", () => {
    const one = choices[menu.selectedIndex];
    choose({ second: { source: one.source.number, step: one.step } });
  });
  return menu;
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

function moveStep(by) {
  const steps = keptSteps(source(), chosen.kind);
  const step = steps[steps.indexOf(chosen.step) + by];
  if (step !== undefined) choose({ step });
}

function moveGroup(by) {
  const groups = listed(), at = groups.indexOf(current());
  const group = groups[at < 0 ? 0 : at + by];
  if (!group) return;
  choose({ step: group.step, place: group.place });
  document.querySelector('#groups [aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

function nextKind() {
  const kinds = kindsIn(source());
  choose({ kind: kinds[(kinds.indexOf(chosen.kind) + 1) % kinds.length] });
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
  drawCurves(byId("curves"), (step) => choose({ step }), () =>
    shown().filter((group) => group.source.kind === "run").map((group) => group.step));
  listen();
  draw();
  document.body.dataset.ready = true;
}

start().catch((error) => {
  byId("title").textContent = "This page could not be read";
  byId("about").textContent = `${error}. It needs a browser of 2023 or later.`;
  throw error;
});
