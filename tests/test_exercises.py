"""docs/your-own-recipe.md: each exercise's solution applies, runs, and moves what it says."""

import re
import shutil
import subprocess
from statistics import fmean

import pytest
import torch
from conftest import ROOT, Script, random_rollouts, write_jsonl

from tiny import world
from trainer.data import Problem
from trainer.policy.policy import rectangle, response_means
from trainer.run.files import read_jsonl
from trainer.run.kept import read

PAGE = (ROOT / "docs" / "your-own-recipe.md").read_text()
DIFFS = sorted(path.stem for path in (ROOT / "docs" / "exercises").glob("*.diff"))
FLAGS = ["--tiny", "--steps=2", "--prompts_per_step=4", "--samples_per_prompt=4"]
FLAGS += ["--updates_per_step=4", "--warmup_steps=0", "--eval_every=0", "--keep_rollouts=all"]


class Done:
    """What a run has left: its steps' metrics, and the answers of each step."""

    def __init__(self, forge, script, *flags):
        folder = script.parent
        self.out = folder / "run"
        # To encode all problems takes longer than two steps.
        few = write_jsonl(folder / "few.jsonl", world.problems("train", "mixed")[:192])
        given = [*FLAGS, "--data", few, *flags, "--out", self.out]
        Script(forge, folder, script, *given).output()
        self.rows = read_jsonl(self.out / "metrics.jsonl")
        steps = range(1, len(self.rows) + 1)
        self.answers = [read(self.out / "rollouts" / f"step_{n:06d}.parquet") for n in steps]

    def first(self, column):
        """A column of the first step's answers: both runs sampled them from the same weights."""
        return [answer[column] for answer in self.answers[0]]


@pytest.fixture(scope="module")
def unchanged(forge, tmp_path_factory):
    script = tmp_path_factory.mktemp("unchanged") / "justrl.py"
    shutil.copy(ROOT / "justrl.py", script)
    return Done(forge, script)


@pytest.fixture
def solution(forge, tmp_path):
    """solution(name, *flags) -> the run of the recipe that the page's own command makes."""

    def solution(name, *flags):
        shutil.copy(ROOT / "justrl.py", tmp_path)
        (tmp_path / "docs").symlink_to(ROOT / "docs")
        (command,) = re.findall(r"^cp justrl\.py rloo\.py && .*$", PAGE, re.M)
        command = command.replace("rloo", name).partition(" && python ")[0]
        made = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
        assert f'RECIPE = "{name}"' in (tmp_path / f"{name}.py").read_text()
        return Done(forge, tmp_path / f"{name}.py", *flags)

    return solution


def groups(values):
    return torch.tensor(values).view(4, 4)


def test_a_kl_term_holds_the_policy_near_its_beginning(solution, unchanged):
    changed = solution("kl", "--kl_coefficient=100")
    assert changed.rows[0]["approx_kl"] < 0.9 * unchanged.rows[0]["approx_kl"]
    assert changed.rows[1]["kl"] > 0


def test_rloo_compares_with_the_other_answers(solution, unchanged):
    changed = solution("rloo")
    rewards = groups(changed.first("reward"))
    assert torch.equal(rewards, groups(unchanged.first("reward")))
    advantages = groups(changed.first("advantage"))
    others = [[row[[i for i in range(4) if i != g]].mean() for g in range(4)] for row in rewards]
    assert torch.allclose(advantages, rewards - torch.tensor(others))
    assert advantages.abs().max() > groups(unchanged.first("advantage")).abs().max()


def test_dr_grpo_divides_by_constants(solution, unchanged):
    changed = solution("dr_grpo")
    rewards = groups(changed.first("reward"))
    advantages = groups(changed.first("advantage"))
    assert torch.allclose(advantages, rewards - rewards.mean(dim=1, keepdim=True))
    weights = {weight for weights in changed.first("weights") for weight in weights}
    assert weights == {1 / (4 * 64)}
    assert len({weight for weights in unchanged.first("weights") for weight in weights}) > 1
    assert changed.rows[0]["grad_norm"] < unchanged.rows[0]["grad_norm"]


def test_gspo_gives_every_token_of_a_response_one_ratio(solution, unchanged):
    def one_ratio(run):
        updated = [ratios for ratios in run.first("log_ratio") if any(ratios)]
        return [max(one) - min(one) < 0.01 * max(map(abs, one)) for one in updated]

    changed = solution("gspo")
    assert all(one_ratio(changed)) and not all(one_ratio(unchanged))
    clipped = ("clip_fraction_low", "clip_fraction_high")
    assert sum(changed.rows[0][name] for name in clipped) > 0.1
    assert sum(unchanged.rows[0][name] for name in clipped) < 0.1


def test_a_length_bonus_is_in_the_reward_and_not_in_the_accuracy(solution, unchanged):
    row, before = solution("length").rows[0], unchanged.rows[0]
    assert row["accuracy"] == before["accuracy"] and row["length"] == before["length"]
    assert row["reward"] == pytest.approx(before["reward"] + 0.5 * row["length"] / 64)


def test_an_entropy_bonus_raises_the_entropy(solution, unchanged):
    changed = solution("entropy", "--entropy_coefficient=10", "--learning_rate=3e-3")
    assert changed.rows[0]["entropy"] == unchanged.rows[0]["entropy"]
    assert changed.rows[1]["entropy"] > 1.5 * unchanged.rows[1]["entropy"]


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_another_optimizer_moves_the_weights_elsewhere(solution, unchanged, name):
    changed = solution(name)
    assert changed.first("text") == unchanged.first("text")
    approx_kl = changed.rows[0]["approx_kl"]
    assert 0 < approx_kl != pytest.approx(unchanged.rows[0]["approx_kl"], rel=0.01)


def test_problems_made_in_python_are_what_it_trains_on(solution, unchanged):
    texts = solution("sums").first("problem")
    assert all(re.fullmatch(r"[0-6]\+[0-6]=\?", text) for text in texts)
    assert len(set(texts)) == 4 and texts != unchanged.first("problem")


def test_a_verifier_of_one_s_own_decides(solution, unchanged):
    changed = solution("last_number")
    assert changed.first("text") == unchanged.first("text")
    assert changed.rows[0]["accuracy"] > unchanged.rows[0]["accuracy"]


def test_a_curriculum_begins_with_what_is_short(solution, unchanged):
    changed = solution("curriculum")
    short, long = (fmean(map(len, run.first("prompt_ids"))) for run in (changed, unchanged))
    assert short < long


def test_every_solution_is_on_the_page_and_tested():
    assert sorted(re.findall(r"\(exercises/(\w+)\.diff\)", PAGE)) == DIFFS
    assert len(re.findall(r"^\d+\. \*\*", PAGE, re.M)) == 10
    tests = (ROOT / "tests" / "test_exercises.py").read_text()
    assert all(f'"{name}"' in tests for name in DIFFS)
    assert len(PAGE.split()) <= 1000


# --- what the exercises ask of the shared code ---


def test_response_means_are_the_same_at_every_token_of_a_response():
    rollouts = random_rollouts(3)
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    micro = rectangle(rollouts, torch.zeros(3), torch.ones(3, 12), torch.device("cpu"))
    values = torch.randn(sum(lengths))
    means = response_means(micro, values).split(lengths)
    for mean, value in zip(means, values.split(lengths), strict=True):
        assert mean.tolist() == pytest.approx([value.mean().item()] * len(value))
    empty = rectangle([], torch.zeros(0), torch.ones(0, 12), torch.device("cpu"))
    assert response_means(empty, torch.zeros(0)).shape == (0,)


def test_a_problem_s_answer_is_text_a_whole_number_or_an_error_at_once():
    assert Problem("2+2=?", 4) == Problem("2+2=?", "4")
    with pytest.raises(TypeError, match=r"answer must be a string, not 4.5; write str"):
        Problem("9/2=?", 4.5)
