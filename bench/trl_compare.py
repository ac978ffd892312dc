"""justrl.py against TRL's GRPOTrainer on a CPU, with the same model, prompts, updates and reward.

    python3 -m venv ~/venv-trl
    ~/venv-trl/bin/pip install trl==1.16.0 torch==2.13.0 transformers==5.19.0 datasets==5.2.0
    python -m bench.trl_compare --trl_python ~/venv-trl/bin/python
    python -m bench.trl_compare --trl_python ~/venv-trl/bin/python --model FOLDER   a real model

Both sides are whole programs. Each runs in processes of its own on one thread, and they take turns
(ours, TRL, ours, TRL, ...). Time is the processor's, so other programs disturb neither side.

Both train tiny/models/aligned in float32 on the same prompts in the same order: 32 prompts a step,
8 samples of at most 64 tokens for each, at temperature 1, sampled by transformers. Both make 4
AdamW updates a step, of 64 sequences each, without a reference model, with clip 0.2 / 0.28, dual
clip 10, the mean over tokens, and the strict-box reward. With a real model it is 4 prompts a step
and 2 updates of 16 sequences each. The phases are

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
from trainer.run.files import read_jsonl, write_atomically
from trainer.run.presets import TINY

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PHASES = ("rollout", "logps", "update", "step")
TINY_MODEL = "tiny:aligned"
# Of one step: those of justrl.py --tiny, and fewer of a real model.
PROMPTS, UPDATES = {True: TINY["prompts_per_step"], False: 4}, {True: 4, False: 2}
SAMPLES, MAX_TOKENS, LEARNING_RATE = 8, TINY["max_response_tokens"], TINY["learning_rate"]
PROMPT_TOKENS = 128
PROBLEM = "What is the sum of the first {} odd numbers? Explain each step, then give the answer."


def compare(arguments) -> dict:
    """Run both sides in turn and return their medians and ratios."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        write_problems(problems, arguments)
        for index in range(arguments.rounds):
            sides = {"ours": run_ours(arguments, problems, Path(folder) / f"ours{index}")}
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
            "model": Path(arguments.model).name,
            "prompts": arguments.prompts,
            "samples": SAMPLES,
            "updates": arguments.updates,
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


def run_ours(arguments, problems: Path, out: Path) -> dict[str, float]:
    """Run justrl.py. Returns the medians of its phases over the steps."""
    command = [*alone(ROOT / "justrl.py", arguments.python), "--tiny", "--engine", "transformers"]
    command += ["--out", out, "--steps", arguments.steps, "--prompts_per_step", arguments.prompts]
    command += ["--updates_per_step", arguments.updates, "--max_prompt_tokens", PROMPT_TOKENS]
    command += ["--eval_samples", 1, "--eval_every", 0, "--save_every", 10**6]
    if arguments.model != TINY_MODEL:
        command += ["--model", arguments.model, "--data", problems, "--eval_data", problems]
    run(command, one_thread())
    return phases([rename(row) for row in read_steps(out)])


def run_trl(
    arguments, problems: Path, micro_batch: int, out: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Run TRL's side. Returns the medians of its phases over the steps, and its versions."""
    tiny = arguments.model == TINY_MODEL
    settings = {
        "model": str(ROOT / "tiny" / "models" / "aligned") if tiny else arguments.model,
        "problems": str(problems),
        "out": str(out),
        "steps": arguments.steps,
        "prompts_per_step": arguments.prompts,
        "samples_per_prompt": SAMPLES,
        "updates_per_step": arguments.updates,
        "micro_batch": micro_batch,
        "max_response_tokens": MAX_TOKENS,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 10,
        "seed": 0,
    }
    path = out.with_suffix(".settings.json")
    path.write_text(json.dumps(settings))
    run([arguments.trl_python, "-m", "bench.trl_compare", "--worker", path], one_thread())
    result = json.loads(out.read_text())
    return phases(
        [{key: row[key] for key in (*PHASES, "tokens")} for row in result["steps"]]
    ), result["versions"]


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
    """Write the problems that justrl.py will see: those of --tiny, in its order, or arithmetic."""
    from trainer.data import Order
    from trainer.sources.load import load_problems

    count = arguments.prompts * arguments.steps
    rows = [{"problem": PROBLEM.format(n), "answer": str(n * n)} for n in range(10, 10 + count)]
    if arguments.model == TINY_MODEL:
        problems = load_problems("tiny:train/mixed")
        order = Order(len(problems), 0)[0:count]
        rows = [{"problem": problems[i].text, "answer": problems[i].answer} for i in order]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_with_trl(path: str) -> None:
    """TRL's side, in the Python that has TRL. path: a .json file of its settings.

    Writes the processor seconds and tokens of each step, and the versions, to settings["out"], and
    with save_every a checkpoint after every so many steps to its folder settings["out"].run.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    settings = json.loads(Path(path).read_text())
    updates, samples = settings["updates_per_step"], settings["samples_per_prompt"]
    rows_per_update = settings["prompts_per_step"] * samples // updates
    micro_batch = settings.get("micro_batch", rows_per_update)
    accumulate = rows_per_update // micro_batch
    rows = [
        {"prompt": [{"role": "user", "content": row["problem"]}], "answer": row["answer"]}
        for row in read_jsonl(settings["problems"])
    ]

    def reward(completions, answer, **_):
        return [
            strict_box(turns[0]["content"], gold)
            for turns, gold in zip(completions, answer, strict=True)
        ]

    steps = []

    class Timed(GRPOTrainer):
        """GRPOTrainer with a clock around its phases. Saving is no part of a step."""

        def _generate_and_score_completions(self, inputs):
            start = time.process_time()
            if steps:
                steps[-1]["step"] += start - steps[-1]["start"]
            steps.append({"start": start, "logps": 0.0, "step": 0.0})
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

        def _calculate_rewards(self, *args, **kwargs):
            rewards = super()._calculate_rewards(*args, **kwargs)
            steps[-1]["reward"] = rewards.mean().item()
            return rewards

        def _save_checkpoint(self, *args, **kwargs):
            start = time.process_time()
            super()._save_checkpoint(*args, **kwargs)
            steps[-1]["step"] -= time.process_time() - start

    save_every = settings.get("save_every", 0)
    config = GRPOConfig(
        output_dir=str(Path(settings["out"]).with_suffix(".run")),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulate,
        steps_per_generation=updates * accumulate,
        num_iterations=1,
        num_generations=samples,
        max_completion_length=settings["max_response_tokens"],
        temperature=1.0,
        max_steps=updates * settings["steps"],
        shuffle_dataset=False,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        delta=10.0,
        loss_type="dapo",
        scale_rewards="group",
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings["warmup_steps"] * updates,
        weight_decay=0.1,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every * updates or 1,
        save_only_model=True,
        logging_steps=updates,
        report_to=[],
        disable_tqdm=True,
        seed=settings["seed"],
    )
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype="float32"),
        processing_class=PreTrainedTokenizerFast.from_pretrained(settings["model"]),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    steps[-1]["step"] += time.process_time() - steps[-1]["start"]
    for row in steps:
        row["update"] = row["step"] - row.pop("sampled")
        del row["start"]
    write_atomically(Path(settings["out"]), json.dumps({"versions": versions(), "steps": steps}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--python", default=sys.executable, help="runs justrl.py (default: this one)")
    add("--trl_python", default=str(ROOT.parent / "venv-trl/bin/python"), help="runs TRL")
    sizes = "sequences at once"
    add("--trl_micro_batch", type=int, nargs="+", default=[64, 16], help=sizes)
    add("--model", default=TINY_MODEL, help="a folder with a real model")
    add("--rounds", type=int, default=5)
    steps = "steps of each run; the first is not counted"
    add("--steps", type=int, default=6, help=steps)
    add("--prompts", type=int, help="prompts a step (default: 32, 4 of a real model)")
    add("--out", help="default: results/trl_compare.json, trl_compare_real.json for a real model")
    add("--worker", metavar="SETTINGS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return train_with_trl(arguments.worker)
    tiny = arguments.model == TINY_MODEL
    arguments.prompts, arguments.updates = arguments.prompts or PROMPTS[tiny], UPDATES[tiny]
    whole = arguments.prompts * SAMPLES // arguments.updates
    arguments.trl_micro_batch = sorted({min(size, whole) for size in arguments.trl_micro_batch})
    if not Path(arguments.trl_python).exists():
        sys.exit(
            f"trl_compare.py: there is no {arguments.trl_python}; make it as the docstring says, "
            f"or give --trl_python"
        )
    result = compare(arguments)
    name = "trl_compare.json" if tiny else "trl_compare_real.json"
    save(arguments.out or HERE / "results" / name, result)
    print(rounded(result["ratios"], 2))


if __name__ == "__main__":
    main()
