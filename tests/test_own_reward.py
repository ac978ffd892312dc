"""--reward FILE.py:FUNCTION, and the example of docs/own-reward.md."""

import importlib
import json
import re
import types

import pytest
from conftest import ROOT

from trainer.data import Problem, Rollout
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

    yield write
    load_reward.cache_clear()


def scores(name, rollouts, problems):
    return own_reward(name)(rollouts, problems, None)


@pytest.mark.parametrize("recipe", ["justrl", "prorl", "liteppo"])
def test_it_is_called_as_the_recipe_s_reward_is(recipe, write):
    module = importlib.import_module(recipe)
    answers, problems = rollouts("\\boxed{8}", ""), [Problem("3+5", "8"), Problem("9-2", "7")]
    name = write("return [len(t) + len(a) for t, a in zip(texts, answers)]")
    assert scores(name, answers, problems) == [(1.0, 10.0), (1.0, 1.0)]
    assert [right for right, _ in module.reward(answers, problems, module.Config())] == [1.0, 0.0]


def test_it_sees_texts_answers_and_rows(write):
    name = write("return [10 * (r.text == '3+5') + (r.answer == a) for a, r in zip(answers, rows)]")
    problems = [Problem("3+5", "8"), Problem("9-2", "7")]
    assert [reward for _, reward in scores(name, rollouts("a", "b"), problems)] == [11.0, 1.0]


def test_right_is_the_reward_cut_to_a_share(write):
    found = scores(write("return [-1, 0.25, 3]"), rollouts("a", "b", "c"), [Problem("", "")] * 3)
    assert found == [(0.0, -1.0), (0.25, 0.25), (1.0, 3.0)]


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


@pytest.mark.parametrize(
    "name", ["nothing.py:reward", "reward", str(ROOT), f"{ROOT / 'rewards.py'}:absent"]
)
def test_what_names_no_function_is_refused(name):
    with pytest.raises(ValueError, match="--reward"):
        load_reward(name)


def test_a_run_with_the_documented_example(start, tmp_path, example):
    flags = ["--steps", 2, "--prompts_per_step", 4, "--samples_per_prompt", 4, "--eval_every", 0]
    flags += ["--reward", f"{example}:reward", "--out", tmp_path / "run"]
    done = start("justrl", "--tiny", *flags).wait()
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rewards = [json.loads(line)["reward"] for line in lines]
    assert len(rewards) == 2 and all(0 <= value <= 1 for value in rewards)  # JustRL's own: -1 to 1


def test_a_wrong_name_is_refused_before_a_model_is_loaded(start, tmp_path):
    done = start("justrl", "--tiny", "--reward", "absent.py:f", "--out", tmp_path / "run").wait()
    assert done.returncode != 0 and "--reward absent.py:f: no such file" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_example_does_what_the_page_says(example):
    reward = load_reward(f"{example}:reward")
    row = types.SimpleNamespace(text="3+5")
    long = "so " * 1000 + "\\boxed{8}"
    assert reward(["\\boxed{8}", long, "8"], ["8"] * 3, [row] * 3) == [1.0, 0.5, 0.0]
