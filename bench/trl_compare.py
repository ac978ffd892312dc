"""justrl.py against TRL's GRPOTrainer on a CPU: the same model, prompts, group size, lengths, updates and reward.

    python3 -m venv ~/venv-trl
    ~/venv-trl/bin/pip install trl==1.16.0 torch==2.13.0 transformers==5.19.0 datasets==5.2.0
    python bench/trl_compare.py --trl_python ~/venv-trl/bin/python

Both sides are the whole programs, in processes of their own on one thread each, run in turn (ours, TRL, ours, TRL, ...)
and counted in processor time, so that other programs disturb neither. Both train tiny/models/aligned in float32 with 32
prompts x 8 samples of at most 96 tokens at temperature 1, sampled by transformers, and 4 AdamW updates of 64 sequences,
no reference model, clip 0.2 / 0.28, dual clip 10, mean over tokens, strict-box reward, and the same prompts in the same
order. The phases:

    rollout   engine.generate                                 GRPOTrainer._generate
    logps     log-probs before the update, without gradient    the same (ours skips the first mini-batch's)
    update    4 x forward, backward, clip, AdamW               training_step to training_step without generation
    step      everything between two batches, no evaluation    the same

--trl_micro_batch: sequences TRL computes at once (gradient accumulation makes up the difference); several may be given,
and TRL is judged by the one with the fastest step. Absolute seconds mean nothing on another machine; the ratios do.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PHASES = ("rollout", "logps", "update", "step")
PROMPTS, SAMPLES, UPDATES, MAX_TOKENS = 32, 8, 4, 96  # of justrl.py --tiny


def compare(arguments) -> dict:
    """Run both sides in turn and return their medians and ratios."""
    from bench.common import alone, one_thread, read_steps

    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        write_problems(problems, arguments)
        for index in range(arguments.rounds):
            out = Path(folder) / f"ours{index}"
            ours = [
                *alone(ROOT / "justrl.py", arguments.python),
                "--tiny",
                "--engine",
                "transformers",
                "--out",
                out,
            ]
            ours += [
                "--steps",
                arguments.steps,
                "--prompts_per_step",
                arguments.prompts,
                "--eval_samples",
                1,
            ]
            ours += ["--eval_every", 10**6, "--save_every", 10**6]
            run(ours, one_thread())
            sides = {"ours": phases([tidy(row) for row in read_steps(out)])}
            for size in arguments.trl_micro_batch:
                out = Path(folder) / f"trl{index}-{size}.json"
                worker = [arguments.trl_python, __file__, "--worker", "--trl_micro_batch", size]
                worker += [
                    "--problems",
                    problems,
                    "--prompts",
                    arguments.prompts,
                    "--steps",
                    arguments.steps,
                ]
                run([*worker, "--out", out], one_thread())
                result = json.loads(out.read_text())
                sides[f"trl micro-batch {size}"] = phases(result["steps"])
            rounds.append(sides)
            print(
                json.dumps(
                    {
                        name: {k: round(v, 3) for k, v in side.items()}
                        for name, side in sides.items()
                    }
                )
            )
    names = list(rounds[0])
    medians = {
        name: {key: median(sides[name][key] for sides in rounds) for key in rounds[0][name]}
        for name in names
    }
    best = min(names[1:], key=lambda name: medians[name]["step"])
    ratios = {
        key: median(sides[best][key] / sides["ours"][key] for sides in rounds) for key in PHASES
    }
    spread = {
        key: [f(sides[best][key] / sides["ours"][key] for sides in rounds) for f in (min, max)]
        for key in PHASES
    }
    longer = (
        medians[best]["tokens"] / medians["ours"]["tokens"]
    )  # the two sides draw different samples
    return {
        "what": "processor seconds of a phase, and TRL's over ours: medians over rounds, of medians over steps",
        "settings": {
            "prompts": arguments.prompts,
            "samples": SAMPLES,
            "updates": UPDATES,
            "max_tokens": MAX_TOKENS,
        },
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "trl_versions": result["versions"],
        "trl_judged_by": best,
        "medians": medians,
        "ratios": ratios,
        "ratio_spread": spread,
        "ratios_per_token": {key: ratio / longer for key, ratio in ratios.items()},
        "by_round": rounds,
    }


def run(command: list, environment: dict) -> None:
    """Run a side; its output is shown only if it fails."""
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"trl_compare.py: {command[0]} {command[1]} failed:\n{done.stderr[-3000:]}")


def tidy(row: dict) -> dict:
    """A metrics.jsonl row as the TRL worker writes its own: seconds by phase, and tokens."""
    return {key: row[f"seconds_{key}"] for key in PHASES} | {"tokens": row["tokens"]}


def phases(steps: list[dict]) -> dict[str, float]:
    """Medians over the steps, without the first, which warms up."""
    return {key: median(row[key] for row in steps[1:]) for key in steps[0]}


def write_problems(path: Path, arguments) -> None:
    """The problems justrl.py --tiny will meet, in its order."""
    from trainer.data import Order
    from trainer.sources.load import load_problems

    problems = load_problems("tiny:train/mixed")
    rows = [problems[i] for i in Order(len(problems), 0)[0 : arguments.prompts * arguments.steps]]
    path.write_text(
        "".join(json.dumps({"text": row.text, "answer": row.answer}) + "\n" for row in rows)
    )


def train_with_trl(arguments) -> None:
    """TRL's side, run by the python that has TRL."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    from bench.common import versions
    from rewards import strict_box

    (micro_batch,) = arguments.trl_micro_batch
    sequences = arguments.prompts * SAMPLES
    accumulate = sequences // UPDATES // micro_batch
    problems = [json.loads(line) for line in Path(arguments.problems).read_text().splitlines()]
    rows = [
        {"prompt": [{"role": "user", "content": row["text"]}], "answer": row["answer"]}
        for row in problems
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
    parser.add_argument(
        "--python", default=sys.executable, help="runs justrl.py (default: this one)"
    )
    parser.add_argument(
        "--trl_python", default=str(ROOT.parent / "venv-trl/bin/python"), help="runs TRL"
    )
    parser.add_argument(
        "--trl_micro_batch", type=int, nargs="+", default=[64, 16, 8], help="sequences at once"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=6, help="a round and side; the first is not counted"
    )
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="a step")
    parser.add_argument("--out", default=str(HERE / "results/trl_compare.json"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--problems", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return train_with_trl(arguments)
    if not Path(arguments.trl_python).exists():
        sys.exit(
            f"trl_compare.py: no {arguments.trl_python}; make it as the docstring says, or give --trl_python"
        )
    from bench.common import save

    result = compare(arguments)
    save(arguments.out, result)
    print({key: round(value, 2) for key, value in result["ratios"].items()})


if __name__ == "__main__":
    main()
