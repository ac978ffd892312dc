"""The published scores of JustRL's Tables 3 and 5, to print next to ours."""

import json
import textwrap
from pathlib import Path

from tools.evaluation.tables import print_table

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())


def print_beside(result: dict) -> None:
    """Print the published scores, in %, next to those of an eval.json, if there are any.

    A model is known by the last part of its hub id, which may also be its folder's name.
    """
    models = [row for table in PUBLISHED["tables"] for row in table["models"] if row["model"]]
    known = {row["model"].rpartition("/")[2]: row["scores"] for row in models}
    scores = known.get(result["name"], {})
    rows = [
        [name, f"{100 * numbers['robust']['1'][0]:.2f}", f"{scores[name]:.2f}"]
        for name, numbers in result["benchmarks"].items()
        if name in scores
    ]
    if rows:
        print("avg@n in %, and what JustRL's authors publish:\n")
        print_table(["", "here", "published"], rows)


def print_published() -> None:
    """Print both tables and what their authors add."""
    for table in PUBLISHED["tables"]:
        names = list(table["models"][-1]["scores"])
        rows = []
        for row in table["models"]:
            cells = [row["scores"].get(name) for name in names] + [row["mean"]]
            rows.append([row["label"], *(f"{cell:.2f}" if cell else "-" for cell in cells)])
        print(f"{table['name']}, in %\n")
        print_table(["", *names, "mean"], rows)
    for note in PUBLISHED["notes"]:
        print(textwrap.fill(note, 100))
