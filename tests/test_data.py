"""Problems and prompts: every layout, every fault's sentence, the order. The hub is local here."""

import gzip
import importlib
import io
import json
import re
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from conftest import SHARED, needs_shared
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainer.data import (
    INSTRUCTIONS,
    STEP_BY_STEP,
    THINK_STEP_BY_STEP,
    Order,
    Problem,
    Template,
    chat_ids,
    chat_text,
    encode_prompts,
    fingerprint,
    without,
)
from trainer.errors import Refused
from trainer.sources.gold import clean_answer
from trainer.sources.hub import BENCHMARKS, HUB, SUBJECTS
from trainer.sources.load import ACCEPTED, load_problems, split_sources
from trainer.sources.rows import strip_wrapper

HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def verl(text, answer, **extra):
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": text, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "7", **extra},
    }


def write(path, rows):
    path = Path(path)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        )
    return str(path)


@pytest.fixture
def hub(monkeypatch):
    """A hub of local datasets: hub[id, config, split] = rows; a folder's key has its file."""
    shelf = {}

    def load_dataset(hub_id, name=None, *, split, data_files=None):
        if (hub_id, data_files or name, split) not in shelf:
            raise ConnectionError(f"Couldn't reach '{hub_id}' on the Hub")
        return datasets.Dataset.from_list(shelf[hub_id, data_files or name, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return shelf


def refusal(source) -> str:
    """The sentence with which a source is refused."""
    with pytest.raises(Refused) as error:
        load_problems(str(source))
    return str(error.value)


# --- kinds of golds that users reported ---


CHOICES = "Which? (A) 11 (B) 12"
MANY_BOXES = "So $\\boxed{3}$, $\\boxed{5}$ and $\\boxed{7}$."
HALVES = "\\boxed{0.5} or \\boxed{\\frac12}"


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"answer": "\\textbf{(D)}\\ 12"}, "12"),
        ({"answer": "(C) $\\frac{1}{2}$"}, "\\frac{1}{2}"),
        ({"problem": CHOICES, "answer": "\\textbf{(B)}\\ 12"}, "B"),
        ({"problem": CHOICES, "answer": "12"}, "12"),
        ({"solution": MANY_BOXES}, "3, 5, 7"), ({"solution": HALVES}, "\\frac12"),
        ({"solution": "$x=\\boxed{1}$ or $x=\\boxed{-2}$"}, "1 or -2"),
        ({"solution": "\\boxed{3} is wrong, so \\boxed{5}"}, "5"),
        ({"solution": "\\boxed{1} then \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
        ({"solution": "thus \\fbox{3}"}, "3"), ({"solution": "thus \\boxed {9}"}, "9"),
        ({"solution": "thus $\\boxed 9$ only"}, "9"),
        ({"expected_answer": "5"}, "5"), ({"Problem": "p", "Answer": "5"}, "5"),
        ({"extra_info": {"answer": "5"}}, "5"),
        ({"reward_model": '{"ground_truth": "5", "style": "rule"}'}, "5"),
    ],
)  # fmt: skip
def test_golds_are_read_as_they_are_meant(tmp_path, columns, answer):
    row = columns if "Problem" in columns else {"problem": "p"} | columns
    path = write(tmp_path / "a.jsonl", [row])
    assert [problem.answer for problem in load_problems(path)] == [answer]


def test_what_cannot_be_an_answer_is_dropped_with_a_count(tmp_path, capsys):
    code = {"problem": "Write a program.", "ability": "code", "answer": "5"}
    cases = {"prompt": "Sort.", "reward_model": {"ground_truth": '{"inputs": [1], "outputs": [1]}'}}
    listed = {"prompt": "Sort.", "answer": '[{"input": "1", "output": "1"}]'}
    none = ("proof", "notfound", "\\text{Not found}")
    words = [{"problem": "p", "answer": word} for word in none]
    path = write(tmp_path / "a.jsonl", [GOOD, code, cases, listed, *words])
    assert len(load_problems(path)) == 1
    assert capsys.readouterr().out == (
        f"{path}: 7 rows, 1 problems kept; 3 programming tasks dropped, "
        "3 rows whose answer says that there is none dropped\n"
    )


# --- layouts ---


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    "row",
    [
        {"problem": "1+1?", "answer": "2"}, {"question": "1+1?", "final_answer": "2"},
        {"prompt": "1+1?", "ground_truth": "2"}, {"problem": "1+1?", "answer": 2},
        {"problem": "1+1?", "answer": 2.0}, {"problem": " 1+1? ", "answer": " 2 "},
        {"problem": "1+1?", "answer": None, "final_answer": "2"},
        {"problem": "1+1?", "final_answer": ["2"]},
        {"problem": "1+1?", "answer": "\\boxed{2}", "solution": "So it is \\boxed{3}."},
        {"problem": "1+1?", "solution": "First \\boxed{1}, so $x = \\boxed{2}$."},
        {"problem": "1+1?", "solution": "One and one.\n#### 2"},
        {"question": "1+1?", "answer": "One <<1+1=2>> and one.\n#### 2"},
        {"prompt": "1+1?", "solution": "2", "reward_model": {"ground_truth": "2"}},
        verl("1+1?", "2"), verl(HEAD + "1+1?" + TAIL, "2"),
        verl(HEAD + "wrapped otherwise" + TAIL, "2", raw_problem="1+1?"),
        verl("<|im_start|>user\nwrapped otherwise<|im_end|>", "2", question="1+1?"),
    ],
    ids=lambda row: "+".join(row)[:40],
)  # fmt: skip
def test_every_layout_of_every_kind_of_file(tmp_path, kind, row):
    assert load_problems(write(tmp_path / f"sums.{kind}", [row])) == [Problem("1+1?", "2", "sums")]


# --- wrappers and answers ---


@pytest.mark.parametrize(
    "wrapped",
    [
        "{}", HEAD + "{}" + TAIL, HEAD + "{}", "{}" + TAIL,
        HEAD + "{}" + TAIL[:-1] + ", and you do not need to use a \\boxed command.\n",
        HEAD.replace("$Answer", "$ANSWER") + "{}" + TAIL,
        HEAD + "{}" + TAIL + f"\n\n{STEP_BY_STEP}",
        "{} " + THINK_STEP_BY_STEP, "{} " + INSTRUCTIONS[2],
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "problem",
    [
        "Solve $x^2 = 4$.\n\nGive the larger root.",  # begins and ends with letters of the wrapper
        "Remember to put 3 apples on its own line.\n\nHow many are left?",
        "Answer: is it 3?\n\nfollowing the last line",
        "Solve the following math problem step by step.\n\n1+1?",
        "a\n\nRemember to put your hat on.",
    ],
)
def test_wrappers_go_and_nothing_else(wrapped, problem):
    assert strip_wrapper(wrapped.replace("{}", problem, 1)) == problem
    assert strip_wrapper(HEAD) == HEAD.strip()  # there is nothing else


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("025", "25"), ("0", "0"), ("000", "0"), ("-007", "-7"), ("0.5", "0.5"), ("00.5", "00.5"),
        ("100", "100"), ("0a", "0a"), ("01,200", "01,200"), ("1,200", "1,200"), (" 7 ", "7"),
        ("\\boxed{204}", "204"), ("$\\boxed{204}$", "204"), ("\\boxed{025}", "25"),
        ("\\boxed{ 7 }", "7"), ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"), ("\\boxed{\\}}", "\\}"),
        ("\\boxed{1} or \\boxed{2}", "1 or 2"), ("\\boxed{1", "\\boxed{1"),
        ("The answer is $\\boxed{42}$.", "42"), ("It is \\fbox{7}, as asked", "7"),
        ("\\\\frac{1}{2}", "\\frac{1}{2}"), ("so\n#### 1,080", "1080"), ("so\n#### -12", "-12"),
        ("#### 1 #### 2", "2"), ("so\n#### $18", "18"), ("so\n#### 1,018 dollars", "1018"),
        ("so\n#### 18\nNote: rounded", "18"), ("#### 3/4 cup", "3/4"), ("27.0", "27"),
        ("5.", "5"), ("2.50", "2.50"),
        # numbers, in plain digits
        (7, "7"), (7.0, "7"), (0.25, "0.25"), (-0.0, "0"), (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22), (10**30, "1" + "0" * 30),
        (Decimal("7.00"), "7"), (Decimal("0.10"), "0.1"), (Decimal("1E+3"), "1000"),
        # the marks of a formula
        ("$x$", "x"), ("$$ x $$", "x"), (r"\(x\)", "x"), (r"\[ x \]", "x"), ("$x$.", "x"),
        ("$69$,$84$", "69, 84"), ("$f(n)=n$, $g(n)=1$.", "f(n)=n, g(n)=1"),
        (r"\(1\), \(2\)", "1, 2"), ("$025$", "25"), (r"$\boxed{7}$", "7"), (r"\boxed{$7$}", "7"),
        (r"$\$5$", r"\$5"), (r"\[x \\[2pt] y\]", r"x \\[2pt] y"),
        # lists, and the text of lists
        ('["5"]', "5"), ("['5']", "5"), ('[["5"]]', "5"), ("[5]", "5"), ("[ '5' , ]", "5"),
        ('["1","2"]', "1, 2"), ("['1', 2]", "1, 2"),
        ("['1' '2']", "1, 2"),  # numpy prints no commas
        ("['81', '256']", "81, 256"),  # 81,256 would be one number
        (r'["\\frac{1}{2}"]', r"\frac{1}{2}"),
        (r'["\frac{1}{2}"]', r"\frac{1}{2}"),  # not the form feed that JSON reads
        (r"['\\pi', '$3$']", r"\pi, 3"), (r'["90\u00b0"]', "90°"), (r'["a\"b"]', 'a"b'),
        (["72"], "72"), (["1", "2"], "1, 2"), (["$1$", "025", 7.0], "1, 25, 7"), ([["5"]], "5"),
        # what only resembles a formula or a list
        *[(gold, gold) for gold in (
            "$5", "$10 + $5", "$5, $6", "5$", r"\$18.90", "$x$ and $y$", "$221,$8$",
            r"\(x\) or \(y\)", r"\left(1, 2\right)", "[1, 2]", "[0,1)", "[-9, 9]",
            "['5", "None", "True", "it's 5",
            "\\begin{pmatrix}1\\\\x\\end{pmatrix}",
        )],
    ],
)  # fmt: skip
def test_golds_become_bare_strings(gold, answer):
    assert clean_answer(gold) == answer


@pytest.mark.parametrize(
    "gold",
    [
        *('["a"' + " " * 99_999 + "x", "[" * 99_999 + '"', "[" + "1, " * 33_333 + "'x",
            "0" * 99_999),
        *("$" * 99_999, "$x" + " " * 99_999, "\\(" * 49_999, "\\[" + "x" * 99_999, "$x$," * 24_999),
    ],
    ids=lambda gold: gold[:6],
)  # fmt: skip
def test_very_long_golds_take_no_time(gold):
    began = time.process_time()
    clean_answer(gold + "!")
    assert time.process_time() - began < 1


# --- repeats and conflicts ---


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_repeats_collapse_and_conflicts_go_with_their_counts(tmp_path, capsys, kind):
    rows = [
        verl(HEAD + text + TAIL, gold) for text, gold in [("a?", "1"), ("b?", "2"), ("c?", "025")]
    ]
    rows *= 100
    rows += [verl(HEAD + " b? " + TAIL, "3"), verl("c?", "25"), verl("d?", "4")]
    path = write(tmp_path / f"dapo.{kind}", rows)
    golds = {problem.text: problem.answer for problem in load_problems(path)}
    assert golds == {"a?": "1", "c?": "25", "d?": "4"}
    assert capsys.readouterr().out == (
        f"{path}: 303 rows, 3 problems kept; 299 repeated rows collapsed, "
        "1 problems with conflicting answers dropped\n"
    )


def test_plain_rows_are_all_kept_so_that_a_benchmark_stays_whole(tmp_path, capsys):
    rows = [GOOD, GOOD, {"problem": "p", "answer": "2"}]
    rows.append('{"problem": "Find \\frac{1}{2}", "answer": "1"}')  # LaTeX that JSON has read
    path = write(tmp_path / "a.jsonl", rows)
    assert len(load_problems(path)) == 4
    said = capsys.readouterr().out
    assert "2 repeated problems kept, 1 of them with different answers" in said
    assert f"{path}, line 4: the problem holds U+000C as character 6" in said


def test_prompts_that_differ_in_an_earlier_turn_are_not_repeats(tmp_path):
    rows = [chat_row(("system", system), ("user", "p")) for system in ("S", "T", "S")]
    loaded = load_problems(write(tmp_path / "a.jsonl", rows))
    assert [problem.system for problem in loaded] == ["S", "T"]


# --- chats: nothing of a prompt is lost in silence ---


def chat_row(*turns, **columns):
    prompt = [{"role": role, "content": content} for role, content in turns]
    return {"prompt": prompt, "reward_model": {"ground_truth": "1"}} | columns


SYSTEM, USER, ANSWER = ("system", "S"), ("user", "U"), ("assistant", "A")
CHATML = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (chat_row(SYSTEM, USER), {"system": "S"}),
        (chat_row(("developer", "S"), USER), {"system": "S"}),
        (chat_row(SYSTEM, SYSTEM, USER), {"system": "S\n\nS"}),
        (chat_row(("system", " "), USER), {}),
        (chat_row(SYSTEM, USER, problem="P"), {"text": "P", "system": "S"}),
        (chat_row(SYSTEM, USER, extra_info={"question": "P"}), {"text": "P", "system": "S"}),
        (chat_row(SYSTEM, USER, extra_info={"question": 7}), {"system": "S"}),
        (chat_row(SYSTEM, USER, extra_info="index 7"), {"system": "S"}),
        (chat_row(USER, ANSWER), {"prefill": "A"}),
        (chat_row(USER, ("assistant", "")), {}),
        (chat_row(USER, ("assistant", "So \\boxed{")), {"prefill": "So \\boxed{"}),
        (chat_row(USER, ANSWER, USER), {"history": (USER, ANSWER)}),
        (chat_row(USER, USER), {"history": (USER,)}),
        (chat_row(USER, ANSWER, USER, ANSWER), {"history": (USER, ANSWER), "prefill": "A"}),
        (chat_row(("user", CHATML)), {"system": "S"}),
        (chat_row(("user", [{"type": "text", "text": part} for part in "U?"])), {"text": "U?"}),
        ({"question": CHATML, "answer": "1"}, {"system": "S"}),
        ({"prompt": CHATML + "A", "answer": "1"}, {"system": "S", "prefill": "A"}),
        ({"prompt": json.dumps(chat_row(SYSTEM, USER)["prompt"]), "answer": "1"}, {"system": "S"}),
        (chat_row(USER, task="knights", verify={"n": 3}), {"task": "knights", "verify": {"n": 3}}),
    ],
)
def test_every_part_of_a_row_is_kept(tmp_path, kind, row, parts):
    expected = Problem(**{"text": "U", "answer": "1", "task": "a"} | parts)
    assert load_problems(write(tmp_path / f"a.{kind}", [row])) == [expected]


# --- worked solutions ---


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "solution"),
    [
        ({"problem": "p", "answer": "1", "solution": "So it is 1."}, "So it is 1."),
        ({"problem": "p", "answer": "1", "solution": ["First.", "Then."]}, "First.\n\nThen."),
        ({"problem": "p", "answer": "1", "r1_solution_1": "Hm. 1."}, "Hm. 1."),
        ({"problem": "p", "answer": "1", "solution": "1"}, ""),  # the gold again
        ({"problem": "p", "answer": "One.\n#### 1"}, "One."),
        ({"problem": "p", "solution": "It is \\boxed{1}."}, "It is \\boxed{1}."),
        ({"problem": "p", "answer": "1"}, ""),
    ],
)
def test_solutions_are_loaded_when_asked_for(tmp_path, kind, row, solution):
    path = write(tmp_path / f"a.{kind}", [row])
    assert load_problems(path) == [Problem("p", "1", "a")]
    assert load_problems(path, solutions=True) == [Problem("p", "1", "a", solution=solution)]


# --- faults ---

GOOD = {"problem": "p", "answer": "1"}
ONE, TWO = b'{"problem": "p", "answer": "1"}', b'{"problem": "q", "answer": "2"}'
ANY_ANSWER = "reward_model, answer, final_answer, expected_answer, ground_truth, solution"


def torn_table():
    """The bytes of a table of which the first column is overwritten."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([GOOD] * 1000), file)
    return file.getvalue()[:4] + bytes(100) + file.getvalue()[104:]


TORN_TABLE = torn_table()
LONE = json.loads('"x\\ud800"')  # half of a surrogate pair
NAMED_BOXES = "$a=\\boxed{3}$ and $b=\\boxed{5}$"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"problem": "p"}, f"no answer column; expected one of {ANY_ANSWER}, found problem"),
        ({"answer": "1", "text": "p"},
            "no problem column; expected one of problem, question, prompt, found answer, text"),
        *[({"problem": blank, "answer": "1"}, "empty problem")
            for blank in ("", " \n", None, HEAD + TAIL)],
        *[({"problem": "p", "answer": blank}, "empty answer")
            for blank in ("", "  ", None, "\\boxed{}", float("nan"), [])],
        ({"problem": 3, "answer": "1"}, "problem is int; expected text"),
        ({"problem": "p", "answer": True}, "answer is bool; expected text or a number"),
        ({"problem": "p", "answer": {"a": 1}}, "answer is dict; expected text or a number"),
        ({"problem": "p", "answer": [["1"], ["2"]]},
            "answer is a list of lists; expected text or a number"),
        ({"problem": "p", "answer": float("inf")}, "answer is Infinity; expected a finite number"),
        ({"problem": "p", "answer": "1", "verify": "x"}, "verify is str; expected an object"),
        *[({"problem": "p", "solution": solution},
            "the solution holds no \\boxed{} and no #### with the answer")
            for solution in ("so 3", "so \\boxed{3")],
        ({"problem": "p", "solution": NAMED_BOXES}, "it has a box each for a, b; write one answer"),
        ('{"problem": "p", "answer": "\\frac{1}{2}"}', "answer holds U+000C as character 1: LaTeX"),
        ('{"problem": "p", "answer": "x\\rightarrow 0"}', "answer holds U+000D as character 2"),
        ('{"problem": "p", "answer": "\\textbf{(A)}"}', "answer holds U+0009 as character 1"),
        ({**verl("p", "1"), "reward_model": "1"},
            "reward_model is str; expected an object with ground_truth"),
        ({**verl("p", "1"), "reward_model": {}},
            "no answer column; expected one of ground_truth, found nothing"),
        (verl("p", None), "empty answer"),
        (["p", "1"], "expected an object with a problem and an answer, found list"),
        ("3", "expected an object with a problem and an answer, found int"),
        # chats
        ({**verl("p", "1"), "prompt": ["p"]}, "prompt is not a list of {role, content} messages"),
        ({**verl("p", "1"), "prompt": []}, "prompt has no user message"),
        (verl(None, "1"), "prompt has a message whose content is NoneType, no text"),
        (chat_row(USER, SYSTEM, USER),
            "prompt has a system message after another turn; put it first"),
        (chat_row(USER, ANSWER, ANSWER), "prompt ends in two assistant messages; join them"),
        (chat_row(SYSTEM, ANSWER), "prompt has no user message"),
        (chat_row(USER, ("tool", "x")),
            "prompt has a message of role 'tool'; expected system, user, assistant"),
        (chat_row(("user", [{"type": "image", "url": "x"}])),
            "prompt has a message with a part that is no text"),
        (chat_row(USER, ("assistant", "So \\boxed{1}.")),
            "prompt ends in an assistant turn that holds a boxed answer: remove it"),
        ({"prompt": str(chat_row(SYSTEM, USER)["prompt"]), "answer": "1"},
            "prompt is a chat in Python's notation; write it as JSON"),
        # what is no text
        ({"problem": LONE, "answer": "1"}, "text holds U+D800 as character 2"),
        ({"problem": "p", "answer": "1\0"}, "answer holds U+0000 as character 2"),
        ({"problem": "p", "answer": "1", "task": LONE}, "task holds U+D800 as character 2"),
        ({"problem": "p", "answer": "1", "verify": {"a": [LONE]}}, "verify holds U+D800 as char"),
        (chat_row(("system", LONE), USER), "system holds U+D800 as character 2"),
        (chat_row(("user", LONE), ANSWER, USER), "history holds U+D800 as character 2"),
        (chat_row(USER, ("assistant", LONE)), "prefill holds U+D800 as character 2"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named_with_file_line_and_fault(tmp_path, row, fault):
    path = write(tmp_path / "bad.jsonl", [GOOD, "", row])
    assert refusal(path).startswith(f"{path}, line 3: {fault}")


@pytest.mark.parametrize(
    ("column", "answer"),
    [
        (pyarrow.array([0.1], pyarrow.float32()), "0.1"),
        (pyarrow.array(np.array([0.1, 27], np.float16))[:1], "0.1"),
        (pyarrow.array([3], pyarrow.int8()), "3"), (pyarrow.array([Decimal("7.00")]), "7"),
        (pyarrow.array([[["5"]]]), "5"), (pyarrow.array([["1", "2"]]), "1, 2"),
        (pyarrow.array(["1"]).dictionary_encode(), "1"),
        (pyarrow.array([{"value": 1}]), "row 1: answer is dict; expected text or a number"),
        (pyarrow.array([b"1"]), "row 1: answer is bytes; expected text or a number"),
        (pyarrow.array([True]), "row 1: answer is bool; expected text or a number"),
        (pyarrow.array([None], pyarrow.string()), "row 1: empty answer"),
        (pyarrow.array([float("nan")]), "row 1: empty answer"),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)  # fmt: skip
def test_parquet_columns_of_every_type(tmp_path, column, answer):
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"problem": ["p"], "answer": column}), path)
    if answer.startswith("row 1"):
        assert refusal(path) == f"{path}, {answer}"
    else:
        assert load_problems(path) == [Problem("p", answer, "a")]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["Text", "answer"], "no problem column; expected one of problem, question, prompt, "),
        (["problem", "g"], f"no answer column; expected one of {ANY_ANSWER}, found problem, g"),
        (["problem", "answer", "answer"], "the column answer occurs twice"),
    ],
)
def test_a_table_without_the_columns_is_named_with_those_it_has(tmp_path, names, fault):
    path = tmp_path / "a.parquet"
    table = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * len(names), names=names)
    parquet.write_table(table, path)
    assert refusal(path).startswith(f"{path}: {fault}")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", ONE + b'\n{"problem": "p",\n', ", line 2: not valid JSON (Expecting"),
        ("a.jsonl", b'{"problem": "\xff"}\n', ", line 1: not valid JSON ('utf-8' codec"),
        ("a.json", b"[" + ONE + b",", ": not valid JSON (Expecting value: line 1 column"),
        ("a.jsonl", ONE[:-1] + b",}", ", line 1: not valid JSON ("),
        ("a.jsonl", ONE[:-1] + b', "answer": "2"}',
            ", line 1: not valid JSON (the key answer occurs twice)"),
        ("a.parquet", b"PAR1 no", ": cannot read it (Parquet file"),
        ("a.parquet", TORN_TABLE, ": cannot read it ("),
        ("a.jsonl", b"", ": no problems in it"), ("a.json", b"[]", ": no problems in it"),
        ("a.jsonl", b"[" * 100_000, ", line 1: not valid JSON (maximum recursion depth"),
        ("a.jsonl", b" \n\r\n", ": no problems in it"),
        ("a.jsonl", b"\xff\xfe\x00", ": cannot read it ('utf-16"),
        ("a.jsonl", gzip.compress(b"x" * 99, mtime=0)[:-9], ": cannot read it (Compressed file "),
        ("a.json", b'{"data": [1]}', ", row 1: no problem column; expected one of problem, "),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1", ": it is a git-lfs pointer"),
        ("a.json", b"[" + ONE + b', {"problem": "p", "answer": ""}]', ", row 2: empty answer"),
        ("a.csv", b"problem,answer\n", ": unknown kind of file; pandas.read_csv(...).to_json("),
        ("a.txt", b"problem,answer\n", f": unknown kind of file; give {ACCEPTED}"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_fault(tmp_path, name, content, fault):
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}{fault}") and "\n" not in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        ONE + b"\r\n" + TWO + b"\r\n", b"\xef\xbb\xbf" + ONE + b"\n" + TWO,
        (ONE + b"\n" + TWO).decode().encode("utf-16"), b"[" + ONE + b",\n" + TWO + b"]",
        gzip.compress(ONE + b"\n" + TWO, mtime=0), b"\xef\xbb\xbf[" + ONE + b", " + TWO + b"]",
    ],
    ids=["CRLF", "byte order mark", "UTF-16", "one list", "gzip", "list after a mark"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.JSONL", "a.jsonl.gz"])
def test_every_way_to_write_json(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    golds = [(problem.text, problem.answer) for problem in load_problems(str(tmp_path / name))]
    assert golds == [("p", "1"), ("q", "2")]
    (tmp_path / "a.json").write_text('{"Problem": "p",\n "Answer": "1"}')  # over several lines
    assert load_problems(str(tmp_path / "a.json")) == [Problem("p", "1", "a")]


# --- names of sources ---


def test_several_sources_stand_with_commas_and_blanks_between_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "my data, version 2"
    folder.mkdir()
    first = write(tmp_path / "a.jsonl", [GOOD])
    second = write(folder / "b, c.jsonl", [GOOD, GOOD])
    sizes = {first: 1, second: 2, f"{first}, {second}": 3, f" {second} ,{first},": 3}
    sizes |= {f"{second},tiny:eval/easy": 242, "~/a.jsonl, ~/a.jsonl": 2}
    for source, size in sizes.items():
        assert len(load_problems(source)) == size
    assert {problem.task for problem in load_problems("tiny:eval/easy")} == {"easy"}
    assert split_sources(f"aime24, {second} ,x/y") == ["aime24", second, "x/y"]


def test_what_is_no_source_says_what_is_accepted_or_is_meant(tmp_path):
    for source in ("", "  ", " , "):
        assert refusal(source) == f"the name of the problems is empty; give {ACCEPTED}"
    for source in (f"{tmp_path}/none.jsonl", "~nobody/none.jsonl"):
        assert refusal(source) == f"{source}: no such file; give {ACCEPTED}"
    assert refusal("gsm8k") == f"gsm8k: not a known source; give {ACCEPTED}"
    write(tmp_path / "good.jsonl", [GOOD])
    assert refusal(tmp_path / "goood.jsonl").endswith("no such file; did you mean good.jsonl?")
    (tmp_path / "b.jsonl").mkdir()
    for folder in (tmp_path, tmp_path / "b.jsonl"):
        assert refusal(folder).startswith(f"{folder}: it is a folder; name ")
    said = "tiny:train: write tiny:SPLIT/LEVEL, such as tiny:train/easy"
    assert refusal("tiny:train") == said
    said = "liteppo:expert: no such level; choose liteppo:easy, liteppo:medium or liteppo:hard"
    assert refusal("liteppo:expert") == said


# --- the hub ---

HUB_ROWS = {
    ("BytedTsinghua-SIA/DAPO-Math-17k", None, "train"): [verl(HEAD + "p?" + TAIL, "034")] * 100,
    ("open-r1/DAPO-Math-17k-Processed", "all", "train"):
        [{**verl("", "34"), "prompt": "p?", "solution": "34"}],
    ("BytedTsinghua-SIA/AIME-2024", None, "train"):
        [verl(HEAD + "p?" + TAIL, "34", raw_problem="p?", split=None)] * 32,
    ("HuggingFaceH4/aime_2024", None, "train"):
        [{"problem": "p?", "solution": "s", "answer": "034"}],
    ("math-ai/aime24", None, "test"): [{"problem": "p?", "solution": "\\boxed{034}"}],
    ("math-ai/amc23", None, "test"): [{"answer": 34.0, "question": "p?", "url": "u"}],
    ("MathArena/aime_2025", None, "train"):
        [{"problem": "p?", "answer": 34, "problem_type": ["A"]}],
    ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"):
        [{"question": "p?", "solution": ["Hm."], "final_answer": ["$34$"]}],
    ("HuggingFaceH4/MATH-500", None, "test"):
        [{"problem": "p?", "solution": "\\boxed{1}", "answer": "34", "level": 2}],
    ("openai/gsm8k", "main", "train"): [{"question": "p?", "answer": "<<2*17=34>>34\n#### 34"}],
    ("agentica-org/DeepScaleR-Preview-Dataset", None, "train"):
        [{"problem": "p?", "answer": "34", "solution": ""}, {"problem": "q?", "answer": "",
        "solution": "\\boxed{2}"}],
    ("POLARIS-Project/Polaris-Dataset-53K", None, "train"):
        [{"problem": "p?", "answer": "34", "difficulty": "3/8"}, {"problem": None, "answer": "1",
        "difficulty": "3/8"}, {"problem": "q?", "answer": None, "difficulty": "3/8"}],
    ("zwhe99/DeepMath-103K", None, "train"):
        [{"question": "p?", "final_answer": "34", "r1_solution_1": "\\boxed{1}"}],
    ("hkust-nlp/SimpleRL-Zoo-Data", "simplelr_qwen_level3to5/train.parquet", "train"):
        [{**verl("<|im_start|>user\np?<|im_end|>\n", "34"), "answer": "34"}],
    ("someone/unknown-set", None, "train"): [{"question": "p?", "final_answer": "34"}],
}  # fmt: skip


def test_a_benchmark_has_one_name_for_all_its_copies(hub):
    assert [HUB[hub_id].task for hub_id in BENCHMARKS.values()] == list(BENCHMARKS)
    for key in (("HuggingFaceH4/aime_2024", None, "train"), ("math-ai/aime24", None, "test")):
        hub[key] = HUB_ROWS[key]
    expected = [Problem("p?", "34", "aime24")]
    assert load_problems("aime24") == load_problems("math-ai/aime24") == expected


def test_the_recipes_name_sources_that_are_known():
    for recipe in ("justrl", "prorl", "liteppo"):
        config = importlib.import_module(recipe).Config()
        for name in split_sources(f"{config.data},{config.eval_data}"):
            assert name in HUB or name in BENCHMARKS or name == "liteppo:easy"


@pytest.mark.parametrize("key", HUB_ROWS, ids=lambda key: key[0])
def test_hub_sets_with_their_own_columns(hub, key):
    hub[key] = HUB_ROWS[key]
    task = HUB[key[0]].task if key[0] in HUB else "unknown-set"
    assert load_problems(key[0]) == [Problem("p?", "34", task)]


def test_a_set_s_configs_are_read_one_after_another_or_chosen(hub):
    for subject in SUBJECTS:
        row = {"problem": f"{subject}?", "type": subject, "solution": "It is $\\boxed{012}$."}
        hub["EleutherAI/hendrycks_math", subject, "test"] = [row, row]
    hub["opencompass/AIME2025", "AIME2025-I", "test"] = [{"question": "i?", "answer": "1"}]
    hub["opencompass/AIME2025", "AIME2025-II", "test"] = [{"question": "ii?", "answer": "2"}]
    problems = load_problems("EleutherAI/hendrycks_math:test")
    assert len(problems) == 14 and {problem.answer for problem in problems} == {"12"}
    assert [problem.text for problem in load_problems("opencompass/AIME2025")] == ["i?", "ii?"]
    hub["openai/gsm8k", "socratic", "train"] = [{"question": "p?", "answer": "#### 2"}]
    assert load_problems("openai/gsm8k:socratic/train")[0].answer == "2"


def test_known_blank_rows_are_dropped_and_counted_and_others_are_faults(hub, capsys):
    polaris = "POLARIS-Project/Polaris-Dataset-53K"
    hub[polaris, None, "train"] = HUB_ROWS[polaris, None, "train"]
    load_problems(polaris)
    assert capsys.readouterr().out == (
        f"{polaris}: 3 rows, 1 problems kept; 2 blank rows dropped\n"
    )
    hub["math-ai/aime25", None, "test"] = [GOOD, {"problem": "p", "answer": ""}]
    assert refusal("math-ai/aime25") == "math-ai/aime25, row 2: empty answer"


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    # The true load_dataset, without its retries.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal("nobody/no-such-set:test") == (
        "nobody/no-such-set:test: cannot load it from the Hugging Face hub (Couldn't reach "
        "'nobody/no-such-set' on the Hub (OfflineModeIsEnabled)); check the network and the name "
        "(ID, ID:SPLIT or ID:CONFIG/SPLIT), or give a local .jsonl, .json or .parquet file"
    )


# --- Lite PPO's sets ---


def test_medium_is_the_easiest_without_true_false_and_hard_in_proportion_to_difficulty(hub, capsys):
    rows = [
        {"question": f"d{i}?", "final_answer": str(i), "difficulty": difficulty}
        for i, difficulty in enumerate([1.0, 2.0, 8.0] * 3000)
    ]
    difficulty_of = {row["question"]: row["difficulty"] for row in rows}
    others = [(gold, 1.0) for gold in ("Yes", "no", "\\text{True}", "False.") for _ in range(100)]
    for i, (gold, difficulty) in enumerate(others + [("1", -1.0), ("1", 0.0)] * 25):
        rows.append({"question": f"o{i}?", "final_answer": gold, "difficulty": difficulty})
    hub["zwhe99/DeepMath-103K", None, "train"] = rows
    medium, hard = load_problems("liteppo:medium"), load_problems("liteppo:hard")
    said = "5,000 of 9,000 problems, 450 true/false or unrated ones left out"
    assert said in capsys.readouterr().out and medium[0].task == "liteppo:medium"
    assert len({problem.text for problem in medium}) == len({p.text for p in hard}) == 5000
    difficulties = [difficulty_of[problem.text] for problem in medium]
    assert [difficulties.count(d) for d in (1.0, 2.0, 8.0)] == [3000, 2000, 0]
    first = [difficulty_of[problem.text] for problem in hard[:1100]]  # still nearly 1 : 2 : 8
    assert first.count(8.0) / len(first) == pytest.approx(8 / 11, abs=0.05)
    assert first.count(2.0) / first.count(1.0) == pytest.approx(2, rel=0.25)


def test_easy_is_a_random_part_of_simplerl(hub):
    rows = [{**verl("w", str(i), question=f"e{i}?"), "answer": str(i)} for i in range(6000)]
    hub["hkust-nlp/SimpleRL-Zoo-Data", "simplelr_qwen_gsm8k_level1/train.parquet", "train"] = rows
    drawn = [int(problem.answer) for problem in load_problems("liteppo:easy")]
    assert len(set(drawn)) == 5000
    assert drawn[:1000] != sorted(drawn[:1000])
    assert sum(drawn) / 5000 == pytest.approx(3000, rel=0.03)
    assert drawn == [int(problem.answer) for problem in load_problems("liteppo:easy")]
    assert drawn != [int(problem.answer) for problem in load_problems("liteppo:easy", seed=1)]


# --- leakage ---


def test_held_out_ignores_spelling_but_not_operators(capsys):
    reserved = [Problem("Find  $x + 1.5$, when\n$x=2$!", "3"), Problem("roots of $z^4 + z^2$", "6")]
    problems = [
        Problem("find x+1.5 when x = 2!", "3.5"),
        Problem("find x+15 when x = 2!", "17"),
        Problem("roots of $z^4 - z^2$", "12"),
    ]
    said = "1 of 3 training problems are evaluation problems: "
    assert without(problems, reserved, drop=True) == problems[1:]
    assert capsys.readouterr().out == f"{said}dropped\n"
    assert without(problems, reserved, drop=False) == problems
    assert capsys.readouterr().out == f"{said}kept (--decontaminate drops them)\n"
    with pytest.raises(Refused, match=r"^no training problem is left: name other --data"):
        without(problems[:1], reserved, drop=True)


# --- prompts ---

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant>{% endif %}"


def make_tokenizer(template=TEMPLATE):
    vocabulary = {chr(i): i for i in range(128)} | {"<bos>": 128}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\x00"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", chat_template=template
    )


def text_of(ids):
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("problem", "template", "text"),
    [
        ({}, Template("!", "T"), "<system>T<user>p!<assistant>"),
        ({"system": "S"}, Template("!"), "<system>S<user>p!<assistant>"),
        ({"system": "S"}, Template("", "T"), "<system>S\n\nT<user>p<assistant>"),
        ({"system": "T"}, Template("", "T"), "<system>T<user>p<assistant>"),
        ({"system": "S"}, Template("", "T", keep_system=False), "<system>T<user>p<assistant>"),
        ({"system": "S"}, Template(keep_system=False), "<user>p<assistant>"),
        ({"history": (USER, ANSWER)}, Template("!"), "<user>U<assistant>A<user>p!<assistant>"),
        ({"prefill": "So "}, Template("!"), "<user>p!<assistant>So "),
        ({"verify": {"task": "t"}}, Template("!"), "<user>p<assistant>"),
    ],
)
def test_a_prompt_is_all_that_the_data_and_the_recipe_ask(problem, template, text):
    (encoded,) = encode_prompts([Problem("p", "1", **problem)], make_tokenizer(), template)
    assert text_of(encoded.prompt_ids) == text
    assert type(encoded.prompt_ids) is list and set(map(type, encoded.prompt_ids)) == {int}


def test_rank_0_says_whether_system_messages_of_the_data_are_kept_or_dropped(capsys, monkeypatch):
    problems = [Problem("p", "1", system="S"), Problem("p", "1")]
    encode_prompts(problems, make_tokenizer(), Template())
    encode_prompts(problems, make_tokenizer(), Template(keep_system=False))
    said = "1 of 2 problems have a system message of their own: "
    assert capsys.readouterr().out == (
        f"{said}kept (a recipe's --keep_system false drops it)\n{said}dropped\n"
    )
    monkeypatch.setenv("RANK", "1")
    encode_prompts(problems, make_tokenizer(), Template())
    assert capsys.readouterr().out == ""


USER_ONLY = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
CANNOT = r"^the chat template of '' cannot write the prompt 'Is 1 < 2\?': .*"


@pytest.mark.parametrize(
    ("template", "turns", "fault"),
    [
        (None, {}, "^the tokenizer '' has no chat template; set chat_template in "),
        (USER_ONLY, {"system": "S"}, CANNOT + "it leaves the system message out$"),
        (USER_ONLY, {"prefill": "So "}, CANNOT + "it changes the beginning of the answer$"),
        (USER_ONLY.replace("user", "bot"), {}, CANNOT + "it leaves the problem out$"),
        ("{{ '<user>' }}", {}, CANNOT + "it leaves the problem out$"),
        (TURNS.replace("m.content", "m.content | e"), {}, CANNOT + "it leaves the problem out$"),
        ("{{ messages[0].content + 1 }}", {}, CANNOT + "can only concatenate str"),
        ("{{ messages[3].content.x }}", {}, CANNOT + "has no element 3"),
        ("{% for m in messages %}", {}, CANNOT + "Unexpected end of template"),
        ("{{ raise_exception('No system role') }}", {"system": "S"}, CANNOT + "No system role$"),
    ],
)
def test_a_template_that_loses_a_part_of_the_prompt_is_one_sentence(template, turns, fault):
    with pytest.raises(Refused, match=fault):
        chat_text(make_tokenizer(template), "Is 1 < 2?", **turns)


def test_a_template_may_want_a_message_in_parts():
    parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert text_of(chat_ids(make_tokenizer(parts), "1+1?!")) == "1+1?!"


def test_special_tokens_in_a_problem_are_said_with_their_count(capsys):
    problems = [Problem("a <bos> b", "1"), Problem("p", "1")]
    encode_prompts(problems, make_tokenizer(), Template())
    assert "1 of 2 problems hold a special token of the tokenizer" in capsys.readouterr().out


def test_the_instructions_of_recipes_and_evaluations_are_those_that_sources_strip():
    configs = [importlib.import_module(name).Config() for name in ("justrl", "prorl", "liteppo")]
    protocols = importlib.import_module("evaluate").PROTOCOLS.values()
    asked = [config.instruction for config in configs] + [one["suffix"] for one in protocols]
    assert {text.strip() for text in asked} <= set(INSTRUCTIONS)
    assert [strip_wrapper(f"1+1?{text}") for text in asked[:2]] == ["1+1?"] * 2


# --- the content of a list ---


def test_a_fingerprint_depends_on_every_field_and_on_the_order():
    first = Problem("p", "1", "t", {"a": 1}, "s", "y", (("user", "h"),), "f")
    changes = {"text": "q", "answer": "2", "task": "u", "verify": {"a": 2}, "solution": ""}
    changes |= {"system": "", "history": (), "prefill": ""}
    others = [replace(first, **{name: value}) for name, value in changes.items()]
    lists = [[first], [first, first], [first, others[0]], [others[0], first], []]
    prints = {fingerprint(problems) for problems in lists + [[other] for other in others]}
    assert len(prints) == 13 and all(re.fullmatch("[0-9a-f]{16}", one) for one in prints)
    assert fingerprint([replace(first)]) == fingerprint([first])
    assert fingerprint([Problem("1+1=?", "2")]) == "3bb4a6412705983d"  # in all versions


def test_prompts_over_the_limit_are_dropped_counted_and_said(capsys):
    problems = [Problem("x" * n, "1") for n in (3, 5, 4)]
    length = len("<user>xxxx!<assistant>")
    kept = encode_prompts(problems, make_tokenizer(), Template("!"), max_tokens=length)
    assert [problem.text for problem in kept] == ["xxx", "xxxx"]
    assert [len(problem.prompt_ids) for problem in kept] == [length - 1, length]
    assert capsys.readouterr().out == f"1 of 3 prompts are longer than {length} tokens: dropped\n"
    with pytest.raises(Refused, match=r"^no prompt of 3 fits .* \(the shortest has 21\): raise --"):
        encode_prompts(problems, make_tokenizer(), Template("!"), max_tokens=5)
    short = make_tokenizer()
    short.model_max_length = 5  # of which transformers would warn; we have said what matters
    encode_prompts(problems, short, Template("!"), max_tokens=length)
    assert not short.deprecation_warnings


# --- the order ---


def test_an_epoch_holds_every_index_once_and_epochs_and_seeds_differ():
    orders = [Order(100, seed=0)[start : start + 100] for start in (0, 100, 200)]
    orders.append(Order(100, seed=1)[0:100])
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    pinned = [3, 5, 7, 1, 2, 0, 4, 6, 5, 7, 0, 1, 6, 4, 3, 2]
    assert Order(8, seed=0)[0:16] == pinned, "a run continues under another version of Python"


def test_any_part_of_the_order_equals_that_part_of_the_whole():
    order = Order(10, seed=3)
    whole = order[0:47]
    for start, stop in ((0, 1), (1, 10), (10, 35), (35, 35), (35, 47), (3, 44)):
        assert Order(10, seed=3)[start:stop] == whole[start:stop] == order[start:stop]


def test_an_order_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^there is nothing to order"):
        Order(0, seed=3)


# --- the public files ---

ROWS = {
    "gsm8k_train": 7473, "gsm8k_test": 1319, "math_train_7498": 7498, "math500": 500,
    "deepmath_5k": 4994, "aime24": 30, "aime25": 30, "amc23": 40, "minerva": 272,
    "olympiadbench": 674, "hmmt25": 30, "brumo25": 30, "cmimc25": 40, "dapo_aime2024": 30,
    "dapo_math_17k_head14": 14,
}  # fmt: skip


@needs_shared
@pytest.mark.parametrize("name", ROWS)
def test_public_files_load_whole(name, capsys):
    path = SHARED / f"{name}.jsonl"
    problems = load_problems(str(path))
    raw = [json.loads(line) for line in path.open()]
    assert len(problems) == len(raw) == ROWS[name]
    said = capsys.readouterr().out
    torn = {"aime25": 3, "deepmath_5k": 2, "math_train_7498": 1}.get(name)  # such as \rho
    assert "such problems" not in said if torn is None else f"({torn} such problems" in said
    assert "dropped" not in said and {problem.task for problem in problems} == {name}
    assert [problem.text for problem in problems] == [row["problem"].strip() for row in raw]
    golds = [problem.answer for problem in problems]
    bare = [re.sub(r"^0+(?=\d+$)|(?<=\d)\.0+$", "", row["answer"].strip()) for row in raw]
    bare = [re.sub(r"^\\text\{\(E\)\},$", "E", gold) for gold in bare]
    if name == "olympiadbench":  # its golds are formulas; one has an odd number of dollar signs
        assert [gold for gold in golds if "$" in gold] == ["$221,$8$"]
        golds, bare = ([re.sub(r"\$|\s|\.$", "", gold) for gold in own] for own in (golds, bare))
    assert golds == bare


VERL = {"prompt": "prompt", "reward_model": "reward_model"}
GSM8K = {"question": "problem", "answer": "solution"}


@needs_shared
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("dapo_aime2024", VERL), ("dapo_math_17k_head14", VERL), ("gsm8k_train", GSM8K),
        ("gsm8k_test", GSM8K), ("math500", {"problem": "problem", "solution": "solution"}),
    ],
)  # fmt: skip
def test_the_hub_s_columns_of_a_public_set_give_its_bare_problems_and_golds(
    tmp_path, name, columns
):
    """columns: the hub's name of a column, and that of our file, which has the bare ones too."""
    rows = [json.loads(line) for line in (SHARED / f"{name}.jsonl").open()]
    hub_rows = [{theirs: row[ours] for theirs, ours in columns.items()} for row in rows]
    problems = load_problems(write(tmp_path / "hub.parquet", hub_rows))
    assert [(problem.text, problem.answer) for problem in problems] == [
        (row["problem"], row["answer"]) for row in rows
    ]


@needs_shared
def test_known_leaks_are_dropped(capsys):
    deepmath, math_train = (
        load_problems(str(SHARED / f"{name}.jsonl")) for name in ("deepmath_5k", "math_train_7498")
    )
    assert len(deepmath) - len(without(deepmath, math_train, drop=True)) == 286
