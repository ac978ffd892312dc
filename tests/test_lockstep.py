"""The three scripts are one loop: they differ only under numbered markers.

A change of the loop that reaches only one of the scripts fails here.
"""

import ast
import dataclasses
import difflib
import importlib
import re

import pytest
from conftest import ROOT

SCRIPTS = ("justrl", "prorl", "liteppo")
MARKER = re.compile(r"\s*# \((\d+)\) \S")


def source(name):
    return (ROOT / f"{name}.py").read_text()


def free_lines(text):
    """Numbers of the lines that may differ between the scripts.

    These are all lines above main(), with the docstring, the imports and the hyperparameters, and
    in main() the lines of a paragraph from its marker on. A paragraph ends at a blank line.
    """
    free, in_main, marked = set(), False, False
    for number, line in enumerate(text.splitlines()):
        in_main = in_main or line.startswith("def main(")
        marked = bool(line.strip()) and (marked or bool(MARKER.match(line)))
        if not in_main or marked or not line.strip():
            free.add(number)
    return free


def drift(one, other):
    """The lines that differ between two scripts where they must not."""
    lines, other_lines = one.splitlines(), other.splitlines()
    free, other_free = free_lines(one), free_lines(other)
    found = []
    matcher = difflib.SequenceMatcher(None, lines, other_lines, autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag != "equal":
            found += [f"- {lines[i]}" for i in range(start, end) if i not in free]
            found += [
                f"+ {other_lines[i]}" for i in range(other_start, other_end) if i not in other_free
            ]
    return found


def markers(text):
    return [int(found[1]) for line in text.splitlines() if (found := MARKER.match(line))]


@pytest.mark.parametrize("other", ["prorl", "liteppo"])
def test_scripts_differ_under_numbered_markers_alone(other):
    found = drift(source("justrl"), source(other))
    assert not found, f"justrl.py and {other}.py have drifted apart:\n" + "\n".join(found)


def main_of(name):
    return source(name).partition("\ndef main(")[2]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_marker_is_there_and_main_has_them_in_order(name):
    assert set(markers(source(name))) == set(range(11))
    in_main = markers(main_of(name))
    assert in_main == sorted(set(in_main))
    assert in_main == [1, 2, 3, 5, 6, 7, 8, 9, 10]  # (0) and (4) stand above main


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_algorithm_box_names_the_loop_s_markers(name):
    box = source(name).split('"""')[1]
    assert {int(number) for number in re.findall(r"^ +\((\d+)\) ", box, re.M)} >= {4, 5, 6, 7, 8, 9}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_loop_fits_one_screen_and_hides_no_arguments(name):
    tree = ast.parse(source(name))
    main = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
    loop = next(node for node in main.body if isinstance(node, ast.For))
    assert loop.end_lineno - loop.lineno + 1 <= 65
    for node in ast.walk(loop):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") != "chain":
            assert not any(isinstance(argument, ast.Starred) for argument in node.args)
            assert all(keyword.arg for keyword in node.keywords)


def hyperparameters(name, preset="TINY"):
    """(field names of Config, names set by a preset), in order."""
    recipe = importlib.import_module(name)
    return [field.name for field in dataclasses.fields(recipe.Config)], [*getattr(recipe, preset)]


@pytest.mark.parametrize("other", ["prorl", "liteppo"])
def test_common_hyperparameters_stand_in_the_same_order(other):
    for names, other_names in zip(hyperparameters("justrl"), hyperparameters(other), strict=True):
        assert [name for name in names if name in other_names] == [
            name for name in other_names if name in names
        ]


# The settings that make up the algorithm. --tiny may change none of them, because it only makes the
# paper's algorithm smaller.
ALGORITHM = {
    "samples_per_prompt", "updates_per_step", "temperature", "top_p", "top_k", "clip_low",
    "clip_high", "dual_clip", "center", "scale", "aggregation", "overlong_filter",
    "overlong_penalty", "robust_verifier", "kl_coefficient", "kl_estimator", "reset_optimizer",
    "max_rounds", "termination_penalty", "weight_decay", "max_grad_norm", "tis_cap", "logic_weight",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("preset", ["TINY", "SMALL"])
def test_a_preset_changes_scale_and_never_the_algorithm(name, preset):
    fields, changed = hyperparameters(name, preset)
    assert set(changed) <= set(fields)
    assert not set(changed) & ALGORITHM


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_decode_for_people_and_never_encode(name):
    """Token ids in, token ids out: text that was decoded must not come back as ids."""
    used = set()
    for node in ast.walk(ast.parse(source(name))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "tokenizer"
        ):
            used.add(node.attr)
        assert not (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "tokenizer"
        )
    assert used == {"decode"}


# --- the checker itself ---


def test_a_change_of_the_common_loop_is_drift():
    text = source("justrl")
    for line, mutated in (
        ("engine.load_weights(policy)", "pass"),
        ("        run.log(step", '        metrics["more"] = 0\n        run.log(step'),
    ):
        changed = text.replace(line, mutated)
        assert changed != text and drift(text, changed) and drift(changed, text)


def test_a_blank_line_ends_what_a_marker_covers():
    one = "def main():\n    # (1) Here.\n    a = 1\n\n    b = 2\n"
    assert drift(one, one.replace("a = 1", "a = 3")) == []
    assert drift(one, one.replace("b = 2", "b = 3")) == ["-     b = 2", "+     b = 3"]
    before = "def main():\n    a = 1\n    # (1) Here.\n    b = 2\n"
    assert drift(before, before.replace("a = 1", "a = 3")), "what stands above the marker is common"
