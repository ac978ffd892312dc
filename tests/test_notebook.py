"""docs/one_step.ipynb runs, and shows what it shows on the page."""

import json
import re
from copy import deepcopy

import pytest
import run_notebook
from conftest import ROOT

COMMITTED = json.loads((ROOT / "docs" / "one_step.ipynb").read_text())
NUMBER = re.compile(r"-?\d+(?:\.\d*)?")


def shown(notebook):
    """The text of all outputs, in order."""
    texts = []
    for cell in run_notebook.code_cells(notebook):
        for output in cell["outputs"]:
            texts.append("".join(output.get("text") or output["data"]["text/plain"]))
    return texts


def test_the_notebook_runs_and_shows_what_is_committed():
    again = deepcopy(COMMITTED)
    names = run_notebook.run(again)
    for cell, other in zip(again["cells"], COMMITTED["cells"], strict=True):
        assert cell.get("execution_count") == other.get("execution_count")
    assert len(shown(again)) == len(shown(COMMITTED)) >= 10
    for text, other in zip(shown(again), shown(COMMITTED), strict=True):
        assert NUMBER.sub("#", text) == NUMBER.sub("#", other)
        numbers, others = (list(map(float, NUMBER.findall(t))) for t in (text, other))
        assert numbers == pytest.approx(others, rel=0.05, abs=0.01)  # sums differ between CPUs
    ratio_M = names["ratio_M"]
    assert ratio_M[names["sign_M"] > 0].mean() > 1 > ratio_M[names["sign_M"] < 0].mean()
    assert names["after"] < names["loss"]


def test_the_steps_of_the_notebook_are_the_script_s():
    """Its markers are those of justrl.py, and so are the names of its tensors."""
    text = "\n".join("".join(cell["source"]) for cell in COMMITTED["cells"])
    assert set(re.findall(r"^## \((\d)\)", text, re.M)) == set("1456789")
    script = (ROOT / "justrl.py").read_text()
    for name in ("advantages_P_G", "weights_B_R", "old_logps_M", "optimizer_step", "token_weights"):
        assert name in text and name in script
