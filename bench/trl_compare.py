"""Steps of justrl.py against steps of TRL's GRPOTrainer, on a CPU and with the same settings.

    python3 -m venv ~/venv-trl
    ~/venv-trl/bin/pip install trl==1.16.0 torch==2.13.0 transformers==5.19.0 datasets==5.2.0
    python -m bench.trl_compare --trl_python ~/venv-trl/bin/python
    python -m bench.trl_compare --trl_python ~/venv-trl/bin/python --model FOLDER   a real model

Both sides train in float32 on the same problems in the same order: `--tiny`, or with a real model 4
prompts x 8 responses and 2 updates a step. Both have AdamW, no reference model, clip 0.2 / 0.28,
dual clip 10, the mean over tokens and the strict-box reward. They take turns, each in a process of
its own on one thread. Time is the processor's, so other programs disturb neither side. The seconds
mean nothing on another machine. The ratios do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from statistics import median

import justrl
from bench.common import OFFLINE, RESULTS, ROOT, save
from trainer.data import Order
from trainer.run.files import read_jsonl, write_json, write_jsonl
from trainer.run.launch import model_folder
from trainer.sources.load import load_problems


def compare(arguments) -> dict:
    """Run both sides in turn: seconds a token of each, medians over steps, and TRL's over ours."""
    changed = {"engine": "transformers", "model": arguments.model, "max_prompt_tokens": 128}
    changed |= {"steps": 6, "save_every": 0, "eval_every": 0}
    if not arguments.model.startswith("tiny:"):
        changed |= {"prompts_per_step": 4, "updates_per_step": 2}
    config, rounds = justrl.Config(**justrl.TINY | changed), []
    flags = ["--tiny", *chain(*((f"--{name}", value) for name, value in changed.items()))]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            out = Path(folder) / f"ours{number}"
            run([sys.executable, "-m", "bench.common", ROOT / "justrl.py", *flags, "--out", out])
            ours = read_jsonl(out / "metrics.jsonl")
            told = Path(folder) / f"trl{number}"
            run([arguments.trl_python, "-m", "bench.trl", write_settings(config, told)])
            theirs = json.loads((told / "steps.json").read_text())["steps"]
            rounds.append(
                {"ours": per_token(ours, "seconds_step"), "trl": per_token(theirs, "step")}
            )
            print(json.dumps(rounds[-1]), flush=True)
    ratios = sorted(sides["trl"] / sides["ours"] for sides in rounds)
    return {
        "what": "processor seconds a response token",
        "ratios": ratios,
        "median": median(ratios),
        "rounds": rounds,
    }


def per_token(steps: list[dict], seconds: str) -> float:
    """The median of a step's seconds over its tokens. The first step is a warm-up."""
    return median(row[seconds] / row["tokens"] for row in steps[1:])


def write_settings(config, folder: Path) -> Path:
    """Write what TRL's side needs to know: justrl.py's flags, and its problems in order."""
    problems, wanted = load_problems(config.data), config.prompts_per_step * config.steps
    order = Order(len(problems), config.seed)[0:wanted]
    rows = [{"problem": problems[i].text, "answer": problems[i].answer} for i in order]
    settings = vars(config) | {
        "model": model_folder(config.model),
        "problems": str(folder / "problems.jsonl"),
        "out": str(folder / "steps.json"),
        "save_every": config.save_every or config.steps,
    }
    write_jsonl(folder / "problems.jsonl", rows)
    write_json(folder / "settings.json", settings)
    return folder / "settings.json"


def run(command: list) -> None:
    """Run a side on one thread. Its output is shown only if it fails."""
    environment = os.environ | OFFLINE | {"OMP_NUM_THREADS": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"trl_compare.py: {' '.join(words)} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trl_python", default=str(ROOT.parent / "venv-trl/bin/python"), help="runs TRL")
    add("--model", default="tiny:aligned", help="a folder with a real model")
    add("--rounds", type=int, default=5)
    add("--out", default=str(RESULTS / "trl_compare.json"))
    arguments = parser.parse_args()
    if not Path(arguments.trl_python).exists():
        sys.exit(
            f"trl_compare.py: there is no {arguments.trl_python}; make it as the docstring says, "
            f"or give --trl_python"
        )
    save(arguments.out, compare(arguments))


if __name__ == "__main__":
    main()
