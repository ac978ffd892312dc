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

from bench.common import RESULTS, ROOT, one_thread, read_steps, save, versions
from rewards import strict_box
from trainer.run.files import read_jsonl, write_atomically
from trainer.run.presets import TINY

PHASES = ("rollout", "logps", "update", "step")
SAMPLES = 8


def compare(arguments) -> dict:
    """Run both sides in turn. Returns the rounds, and the medians of TRL's times over ours."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(arguments.rounds):
            ours = run_ours(arguments, Path(folder) / f"ours{index}")
            theirs, trl_versions = run_trl(arguments, Path(folder) / f"trl{index}.json")
            rounds.append({"ours": ours, "trl": theirs})
            print(json.dumps(rounds[-1]), flush=True)
    ratios = {
        key: median(sides["trl"][key] / sides["ours"][key] for sides in rounds)
        for key in (*PHASES, "tokens")
    }
    return {
        "what": "processor seconds of a phase: medians over steps; over rounds, TRL's over ours. "
        "The sides draw different samples, so their tokens differ",
        "trl_versions": trl_versions,
        "ratios": ratios,
        "rounds": rounds,
    }


def run_ours(arguments, out: Path) -> dict[str, float]:
    """Run justrl.py. Returns the medians of its phases over the steps."""
    flags = f"--tiny --engine transformers --steps {arguments.steps} --max_prompt_tokens 128 "
    flags += f"--prompts_per_step {arguments.prompts} --updates_per_step {arguments.updates} "
    flags += "--eval_samples 1 --eval_every 0 --save_every 0"
    script = [sys.executable, "-m", "bench.common", ROOT / "justrl.py"]
    run([*script, *flags.split(), "--model", arguments.model, "--out", out])
    steps = read_steps(out)
    return phases(
        [
            {key: row[f"seconds_{key}"] for key in PHASES} | {"tokens": row["tokens"]}
            for row in steps
        ]
    )


def run_trl(arguments, out: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Run TRL's side. Returns the medians of its phases over the steps, and its versions."""
    from trainer.data import Order
    from trainer.run.launch import model_folder
    from trainer.sources.load import load_problems

    problems, path = load_problems(TINY["data"]), out.with_suffix(".problems.jsonl")
    order = Order(len(problems), 0)[0 : arguments.prompts * arguments.steps]  # that of justrl.py
    rows = [{"problem": problems[i].text, "answer": problems[i].answer} for i in order]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": model_folder(arguments.model),
        "problems": str(path),
        "out": str(out),
        "steps": arguments.steps,
        "prompts_per_step": arguments.prompts,
        "samples_per_prompt": SAMPLES,
        "updates_per_step": arguments.updates,
        "max_response_tokens": TINY["max_response_tokens"],
        "learning_rate": TINY["learning_rate"],
        "warmup_steps": 10,
        "seed": 0,
    }
    told = out.with_suffix(".settings.json")
    told.write_text(json.dumps(settings))
    run([arguments.trl_python, "-m", "bench.trl_compare", "--worker", told])
    result = json.loads(out.read_text())
    steps = [{key: row[key] for key in (*PHASES, "tokens")} for row in result["steps"]]
    return phases(steps), result["versions"]


def run(command: list) -> None:
    """Run a side. Its output is shown only if it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(words, env=one_thread(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"trl_compare.py: {shlex.join(words)} failed:\n{done.stderr[-3000:]}")


def phases(steps: list[dict]) -> dict[str, float]:
    """Medians over the steps. The first step is a warm-up and does not count."""
    return {key: median(row[key] for row in steps[1:]) for key in steps[0]}


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
        per_device_train_batch_size=rows_per_update,
        gradient_accumulation_steps=1,
        steps_per_generation=updates,
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
    add("--trl_python", default=str(ROOT.parent / "venv-trl/bin/python"), help="runs TRL")
    add("--model", default="tiny:aligned", help="a folder with a real model")
    add("--rounds", type=int, default=5)
    add("--steps", type=int, default=6, help="steps of each run; the first is not counted")
    add("--prompts", type=int, help="prompts a step (default: 32, 4 of a real model)")
    add("--out", default=str(RESULTS / "trl_compare.json"))
    add("--worker", metavar="SETTINGS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return train_with_trl(arguments.worker)
    tiny = arguments.model.startswith("tiny:")
    arguments.updates = 4 if tiny else 2
    arguments.prompts = arguments.prompts or (32 if tiny else 4)
    if not Path(arguments.trl_python).exists():
        sys.exit(
            f"trl_compare.py: there is no {arguments.trl_python}; make it as the docstring says, "
            f"or give --trl_python"
        )
    result = compare(arguments)
    save(arguments.out, result)
    print({key: round(ratio, 2) for key, ratio in result["ratios"].items()})


if __name__ == "__main__":
    main()
