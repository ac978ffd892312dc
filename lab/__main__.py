"""The papers' findings, tried in the embedded worlds: arms, paired seeds, a figure, verdicts.

    python -m lab                                   the experiments, and how long they take
    python -m lab clip_higher                       run one; [--seeds 5] [--jobs 2]
    python -m lab clip_higher --most 40             then give each claim the seeds that it needs
    python -m lab clip_higher --steps 8 --seeds 2   try it out, shorter
    python -m lab all                               run all of them, one after the other
    python -m lab page                              update lab/README.md from the results

What a run measured goes to lab/results/NAME/results.json, with a figure; a try-out stays under
lab/runs. If a run is killed, the same command continues. lab/README.md says what the papers claim,
what was found, and by which rule.
"""

import argparse
import json
import math
import signal
import sys
from pathlib import Path

from lab import arms, figure, pages
from lab.papers import EXPERIMENTS, Experiment, split
from lab.verdicts import more_seeds
from trainer.errors import Refused


def minutes(experiment: Experiment, seeds: int, jobs: int) -> int:
    return math.ceil(len(experiment.arms) * seeds * experiment.seconds / jobs / 60)


def listing(seeds: int, jobs: int) -> str:
    """What `python -m lab` prints."""
    blocks = []
    for name, experiment in EXPERIMENTS.items():
        time = f"about {minutes(experiment, seeds, jobs)} minutes on {jobs} cores"
        labels: dict[str, list[str]] = {}
        for facet, label in map(split, experiment.arms):
            labels.setdefault(facet or "arms", []).append(label)
        lines = [f"{name}  ({len(experiment.arms)} arms x {seeds} seeds, {time})"]
        lines += [f"{facet}: {', '.join(ones)}" for facet, ones in labels.items()]
        blocks.append("\n    ".join(lines))
    return "\n\n".join(blocks)


def run_experiment(
    name: str, out: Path, seeds: int, most: int, jobs: int, steps: int | None
) -> None:
    """Run what is missing of an experiment, write its results and figure, print the verdicts.

    seeds: of every arm. most: arms whose claims need more get what they need, up to so many.
    """
    experiment = EXPERIMENTS[name]
    home, runs_home = out / "results" / name, out / "runs" / name
    if steps not in (None, experiment.steps):
        home = runs_home = out / "runs" / f"{name}-{steps}steps"  # a try-out is no result
    steps = steps or experiment.steps
    time = minutes(experiment, seeds, jobs)
    print(f"{name}: about {time} minutes at {experiment.steps} steps, here {steps}")
    path = home / "results.json"
    records = json.loads(path.read_text())["runs"] if path.exists() else []
    known = {(record["arm"], record["seed"]): record for record in records}
    done, wanted = {}, dict.fromkeys(experiment.arms, seeds)
    while wanted != done:
        print("seeds: " + ", ".join(f"{arm} {count}" for arm, count in wanted.items()))
        runs = arms.plan(experiment, runs_home, wanted, steps)
        new = [one for one in runs if not arms.is_record_of(known.get((one.arm, one.seed)), one)]
        arms.carry_out_all(name, new, jobs)
        known |= {(one.arm, one.seed): arms.record(one, experiment) for one in new}
        result = {"experiment": name, "steps": steps, "runs": list(known.values())}
        done, wanted = wanted, more_seeds(pages.measure(experiment, result), wanted, most)

    home.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    judged = pages.judge_all(pages.read_results(out) | {name: result})[name]
    figure.draw(experiment, result, judged, home / "figure.png")
    print("\n".join(f"{one.verdict}: {one.claim.sentence} ({one})" for one in judged))
    print(f"Written to {home}; python -m lab page adds it to the page")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", nargs="?", help="an experiment, all, or page; none: list them")
    add("--seeds", type=int, default=5, help="paired seeds, two at least (5)")
    add("--most", type=int, default=0, help="add seeds, up to this many, where claims need them")
    add("--jobs", type=int, default=2, help="runs side by side, one core each (2)")
    add("--steps", type=int, help="try it out with fewer steps")
    add("--out", type=Path, default=arms.ROOT / "lab", help="folder of runs and results (lab)")
    args = parser.parse_args()
    out = args.out.resolve()
    # Like Ctrl-C, so that the runs are stopped too and can resume.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.name not in (None, "all", "page", *EXPERIMENTS):
            raise Refused(
                f"no experiment is called {args.name}: use {', '.join(EXPERIMENTS)}, all or page"
            )
        if args.seeds < 2 or args.jobs < 1 or (args.steps is not None and args.steps < 2):
            raise Refused("--seeds and --steps must be at least 2, and --jobs at least 1")
        if args.most and args.most < args.seeds:
            raise Refused(f"--most {args.most} is less than --seeds {args.seeds}")
        if args.name is None:
            print(listing(args.seeds, args.jobs))
        elif args.name == "page":
            pages.write_page(out)
            print(f"Written to {out / 'README.md'}")
        else:
            for name in EXPERIMENTS if args.name == "all" else [args.name]:
                run_experiment(name, out, args.seeds, args.most, args.jobs, args.steps)
    except (Refused, OSError) as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit("lab: stopped; the same command continues.")


if __name__ == "__main__":
    main()
