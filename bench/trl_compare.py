"""justrl.py against TRL's GRPOTrainer on a CPU, with the same model, prompts, updates and reward.

    python3 -m venv ~/venv-trl
    ~/venv-trl/bin/pip install trl==1.16.0 torch==2.13.0 transformers==5.19.0 datasets==5.2.0
    python -m bench.trl_compare --trl_python ~/venv-trl/bin/python

Both sides are whole programs. Each runs in processes of its own on one thread, and they take turns
(ours, TRL, ours, TRL, ...). Time is the processor's, so other programs disturb neither side.

Both train tiny/models/aligned in float32 on the same prompts in the same order: 32 prompts a step,
8 samples of at most 96 tokens for each, at temperature 1, sampled by transformers. Both make 4
AdamW updates a step, of 64 sequences each, without a reference model, with clip 0.2 / 0.28, dual
clip 10, the mean over tokens, and the strict-box reward. The phases are

    rollout   engine.generate                                  GRPOTrainer._generate
    logps     log-probs before the update, without gradient    the same (ours skips the first
                                                               mini-batch's)
    update    4 x forward, backward, clip, AdamW               the training step, without generation
    step      everything between two batches, no evaluation    the same

--trl_micro_batch gives the number of sequences that TRL computes at once; gradient accumulation
makes up the difference. With several numbers, TRL is judged by the one with the fastest step.
The seconds mean nothing on another machine. The ratios do.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.common import alone, one_thread, read_steps, save, versions
from rewards import strict_box
from trainer.files import read_jsonl

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PHASES = ("rollout", "logps", "update", "step")
PROMPTS, SAMPLES, UPDATES, MAX_TOKENS = 32, 8, 4, 96  # of justrl.py --tiny


def compare(arguments) -> dict:
    """Run both sides in turn and return their medians and ratios."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        write_problems(problems, arguments)
        for index in range(arguments.rounds):
            sides = {"ours": run_ours(arguments, Path(folder) / f"ours{index}")}
            for size in arguments.trl_micro_batch:
                out = Path(folder) / f"trl{index}-{size}.json"
                times, trl_versions = run_trl(arguments, problems, size, out)
                sides[f"trl micro-batch {size}"] = times
            rounds.append(sides)
            print(json.dumps({name: rounded(side, 3) for name, side in sides.items()}))
    names = list(rounds[0])
    medians = {
        name: {key: median(sides[name][key] for sides in rounds) for key in rounds[0][name]}
        for name in names
    }
    best = min(names[1:], key=lambda name: medians[name]["step"])
    by_round = {key: [sides[best][key] / sides["ours"][key] for sides in rounds] for key in PHASES}
    ratios = {key: median(values) for key, values in by_round.items()}
    # The two sides draw different samples, so their lengths differ.
    longer = medians[best]["tokens"] / medians["ours"]["tokens"]
    return {
        "what": "processor seconds of a phase, and TRL's over ours: "
        "medians over rounds, of medians over steps",
        "settings": {
            "prompts": arguments.prompts,
            "samples": SAMPLES,
            "updates": UPDATES,
            "max_tokens": MAX_TOKENS,
        },
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "trl_versions": trl_versions,
        "trl_judged_by": best,
        "medians": medians,
        "ratios": ratios,
        "ratio_spread": {key: [min(values), max(values)] for key, values in by_round.items()},
        "ratios_per_token": {key: ratio / longer for key, ratio in ratios.items()},
        "by_round": rounds,
    }


def run_ours(arguments, out: Path) -> dict[str, float]:
    """Run justrl.py. Returns the medians of its phases over the steps."""
    command = [*alone(ROOT / "justrl.py", arguments.python), "--tiny", "--engine", "transformers"]
    command += ["--out", out, "--steps", arguments.steps, "--prompts_per_step", arguments.prompts]
    command += ["--eval_samples", 1, "--eval_every", 10**6, "--save_every", 10**6]
    run(command, one_thread())
    return phases([rename(row) for row in read_steps(out)])


def run_trl(
    arguments, problems: Path, micro_batch: int, out: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Run TRL's side. Returns the medians of its phases over the steps, and its versions."""
    command = [arguments.trl_python, "-m", "bench.trl_compare", "--worker"]
    command += ["--trl_micro_batch", micro_batch, "--problems", problems, "--out", out]
    command += ["--prompts", arguments.prompts, "--steps", arguments.steps]
    run(command, one_thread())
    result = json.loads(out.read_text())
    return phases(result["steps"]), result["versions"]


def rounded(row: dict[str, float], digits: int) -> dict[str, float]:
    return {key: round(value, digits) for key, value in row.items()}


def run(command: list, environment: dict) -> None:
    """Run a side. Its output is shown only if it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"trl_compare.py: {shlex.join(words)} failed:\n{done.stderr[-3000:]}")


def rename(row: dict) -> dict:
    """A row of metrics.jsonl with the names of the TRL worker: seconds by phase, and tokens."""
    return {key: row[f"seconds_{key}"] for key in PHASES} | {"tokens": row["tokens"]}


def phases(steps: list[dict]) -> dict[str, float]:
    """Medians over the steps. The first step is a warm-up and does not count."""
    return {key: median(row[key] for row in steps[1:]) for key in steps[0]}


def write_problems(path: Path, arguments) -> None:
    """Write the problems that justrl.py --tiny will see, in its order."""
    from trainer.data import Order
    from trainer.sources.load import load_problems

    problems = load_problems("tiny:train/mixed")
    order = Order(len(problems), 0)[0 : arguments.prompts * arguments.steps]
    rows = [{"text": problems[i].text, "answer": problems[i].answer} for i in order]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_with_trl(arguments) -> None:
    """TRL's side. The Python that has TRL runs this."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    (micro_batch,) = arguments.trl_micro_batch
    sequences = arguments.prompts * SAMPLES
    accumulate = sequences // UPDATES // micro_batch
    rows = [
        {"prompt": [{"role": "user", "content": row["text"]}], "answer": row["answer"]}
        for row in read_jsonl(arguments.problems)
    ]

    def reward(completions, answer, **_):
        return [
            strict_box(turns[0]["content"], gold)
            for turns, gold in zip(completions, answer, strict=True)
        ]

    steps = []

    class Timed(GRPOTrainer):
        """GRPOTrainer with a clock around its phases."""

        def _generate_and_score_completions(self, inputs):
            start = time.process_time()
            if steps:
                steps[-1]["step"] = start - steps[-1]["start"]
            steps.append({"start": start, "logps": 0.0})
            outputs = super()._generate_and_score_completions(inputs)
            steps[-1]["sampled"] = time.process_time() - start
            steps[-1]["tokens"] = int(outputs["completion_mask"].sum())
            return outputs

        def _generate(self, prompts):
            start = time.process_time()
            outputs = super()._generate(prompts)
            steps[-1]["rollout"] = time.process_time() - start
            return outputs

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            start = time.process_time()
            outputs = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            if "sampled" not in steps[-1]:  # the pass before the updates
                steps[-1]["logps"] += time.process_time() - start
            return outputs

    model_dir = str(ROOT / "tiny" / "models" / "aligned")
    config = GRPOConfig(
        output_dir=str(Path(arguments.out).with_suffix(".run")),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=UPDATES * accumulate,
        num_iterations=1,
        num_generations=SAMPLES,
        max_completion_length=MAX_TOKENS,
        temperature=1.0,
        max_steps=UPDATES * arguments.steps,
        shuffle_dataset=False,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        delta=10.0,
        loss_type="dapo",
        scale_rewards="group",
        learning_rate=3e-4,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10 * UPDATES,
        weight_decay=0.1,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=UPDATES,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(model_dir, dtype="float32"),
        processing_class=PreTrainedTokenizerFast.from_pretrained(model_dir),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    steps[-1]["step"] = time.process_time() - steps[-1]["start"]
    for row in steps:
        row["update"] = row["step"] - row.pop("sampled")
        del row["start"]
    rows = [{key: row[key] for key in (*PHASES, "tokens")} for row in steps]
    Path(arguments.out).write_text(json.dumps({"versions": versions(), "steps": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--python", default=sys.executable, help="runs justrl.py (default: this one)")
    add("--trl_python", default=str(ROOT.parent / "venv-trl/bin/python"), help="runs TRL")
    sizes = "sequences at once"
    add("--trl_micro_batch", type=int, nargs="+", default=[64, 16, 8], help=sizes)
    add("--rounds", type=int, default=5)
    steps = "steps of each run; the first is not counted"
    add("--steps", type=int, default=6, help=steps)
    add("--prompts", type=int, default=PROMPTS, help="prompts a step")
    add("--out", default=str(HERE / "results/trl_compare.json"))
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    add("--problems", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return train_with_trl(arguments)
    if not Path(arguments.trl_python).exists():
        sys.exit(
            f"trl_compare.py: there is no {arguments.trl_python}; make it as the docstring says, "
            f"or give --trl_python"
        )
    result = compare(arguments)
    save(arguments.out, result)
    print(rounded(result["ratios"], 2))


if __name__ == "__main__":
    main()
