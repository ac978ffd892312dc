"""--reward FILE.py:FUNCTION, and the example of docs/own-reward.md."""

import pickle
import re
import sys
import types

import pytest
from conftest import ROOT

import justrl
import liteppo
import prorl
from trainer.data import Problem, Rollout
from trainer.errors import Refused
from trainer.run.own_reward import load_reward, own_reward

PAGE = (ROOT / "docs" / "own-reward.md").read_text()


@pytest.fixture
def example(tmp_path):
    """The page's example as a file."""
    path = tmp_path / "short_answers.py"
    path.write_text(max(re.findall(r"```python\n(.*?)```", PAGE, re.S), key=len))
    return path


def rollouts(*texts):
    return [Rollout([], [], [], truncated=False, text=text) for text in texts]


@pytest.fixture
def write(tmp_path):
    """write(body) -> FILE.py:reward with that body."""

    def write(body: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(f"def reward(texts, answers, rows):\n    {body}\n")
        return f"{path}:reward"

    return write


def scores(name, rollouts, problems):
    return own_reward(name)(rollouts, problems, None)


@pytest.mark.parametrize("recipe", [justrl, prorl, liteppo])
def test_it_is_called_as_the_recipe_s_reward_is(recipe, write):
    answers, problems = rollouts("\\boxed{8}", "b"), [Problem("3+5", "8"), Problem("9-2", "7")]
    row = "10 * (r.text == '3+5') + (r.answer == a) + len(t)"
    name = write(f"return [{row} for t, a, r in zip(texts, answers, rows)]")
    assert scores(name, answers, problems) == [(1.0, 20.0), (1.0, 2.0)]
    assert [right for right, _ in recipe.reward(answers, problems, recipe.Config())] == [1.0, 0.0]


def test_right_is_the_reward_cut_to_a_share(write):
    found = scores(write("return [-1, 0.25, 3]"), rollouts("a", "b", "c"), [Problem("", "")] * 3)
    assert found == [(0.0, -1.0), (0.25, 0.25), (1.0, 3.0)]
    again = scores(write("return [-1, 0.25, 4]"), rollouts("a", "b", "c"), [Problem("", "")] * 3)
    assert again[2] == (1.0, 4.0), "the file as it is now"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return [1.0]", "returned 1 numbers for 2 responses"),
        ("return [1.0, float('nan')]", "returned nan for 'b'"),
        ("return [1.0, 'much']", "ValueError: .*'much'"),
        ("return None", "TypeError"),
        ("return [rows[0].level] * 2", "AttributeError: .*level.*, line 2"),
        ("return [(", "SyntaxError: .*, line 2"),
    ],
)
def test_what_is_wrong_with_a_function_is_one_sentence(body, sentence, write):
    with pytest.raises(ValueError, match=f"--reward .*{sentence}") as caught:
        scores(write(body), rollouts("a", "b"), [Problem("", "")] * 2)
    assert "\n" not in str(caught.value)


def test_a_reward_file_is_a_module_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "beside_mine.py").write_text("VALUE = 0.5\n")
    (tmp_path / "rewards.py").write_text(
        "from dataclasses import dataclass\nfrom beside_mine import VALUE\n"
        "@dataclass\nclass Case:\n    value: float = VALUE\n"
        "def reward(texts, answers, rows):\n    return [Case().value for _ in texts]\n"
        "def short(texts):\n    return []\n"
    )
    file = tmp_path / "rewards.py"  # the name of a module of ours
    reward = load_reward(f"{file}:reward")
    assert reward(["a"], ["b"], [None]) == [0.5]
    assert pickle.loads(pickle.dumps(reward)) is reward, "so that a process pool may have it"
    for name, sentence in {
        f"{file}:short": "short must take three arguments, texts, answers and rows",
        f"{file}:rewrad": r"no function 'rewrad'; did you mean reward\?",
        str(file): "give FILE.py:FUNCTION",
        "nothing.py:reward": "give FILE.py:FUNCTION",
        "reward": "give FILE.py:FUNCTION",
        str(tmp_path): "give FILE.py:FUNCTION",
    }.items():
        with pytest.raises(Refused, match=f"--reward .*{sentence}"):
            load_reward(name)


def test_the_example_does_what_the_page_says(example):
    reward = load_reward(f"{example}:reward")
    row = types.SimpleNamespace(text="3+5")
    long = "so " * 1000 + "\\boxed{8}"
    assert reward(["\\boxed{8}", long, "8"], ["8"] * 3, [row] * 3) == [1.0, 0.5, 0.0]
