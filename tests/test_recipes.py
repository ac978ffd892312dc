"""The three scripts as a person runs them: what a run leaves behind, how it stops and continues,
and what it refuses.
"""

import functools
import json
import math
import random
import re
import shlex
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from architectures import byte_tokenizer
from conftest import ROOT, SHARED, Script, output_of, python, save_random_model, write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import justrl
import liteppo
import prorl
from tiny import world
from trainer.data import Problem, Rollout, chat_ids
from trainer.run.files import read_jsonl
from trainer.run.kept import TOKEN_COLUMNS, read

RECIPES = ["justrl", "prorl", "liteppo"]
STEPS = 8
SMALL = "--prompts_per_step 4 --samples_per_prompt 4 --eval_samples 2 --eval_every 2 --save_every 2"
# Resets on both sides of a kill, in a world where most groups are mixed.
PRORLS = ["--reset_every", "3", "--model", "tiny:aligned"]


@pytest.fixture(scope="module")
def eval_file(tmp_path_factory):
    """Four problems; next to them, in train.jsonl, the first of the embedded world."""
    path = tmp_path_factory.mktemp("eval") / "problems.jsonl"
    write_jsonl(path.with_name("train.jsonl"), world.problems("train", "mixed")[:192])
    problems = {"3+5=?": "8", "9-2+1=?": "8", "7+6-4=?": "9", "2+2+9-3=?": "10"}
    return write_jsonl(path, [{"problem": p, "answer": a} for p, a in problems.items()])


def flags(recipe, out, eval_file, steps=STEPS):
    own = PRORLS if recipe == "prorl" else []
    own = [*own, "--data", eval_file.with_name("train.jsonl"), "--eval_data", eval_file]
    own += ["--steps", steps, "--out", out]
    return ["--tiny", *SMALL.split(), *own]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, forge, eval_file):
    """whole_run(recipe) -> folder and output of an uninterrupted run of STEPS steps.

    The run is made once for all tests, which must not change its folder.
    """

    @functools.cache
    def run(recipe):
        folder = tmp_path_factory.mktemp("whole")
        command = [f"{recipe}.py", *flags(recipe, folder / recipe, eval_file)]
        # One as a person starts it, the others as all other tests do, which is faster.
        done = python(*command) if recipe == "justrl" else Script(forge, folder, *command).wait()
        output_of(done)
        return folder / recipe, done.stdout

    return run


def rows(out):
    return read_jsonl(out / "metrics.jsonl")


def timeless(rows):
    return [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in rows]


def checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


# --- what a run leaves behind ---

FIELDS = """step reward reward_std accuracy length truncated entropy logp_gap logp_gap_max approx_kl
clip_fraction_low clip_fraction_high grad_norm learning_rate skipped_updates tokens seconds_rollout
seconds_reward seconds_logps seconds_update seconds_sync seconds_keep seconds_step"""
MORE = """kl kl_loss_share sampled_groups trained_groups rounds trained_reward trained_accuracy
trained_length trained_truncated trained_tokens"""
FIELDS_OF = {recipe: set(FIELDS.split()) for recipe in RECIPES}
FIELDS_OF["prorl"] = set((FIELDS + " " + MORE).split())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_leaves_its_recipe_metrics_samples_curves_and_checkpoints(whole_run, recipe):
    out, printed = whole_run(recipe)
    left = {"config.json", "metrics.jsonl", "rollouts", "curves.png", "checkpoints"}
    assert {path.name for path in out.iterdir()} - {"tensorboard"} == left
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoints(out) == ["step_000006", "step_000008"]  # the last two, whole
    config = json.loads((out / "config.json").read_text())
    assert (config["recipe"], config["tiny"], config["samples_per_prompt"]) == (recipe, True, 4)

    first, *steps = rows(out)
    assert timeless([first])[0].keys() == {"step", "eval_accuracy"}
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    for row in steps:
        assert FIELDS_OF[recipe] <= row.keys()
        assert row.keys() - FIELDS_OF[recipe] <= {"eval_accuracy", "seconds_evaluate", "event"}
        assert ("eval_accuracy" in row) == (row["step"] % 2 == 0)
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["truncated"] <= 1
        assert 0 < row["entropy"] < 5 and row["length"] > 1
        assert row["logp_gap"] <= row["logp_gap_max"] < 1e-4 and row["skipped_updates"] == 0
        if recipe == "prorl":
            assert row["sampled_groups"] >= row["trained_groups"] == 4
            assert row["sampled_groups"] * 4 * row["length"] == pytest.approx(row["tokens"])
            assert 0 < row["trained_accuracy"] < 1
            # Of one or two right in four, divided by n - 1: no group is alike.
            assert 0.499 < row["reward_std"] < 0.578
            assert row.get("event") == ("reset" if row["step"] % 3 == 0 else None)
        else:
            assert row["tokens"] == pytest.approx(16 * row["length"])
            assert 0 <= row["reward_std"] < (1.155 if recipe == "justrl" else 0.578)
            alike = row["accuracy"] in (0, 0.25, 0.5, 0.75, 1)  # four groups, each alike
            assert row["reward_std"] > 0 or alike
    # One update a batch: every ratio is 1.
    assert any(row["approx_kl"] > 0 for row in steps) == (recipe != "liteppo")
    assert "held-out pass@1" in printed and str(out) in printed.splitlines()[-1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_keeps_rollouts_with_the_numbers_of_every_token(whole_run, recipe):
    out, _ = whole_run(recipe)
    kept = {path.stem: read(path) for path in (out / "rollouts").glob("*.parquet")}
    assert kept.keys() >= {f"step_{step:06d}" for step in range(1, STEPS + 1)} | {"eval_000000"}
    for name, answers in kept.items():
        assert all(answer["problem"].endswith("=?") for answer in answers)
        for answer in answers:
            lengths = {len(answer[c]) for c in TOKEN_COLUMNS if answer[c] is not None}
            assert lengths == {len(answer["response_ids"])}
        if name.startswith("step"):
            assert {answer["minibatch"] for answer in answers} >= {0}
            known = set(TOKEN_COLUMNS) - ({"gap"} if recipe == "liteppo" else set())
            assert all(answer[c] is not None for answer in answers for c in known)
            first = [answer for answer in answers if answer["minibatch"] == 0]
            # No update yet.
            assert all(max(map(abs, answer["log_ratio"])) < 1e-3 for answer in first)
            compared = [answer["gap"] for answer in answers if answer["gap"] is not None]
            assert compared and all(max(map(abs, gap)) < 1e-3 for gap in compared)


def test_a_checkpoint_is_a_model_folder_that_transformers_opens(whole_run):
    folder = whole_run("justrl")[0] / "checkpoints" / f"step_{STEPS:06d}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(ROOT / "tiny/models/base", dtype=torch.float32)
    ids = torch.tensor([chat_ids(tokenizer, "3+5=?")])
    assert model.dtype == torch.float32, "master weights"
    logits, base_logits = model(input_ids=ids).logits, base(input_ids=ids).logits
    assert torch.isfinite(logits).all()
    assert (logits - base_logits).abs().max() > 1e-3, "it was trained"
    pickled = [*folder.rglob("*.bin"), *folder.rglob("*.pt")]
    assert not pickled, "nothing that would have to be unpickled"


def test_the_kl_penalty_holds_the_policy_near_a_reference_that_stays_until_its_reset(
    whole_run, start, eval_file, tmp_path
):
    command = flags("prorl", tmp_path / "run", eval_file, steps=1)
    start("prorl", *command, "--kl_coefficient", 100).output()
    held, free = rows(tmp_path / "run"), rows(whole_run("prorl")[0])
    assert held[1]["approx_kl"] < 0.9 * free[1]["approx_kl"]
    for step in (1, 4, 7):  # the first with this reference: no further than this step's updates
        assert free[step]["kl"] < 2 * free[step]["approx_kl"]
        assert free[min(step + 2, 8)]["kl"] > 2 * free[min(step + 2, 8)]["approx_kl"]


# --- stopped and continued ---


def kept_files(out):
    return {path.name: path.read_bytes() for path in (out / "rollouts").iterdir()}


def assert_same_run(out, whole):
    assert timeless(rows(out)) == timeless(rows(whole))
    assert kept_files(out) == kept_files(whole)
    assert checkpoints(out) == checkpoints(whole)
    last = f"checkpoints/step_{STEPS:06d}"
    for path in (whole / last).rglob("*.safetensors"):
        one, other = load_file(path), load_file(out / path.relative_to(whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), path.name
    state, whole_state = (run / last / "state.json" for run in (out, whole))
    assert state.read_text() == whole_state.read_text()


@pytest.mark.parametrize(("recipe", "sort"), [("justrl", "SIGINT"), ("prorl", "SIGTERM")])
def test_killed_then_stopped_then_finished_is_the_run_that_nobody_touched(
    whole_run, start, eval_file, tmp_path, recipe, sort
):
    whole, out = whole_run(recipe)[0], tmp_path / "run"
    command = flags(recipe, out, eval_file)

    part = random.Random(recipe).uniform(0, 1.5)
    killed = start(recipe, *command, signals=(signal.SIGKILL, 3, part)).wait()
    assert killed.returncode == -signal.SIGKILL
    assert 4 <= len(rows(out)) < STEPS
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "rewa')  # as a kill in the middle of a write leaves it
    (out / "checkpoints" / "step_000004.tmp").mkdir(exist_ok=True)

    saved = max((out / "checkpoints").glob("step_??????"))
    resumed_at = json.loads((saved / "state.json").read_text())["step"]
    stopped = start(recipe, *command, signals=(getattr(signal, sort), 5, 0)).wait()
    assert stopped.returncode == -getattr(signal, sort), "a shell loop ends with it"
    assert "Partial: stopped after step" in stopped.stdout
    assert f"{sort}: finishing this step, then saving. The same" in stopped.stdout + stopped.stderr
    last = rows(out)[-1]["step"]
    assert resumed_at < last < STEPS
    assert checkpoints(out)[-1] == f"step_{last:06d}", "saved although it is between two savings"

    assert f"after step {last}." in start(recipe, *command).output()
    assert_same_run(out, whole)


def test_a_finished_run_is_left_as_it_is_and_more_steps_continue_it(
    whole_run, start, eval_file, tmp_path
):
    whole, out = whole_run("prorl")[0], tmp_path / "run"
    shutil.copytree(whole, out)
    printed = start("prorl", *flags("prorl", out, eval_file)).output()
    assert "before     after" not in printed, "old results are not told as new ones"
    assert rows(out) == rows(whole)
    assert_same_run(out, whole)

    # Flags that change no result are free to change.
    free = ["--save_every", 5, "--tokens_per_micro_batch", 4000, "--gradient_checkpointing", "true"]
    start("prorl", *flags("prorl", out, eval_file, steps=STEPS + 1), *free).output()
    assert rows(out)[:-1] == rows(whole)
    assert rows(out)[-1]["step"] == STEPS + 1
    assert checkpoints(out)[-1] == f"step_{STEPS + 1:06d}"


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=[] if r == "prorl" else pytest.mark.slow) for r in RECIPES]
)
def test_a_run_moves_from_two_ranks_to_one_and_back(whole_run, start, eval_file, tmp_path, recipe):
    out = tmp_path / "run"
    for ranks, steps in ((2, 2), (1, 4), (2, 6)):
        printed = start(recipe, *flags(recipe, out, eval_file, steps), ranks=ranks).output()
        assert f"{ranks} rank(s)" in printed
    assert [row["step"] for row in rows(out)] == list(range(7))
    whole = timeless(rows(whole_run(recipe)[0]))
    for row, expected in zip(timeless(rows(out)), whole, strict=False):
        assert row.get("event") == expected.get("event")
        rounded = {"event", "logp_gap_max"}  # the gap is a matter of rounding alone
        for key in expected.keys() - rounded:
            assert row[key] == pytest.approx(expected[key], abs=1e-4, rel=1e-4)


# --- real problems ---


TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_level_model(folder):
    """Save a random Qwen2 over bytes, and a tokenizer with a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    save_random_model(folder, vocab_size=len(tokenizer), positions=2048)
    tokenizer.save_pretrained(folder)
    return folder


REAL = """--prompts_per_step 4 --samples_per_prompt 4 --eval_samples 1 --eval_max_tokens 12
--max_response_tokens 12 --max_prompt_tokens 1500 --steps 2 --learning_rate 1e-3
--tokens_per_micro_batch 4096 --warmup_steps 0""".split()  # noqa: SIM905


GSM8K, DAPO = "gsm8k_train.jsonl", "dapo_math_17k_head14.jsonl"


@pytest.mark.parametrize(
    ("recipe", "file"), [("justrl", GSM8K), ("prorl", DAPO), ("liteppo", DAPO)]
)
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_two_steps_on_real_problems(start, tmp_path, recipe, file, engine):
    if not SHARED.is_dir():
        pytest.skip(f"there are no files in {SHARED}")
    head, out = tmp_path / file, tmp_path / "run"
    head.write_text("".join((SHARED / file).read_text().splitlines(keepends=True)[:14]))
    command = [*REAL, "--model", byte_level_model(tmp_path / "model"), "--out", out]
    command += ["--data", head, "--eval_data", head, "--engine", engine]
    command += ["--max_rounds", 2] if recipe == "prorl" else []
    if engine == "vllm":
        output_of(python(ROOT / f"{recipe}.py", *command))
    else:
        start(recipe, *command).output()
    first, *steps = rows(out)
    assert "eval_accuracy" in first
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["logp_gap"] < 1e-4 and row["skipped_updates"] == 0 for row in steps)
    AutoModelForCausalLM.from_pretrained(out / "checkpoints" / "step_000002")
    prompts = [answer["problem"] for path in out.glob("rollouts/step_*") for answer in read(path)]
    assert all(prompt and "Remember to put your answer" not in prompt for prompt in prompts)


@pytest.mark.vllm
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_embedded_world_with_vllm(eval_file, tmp_path, recipe):
    command = [*flags(recipe, tmp_path / "run", eval_file, steps=4), "--engine", "vllm"]
    assert "vllm engine" in output_of(python(ROOT / f"{recipe}.py", *command))
    assert all(row["logp_gap"] < 1e-4 for row in rows(tmp_path / "run")[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, before, after", [("justrl", 0.43, 0.95), ("prorl", 0.0, 0.2), ("liteppo", 0.42, 0.95)]
)  # the README's
def test_the_embedded_world_is_learnt(tmp_path, recipe, before, after):
    output_of(python(ROOT / f"{recipe}.py", "--tiny", "--out", tmp_path / "run", timeout=900))
    measured = [row["eval_accuracy"] for row in rows(tmp_path / "run") if "eval_accuracy" in row]
    assert measured[0] == pytest.approx(before, abs=0.05)
    assert measured[-1] > after


# --- bad input: one sentence, no traceback, not zero ---


def refused(done, recipe):
    """The one sentence with which a script refused its input."""
    assert done.returncode > 0 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{recipe}.py: ")]
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
    return lines[0]


TWO_ROWS = ['{"problem": "1+1=?", "answer": "2"}', '{"problem": "1+2=?"}']
# What each command line, model folder and file of problems may have wrong: test_config.py,
# test_models.py, test_data.py.
BAD_INPUT = {
    "an unknown flag": ("--learningrate 1", r"unknown argument --learningrate"),
    "a malformed row": ("--data {rows}", r"rows\.jsonl, line 2: no answer column"),
    "a folder without weights": ("--model {model}", r"model"),
    "a folder under a file": ("--out {rows}/run", r"/run .Not a directory.; give another --out"),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_refused_in_one_sentence(start, eval_file, tmp_path, what):
    flag, sentence = BAD_INPUT[what]
    (tmp_path / "rows.jsonl").write_text("\n".join(TWO_ROWS))
    (byte_level_model(tmp_path / "model") / "model.safetensors").unlink()
    given = flag.format(rows=tmp_path / "rows.jsonl", model=tmp_path / "model")
    done = start("liteppo", *flags("liteppo", tmp_path / "run", eval_file), *given.split()).wait()
    assert re.search(sentence, refused(done, "liteppo"))


def test_a_full_disk_ends_a_run_in_one_sentence_and_keeps_what_was_saved(
    whole_run, start, eval_file, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(whole_run("justrl")[0], out)
    saved = checkpoints(out)
    command = flags("justrl", out, eval_file, steps=STEPS + 1)
    done = start("justrl", *command, largest_file=300_000).wait()
    assert "too large" in refused(done, "justrl")
    assert checkpoints(out) == saved, "nothing half-written stays, nothing whole goes"


# --- the parts of a recipe that stand above its loop ---


@pytest.mark.parametrize(
    ("recipe", "flags", "text", "truncated", "scores"),
    [
        (justrl, {}, "0.5", False, (0, -1)), (justrl, {}, r"\frac12", True, (1, 1)),
        (justrl, {"robust_verifier": True}, "0.5", False, (1, 1)),
        (justrl, {"overlong_penalty": True, "overlong_buffer": 4}, "0.5", False, (0, -1.25)),
        (prorl, {}, "0.5", False, (1, 1)), (prorl, {}, r"0.5\%", False, (1, 1)),
        (prorl, {}, "2", False, (0, 0)), (prorl, {}, "0.5", True, (1, 1)),
        (prorl, {"termination_penalty": True}, "0.5", True, (1, 0)),
        (prorl, {"termination_penalty": True}, "0.5", False, (1, 1)),
        (liteppo, {}, "0.5", True, (1, 1)), (liteppo, {}, "2", False, (0, 0)),
    ],
)  # fmt: skip
def test_the_reward_is_that_of_the_paper(recipe, flags, text, truncated, scores):
    """Of five tokens out of eight. Its first number is the verdict, the second is trained on."""
    answer = Rollout([], [0] * 5, [], truncated, text=rf"\boxed{{{text}}}")
    config = recipe.Config(max_response_tokens=8, **flags)
    assert recipe.reward([answer], [Problem("?", r"\frac12")], config) == [scores]


def test_dynamic_sampling_fills_a_batch_with_mixed_groups_and_gives_back_what_it_does_not_need():
    asked, said = [], []

    def sample(batch, first):
        asked.append((first, [problem.text for problem in batch]))
        rewards = [(0.0, float(problem.text not in alike)) for problem in batch]
        return [[Rollout([], [], [], False, reward=r) for r in group] for group in rewards]

    def draw(**state):
        run = SimpleNamespace(config=prorl.Config(prompts_per_step=4, max_rounds=2))
        run.say = said.append
        batch, _, metrics = prorl.mixed_groups(sample, problems, range(99), state, run)
        counts = [metrics[name] for name in ("sampled_groups", "trained_groups", "rounds")]
        return [problem.text for problem in batch], counts, state

    problems, alike = [Problem(str(i), "1") for i in range(99)], {"0", "1"}
    batch, counts, state = draw(position=0, keep_rate=1.0)
    assert asked == [(0, ["0", "1", "2", "3", "4"]), (5, ["5", "6"])]  # each round has its seeds
    assert batch == ["2", "3", "4", "5"] and counts == [7, 4, 2] and not said
    assert state["position"] == 6, "the next step begins with problem 6"
    assert state["keep_rate"] == pytest.approx(0.7 * (0.7 + 0.3 * 3 / 5) + 0.3)
    alike = set(map(str, range(99)))
    batch, counts, state = draw(position=6, keep_rate=0.1)
    assert batch == ["14"] and counts == [16, 0, 2] and "training on 0 groups" in said[0]
    assert state == {"position": 22, "keep_rate": 0.1}


def test_a_small_share_of_puzzles_is_one_puzzle_at_least(monkeypatch):
    def load(source):
        if source.startswith("logic:"):
            raise RuntimeError(source)
        return [Problem("1+1=?", "2")] * 3

    monkeypatch.setattr(prorl, "load_problems", load)
    with pytest.raises(RuntimeError, match=r"^logic:train:1$"):
        prorl.main(prorl.Config(**prorl.TINY | {"logic_weight": 0.01}))


def test_the_grpo_baseline_of_the_papers_page_runs_and_the_loss_s_other_weights_act(
    start, eval_file, tmp_path
):
    lines = (ROOT / "docs" / "papers.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("python liteppo.py --scale")]
    given = shlex.split(line, comments=True)[2:]
    out = tmp_path / "run"
    # The engine samples from other probabilities than it reports; these weights correct for none.
    given += ["--overlong_filter", "--tis_cap", 2, "--temperature", 0.7, "--updates_per_step", 2]
    given += ["--keep_rollouts", "all", "--max_response_tokens", 16]
    start("liteppo", *flags("liteppo", out, eval_file, steps=2), *given).output()
    assert [row["step"] for row in rows(out)] == [0, 1, 2]
    config = json.loads((out / "config.json").read_text())
    assert (config["center"], config["scale"]) == ("group", "group")
    assert config["aggregation"] == "sequence"
    answers = read(out / "rollouts" / "step_000001.parquet")
    assert len({answer["truncated"] for answer in answers}) == 2
    for answer in answers:
        counted = [a for a in answers if a["minibatch"] == answer["minibatch"]]
        whole = sum(not a["truncated"] for a in counted) * len(answer["response_ids"])
        weight = 0 if answer["truncated"] else pytest.approx(1 / whole, rel=1e-3)
        assert all(one == weight for one in answer["weights"])
