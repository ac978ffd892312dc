"""lab/table1.py: JustRL with everything off, each technique by its rule, each system a command."""

import dataclasses
import itertools
import json
import math
import random
import re
import shlex
import sys
from statistics import fmean, pstdev
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, write_jsonl
from forge import no_picture
from test_lockstep import drift, markers

import justrl
import prorl
from lab import systems, table1, techniques
from tiny import world
from trainer.data import Order, Problem, Rollout
from trainer.run.files import read_jsonl
from trainer.run.flags import parse

SMALL = ["--tiny", "--engine", "transformers", "--warmup_steps", "0"]
SMALL += ["--eval_samples", "1", "--save_every", "0"]


def config(**values):
    return dataclasses.replace(table1.Config(), **values)


def command_line(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["table1.py", *map(str, flags)])
    return table1.command_line()


def rows(out):
    seen = read_jsonl(out / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in seen]


def run(monkeypatch, out, *flags):
    """The metrics of a run in this process, on the first 64 easy problems."""
    data = write_jsonl(out.parent / "easy.jsonl", world.problems("train", "easy")[:64])
    with monkeypatch.context() as patch:
        patch.setattr(table1, "plot_run", no_picture)
        table1.main(command_line(patch, *SMALL, "--data", data, "--out", out, *flags))
    return rows(out)


@pytest.fixture
def problems(tmp_path):
    few = {"3+5-2=?": 6, "9-2+1=?": 8, "7+6-4=?": 9, "2+2+9-3=?": 10, "8+8-9+5=?": 12}
    rows = [{"problem": problem, "answer": answer} for problem, answer in few.items()]
    return str(write_jsonl(tmp_path / "problems.jsonl", rows))


def rollout(length=3, right=0.0, reward=None, ids=None, truncated=False):
    ids = np.array(range(length) if ids is None else ids, dtype=np.int32)
    reward = right if reward is None else reward
    return Rollout(
        prompt_ids=np.array([5], dtype=np.int32),
        response_ids=ids,
        logps=-np.ones(len(ids), dtype=np.float32),
        truncated=truncated,
        text=str(ids.tolist()),
        right=right,
        reward=reward,
    )


# --- with everything off it is JustRL ---


def test_the_loop_is_justrl_s_but_under_numbered_markers():
    justrl_text, text = (
        (ROOT / name).read_text().partition("\nif __name__")[0]
        for name in ("justrl.py", "lab/table1.py")
    )
    found = drift(justrl_text, text)
    assert not found, "justrl.py and lab/table1.py have drifted apart:\n" + "\n".join(found)
    assert markers(text.partition("\ndef main(")[2]) == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_off_it_repeats_justrl_s_metrics_to_the_last_digit(monkeypatch, tmp_path, problems):
    flags = ["--prompts_per_step", "4", "--steps", "3", "--eval_every", "3"]
    flags += ["--eval_data", problems, "--data", justrl.TINY["data"]]
    seen = run(monkeypatch, tmp_path / "table1", *flags)
    monkeypatch.setattr(justrl, "plot_run", no_picture)
    monkeypatch.setattr(sys, "argv", ["", *SMALL, *flags, "--out", str(tmp_path / "justrl")])
    justrl.main(parse(justrl.Config, {"tiny": justrl.TINY}, ""))
    expected = rows(tmp_path / "justrl")
    assert [{k: v for k, v in row.items() if k != "sampled_tokens"} for row in seen] == expected
    assert seen[-1]["sampled_tokens"] == sum(row["tokens"] for row in expected[1:])


# --- the rows ---


def test_the_rows_are_table_1_s():
    assert len(systems.ROWS) == 11
    text = (ROOT / "docs" / "table1.md").read_text()
    assert re.findall(r"\| `--row (\S+)`", text) == list(systems.ROWS)


SCALES = {"tiny": table1.TINY, "small": table1.SMALL, "": {}}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", systems.ROWS)
def test_a_row_is_a_valid_config(monkeypatch, name, scale):
    # The published scale is refused without a GPU; a model from elsewhere is not.
    flags = [f"--{scale}"] if scale else ["--model", "some/other"]
    seen = command_line(monkeypatch, "--row", name, "--temperature", 0.7, *flags)
    assert seen.row == name and seen.temperature == 0.7  # flags given win over the row's
    stages = techniques.read_stages(seen)
    assert stages[-1].until == seen.steps
    longest = max(stage.config.max_response_tokens for stage in stages)
    if scale:
        assert longest == SCALES[scale]["max_response_tokens"]
        assert seen.steps == SCALES[scale]["steps"]
        assert seen.model.startswith("tiny:") == (scale == "tiny")
    assert len(stages) == max(1, len(systems.ROWS[name].get("stages", [])))


@pytest.mark.parametrize("name", systems.ROWS)
def test_a_row_runs_in_the_embedded_world(monkeypatch, tmp_path, name):
    small = ["--prompts_per_step", "4", "--samples_per_prompt", "4", "--eval_every", "0"]
    seen = run(monkeypatch, tmp_path / name, "--row", name, "--steps", "2", *small)
    assert [row["step"] for row in seen] == [1, 2]
    assert all(math.isfinite(row["grad_norm"]) and row["logp_gap"] < 0.05 for row in seen)


# What decides how a row trains, and whose silence JustRL's value fills.
ALGORITHM = """model data instruction steps prompts_per_step samples_per_prompt updates_per_step
temperature max_prompt_tokens max_response_tokens learning_rate warmup_steps weight_decay
wrong_reward clip_high dual_clip""".split()  # noqa: SIM905


def test_a_row_names_the_source_of_all_that_decides_how_it_trains():
    """What a row does not state is listed as JustRL's, so that nothing is inherited in silence."""
    for name, row in systems.ROWS.items():
        if name.startswith("justrl"):
            continue
        stated = row.keys() | {key for stage in row.get("stages", []) for key in stage}
        taken = {"max_grad_norm", "clip_low", *systems.JUSTRLS.get(name, ())}
        assert not stated & taken, name
        assert stated | taken >= set(ALGORITHM), name
    source = (ROOT / "lab" / "systems.py").read_text()
    rows = source.partition("PLAIN = ")[2].partition("\n# What a row takes")[0]
    values = re.findall(r"^ {8}\w+=.*|^    \w+=.*", rows, re.MULTILINE)
    words = r"  # (script|paper|post|card|ours)\b"
    unsourced = [v for v in values if not re.search(words, v) and "stages=" not in v]
    assert len(values) > 100 and not unsourced


def test_what_a_row_turns_off_stays_off_at_a_smaller_scale(monkeypatch):
    monkeypatch.setitem(systems.ROWS, "mine", {"steps": 100, "reset_every": 0, "cosine_on": 1})
    seen = systems.scaled_preset("mine", "tiny", table1.TINY, steps=10)
    assert seen["reset_every"] == 0 and seen["cosine_on"] == 1


def test_a_resumed_run_is_the_run_that_nobody_stopped(monkeypatch, tmp_path, problems):
    stages = [
        {"until": 1, "max_response_tokens": 32},
        {"until": 3, "prompts_from": 0.3, "hint_share": 0.5, "samples_per_prompt": 6},
        {"kl_coefficient": 0.01},
    ]
    flags = ["--data", problems, "--stages", json.dumps(stages), "--eval_every", "0"]
    flags += ["--prompts_per_step", "3", "--samples_per_prompt", "4", "--wrong_reward", "0"]
    flags += ["--rollout_rescue", "--dynamic_sampling", "substitute", "--adaptive_temperature"]
    flags += ["--drop_above", "0.9", "--entropy_coef", "0.01", "--entropy_target", "0.3"]
    flags += ["--cosine_weight", "0.1", "--cosine_on", "1", "--cosine_off", "2"]
    flags += ["--reset_every", "2"]
    whole = run(monkeypatch, tmp_path / "whole", *flags, "--steps", "4")
    parts = tmp_path / "parts"
    for steps in ("1", "2", "4"):  # at the end of a stage and within one
        seen = run(monkeypatch, parts, *flags, "--steps", steps)
    assert seen == whole
    states = [
        json.loads((out / "checkpoints" / "step_000004" / "state.json").read_text())
        for out in (tmp_path / "whole", parts)
    ]
    assert states[0] == states[1]
    assert states[0]["stage"] == 3 and states[0]["rescue"]


def test_a_token_budget_ends_a_run_and_a_finished_run_is_left_as_it_is(
    monkeypatch, tmp_path, problems
):
    flags = ["--eval_data", problems, "--prompts_per_step", "4", "--eval_every", "1000"]
    flags += ["--token_budget", "1000"]
    seen = run(monkeypatch, tmp_path / "run", *flags)
    assert seen[-2]["sampled_tokens"] < 1000 <= seen[-1]["sampled_tokens"]
    assert "eval_accuracy" in seen[-1]
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert "python -m lab.table1 --tiny" in (checkpoint / "README.md").read_text()
    assert run(monkeypatch, tmp_path / "run", *flags)[1:] == seen[1:]


# --- ST, THP: stages ---


WRONG_STAGES = [
    ("stages.json", "$(cat FILE)"),
    ("[{]", "no JSON"),
    ("[]", "must be a list"),
    ("[3]", "must be a list"),
    ('[{"temperature": 1.0}, {}]', 'stage 1 of --stages needs an "until"'),
    ('[{"until": 5}, {"until": 5}, {}]', "at least 6"),
    ('[{"until": true}, {}]', 'needs an "until"'),
    ('[{"until": 2, "temprature": 1.0}, {}]', "'temprature', which does not exist"),
    ('[{"model": "x"}]', "'model', which is fixed"),
    ('[{"steps": 7}]', "'steps', which is fixed"),
    ('[{"temperature": "hot"}]', "takes a float, not 'hot'"),
    ('[{"samples_per_prompt": 8.5}]', "takes a int"),
    ('[{"temperature": -1}]', "stage 1 of --stages: --temperature must be above 0"),
    ('[{"advantage": "maxrl"}]', "rewards of at least 0"),
    ('[{"advantage": "pass@k", "pass_k": 9}]', "at most --samples_per_prompt"),
    ('[{"prompts_from": 0.6, "prompts_to": 0.5}]', "below --prompts_to"),
    ('[{"icepop_low": 0.5, "tis_cap": 2.0}]', "fixed"),
    ('[{"icepop_low": 6}]', "--icepop_high"),
    ('[{"dynamic_sampling": "sometimes"}]', "--dynamic_sampling"),
]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        *[(["--tiny", "--stages", stages], words) for stages, words in WRONG_STAGES],
        (["--tiny", "--advantage", "maxrl"], "--advantage maxrl needs rewards"),
        (["--tiny", "false", "--row", "polaris"], "--row polaris needs a GPU"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(monkeypatch, capsys, flags, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command_line(monkeypatch, *flags)
    error = capsys.readouterr().err.partition("table1.py: error: ")[2]
    assert words in error and error.count("\n") == 1


def test_stages_are_sets_of_flags_until_a_step(monkeypatch):
    text = '[{"until": 3, "temperature": 1}, {"until": 5, "clip_high": 0.4}, {}]'
    seen = command_line(monkeypatch, "--tiny", "--steps", 8, "--stages", text)
    stages = techniques.read_stages(seen)
    assert [techniques.stage_at(stages, step).until for step in (1, 3, 4, 5, 6, 9)] == [
        *(3, 3, 5, 5, 8, 8)
    ]
    assert stages[1].config.clip_high == 0.4 and stages[2].config.clip_high == 0.28


def test_a_stage_trains_on_its_share_by_length_without_what_was_too_easy():
    lengths = dict(a=5, b=1, c=3, d=2, e=6, f=4)
    problems = [Problem(name, "1", prompt_ids=[0] * length) for name, length in lengths.items()]
    state = {"stage": 0, "dropped": [], "success": {}}
    first = config(prompts_to=0.5, drop_above=0.75)
    stages = [techniques.Stage(2, first), techniques.Stage(9, config(prompts_from=0.5))]

    def texts(step):
        pool, _ = techniques.enter_stage(stages, problems, state, step, encode=None, sample=None)
        return [problem.text for problem in pool]

    assert texts(1) == ["b", "c", "d"]  # in their own order
    state["success"] = {"b": 1.0, "a": 0.8, "e": 0.75}
    assert texts(3) == ["e", "f"]
    assert state["dropped"] == ["a", "b"] and state["success"] == {}
    state["success"] = {"e": 1.0}
    assert texts(3) == ["e", "f"]  # resumed, not begun
    with pytest.raises(ValueError, match="no problem is left"):
        techniques.stage_problems(problems, config(), {"dropped": list("abcdef")})


def test_hints_are_the_first_characters_of_the_solution():
    long = Problem("What?", "7", solution="abcdefghijklmnopqrstuvwxyz")
    short = Problem("How?", "7", solution="abc")
    seen = techniques.with_hints([long, short], config(hint_share=0.5))
    assert seen[0].text == "What?\n\n## Hint.abcdefghijklm" and seen[1] is short
    (prefilled,) = techniques.with_hints([long], config(hint_share=0.5, hint_prefill=True))
    assert prefilled.prefill == "abcdefghijklm" and prefilled.text == "What?"
    with pytest.raises(ValueError, match="needs solutions"):
        techniques.with_hints([short], config(hint_share=0.5))
    # A chain of the embedded world is worked out.
    assert techniques.chain_solution("3+5-2+10=?") == "8-2+10\n6+10\n16\n"
    assert techniques.chain_solution("What is 3+5?") == ""


# --- LC: length control ---


def test_rewards_by_length_come_in_cycles_and_a_cut_answer_earns_a_share():
    base = config(cosine_weight=0.2, cosine_on=2, cosine_off=3, max_response_tokens=10)
    lengths = [techniques.shape_reward(rollout(length=n), base, 1) for n in (0, 5, 10)]
    assert lengths == pytest.approx([0.2, 0.1, 0.0])
    down = dataclasses.replace(base, cosine_min=-0.5)
    assert techniques.shape_reward(rollout(length=10), down, 1) == pytest.approx(-0.1)
    one = rollout(length=5, right=1.0)
    seen = [techniques.shape_reward(one, base, step) for step in range(1, 9)]
    assert seen == pytest.approx([1.1, 1.1, 1, 1, 1, 1.1, 1.1, 1])
    always = dataclasses.replace(base, cosine_on=0, cosine_off=0)
    assert techniques.shape_reward(one, always, 4) == pytest.approx(1.1)
    cut = rollout(length=10, right=1.0, truncated=True)
    assert techniques.shape_reward(cut, config(truncated_scale=0.0), 1) == 0.0
    assert techniques.shape_reward(cut, config(), 1) == 1.0


# --- RR: rollout rescue ---


def test_a_group_that_failed_gets_the_newest_right_answer_of_its_problem():
    state, rng = {"rescue": {}, "rescued": 0}, random.Random(0)
    one, other = Problem("a", "1"), Problem("b", "1")
    for ids in ([1, 2], [3, 4, 5]):
        right = rollout(right=1.0, ids=ids, reward=0.7)
        techniques.remember(one, [rollout(), right, rollout(right=1.0, ids=[9])], state)
    techniques.remember(other, [rollout()], state)
    state = json.loads(json.dumps(state))  # as in a checkpoint
    group = [rollout(length=2) for _ in range(4)]
    techniques.rescue(other, group, state, rng)
    assert not any(r.right for r in group) and state["rescued"] == 0
    techniques.rescue(one, group, state, rng)
    (place,) = [i for i, r in enumerate(group) if r.right]
    assert group[place].response_ids.tolist() == [3, 4, 5] and group[place].reward == 0.7
    assert group[place].response_ids.dtype == np.int32 and group[place].logps.dtype == np.float32
    assert len(group[place].logps) == 3 and state["rescued"] == 1
    before = list(group)
    techniques.rescue(one, group, state, rng)  # one is right now
    assert group == before


# --- DS: dynamic sampling ---


def batch_of(mixed_by_round, rounds=10):
    """substituted_groups over rounds of 6 groups, of which these are mixed."""
    asked = []

    def draw(batch, first=0):
        mixed = mixed_by_round[min(len(asked), len(mixed_by_round) - 1)]
        asked.append((first, [problem.text for problem in batch]))
        return [[rollout(right=float(i in mixed)), rollout(right=0.0)] for i in range(len(batch))]

    problems = [Problem(str(i), "1") for i in range(40)]
    state = {"position": 0}
    run = SimpleNamespace(config=config(prompts_per_step=6, max_rounds=rounds))
    order = Order(len(problems), 0)
    batch, groups, metrics = techniques.substituted_groups(draw, problems, order, state, run)
    return asked, [p.text for p in batch], groups, metrics, state


def test_groups_of_equal_rewards_are_replaced_by_mixed_ones_of_the_same_batch():
    asked, batch, groups, metrics, state = batch_of([{0, 2, 5}])
    (_, names) = asked[0]
    assert all(len({r.reward for r in group}) == 2 for group in groups)
    assert [batch[i] for i in (0, 2, 5)] == [names[i] for i in (0, 2, 5)]
    # Three are needed for three places: each is used once before any is used again.
    assert sorted([batch[i] for i in (1, 3, 4)]) == sorted(names[i] for i in (0, 2, 5))
    assert metrics["mixed_groups"] == 3 and state["position"] == 6


def test_a_batch_with_a_third_of_mixed_groups_is_given_up_but_not_after_the_last_round():
    asked, batch, _, metrics, state = batch_of([{0, 1}, {0, 1}, {0, 1, 2}])
    assert [first for first, _ in asked] == [0, 6, 12]
    assert set(batch) <= set(asked[2][1]) and metrics["sampled_groups"] == 18
    assert state["position"] == 18
    asked, batch, _, _, _ = batch_of([{1}], rounds=2)
    assert len(asked) == 2 and batch == asked[1][1]


# --- AT: adaptive temperature ---


def test_diversity_is_the_share_of_distinct_four_grams():
    same = [rollout(ids=[1, 2, 3, 4, 5]), rollout(ids=[1, 2, 3, 4, 5])]
    other = [rollout(ids=[1, 2, 3, 4, 5]), rollout(ids=[6, 7, 8, 9])]
    assert techniques.diversity([same]) == 0.5
    assert techniques.diversity([same, other]) == 0.75
    assert techniques.diversity([[rollout(ids=[1])]]) == 0.0


def test_a_stage_begins_at_the_temperature_that_restores_the_diversity(monkeypatch):
    seen = []

    def sample(batch, count, sampling, step):
        seen.append(sampling.temperature)
        return [[rollout()]]

    monkeypatch.setattr(techniques, "diversity", lambda groups: seen[-1] - drop)
    adaptive = config(adaptive_temperature=True, temperature=1.0, prompts_per_step=1)
    stages = [techniques.Stage(n, adaptive) for n in (1, 2, 3)]
    stages.append(techniques.Stage(4, config(temperature=0.7)))
    state = {"temperature": 1.0, "diversity": 0.0, "position": 0, "tokens": 0}
    state |= {"stage": 0, "success": {}, "dropped": []}

    def enter(step):
        problems = [Problem("a", "1")]
        techniques.enter_stage(stages, problems, state, step, encode=None, sample=sample)
        return state["temperature"]

    drop = 0.0
    assert enter(1) == 1.0 and state["diversity"] == 1.0
    drop = 0.12
    assert enter(2) == 1.15 and seen[1:] == [1.0, 1.05, 1.1, 1.15]
    drop = 9.0  # it can never be reached
    assert enter(3) == pytest.approx(1.65)
    assert state["tokens"] == 3 * len(seen)
    assert enter(3) == pytest.approx(1.65)  # resumed
    assert enter(4) == 0.7


# --- EC, RKL ---


def test_the_entropy_bonus_works_below_its_target_alone():
    state = {"entropy": None, "entropy_coef": 0.01}
    assert techniques.entropy_coefficient(state, config(entropy_coef=0.5)) == 0.5
    target = config(entropy_coef=0.01, entropy_target=0.3, entropy_step=0.001)
    assert techniques.entropy_coefficient(state, target) == 0.0
    assert techniques.adapt_entropy(state, {"entropy": 0.2}, target)["entropy_coef"] == 0.011
    assert techniques.entropy_coefficient(state, target) == 0.011
    techniques.adapt_entropy(state, {"entropy": 0.4}, target)
    assert state["entropy_coef"] == pytest.approx(0.01)
    assert techniques.entropy_coefficient(state, target) == 0.0
    assert techniques.adapt_entropy(state, {"entropy": 0.2}, config()) == {}
    state["entropy_coef"] = 0.0005
    assert techniques.adapt_entropy(state, {"entropy": 0.4}, target)["entropy_coef"] == 0.0


def test_an_entropy_bonus_keeps_the_entropy_up(monkeypatch, tmp_path):
    flags = ["--prompts_per_step", "8", "--steps", "4", "--eval_every", "0"]
    ends = [
        run(monkeypatch, tmp_path / coef, *flags, "--entropy_coef", coef)[-1]["entropy"]
        for coef in ("0.0", "0.3")
    ]
    assert ends[1] > ends[0] + 0.02


@pytest.mark.parametrize(
    ("given", "due"),
    [
        (dict(reset_every=2), True), (dict(reset_every=3), False),
        (dict(reset_every=2, reset_optimizer=False), True),
        (dict(accuracy=0.4, reset_patience=1), True), (dict(accuracy=0.6, reset_patience=1), False),
        (dict(accuracy=0.1), False),
        # The last step's extra evaluation counts for no reset.
        (dict(accuracy=0.1, reset_patience=1, step=5), False),
        # Stalls are counted from the accuracy before training.
        (dict(accuracy=0.4, reset_patience=1, before={"accuracy": 0.5, "best": -1.0}), True),
    ],
)  # fmt: skip
def test_what_resets_the_reference(given, due):
    given, copied = dict(given), []
    state = {"reference": SimpleNamespace(copy_from=copied.append)}
    state |= {"accuracy": 0.2, "best": 0.5, "stalled": 0} | given.pop("before", {})
    step, accuracy = given.pop("step", 4), given.pop("accuracy", None)
    metrics = {} if accuracy is None else {"eval_accuracy": accuracy}
    flags = prorl.Config(**{"reset_patience": 0, "eval_every": 4} | given)
    optimizer = SimpleNamespace(state={"moments": 1})
    event = prorl.hard_reset(step, metrics, state, "policy", optimizer, flags)
    assert event == ({"event": "reset"} if due else {})
    assert copied == (["policy"] if due else [])
    assert bool(optimizer.state) == (not due or not flags.reset_optimizer)
    if due:
        assert state["stalled"] == 0 and state["best"] == -1.0


def test_the_paper_s_dapo_runs(monkeypatch, tmp_path):
    """The command of docs/papers.md for two steps, at the scale of --tiny."""
    text = (ROOT / "docs" / "papers.md").read_text()
    (line,) = [x for x in text.splitlines() if x.startswith("python -m lab.table1 --model Qwen")]
    flags = shlex.split(line.partition("lab.table1 ")[2], comments=True)
    flags += ["--model", "tiny:base", "--data", "tiny:train/easy", "--prompts_per_step", "4"]
    flags += ["--steps", "2", "--max_response_tokens", "40", "--eval_every", "0"]
    seen = run(monkeypatch, tmp_path / "run", *flags)
    assert [row["step"] for row in seen] == [1, 2] and seen[1]["sampled_groups"] >= 4


# --- (6) and (9): advantages and losses ---


def by_sets(right, k):
    """pass@k advantages from their definition: all sets of k responses, in float64."""
    sets = list(itertools.combinations(range(len(right)), k))
    rewards = [float(any(right[i] for i in one)) for one in sets]
    mean = fmean(rewards)
    spread = pstdev(rewards)
    own = [
        fmean(r for one, r in zip(sets, rewards, strict=True) if i in one)
        for i in range(len(right))
    ]
    return [(value - mean) / spread if spread else 0.0 for value in own]


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_pass_at_k_advantages_against_all_sets(k):
    groups = [[i < count for i in range(6)] for count in range(7)]
    seen = techniques.pass_at_k_advantages(torch.tensor(groups), k)
    expected = torch.tensor([by_sets(group, k) for group in groups], dtype=torch.float64)
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(seen.sum(dim=1), torch.zeros(7), atol=1e-5, rtol=0)


def test_maxrl_advantages():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4, [0.3] * 4])
    expected = [[3.0, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0.0] * 4, [0.0] * 4]
    torch.testing.assert_close(techniques.maxrl_advantages(rewards), torch.tensor(expected))
    with pytest.raises(ValueError, match="at least 0"):
        techniques.maxrl_advantages(torch.tensor([[1.0, -1.0]]))


def test_normalize_over_tokens_against_one_entry_a_token():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(5, 4, generator=generator)
    lengths = torch.randint(0, 30, (5, 4), generator=generator)
    seen = techniques.normalize_over_tokens(values, lengths)
    tokens = values.double().flatten().repeat_interleave(lengths.flatten())
    expected = (values.double() - tokens.mean()) / tokens.var(correction=0).sqrt()
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(seen, (values - values.mean()) / values.std(), atol=0.05)
    for length in (0, 7):  # no token at all, and equal values
        equal = torch.full((2, 3), 0.25), torch.full((2, 3), length)
        torch.testing.assert_close(
            techniques.normalize_over_tokens(*equal), torch.zeros(2, 3), atol=1e-6, rtol=0
        )


def test_reinforce_is_the_clipped_loss_s_gradient_at_ratio_one_and_knows_no_clip_elsewhere():
    logps = torch.tensor([-1.0, -0.2, -3.0], requires_grad=True)
    values = torch.tensor([1.5, -0.5, 2.0])
    micro = SimpleNamespace(advantages_M=values, old_logps_M=logps.detach())
    gradients = [
        torch.autograd.grad(techniques.policy_loss(logps, micro, config(loss=loss)).sum(), logps)[0]
        for loss in ("reinforce", "clip")
    ]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(gradients[0], -values)


def test_icepop_drops_what_truncation_caps():
    bounds = config(icepop_low=0.5 - 1e-6, icepop_high=5.0 + 1e-6)
    logps = torch.tensor([0.4, 0.5, 1.0, 5.0, 5.1]).log().requires_grad_()
    micro = SimpleNamespace(old_logps_M=logps, engine_logps_M=torch.zeros(5))
    seen = techniques.icepop_importance(micro, bounds)
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.5, 1.0, 5.0, 0.0]))
    assert not seen.requires_grad
    micro.old_logps_M = torch.full((5,), 500.0)
    assert not techniques.icepop_importance(micro, bounds).any()


def test_each_advantage_is_its_own():
    groups = [[rollout(2, 1.0), rollout(4, 0.0), rollout(8, 0.0), rollout(1, 0.0)]]
    rewards = torch.tensor([[r.reward for r in group] for group in groups])
    seen = {
        name: techniques.advantages(rewards, groups, config(advantage=name, pass_k=2))
        for name in techniques.ADVANTAGES
    }
    assert seen["grpo"][0, 0].item() == pytest.approx(1.5, abs=1e-4)
    assert seen["maxrl"][0, 0].item() == 3.0
    assert seen["pass@k"][0, 0].item() == pytest.approx(1.0)
    weights = torch.tensor([2, 4, 8, 1]) / 15
    assert (weights * seen["reinforce++"][0]).sum().item() == pytest.approx(0, abs=1e-6)
    over_tokens = techniques.normalize_over_tokens(rewards, (weights * 15).round())
    assert torch.equal(seen["tokens"], over_tokens)
    assert torch.allclose(seen["lite"], (rewards - 0.25) / rewards.std(), atol=1e-4)
