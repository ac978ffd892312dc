"use strict";
// One answer: its tokens as elements, coloured by one of the numbers known about them.

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

// Most tokens of a group are pushed equally hard: these get half of the colour.
function twiceTheMedian(values) {
  const sizes = values.map(Math.abs).filter((size) => size > 0).sort((a, b) => a - b);
  return 2 * sizes[Math.floor(sizes.length / 2)];
}

// For each: title and help, its value for a token, the value of full colour, the names of both ends,
// and what to say if it is 0 everywhere.
const COLOURS = {
  push: {
    title: "Push", help: "How hard the update pushes a token's log-prob: advantage × weight × " +
      "ratio, 0 where clipped. Minus the derivative of the policy loss, without a KL penalty.",
    value: (facts) => facts.push, full: twiceTheMedian, labels: ["discouraged", "encouraged"],
    flat: "no push: these answers teach nothing",
  },
  logit: {
    title: "Push on the logit", help: "Push × (1 − probability): how hard the update pushes " +
      "the token's logit. A token that is already certain hardly moves, so this shows where an " +
      "answer teaches something.",
    value: (facts) => facts.push * (1 - facts.probability * facts.ratio), full: largest,
    labels: ["discouraged", "encouraged"], flat: "no push: these answers teach nothing",
  },
  probability: {
    title: "Improbable", help: "How unlikely the token was when it was sampled: 1 − probability.",
    value: (facts) => 1 - facts.probability, full: () => 1, oneSided: true,
    labels: ["certain", "unlikely"],
  },
  entropy: {
    title: "Entropy", help: "Of the distribution that the token was drawn from, in nats.",
    value: (facts) => facts.entropy, full: (values) => Math.max(1, largest(values)), oneSided: true,
    labels: ["0", "nats"],
  },
  ratio: {
    title: "Ratio", help: "exp(log-prob at the token's own update − log-prob when sampled): " +
      "what the earlier mini-batches of the step changed. 1 in the first. Full colour at the clip.",
    value: (facts) => facts.logRatio, full: (values, clip) => Math.log(1 + clip[1]),
    labels: ["less likely now", "more likely now"], flat: "1 everywhere: no update came before",
  },
  clipped: {
    title: "Clipped", help: "Where the clip removed the gradient of a token that would be encouraged " +
      "(solid) or discouraged (dotted).",
    value: (facts) => facts.clipped, full: () => 1, labels: ["discouraging", "encouraging"],
    flat: "nothing was clipped",
  },
  gap: {
    title: "Log-prob gap", help: "The trainer's log-prob minus the engine's, in nats. Full " +
      "colour at 0.2: healthy tokens stay pale.",
    value: (facts) => facts.gap, full: () => 0.2, labels: ["−0.2 nats", "+0.2 nats"],
  },
  none: { title: "Nothing", help: "Plain text.", value: () => 0, full: () => 1, labels: ["", ""] },
};
// What a long answer shows at first, because each token is an element. A button adds MORE times that.
const MOST_TOKENS = 1500, MOST_CHARACTERS = 20000, MORE = 4; // characters: of one without tokens

// An element, its classes and what is in it. Texts only ever become text nodes.
function make(tag, classes = "", ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...children);
  return element;
}

function makeButton(text, act) {
  const button = make("button", "", text);
  button.addEventListener("click", act);
  return button;
}

// Text with its invisible characters made visible: controls, and those that turn the direction.
const INVISIBLE = new RegExp("[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u200b\\u200e" +
  "\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ufeff]", "g");
function visible(text) {
  return text.replace(INVISIBLE, (character) => {
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code); // the picture of a control
    return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

// A card: the facts above, the tokens below.
function answerCard(answer) {
  const verdicts = make("div", "", make("b", "", `#${answer.sample}`),
    verdict("strict", answer.strict), verdict("robust", answer.robust));
  if (isDisputed(answer)) verdicts.append(make("span", "badge", "disputed"));
  if (answer.truncated) verdicts.append(make("span", "badge", "truncated"));
  if (answer.reward !== null) verdicts.append(fact("reward", answer.reward));
  const facts = make("div", "", make("span", "", `${answer.length} tokens`));
  if (answer.minibatch !== null) {
    const part = make("span", "", `update ${answer.minibatch + 1}`);
    part.title = "The mini-batch, and so the update of the step, that this answer took part in";
    facts.append(part);
  }
  if (answer.advantage !== null) facts.append(fact("advantage", answer.advantage));
  const body = make("div", "tokens");
  const card = make("section", isDisputed(answer) ? "answer disputed" : "answer",
    make("header", "", verdicts, facts), body);
  fill(body, answer);
  return card;
}

function fact(name, value) {
  const signed = (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  return make("span", "right-hand", `${name} `, make("b", "", signed));
}

function verdict(name, right) {
  const word = right ? "right" : "wrong";
  const mark = make("span", `verdict ${word}`, `${right ? "✓" : "✗"} ${name}`);
  mark.title = `the ${name} verifier says ${word}`;
  return mark;
}

// The tokens, or the text, of an answer. portions: how much of it.
function fill(body, answer, portions = 1) {
  const isText = answer.start === null;
  const length = isText ? answer.text.length : answer.length;
  const shown = Math.min(length, portions * (isText ? MOST_CHARACTERS : MOST_TOKENS));
  body.replaceChildren(...(isText ? [visible(answer.text.slice(0, shown))] :
    tokenElements(answer, shown)));
  if (shown === length) return;
  const left = (length - shown).toLocaleString("en");
  const more = makeButton(`Show more: ${left} ${isText ? "characters" : "tokens"} left`, () => {
    more.remove();
    fill(body, answer, portions + MORE);
    recolour();
  });
  more.className = "more";
  body.after(more);
}

// Elements of an answer's first tokens, each with its answer and the range of its tokens.
function tokenElements(answer, count) {
  const elements = [], stop = answer.start + count;
  for (let first = answer.start, end; first < stop; first = end) {
    end = first + 1; // tokens that only complete a character have no text of their own
    while (end < stop && tokenText(end) === "") end++;
    const text = tokenText(first);
    const kind = isSpecial(first) ? " special" : /^\n+$/.test(text) ? " newline" : "";
    elements.push(Object.assign(make("span", "t", visible(text)), { answer, first, end, kind }));
  }
  return elements;
}

// --- colours ---

// Colour all tokens on the page by one quantity, on one scale for all of them.
function colourTokens(root, name, clip) {
  const colour = COLOURS[name], elements = [...root.querySelectorAll(".t")], values = [];
  for (const element of elements) {
    let strongest = NaN; // of this element's tokens
    for (let i = element.first; i < element.end; i++) {
      const value = colour.value(tokenFacts(element.answer, i));
      if (!(Math.abs(value) <= Math.abs(strongest))) strongest = value;
    }
    values.push(strongest);
  }
  const full = colour.full(values.filter(isFinite), clip) || 1;
  elements.forEach((element, i) => {
    const strength = Math.min(1, Math.abs(values[i]) / full) || 0;
    const sign = strength < 0.02 ? "" : values[i] > 0 ? " above" : " below";
    const mark = strength > 0.85 ? " strong" : strength > 0.4 ? " weak" : "";
    element.className = `t${sign}${sign && mark}${element.kind}`;
    element.style.setProperty("--a", strength.toFixed(2));
  });
  return { full, known: values.some(isFinite), flat: !values.some(Boolean) };
}

// What the colours mean: a scale with its two ends.
function drawLegend(root, name, { full, known, flat }) {
  const colour = COLOURS[name], [low, high] = colour.labels;
  root.replaceChildren();
  root.title = colour.help;
  if (name === "none") return;
  if (!known) return root.append("not known of these answers");
  if (flat && colour.flat) return root.append(colour.flat);
  const scale = make("span", "scale");
  const shade = (side) => `rgb(var(${side}) / var(--strength))`;
  const above = shade("--above"), below = shade("--below");
  scale.style.background = colour.oneSided ? `linear-gradient(90deg, transparent, ${above})` :
    `linear-gradient(90deg, ${below}, transparent, ${above})`;
  const unit = name === "push" || name === "logit" ? ` (±${brief(full)})` : "";
  root.append(low, scale, name === "entropy" ? `${brief(full)} ${high}` : high + unit);
}

// --- the numbers at the pointer ---

function tipFor({ answer, first, end, textContent }) {
  const tip = document.createDocumentFragment();
  for (let i = first; i < end; i++) {
    const facts = tokenFacts(answer, i), list = make("dl");
    const row = (name, value) => list.append(make("dt", "", name), make("dd", "", value));
    const known = (name, value, text = brief(value)) => isFinite(value) && row(name, text);
    row("token", `${i - answer.start + 1} of ${answer.length}`);
    known("probability", facts.probability, facts.probability.toPrecision(3));
    known("log-prob", facts.logp);
    known("entropy", facts.entropy);
    known("ratio", facts.ratio, facts.ratio.toFixed(4));
    if (facts.clipped) row("clipped", facts.clipped > 0 ? "encouraging" : "discouraging");
    known("log-prob gap", facts.gap);
    known("weight", facts.weight);
    known("advantage × weight", facts.advantage * facts.weight);
    known("push", facts.push);
    tip.append(list);
  }
  const text = JSON.stringify(visible(textContent)).slice(1, -1);
  tip.prepend(make("div", "word", text));
  return tip;
}
