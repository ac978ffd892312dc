"""Turn graded problems into the numbers of eval.json and tables on the screen.

grading.grade makes a dict of each problem: its benchmark, index, task, text and answer; n, the
number of answers to it; how many of them each verifier accepts ("robust", "strict"); and means over
the answers.
"""

from statistics import fmean

from tools.evaluation.statistics import interval, pass_at_k, powers

VERIFIERS = ("robust", "strict")
MEANS = ("majority", "truncated", "no_answer", "tokens", "distinct_4gram")


def curve(problems: list[dict], verifier: str) -> dict[str, list[float]]:
    """{k: [pass@k, low, high]} for k = 1, 2, 4, ... n. avg@n is pass@1.

    low and high are the ends of the 95 % interval over problems.
    """
    n, points = problems[0]["n"], {}
    for k in powers(n):
        values = [pass_at_k(n, problem[verifier], k) for problem in problems]
        points[str(k)] = [fmean(values), *interval(values, draws=n // k)]
    return points


def report(problems: list[dict]) -> dict:
    """The part of eval.json about one benchmark or task."""
    solved = [problem["robust"] / problem["n"] for problem in problems]
    return {
        "problems": len(problems),
        "n": problems[0]["n"],
        "solve_all": solved.count(1),
        "solve_none": solved.count(0),
        **{key: fmean(problem[key] for problem in problems) for key in MEANS},
        **{verifier: curve(problems, verifier) for verifier in VERIFIERS},
        "solved": solved,
    }


def by_task(problems: list[dict]) -> dict[str, list[dict]]:
    """{task: its problems}. A task is a benchmark, or benchmark/task where it mixes several."""
    tasks_of, tasks = {}, {}
    for problem in problems:
        tasks_of.setdefault(problem["benchmark"], set()).add(problem["task"])
    for problem in problems:
        name = problem["benchmark"]
        if len(tasks_of[name]) > 1:
            name = f"{name}/{problem['task']}"
        tasks.setdefault(name, []).append(problem)
    return tasks


def evaluation(settings: dict, problems: list[dict]) -> dict:
    """The value of eval.json."""
    benchmarks = {
        name: report([problem for problem in problems if problem["benchmark"] == name])
        for name in settings["benchmarks"]
    }
    mean = {
        verifier: fmean(numbers[verifier]["1"][0] for numbers in benchmarks.values())
        for verifier in VERIFIERS
    }
    return {
        "name": settings["name"],
        "settings": settings,
        "mean": mean,
        "benchmarks": benchmarks,
        "tasks": {task: report(own) for task, own in by_task(problems).items()},
        "problems": problems,
    }


# --- tables ---


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print aligned columns, the first one left-aligned. Short rows are filled with blanks."""
    cells = [head, *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *aligned]))
    print()


COLUMNS = {  # {head: the cell of a part of eval.json}
    "problems": lambda part: str(part["problems"]),
    "n": lambda part: str(part["n"]),
    "avg@n": lambda part: percent(part["robust"]["1"][0]),
    "95 % interval": lambda part: " - ".join(map(percent, part["robust"]["1"][1:])),
    "strict": lambda part: percent(part["strict"]["1"][0]),
    "maj@n": lambda part: percent(part["majority"]),
    "all": lambda part: str(part["solve_all"]),
    "none": lambda part: str(part["solve_none"]),
    "truncated": lambda part: percent(part["truncated"]),
    "no answer": lambda part: percent(part["no_answer"]),
    "tokens": lambda part: f"{part['tokens']:.0f}",
    "distinct-4": lambda part: f"{part['distinct_4gram']:.2f}",
}


def print_evaluation(result: dict) -> None:
    """Print the tables of an eval.json."""
    benchmarks, mean = result["benchmarks"], result["mean"]
    # --benchmarks tiny,tiny/hard gives tiny/hard in both; that of the benchmarks counts.
    parts = benchmarks | result["tasks"] | benchmarks
    rows = [[name, *(cell(part) for cell in COLUMNS.values())] for name, part in parts.items()]
    label = f"mean of {len(benchmarks)}"
    rows.append([label, "", "", percent(mean["robust"]), "", percent(mean["strict"])])
    print(
        f"\n{result['name']}: shares in %, by the robust verifier. "
        f"strict: avg@n by the strict box.\n"
    )
    print_table(["", *COLUMNS], rows)

    ks = [str(k) for k in powers(max(part["n"] for part in benchmarks.values()))]
    rows = []
    for name, part in parts.items():
        points = part["robust"]
        rows.append([name, *(percent(points[k][0]) if k in points else "" for k in ks)])
    print_table(["", *(f"pass@{k}" for k in ks)], rows)
