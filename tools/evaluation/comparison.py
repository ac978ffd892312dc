"""What training changed: evaluations side by side (ProRL, arXiv 2505.24864, section 4).

The first evaluation is BASE, the second TRAINED. Any others are MIDDLES, checkpoints between them.
"""

from pathlib import Path
from statistics import fmean

from tools.evaluation.statistics import margin, pass_at_k, regime
from tools.evaluation.tables import by_task, percent, print_table
from trainer.errors import Refused
from trainer.run.files import read_json

KEYS = ("name", "tasks", "problems")  # of an eval.json
RULE = """The regime of a task says how pass@K changed from BASE to TRAINED. K is the largest k that
all evaluations have. A margin is half the width of the paired 95 % interval over problems.
  plateau     pass@K rose by more than its margin, but a MIDDLE already had 3/4 of the rise. Without
              a MIDDLE: it rose less than half as much as pass@1.
  sustained   It rose, and no MIDDLE had 3/4 of the rise. Without a MIDDLE: it rose at least half as
              much as pass@1.
  diminish    pass@1 rose by more than its margin, and pass@K did not: it rose by less than five
              points, margin included, or it fell.
  floor       Hardly any problem was solved before or after: pass@K is below five points.
  worse       pass@1 fell by more than its margin.
  undecided   None of these can be told from these problems."""


def read_evaluation(path: str) -> dict:
    """The eval.json at this path or in this folder. Raises Refused if there is none."""
    return read_json(Path(path) / "eval.json" if Path(path).is_dir() else Path(path), KEYS)


def shared_tasks(evaluations: list[dict]) -> list[str]:
    """The tasks that all these values of eval.json have. Raises Refused if there are none."""
    lists = [list(evaluation["tasks"]) for evaluation in evaluations]
    if shared := [task for task in lists[0] if all(task in tasks for tasks in lists)]:
        return shared
    names = " | ".join(map(", ".join, lists))
    raise Refused(f"These evaluations share no task ({names}): give all the same --benchmarks.")


def compare(evaluations: list[dict]) -> dict:
    """The value of compare.json: for each task that all evaluations have, its rises and its regime.

    evaluations: values of eval.json, [base, trained, *middles].

    Raises Refused when there are fewer than two, when they share no task, or when they saw
    different problems of one.
    """
    if len(evaluations) < 2:
        raise Refused("--compare takes two evaluations or more: BASE TRAINED [MIDDLE ...].")
    graded = [by_task(evaluation["problems"]) for evaluation in evaluations]
    shared = shared_tasks(evaluations)
    return {
        "names": [evaluation["name"] for evaluation in evaluations],
        "rule": RULE,
        "tasks": {task: compare_task(task, [tasks[task] for tasks in graded]) for task in shared},
    }


def compare_task(task: str, graded: list[list[dict]]) -> dict:
    """One task in each evaluation. graded: the task's problems, [base, trained, *middles]."""
    counts = [{one["text"]: (one["n"], one["robust"]) for one in problems} for problems in graded]
    base = counts[0]
    if any(own.keys() != base.keys() for own in counts):
        raise Refused(
            f"These evaluations saw different problems of {task}: use one file and one --limit."
        )
    k = min(n for own in counts for n, _ in own.values())
    # pass@1 and pass@k of each problem in each evaluation
    values_1, values_max = (
        [[pass_at_k(*own[text], draws) for text in base] for own in counts] for draws in (1, k)
    )
    pass_1, pass_max = list(map(fmean, values_1)), list(map(fmean, values_max))
    rise_1, rise_max = pass_1[1] - pass_1[0], pass_max[1] - pass_max[0]
    margins = [
        margin([after - before for before, after in zip(one[0], one[1], strict=True)])
        for one in (values_1, values_max)
    ]
    reached = None
    if pass_max[2:] and rise_max > 0:
        reached = (max(pass_max[2:]) - pass_max[0]) / rise_max
    return {
        "problems": len(base),
        "k": k,
        "pass_1": pass_1,
        "pass_max": pass_max,
        "rise_1": rise_1,
        "rise_max": rise_max,
        "margin": margins[1],
        "reached": reached,
        "regime": regime(pass_1[:2], pass_max[:2], margins, reached),
    }


def print_comparison(result: dict) -> None:
    """Print the table and the rule of a compare.json."""
    head = ["", "problems", "pass@1", "rise", "K", "pass@K", "rise", "by MIDDLE", "regime"]
    rows = []
    for task, numbers in result["tasks"].items():
        before_1, after_1 = map(percent, numbers["pass_1"][:2])
        before, after = map(percent, numbers["pass_max"][:2])
        reached = numbers["reached"]
        rows.append(
            [
                task,
                str(numbers["problems"]),
                f"{before_1} -> {after_1}",
                f"{100 * numbers['rise_1']:+.1f}",
                str(numbers["k"]),
                f"{before} -> {after}",
                f"{100 * numbers['rise_max']:+.1f} +- {percent(numbers['margin'])}",
                "" if reached is None else f"{100 * reached:.0f} %",
                numbers["regime"],
            ]
        )
    print(
        f"\n{' -> '.join(result['names'][:2])}: in %, by the robust verifier. "
        f"by MIDDLE: the share of pass@K's rise that a MIDDLE already had.\n"
    )
    print_table(head, rows)
    print(result["rule"])
