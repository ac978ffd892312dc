"""Made-up runs and evaluations for the tests of the viewer; their tokens are single bytes."""

import json
from pathlib import Path

import numpy as np
from architectures import byte_tokenizer
from conftest import write_jsonl
from transformers import PreTrainedTokenizerFast

from trainer.data import Problem, Rollout
from trainer.run import kept as rollouts

# Text that would be more than text, if the page or the terminal let it.
HOSTILE = {
    "script": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "end of data": "</script></style>--><!-- {{data}} {{script}} ${1} \\u003c",
    "right to left": "\u202edesrever\u202c abc \u05d0\u05d1\u05d2 \u0627\u0644\u0639\u0631",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ✓ 𝔸",
    "controls": "NUL \x00, bell \x07, escape \x1b[31m, C1 \x9b, delete \x7f",
    "white space": "a\tb\n\n  c \r\n d",
}


def begin_run(folder: Path, **config) -> PreTrainedTokenizerFast:
    """Write a run's config and its model's tokenizer, which is returned."""
    tokenizer = byte_tokenizer(end="<|end|>")
    tokenizer.save_pretrained(folder / "model")
    (folder / "config.json").write_text(json.dumps(config | {"model": str(folder / "model")}))
    return tokenizer


def answer(tokenizer, text: str, right: bool, truncated: bool = False) -> Rollout:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    ids += [] if truncated else [tokenizer.eos_token_id]
    return Rollout(
        prompt_ids=np.array(tokenizer("Q?", add_special_tokens=False).input_ids, np.int32),
        response_ids=np.array(ids, np.int32),
        logps=np.full(len(ids), -0.5, np.float32),
        truncated=truncated,
        text=text,
        right=float(right),
        reward=1.0 if right else -1.0,
    )


def values(rollout: Rollout, scale: float) -> dict[str, np.ndarray]:
    """Columns per token with a pattern: the third token is clipped, ratios alternate in sign."""
    place = np.arange(len(rollout.response_ids))
    return {
        "logps": -0.125 * (place % 5),
        "entropy": 0.25 * (place % 3),
        "log_ratio": scale * np.where(place % 2, 0.125, -0.125),
        "clipped": np.where(place == 2, 1, 0),
        "gap": np.full(len(place), 0.0625),
        "weights": np.full(len(place), 1e-4),
        "minibatch": 1,
    }


def make_run(folder: Path, offset: int = 0, steps: int = 6) -> Path:
    """A finished run of six steps. Each keeps a mixed, a failed and a solved group of two answers.

    offset: sums are `offset` off in wrong answers, so that two runs differ. Evaluations at steps 0,
    3 and 6, a reset at 4, a truncated answer at 5; at step 2 the verifiers disagree.
    """
    tokenizer = begin_run(folder, recipe="justrl", steps=steps, clip_low=0.2, clip_high=0.28)
    rows = []
    for step in range(steps + 1):
        row = {"step": step, "reward": step / 10, "length": 20.0 + step, "entropy": 1 / (step + 1)}
        row |= {"clip_fraction_high": 0.02, "clip_fraction_low": 0.01, "mine": step % 2}
        row = {"step": 0} if step == 0 else row
        row |= {"eval_accuracy": step / 10} if step % 3 == 0 else {}
        row |= {"event": "reset"} if step == 4 else {}
        rows.append(row)
        if step:
            write_step(folder, tokenizer, step, offset)
        if step % 3 == 0:
            write_evaluation(folder, tokenizer, step)
    write_jsonl(folder / "metrics.jsonl", rows)
    return folder


def write_step(folder: Path, tokenizer, step: int, offset: int = 0) -> None:
    rows = []
    for place, verdicts in enumerate([(1, 0), (0, 0), (1, 1)]):
        gold = 10 * step + place
        problem = Problem(f"Problem {place} of step {step}", str(gold), "sums")
        right, wrong = f"so \\boxed{{{gold}}}", f"hm \\boxed{{{gold + 5 + offset}}}"
        texts = [right if v else wrong for v in verdicts]
        if step == 2 and place == 0:
            texts[0] = f"so \\boxed{{{gold}.0}}"  # equal in meaning, not to the letter
        group = [
            answer(tokenizer, text, bool(v), truncated=step == 5 and place == 1)
            for text, v in zip(texts, verdicts, strict=True)
        ]
        advantages = (1.0, -1.0) if verdicts == (1, 0) else (0.0, 0.0)
        more = [values(group[g], g) | {"advantage": a} for g, a in enumerate(advantages)]
        rows += rollouts.rows_of(step, place, problem, group, more)
    rollouts.write(folder / "rollouts", f"step_{step:06d}", rows)


def write_evaluation(folder: Path, tokenizer, step: int) -> None:
    rows = []
    for place in range(2):
        problem = Problem(f"Held-out problem {place}", str(place))
        solved = step >= 3 * (place + 1)
        texts = [f"step {step}: \\boxed{{{place if solved else 9}}}"] * 2
        group = [answer(tokenizer, text, solved) for text in texts]
        more = [{"logps": group[0].logps.astype(float)}] * 2
        rows += rollouts.rows_of(step, place, problem, group, more)
    rollouts.write(folder / "rollouts", f"eval_{step:06d}", rows)


def make_hostile_run(folder: Path) -> Path:
    """One step whose problems, golds and answers are HOSTILE, and one answer of 100,000 letters."""
    tokenizer = begin_run(folder, steps=1, recipe=HOSTILE["end of data"])
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "rew')
    rows = []
    for place, text in enumerate([*HOSTILE.values(), "0123456789" * 10_000]):
        problem = Problem(text[:1000], text[:20], text[:20])
        group = [answer(tokenizer, text, False), answer(tokenizer, text, True)]
        more = [values(group[g], g) | {"advantage": a} for g, a in enumerate((-1.0, 1.0))]
        rows += rollouts.rows_of(1, place, problem, group, more)
    rollouts.write(folder / "rollouts", "step_000001", rows)
    return folder


def make_evaluation(folder: Path) -> Path:
    """A folder as evaluate.py leaves it: two benchmarks, four answers a problem, one disputed."""
    folder.mkdir(parents=True)
    golds = {"aime": [7, 8], "amc": [9]}
    records = []
    for benchmark, own in golds.items():
        for index, gold in enumerate(own):
            texts = [f"\\boxed{{{gold}}}", f"\\boxed{{{gold}.0}}", "\\boxed{1}", "no box"]
            answers = [
                {"text": text, "tokens": 5, "truncated": text == "no box", "distinct_4gram": 1.0}
                for text in texts
            ]
            record = {"benchmark": benchmark, "index": index, "text": f"{benchmark} {index}?"}
            record |= {"answer": str(gold), "task": benchmark, "verify": None, "answers": answers}
            records.append(record)
    write_jsonl(folder / "generations.jsonl", records)
    curve = {"1": [0.5, 0.4, 0.6], "2": [0.8, 0.7, 0.9], "4": [1.0, 0.9, 1.0]}
    result = {"name": "trained", "settings": {"model": "runs/x", "temperature": 0.7}}
    result["benchmarks"] = {name: {"robust": curve} for name in golds}
    (folder / "eval.json").write_text(json.dumps(result))
    return folder
