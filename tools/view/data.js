"use strict";
// The data of the page: unpack it from its script element, and answer questions about it.

// DATA: the JSON object. TOKENS: the numbers of all tokens, by column.
let DATA, TOKENS;

async function unpack() {
  const base64 = atob(document.getElementById("data").textContent.trim());
  const packed = new Uint8Array(base64.length);
  for (let i = 0; i < packed.length; i++) packed[i] = base64.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = 8 + Number(new TextDecoder().decode(bytes.subarray(0, 8)));
  DATA = JSON.parse(new TextDecoder().decode(bytes.subarray(8, head)));
  TOKENS = readColumns(bytes.subarray(head), DATA.columns);
  DATA.special = new Set(DATA.special);
  for (const [number, source] of DATA.sources.entries()) {
    source.number = number;
    for (const group of source.groups) group.source = source;
  }
}

// One column after another, 4 bytes a token: ids are whole numbers, the others floats.
function readColumns(bytes, names) {
  const size = bytes.length / names.length;
  return Object.fromEntries(names.map((name, i) => {
    const column = bytes.slice(i * size, (i + 1) * size).buffer;
    return [name, name === "ids" ? new Uint32Array(column) : new Float32Array(column)];
  }));
}

// --- answers and groups ---

const tokenText = (i) => DATA.vocabulary[TOKENS.ids[i]];
const isSpecial = (i) => DATA.special.has(TOKENS.ids[i]);

// The answer as the verifier read it, kept for the search.
function answerText(answer) {
  if (answer.text === undefined) {
    const parts = [];
    for (let i = answer.start; i < answer.start + answer.length; i++) {
      if (!isSpecial(i)) parts.push(tokenText(i));
    }
    answer.text = parts.join("");
  }
  return answer.text;
}

// mixed: some answers earned more than others. Outside training, the verdicts decide.
function kindOf(group) {
  const rewards = new Set(group.answers.map((answer) => answer.reward));
  const mixed = group.kind === "train" ? rewards.size > 1 : group.solved > 0 && group.solved < 1;
  return mixed ? "mixed" : group.solved > 0.5 ? "solved" : "failed";
}

const isDisputed = (answer) => answer.strict !== answer.robust;

// The numbers of one token, log-probs in nats; NaN if a number was not kept.
function tokenFacts(answer, i) {
  const logp = TOKENS.logps[i], logRatio = TOKENS.log_ratio[i], clipped = TOKENS.clipped[i];
  const weight = TOKENS.weights[i], ratio = Math.exp(logRatio);
  const advantage = answer.advantage ?? NaN;
  return {
    logp, probability: Math.exp(logp), entropy: TOKENS.entropy[i], logRatio, ratio, clipped,
    gap: TOKENS.gap[i], weight, advantage,
    push: clipped ? 0 : advantage * weight * ratio,
  };
}

// The steps (in an evaluation: benchmarks) with groups of this kind, in order.
function keptSteps(source, kind) {
  const steps = source.groups.filter((group) => group.kind === kind).map((group) => group.step);
  return [...new Set(steps)].sort((a, b) => a - b);
}

const nearest = (numbers, wanted) =>
  numbers.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a), numbers[0]);
