import itertools
import json
import math
import random
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SHARED, needs_shared, save_random_model, write_jsonl

import evaluate
import rewards
from tiny import pretrain as tiny
from tools.evaluation import published, statistics
from tools.evaluation.comparison import compare
from tools.evaluation.grading import grade
from tools.evaluation.tables import by_task, report
from trainer import data
from trainer.errors import Refused
from trainer.run.files import read_jsonl
from trainer.sources.load import load_problems
from verifier import equal

NINE = {
    name: SHARED / f"{'olympiadbench' if name == 'olympiad' else name}.jsonl"
    for name in evaluate.JUSTRL
}


@pytest.fixture(scope="module")
def run():
    """evaluate.py as from the command line, in this process."""

    def run(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
            runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model with the tiny world's tokenizer, and a context for the longest problem."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "random", tiny.make_tokenizer()
    save_random_model(folder, vocab_size=len(tokenizer), hidden_size=32, layers=1, positions=8192)
    tokenizer.save_pretrained(folder)
    return folder


# --- the maths ---


def test_pass_at_k_equals_the_enumeration_of_all_subsets():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
                share = sum(map(any, subsets)) / len(subsets)
                assert statistics.pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)
    exact = 1 - math.comb(9997, 5000) / math.comb(10000, 5000)  # where factorials overflow
    assert statistics.pass_at_k(10000, 3, 5000) == pytest.approx(exact, abs=1e-12)
    for n, c, k in [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)]:
        with pytest.raises(ValueError, match="pass@k needs"):
            statistics.pass_at_k(n, c, k)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.3), (0.2, 2), (1, 1), (20, 20)])
@pytest.mark.parametrize(("problems", "answers"), [(30, 32), (100, 4)])
def test_the_interval_covers_the_truth_in_19_of_20_simulations(problems, answers, a, b):
    rng, covered, trials = random.Random(1), 0, 400
    for _ in range(trials):
        difficulties = [rng.betavariate(a, b) for _ in range(problems)]
        values = [sum(rng.random() < p for _ in range(answers)) / answers for p in difficulties]
        low, high = statistics.interval(values, draws=answers)
        covered += low <= a / (a + b) <= high
    # 0.95, within 3 standard errors and the rule's own error
    assert 0.92 <= covered / trials <= 0.985


def test_the_interval_at_its_ends():
    # If no problem of 30 is solved, about 3 of 30 may still be solvable.
    low, high = statistics.interval([0.0] * 30, draws=32)
    assert low == 0 and 0.08 < high < 0.15
    low, high = statistics.interval([1.0] * 30, draws=32)
    assert high == pytest.approx(1) and 0.85 < low < 0.92
    # One problem says nothing about others, and equal values still have sampling noise.
    assert statistics.interval([0.5], draws=32) == (0.0, 1.0)
    assert statistics.interval([0.5] * 30, draws=32)[0] < 0.5
    for problems, share in itertools.product(range(2, 70), (0.0, 1.0)):  # holds its mean
        low, high = statistics.interval([share] * problems, draws=128)
        assert low <= share <= high, problems


def test_majority():
    assert statistics.majority(["4", "4", "5"], [True, True, False]) == 1
    assert statistics.majority(["4", "5", "5"], [True, False, False]) == 0
    assert statistics.majority(["4", "5"], [True, False]) == 0.5
    assert statistics.majority([None, None, "4"], [False, False, True]) == 1
    assert statistics.majority([None], [False]) == 0
    same = [r"\dfrac{1}{2}", r" \frac{1} {2}", "3", "3", "2"]
    assert statistics.majority(same, [True, True, False, False, False]) == 0.5
    wrong = ["4", "4", "5", "5.0", r"\frac{10}{2}"]
    assert statistics.majority(wrong, [True, True, False, False, False], equal) == 0


def graded(answers, gold, prefill=""):
    one = {"truncated": False, "tokens": 1, "distinct_4gram": 1.0}
    record = dict.fromkeys(("benchmark", "index", "task", "text"), "") | {"verify": None}
    record |= {"answers": [one | {"text": text} for text in answers]}
    return grade(record | {"answer": gold, "prefill": prefill})


def test_an_answer_is_graded_and_votes_whole():
    """With what it begins in the prompt, and with all its boxes, in whatever order."""
    assert graded(["42}$."], "42", prefill=r"It is $\boxed{")["robust"] == 1
    answers = [r"\boxed{3} and \boxed{5}", r"\boxed{5}", r"\boxed{5}"]
    for turn in range(3):
        assert graded(answers[turn:] + answers[:turn], "3, 5")["majority"] == 0
    assert graded([answers[0], r"\boxed{3, 5}", r"\boxed{5}"], "3, 5")["majority"] == 1


def test_distinct_4gram_and_spearman():
    assert statistics.distinct_4gram([1, 2, 3, 4, 5]) == 1
    assert statistics.distinct_4gram([7] * 103) == 0.01
    assert statistics.distinct_4gram([1, 2, 3]) == 1
    assert statistics.spearman([1, 2, 3, 4], [10, 100, 1000, 9999]) == pytest.approx(1)
    assert statistics.spearman([1, 2, 2, 4], [4, 3, 3, 1]) == pytest.approx(-1)
    assert statistics.spearman([1, 2, 3], [2, 3, 1]) == pytest.approx(-0.5)
    assert statistics.spearman([1, 2], [1, 2]) is None
    assert statistics.spearman([1, 1, 1], [1, 2, 3]) is None


# --- runs of evaluations ---

TINY = ["tiny:base", "--benchmarks", "tiny/hard", "--n", 4, "--limit", 16, "--chunk", 8]
TINY += ["--max_tokens", 64]


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("evals") / "whole"
    run(*TINY, "--out", out)
    return out


def same(one: Path, other: Path) -> bool:
    names = ("settings.json", "generations.jsonl", "eval.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_killed_run_continues_to_the_same_result(start, run, uninterrupted, tmp_path):
    out, path = tmp_path / "killed", tmp_path / "killed" / "generations.jsonl"
    script = start("evaluate", *TINY, "--out", out)
    script.wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= 4)
    script.kill()
    finished = path.read_bytes()
    assert 4 <= finished.count(b"\n") < 16  # killed halfway
    path.write_bytes(finished[: finished.rindex(b"\n") - 40])  # and the last line torn
    run(*TINY, "--out", out)
    assert same(out, uninterrupted)
    assert path.read_bytes().startswith(finished[: finished.index(b"\n")])


# Ranks make vLLM's engine together. This one is like it in that respect: it waits for all ranks.
MADE_TOGETHER = """
import runpy, sys
import torch.distributed as dist
from trainer.sampler import engine as rollout

open_engine = rollout.open_engine

def make_together(*arguments, **options):
    ranks = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, dist.get_rank())
    print(f"rank {dist.get_rank()} made an engine with {ranks}")
    return open_engine(*arguments, **options)

rollout.open_engine = make_together
sys.argv[0] = "evaluate.py"
runpy.run_path("evaluate.py", run_name="__main__")
"""


def test_two_ranks_give_what_one_gives(start, uninterrupted, tmp_path):
    """Even if one of them has no work: it still makes the engine with the other."""
    script, out = tmp_path / "together.py", tmp_path / "out"
    script.write_text(MADE_TOGETHER)
    start(script, *TINY, "--out", tmp_path / "two", ranks=2).output()
    assert same(tmp_path / "two", uninterrupted)
    one_chunk = ["--limit", 4, "--chunk", 512, "--max_tokens", 16, "--out", out]
    printed = start(script, *TINY, *one_chunk, ranks=2).output()
    assert all(f"rank {rank} made an engine with [0, 1]" in printed for rank in (0, 1))
    assert len(read_jsonl(out / "generations.jsonl")) == 4


def test_other_arguments_are_refused_by_name(run, uninterrupted, tmp_path):
    with pytest.raises(
        SystemExit, match=r"\(temperature: 0\.7 there, 0\.9 here\); add --out .*-temperature"
    ):
        run(*TINY, "--temperature", 0.9, "--out", uninterrupted)
    (tmp_path / "generations.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match=r"holds answers without their settings\.json"):
        run(*TINY, "--out", tmp_path)
    assert (tmp_path / "generations.jsonl").read_text() == "{}\n"


def test_the_report(uninterrupted):
    value = json.loads((uninterrupted / "eval.json").read_text())
    report = value["benchmarks"]["tiny/hard"]
    assert report["problems"] == 16 and report["n"] == 4
    assert list(report["robust"]) == ["1", "2", "4"]
    solved = [problem["robust"] for problem in value["problems"]]
    assert report["robust"]["1"][0] == pytest.approx(sum(solved) / 64) and 0 < sum(solved) < 64
    assert report["robust"]["4"][0] == pytest.approx(sum(c > 0 for c in solved) / 16)
    assert report["solve_none"] == solved.count(0) and report["solve_all"] == solved.count(4)
    assert report["strict"]["1"][0] <= report["robust"]["1"][0]
    records = read_jsonl(uninterrupted / "generations.jsonl")
    answers = [answer for record in records for answer in record["answers"]]
    assert report["tokens"] == pytest.approx(sum(answer["tokens"] for answer in answers) / 64)
    # Each problem has a seed of its own.
    assert len({record["answers"][0]["text"] for record in records}) > 8


def test_regrading_needs_no_model(run, uninterrupted, tmp_path):
    out = shutil.copytree(uninterrupted, tmp_path / "copy")
    (out / "eval.json").unlink()
    run("--regrade", out)
    assert same(out, uninterrupted)
    records = read_jsonl(out / "generations.jsonl")
    for record in records:
        for answer in record["answers"]:
            answer["text"] = rf"\boxed{{ {record['answer']}}}"  # right, but not to the letter
    write_jsonl(out / "generations.jsonl", records)
    run("--regrade", out)
    report = json.loads((out / "eval.json").read_text())["benchmarks"]["tiny/hard"]
    assert report["robust"]["1"][0] == report["majority"] == 1 and report["solve_all"] == 16
    assert report["strict"]["1"][0] == 0 and report["no_answer"] == 0
    write_jsonl(out / "generations.jsonl", records[:-3])
    with pytest.raises(SystemExit, match="lacks 3 of 16 problems"):
        run("--regrade", out)
    del records[0]["task"], records[1]["answers"][0]["tokens"]
    for record, key in ((records[0], "task"), (records[1], "tokens")):
        write_jsonl(out / "generations.jsonl", [record])
        with pytest.raises(SystemExit, match=rf"generations\.jsonl has a line without {key}"):
            run("--regrade", out)


BASE_MODEL = "tiny/models/base"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("no/such/folder", "no/such/folder is no folder here"),
        (f"{BASE_MODEL[:-1]}", f"no such folder; did you mean {BASE_MODEL}?"),
        (".", "holds no config.json"),
        (f"{BASE_MODEL} --benchmarks aime26", "No benchmark is called aime26"),
        (f"{BASE_MODEL} --benchmarks tiny --data aime24=x.jsonl", "--data names aime24"),
        (f"{BASE_MODEL} --benchmarks aime24 --data aime24=x.jsonl", "x.jsonl: no such file"),
        (f"{BASE_MODEL} --all", "--all needs a run folder"),
        (f"--regrade {BASE_MODEL}", f"There is no {BASE_MODEL}/settings.json"),
        (f"--compare {BASE_MODEL} {BASE_MODEL}", f"There is no {BASE_MODEL}/eval.json"),
        ("--compare README.md README.md", "README.md is damaged, or of another kind"),
        ("", "say what to measure: evaluate.py MODEL"),
        (f"{BASE_MODEL} --wrong_flag 1", "unknown argument --wrong_flag"),
        (f"{BASE_MODEL} --benchmark tiny", "did you mean --benchmarks?"),
        (f"{BASE_MODEL} --data x.jsonl", "--data takes NAME=FILE, not x.jsonl"),
        (f"{BASE_MODEL} --n 0", "--n must be at least 1, not 0"),
        (f"{BASE_MODEL} --limit -1", "--limit must be at least 1, not -1"),
        (f"{BASE_MODEL} --temperature nan", "--temperature must be finite, not nan"),
        (f"{BASE_MODEL} --top_p 0", "--top_p must be above 0 and at most 1, not 0.0"),
        (f"{BASE_MODEL} --protocol dapo", "invalid choice: 'dapo'"),
    ],
)
def test_a_mistake_gets_one_sentence(run, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit:
        run(*arguments.split())
    told = str(exit.value.code)
    if exit.value.code == 2:  # argparse's
        *_, told = capsys.readouterr().err.splitlines()
    assert sentence in told and "\n" not in told


def test_a_run_folder_stands_for_its_checkpoints(tmp_path):
    run = tmp_path / "justrl-seed0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(Refused, match="without a checkpoint yet"):
        evaluate.find_models(str(run))
    for name in ("step_000100", "step_000020", "step_000200.tmp"):  # .tmp: still being written
        (run / "checkpoints" / name).mkdir()
        (run / "checkpoints" / name / "config.json").write_text("{}")
    last = run / "checkpoints" / "step_000100"
    assert evaluate.find_models(str(run)) == [("justrl-seed0/step_000100", str(last))]
    assert [name for name, _ in evaluate.find_models(str(run), True)] == [
        f"justrl-seed0/step_000{n}" for n in ("020", 100)
    ]
    assert evaluate.find_models(str(last)) == [("justrl-seed0/step_000100", str(last))]


def test_all_checkpoints_in_one_go_equal_each_alone(run, tmp_path):
    folder = tmp_path / "runs" / "made"
    for step, source in ((10, "base"), (20, "aligned")):
        shutil.copytree(tiny.base_model(source), folder / "checkpoints" / f"step_{step:06}")
    arguments = ("--benchmarks", "tiny/hard", "--n", 2, "--limit", 6, "--max_tokens", 32)
    run(folder, "--all", *arguments, "--out", tmp_path / "all")
    run(folder, *arguments, "--out", tmp_path / "last")
    texts = [
        (tmp_path / name / "generations.jsonl").read_text()
        for name in ("all/made/step_000010", "all/made/step_000020", "last")
    ]
    assert texts[1] == texts[2] and texts[0] != texts[1]


# --- real benchmarks ---


@needs_shared
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_all_nine_benchmarks_from_file_to_report(run, model, tmp_path, capsys, engine):
    files = [f"{name}={path}" for name, path in NINE.items()]
    small = ["--engine", engine, "--limit", 2, "--max_tokens", 8]
    run(model, *small, "--out", tmp_path, "--data", *files)
    value = json.loads((tmp_path / "eval.json").read_text())
    assert list(value["benchmarks"]) == list(NINE)
    reports = value["benchmarks"].values()
    assert [report["n"] for report in reports] == [32, 32, 32, 4, 4, 4, 32, 32, 32]
    assert all(report["problems"] == 2 and 0 < report["tokens"] <= 8 for report in reports)
    settings = value["settings"]
    assert (settings["temperature"], settings["top_p"]) == (0.7, 0.9)
    assert set(settings["suffix"].values()) == {
        " Please reason step by step, and put your final answer within \\boxed{}."
    }
    assert "mean of 9" in capsys.readouterr().out


def test_logic_puzzles_are_graded_by_their_own_verifier(run, model, tmp_path):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    run(model, "--benchmarks", "logic:chain_sum:3", "--n", 2, "--max_tokens", 4, "--out", tmp_path)
    records = read_jsonl(tmp_path / "generations.jsonl")
    for record in records:
        record["answers"][0]["text"] = f"<answer>{record['answer']}</answer>"
        # A puzzle must be answered between its tags, not in a box.
        record["answers"][1]["text"] = f"\\boxed{{{record['answer']}}}"
    write_jsonl(tmp_path / "generations.jsonl", records)
    run("--regrade", tmp_path)
    report = json.loads((tmp_path / "eval.json").read_text())["benchmarks"]["logic:chain_sum:3"]
    assert report["robust"]["1"][0] == report["no_answer"] == 0.5
    assert report["robust"]["2"][0] == report["majority"] == 1


def test_prorls_protocol(model, monkeypatch):
    problems = {"aime24": [data.Problem("1+1=?", "2")], "math500": [data.Problem("1+2=?", "3")]}
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(model), "--protocol", "prorl"])
    args, tokenizer = evaluate.parse_arguments(), tiny.make_tokenizer()
    settings, prompts = evaluate.choose_settings(args, "name", str(model), problems, tokenizer)
    assert settings["n"] == {"aime24": 16, "math500": 16}
    assert "amc" in evaluate.PROTOCOLS["prorl"]["benchmarks"]
    assert (settings["temperature"], settings["top_p"]) == (0.6, 0.95)
    # The context holds no more.
    assert settings["max_tokens"] == 8192 - max(map(len, prompts["aime24"]))


# Golds that the strict box refuses even when they are copied, because they do not fit into the last
# 100 characters.
TOO_LONG = {"minerva": [112], "olympiad": [71, 119, 168, 268, 279]}


@needs_shared
@pytest.mark.parametrize("name", NINE)
def test_the_gold_answers_score_100_percent(name):
    """Also as a model would write them: in LaTeX, without the dollar signs, \\dfrac for \\frac."""
    golds = [problem.answer for problem in load_problems(str(NINE[name]))]
    responses, written = [f"So the answer is $\\boxed{{{gold}}}$." for gold in golds], []
    for gold in golds:
        text = gold.strip("$").replace(r"\frac", r"\dfrac")
        text = re.sub(r"(?<=\d)e([+-]?\d+)", r"\\times 10^{\1}", text)
        text = text.replace("np.", "\\").replace("(", r"\left(").replace(")", r"\right)")
        written.append(f"\\boxed{{\\;{text}}}")
    for texts in (responses, written):
        scores = rewards.robust_many(texts, golds)
        assert [gold for gold, score in zip(golds, scores, strict=True) if score < 0] == []
    pairs = zip(responses, golds, strict=True)
    strict = [rewards.strict_box(response, gold) for response, gold in pairs]
    assert [i for i, score in enumerate(strict) if score < 0] == TOO_LONG.get(name, [])


# --- comparison ---


def made_up(name: str, tasks: dict[str, list[int]], n: int = 64) -> dict:
    """An eval.json of problems with the given numbers of right answers."""
    same = {"task": "", "answer": "1", "n": n, "majority": 0, "truncated": 0, "no_answer": 0}
    same |= {"tokens": 10, "distinct_4gram": 1}
    problems = []
    for task, counts in tasks.items():
        for index, count in enumerate(counts):
            own = {"benchmark": task, "index": index, "text": f"{task} {index}"}
            problems.append(same | own | {"robust": count, "strict": count})
    tasks = {task: report(own) for task, own in by_task(problems).items()}
    return {"name": name, "problems": problems, "tasks": tasks, "benchmarks": tasks}


FEW = [2] * 6 + [0] * 34
BASE = {"math": [20] * 30 + [0] * 10, "code": [4] * 10 + [0] * 30, "logic": [0] * 40, "ood": FEW}
MIDDLE = {"math": [40] * 30 + [0] * 10, "code": [30] * 29 + [0] * 11, "ood": FEW}
MIDDLE["logic"] = [5] * 12 + [0] * 28
TRAINED = dict.fromkeys(("code", "logic"), [40] * 30 + [0] * 10)
TRAINED |= {"math": [60] * 30 + [0] * 10, "ood": [30] * 7 + [0] * 33}


def write_made_up(folder, **tasks_of) -> list[Path]:
    """Write an eval.json of each name; return their folders."""
    for name, tasks in tasks_of.items():
        (folder / name).mkdir()
        (folder / name / "eval.json").write_text(json.dumps(made_up(name, tasks)))
    return [folder / name for name in tasks_of]


def test_compare_names_each_regime(run, tmp_path, capsys):
    base, trained, middle = write_made_up(tmp_path, base=BASE, trained=TRAINED, middle=MIDDLE)
    run("--compare", base, trained, middle / "eval.json", "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    regimes = [row["regime"] for row in result["tasks"].values()]
    assert list(result["tasks"]) == ["math", "code", "logic", "ood"]
    assert regimes == ["diminish", "plateau", "sustained", "undecided"]
    assert result["tasks"]["code"]["reached"] == pytest.approx(19 / 20)
    assert result["tasks"]["math"]["rise_1"] == pytest.approx(0.75 * 40 / 64)
    # One problem more is within the noise.
    assert result["tasks"]["ood"]["rise_max"] == pytest.approx(1 / 40)
    assert (tmp_path / "out" / "compare.png").stat().st_size > 30_000
    assert "sustained" in capsys.readouterr().out


@pytest.mark.parametrize(
    "pass_1, pass_max, margins, expected",
    [
        ((0.1, 0.7), (0.5, 0.7), (0.1, 0.1), "plateau"),
        ((0.0, 0.1), (0.0, 0.7), (0.1, 0.1), "sustained"),
        ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), "floor"),
        ((0.6, 0.3), (0.9, 0.85), (0.1, 0.1), "worse"),
        ((0.3, 0.6), (1.0, 1.0), (0.1, 0.0), "diminish"),
        ((0.3, 0.6), (1.0, 0.5), (0.1, 0.1), "diminish"),
        ((0.3, 0.6), (0.9, 0.96), (0.1, 0.13), "undecided"),
        ((0.3, 0.31), (0.9, 0.9), (0.1, 0.01), "undecided"),
    ],
)
def test_the_regime_of_two_evaluations_follows_its_rule(pass_1, pass_max, margins, expected):
    assert statistics.regime(pass_1, pass_max, margins) == expected


def test_compare_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="different problems of a"):
        compare([made_up("x", {"a": [1, 2]}), made_up("y", {"a": [1, 2, 3]})])
    with pytest.raises(ValueError, match="share no task"):
        compare([made_up("x", {"a": [1]}), made_up("y", {"b": [1]})])
    with pytest.raises(ValueError, match="two evaluations or more"):
        compare([made_up("x", {"a": [1]})])


def test_tasks_of_a_mixed_benchmark_are_reported_apart():
    problems = made_up("x", {"tiny": [1, 2, 3], "aime24": [1]})["problems"]
    for problem, task in zip(problems, ("easy", "easy", "hard", "aime24"), strict=True):
        problem["task"] = task
    found = {task: len(own) for task, own in by_task(problems).items()}
    assert found == {"tiny/easy": 2, "tiny/hard": 1, "aime24": 1}


def test_the_published_scores_are_the_papers_and_stand_beside_ours(capsys):
    published.print_published()
    shown = capsys.readouterr().out
    assert "54.87" in shown and "64.32" in shown and "58.59" in shown
    for table in published.PUBLISHED["tables"]:
        for row in table["models"]:
            if row["mean"]:  # DeepScaleR's is 44.88 in the paper, and 44.90 by its own scores
                assert sum(row["scores"].values()) / 9 == pytest.approx(row["mean"], abs=0.025)
    numbers = {"robust": {"1": [0.5, 0.4, 0.6]}}
    result = {"name": "JustRL-DeepSeek-1.5B", "benchmarks": {"aime24": numbers, "tiny": numbers}}
    published.print_beside(result)
    assert capsys.readouterr().out.split()[-3:] == ["aime24", "50.00", "52.60"]
    published.print_beside(result | {"name": "mine"})
    assert capsys.readouterr().out == ""
