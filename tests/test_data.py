"""Problems and prompts: every layout, every fault's sentence, the order. The hub is local here."""

import json
import random
import re
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainer.data import (
    Order,
    Problem,
    Template,
    chat_ids,
    encode_prompts,
    without,
)
from trainer.sources.hub import HUB, SUBJECTS
from trainer.sources.load import ACCEPTED, load_problems
from trainer.sources.rows import clean_answer, last_box, strip_wrapper

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the public data files lie beside the repository only"
)

HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
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
    """A hub of local datasets: hub[(id, config, split)] = rows; folders are keyed by (id, file, split)."""
    shelf = {}

    def load_dataset(hub_id, name=None, *, split, data_files=None):
        if (hub_id, data_files or name, split) not in shelf:
            raise ConnectionError(f"Couldn't reach '{hub_id}' on the Hub")
        return datasets.Dataset.from_list(shelf[hub_id, data_files or name, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return shelf


# --- layouts ---


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    "row",
    [
        {"problem": "1+1?", "answer": "2"},
        {"question": "1+1?", "final_answer": "2"},
        {"prompt": "1+1?", "ground_truth": "2"},
        {"problem": "1+1?", "answer": 2},
        {"problem": "1+1?", "answer": 2.0},
        {"problem": " 1+1? ", "answer": " 2 "},
        {"problem": "1+1?", "answer": None, "final_answer": "2"},
        {"problem": "1+1?", "final_answer": ["2"]},
        {"problem": "1+1?", "answer": "\\boxed{2}", "solution": "So it is \\boxed{3}."},
        {"problem": "1+1?", "solution": "First \\boxed{1}, so $x = \\boxed{2}$."},
        {"problem": "1+1?", "solution": "One and one.\n#### 2"},
        {"question": "1+1?", "answer": "One <<1+1=2>> and one.\n#### 2"},
        {"prompt": "1+1?", "solution": "2", "reward_model": {"ground_truth": "2"}},
        verl("1+1?", "2"),
        verl(HEAD + "1+1?" + TAIL, "2"),
        verl(HEAD + "wrapped otherwise" + TAIL, "2", raw_problem="1+1?"),
        verl("<|im_start|>user\nwrapped otherwise<|im_end|>", "2", question="1+1?"),
    ],
    ids=lambda row: "+".join(row)[:40],
)
def test_every_layout_of_every_kind_of_file(tmp_path, kind, row):
    assert load_problems(write(tmp_path / f"sums.{kind}", [row])) == [Problem("1+1?", "2", "sums")]


def test_system_turns_of_verl_rows_are_left_to_the_recipe(tmp_path):
    row = verl("1+1?", "2")
    row["prompt"].insert(0, {"role": "system", "content": "Think."})
    assert load_problems(write(tmp_path / "a.jsonl", [row]))[0].text == "1+1?"


def test_rows_may_name_their_task_and_what_their_reward_needs(tmp_path):
    row = {"problem": "p", "answer": "a", "task": "knights", "verify": {"n": 3}}
    assert load_problems(write(tmp_path / "a.jsonl", [row])) == [
        Problem("p", "a", "knights", {"n": 3})
    ]


def test_a_json_file_may_hold_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf[{"problem": "p", "answer": "1"}]')
    assert load_problems(str(path))[0].answer == "1"
    path.write_text('{"problem": "p", "answer": "1"}\n\n{"problem": "q", "answer": "2"}\n')
    assert [problem.answer for problem in load_problems(str(path))] == ["1", "2"]


def test_the_tiny_world_is_asked_for_split_and_level():
    problems = load_problems("tiny:eval/easy")
    assert {type(problem) for problem in problems} == {Problem}
    assert {problem.task for problem in problems} == {"easy"}
    assert problems[0].text.endswith("=?") and problems == load_problems("tiny:eval/easy")
    with pytest.raises(
        ValueError, match=r"^tiny:train: write tiny:SPLIT/LEVEL, such as tiny:train/easy$"
    ):
        load_problems("tiny:train")


# --- wrappers and answers ---


@pytest.mark.parametrize(
    "wrapped",
    [
        HEAD + "{}" + TAIL,
        HEAD + "{}",
        "{}" + TAIL,
        HEAD + "{}" + TAIL[:-1] + ", and you do not need to use a \\boxed command.\n",
        HEAD.replace("$Answer", "$ANSWER") + "{}" + TAIL,
        HEAD
        + "{}"
        + TAIL
        + "\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "{} Let's think step by step and output the final answer within \\boxed{}.",
        '{} Let\'s think step by step and output the final answer after "####".',
        "{}",
    ],
)
@pytest.mark.parametrize(
    "problem",
    [
        "Solve $x^2 = 4$.\n\nGive the larger root.",  # begins and ends with letters of the wrapper
        "Remember to put 3 apples on its own line.\n\nHow many are left?",
        "Answer: is it 3?\n\nfollowing the last line",
    ],
)
def test_wrappers_go_and_nothing_else(wrapped, problem):
    assert strip_wrapper(wrapped.replace("{}", problem, 1)) == problem


@pytest.mark.parametrize(
    "text",
    [
        HEAD.strip(),
        "Solve the following math problem step by step.\n\n1+1?",
        "a\n\nRemember to put your hat on.",
    ],
)
def test_what_only_resembles_a_wrapper_stays(text):
    assert strip_wrapper(text) == text


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        *[
            ("025", "25"),
            ("0", "0"),
            ("000", "0"),
            ("-007", "-7"),
            ("0.5", "0.5"),
            ("00.5", "00.5"),
            ("100", "100"),
        ],
        *[
            ("0a", "0a"),
            ("01,200", "01,200"),
            ("1,200", "1,200"),
            (" 7 ", "7"),
            (7, "7"),
            (7.0, "7"),
            (0.25, "0.25"),
        ],
        *[
            ("\\boxed{204}", "204"),
            ("$\\boxed{204}$", "204"),
            ("\\boxed{025}", "25"),
            ("\\boxed{ 7 }", "7"),
        ],
        *[
            ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
            ("\\boxed{\\{1\\}}", "\\{1\\}"),
            ("\\boxed{\\}}", "\\}"),
        ],
        *[
            ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
            ("\\boxed{1", "\\boxed{1"),
        ],
        *[
            ("so\n#### 1,080", "1080"),
            ("so\n#### -12", "-12"),
            ("#### 1 #### 2", "2"),
            (["72"], "72"),
        ],
    ],
)
def test_golds_become_bare_strings(gold, answer):
    assert clean_answer(gold) == answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("thus \\fbox{3}", "3"),
        ("thus $\\boxed 9$ only", "9"),
        ("thus \\boxed {9}", "9"),
        ("thus \\boxed{9", None),
        ("thus 9", None),
    ],
)
def test_the_last_box_of_a_solution(solution, answer):
    assert last_box(solution) == answer


# --- repeats and conflicts ---


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_repeats_collapse_and_conflicts_go_with_their_counts(tmp_path, capsys, kind):
    rows = [
        verl(HEAD + "a?" + TAIL, "1"),
        verl(HEAD + "b?" + TAIL, "2"),
        verl(HEAD + "c?" + TAIL, "025"),
    ] * 100
    rows += [verl(HEAD + " b? " + TAIL, "3"), verl("c?", "25"), verl("d?", "4")]
    path = write(tmp_path / f"dapo.{kind}", rows)
    assert [(problem.text, problem.answer) for problem in load_problems(path)] == [
        ("a?", "1"),
        ("c?", "25"),
        ("d?", "4"),
    ]
    assert capsys.readouterr().out == (
        f"{path}: 303 rows, 3 problems kept; 299 repeated rows collapsed, "
        "1 problems with conflicting answers and 0 blank rows dropped\n"
    )


def test_plain_rows_are_all_kept_so_that_a_benchmark_stays_whole(tmp_path, capsys):
    rows = [
        {"problem": "p", "answer": "1"},
        {"problem": "p", "answer": "1"},
        {"problem": "p", "answer": "2"},
    ]
    assert len(load_problems(write(tmp_path / "a.jsonl", rows))) == 3
    assert capsys.readouterr().out == ""


# --- faults ---

GOOD = {"problem": "p", "answer": "1"}
ANY_ANSWER = "reward_model, answer, final_answer, ground_truth, solution"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"problem": "p"}, f"no answer column; expected one of {ANY_ANSWER}, found problem"),
        (
            {"answer": "1", "text": "p"},
            "no problem column; expected one of problem, question, prompt, found answer, text",
        ),
        ({"problem": "", "answer": "1"}, "empty problem"),
        ({"problem": " \n", "answer": "1"}, "empty problem"),
        ({"problem": None, "answer": "1"}, "empty problem"),
        ({"problem": HEAD + TAIL, "answer": "1"}, "empty problem"),
        ({"problem": "p", "answer": ""}, "empty answer"),
        ({"problem": "p", "answer": "  "}, "empty answer"),
        ({"problem": "p", "answer": None}, "empty answer"),
        ({"problem": "p", "answer": "\\boxed{}"}, "empty answer"),
        ({"problem": "p", "answer": float("nan")}, "empty answer"),
        ({"problem": 3, "answer": "1"}, "problem is int; expected text"),
        ({"problem": "p", "answer": True}, "answer is bool; expected text or a number"),
        ({"problem": "p", "answer": {"a": 1}}, "answer is dict; expected text or a number"),
        (
            {"problem": "p", "answer": [["1"], ["2"]]},
            "answer is a list of lists; expected text or a number",
        ),
        ({"problem": "p", "answer": []}, "empty answer"),
        ({"problem": "p", "answer": float("inf")}, "answer is Infinity; expected a finite number"),
        ({"problem": "p", "answer": "1", "verify": "x"}, "verify is str; expected an object"),
        (
            {"problem": "p", "solution": "so 3"},
            "the solution holds no \\boxed{} and no #### with the answer",
        ),
        (
            {**verl("p", "1"), "reward_model": "1"},
            "reward_model is str; expected an object with ground_truth",
        ),
        (
            {**verl("p", "1"), "reward_model": {}},
            "no answer column; expected one of ground_truth, found nothing",
        ),
        (verl("p", None), "empty answer"),
        ({**verl("p", "1"), "prompt": ["p"]}, "prompt is not a list of {role, content} messages"),
        ({**verl("p", "1"), "prompt": []}, "prompt has no user message"),
        (verl(None, "1"), "prompt has a message whose content is NoneType, no text"),
        (["p", "1"], "expected an object with a problem and an answer, found list"),
        ("3", "expected an object with a problem and an answer, found int"),
    ],
)
def test_a_malformed_row_is_named_with_file_line_and_fault(tmp_path, row, fault):
    path = write(tmp_path / "bad.jsonl", [GOOD, "", row])
    with pytest.raises(ValueError) as error:
        load_problems(path)
    assert str(error.value) == f"{path}, line 3: {fault}"


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_malformed_row_of_a_table_is_named_by_its_number(tmp_path, kind):
    path = write(tmp_path / f"bad.{kind}", [GOOD, {"problem": "p", "answer": ""}])
    with pytest.raises(ValueError, match=f"^{re.escape(path)}, row 2: empty answer$"):
        load_problems(path)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        (
            "a.jsonl",
            b'{"problem": "p", "answer": "1"}\n{"problem": "p",\n',
            ", line 2: not valid JSON (Expecting",
        ),
        (
            "a.jsonl",
            b'{"problem": "\xff", "answer": "1"}\n',
            ", line 1: not valid JSON ('utf-8' codec",
        ),
        (
            "a.json",
            b'[{"problem": "p", "answer": "1"},',
            ": not valid JSON (Expecting value: line 1 column",
        ),
        ("a.parquet", b"PAR1 no", ": not a Parquet file ("),
        ("a.jsonl", b"", ": no problems in it"),
        ("a.json", b"[]", ": no problems in it"),
        ("a.csv", b"problem,answer\n", f": unknown kind of file; give {ACCEPTED}"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path, name, content, fault):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_problems(str(path))
    assert str(error.value).startswith(f"{path}{fault}") and "\n" not in str(error.value)


def test_a_missing_file_says_what_is_accepted(tmp_path):
    for source, fault in (
        (f"{tmp_path}/none.jsonl", "no such file"),
        ("gsm8k", "not a known source"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            load_problems(source)
        assert str(error.value) == f"{source}: {fault}; give {ACCEPTED}"


# --- the hub ---

HUB_ROWS = {
    ("BytedTsinghua-SIA/DAPO-Math-17k", None, "train"): [verl(HEAD + "p?" + TAIL, "034")] * 100,
    ("open-r1/DAPO-Math-17k-Processed", "all", "train"): [
        {
            **verl("", "34"),
            "prompt": "p?",
            "solution": "34",
            "source_prompt": [{"content": "w", "role": "user"}],
        }
    ],
    ("BytedTsinghua-SIA/AIME-2024", None, "train"): [
        verl(HEAD + "p?" + TAIL, "34", raw_problem="p?", split=None)
    ]
    * 32,
    ("HuggingFaceH4/aime_2024", None, "train"): [
        {"id": 1, "problem": "p?", "solution": "s", "answer": "034", "url": "u", "year": "2024"}
    ],
    ("math-ai/aime24", None, "test"): [
        {"id": 1, "problem": "p?", "solution": "\\boxed{034}", "url": "u"}
    ],
    ("math-ai/aime25", None, "test"): [{"problem": "p?", "answer": "34", "id": "1"}],
    ("math-ai/amc23", None, "test"): [{"id": 1, "answer": 34.0, "question": "p?", "url": "u"}],
    ("math-ai/minervamath", None, "test"): [{"question": "p?", "answer": "34"}],
    ("MathArena/aime_2025", None, "train"): [
        {"problem_idx": 1, "problem": "p?", "answer": 34, "problem_type": ["A"]}
    ],
    ("MathArena/hmmt_feb_2025", None, "train"): [
        {"problem_idx": 1, "problem": "p?", "answer": "34", "problem_type": ["A"]}
    ],
    ("HuggingFaceH4/MATH-500", None, "test"): [
        {
            "problem": "p?",
            "solution": "\\boxed{1}",
            "answer": "34",
            "subject": "s",
            "level": 2,
            "unique_id": "u",
        }
    ],
    ("openai/gsm8k", "main", "train"): [{"question": "p?", "answer": "<<2*17=34>>34\n#### 34"}],
    ("agentica-org/DeepScaleR-Preview-Dataset", None, "train"): [
        {"problem": "p?", "answer": "34", "solution": ""},
        {"problem": "q?", "answer": "", "solution": "\\boxed{2}"},
    ],
    ("POLARIS-Project/Polaris-Dataset-53K", None, "train"): [
        {"problem": "p?", "answer": "34", "difficulty": "3/8"},
        {"problem": None, "answer": "1", "difficulty": "3/8"},
        {"problem": "q?", "answer": None, "difficulty": "3/8"},
    ],
    ("zwhe99/DeepMath-103K", None, "train"): [
        {
            "question": "p?",
            "final_answer": "34",
            "difficulty": 5.5,
            "topic": "t",
            "r1_solution_1": "\\boxed{1}",
        }
    ],
    ("hkust-nlp/SimpleRL-Zoo-Data", "simplelr_qwen_level3to5/train.parquet", "train"): [
        {**verl("<|im_start|>user\np?<|im_end|>\n", "34"), "answer": "34"}
    ],
    ("someone/unknown-set", None, "train"): [{"question": "p?", "final_answer": "34"}],
}


@pytest.mark.parametrize("key", HUB_ROWS, ids=lambda key: key[0])
def test_hub_sets_with_their_own_columns(hub, key):
    hub[key] = HUB_ROWS[key]
    task = HUB[key[0]].task if key[0] in HUB else "unknown-set"
    assert load_problems(key[0]) == [Problem("p?", "34", task)]


def test_sets_in_several_configs_are_read_one_after_another(hub):
    for subject in SUBJECTS:
        row = {
            "problem": f"{subject}?",
            "level": "Level 1",
            "type": subject,
            "solution": "It is $\\boxed{012}$.",
        }
        hub["EleutherAI/hendrycks_math", subject, "test"] = [row, row]
    hub["opencompass/AIME2025", "AIME2025-I", "test"] = [{"question": "i?", "answer": "1"}]
    hub["opencompass/AIME2025", "AIME2025-II", "test"] = [{"question": "ii?", "answer": "2"}]
    problems = load_problems("EleutherAI/hendrycks_math:test")
    assert len(problems) == 14 and {problem.answer for problem in problems} == {"12"}
    assert [problem.text for problem in load_problems("opencompass/AIME2025")] == ["i?", "ii?"]


def test_a_split_or_config_can_be_chosen(hub):
    hub["openai/gsm8k", "main", "test"] = [{"question": "p?", "answer": "#### 1"}]
    hub["openai/gsm8k", "socratic", "train"] = [{"question": "p?", "answer": "#### 2"}]
    assert load_problems("openai/gsm8k:test")[0].answer == "1"
    assert load_problems("openai/gsm8k:socratic/train")[0].answer == "2"


def test_known_blank_rows_are_dropped_and_counted_and_others_are_faults(hub, capsys):
    polaris = "POLARIS-Project/Polaris-Dataset-53K"
    hub[polaris, None, "train"] = HUB_ROWS[polaris, None, "train"]
    load_problems(polaris)
    assert capsys.readouterr().out == (
        f"{polaris}: 3 rows, 1 problems kept; 0 repeated rows collapsed, "
        "0 problems with conflicting answers and 2 blank rows dropped\n"
    )
    hub["math-ai/aime25", None, "test"] = [GOOD, {"problem": "p", "answer": ""}]
    with pytest.raises(ValueError, match=r"^math-ai/aime25, row 2: empty answer$"):
        load_problems("math-ai/aime25")


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr(
        datasets.config, "HF_HUB_OFFLINE", True
    )  # the true load_dataset, without its retries
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError) as error:
        load_problems("nobody/no-such-set:test")
    assert str(error.value) == (
        "nobody/no-such-set:test: cannot load it from the Hugging Face hub (Couldn't reach 'nobody/no-such-set' on the "
        "Hub (OfflineModeIsEnabled)); check the network and the name (ID, ID:SPLIT or ID:CONFIG/SPLIT), or give a "
        "local .jsonl, .json or .parquet file"
    )


# --- Lite PPO's sets ---


@pytest.fixture
def deepmath(hub):
    rows = [
        {"question": f"d{i}?", "final_answer": str(i), "difficulty": difficulty}
        for i, difficulty in enumerate([1.0, 2.0, 8.0] * 3000)
    ]
    for gold in ("Yes", "no", "\\text{True}", "False."):
        rows += [
            {"question": f"{gold}{i}?", "final_answer": gold, "difficulty": 1.0} for i in range(100)
        ]
    rows += [
        {"question": f"unrated{i}?", "final_answer": "1", "difficulty": (-1.0, 0.0)[i % 2]}
        for i in range(50)
    ]
    hub["zwhe99/DeepMath-103K", None, "train"] = rows
    return {row["question"]: row["difficulty"] for row in rows if row["question"][0] == "d"}


def test_medium_is_the_easiest_without_true_false(deepmath, capsys):
    problems = load_problems("liteppo:medium")
    difficulties = [deepmath[problem.text] for problem in problems]
    assert [difficulties.count(d) for d in (1.0, 2.0, 8.0)] == [3000, 2000, 0]
    assert len({problem.text for problem in problems}) == 5000
    assert problems[0].task == "liteppo:medium"
    assert (
        "5,000 of 9,000 problems, 450 true/false or unrated ones left out"
        in capsys.readouterr().out
    )


def test_hard_is_drawn_in_proportion_to_difficulty(deepmath):
    problems = load_problems("liteppo:hard")
    assert len({problem.text for problem in problems}) == 5000
    first = [
        deepmath[problem.text] for problem in problems[:1100]
    ]  # early draws: still nearly 1 : 2 : 8
    assert first.count(8.0) / len(first) == pytest.approx(8 / 11, abs=0.05)
    assert first.count(2.0) / first.count(1.0) == pytest.approx(2, rel=0.25)


def test_easy_is_a_random_part_of_simplerl(hub):
    rows = [{**verl("w", str(i), question=f"e{i}?"), "answer": str(i)} for i in range(6000)]
    hub["hkust-nlp/SimpleRL-Zoo-Data", "simplelr_qwen_gsm8k_level1/train.parquet", "train"] = rows
    drawn = [int(problem.answer) for problem in load_problems("liteppo:easy")]
    assert len(set(drawn)) == 5000
    assert drawn[:1000] != sorted(drawn[:1000]) and sum(drawn) / 5000 == pytest.approx(
        3000, rel=0.03
    )
    assert drawn == [int(problem.answer) for problem in load_problems("liteppo:easy")]
    assert drawn != [int(problem.answer) for problem in load_problems("liteppo:easy", seed=1)]


def test_an_unknown_lite_ppo_level_is_named():
    with pytest.raises(ValueError, match=r"^liteppo:expert: no such level; choose liteppo:easy, "):
        load_problems("liteppo:expert")


# --- leakage ---


def test_held_out_ignores_spelling_but_not_operators(capsys):
    reserved = [
        Problem("Find  $x + 1.5$, when\n$x=2$!", "3.5"),
        Problem("roots of $z^4 + z^2$", "6"),
    ]
    problems = [
        Problem("find x+1.5 when x = 2!", "3.5"),
        Problem("find x+15 when x = 2!", "17"),
        Problem("roots of $z^4 - z^2$", "12"),
    ]
    assert without(problems, reserved) == problems[1:]
    assert capsys.readouterr().out == "1 of 3 training problems are evaluation problems: dropped\n"


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


def test_chat_ids_are_plain_ids_of_the_turns_and_the_generation_prompt():
    ids = chat_ids(make_tokenizer(), "1+1?", "\n\nBox it.")
    assert type(ids) is list and all(type(i) is int for i in ids)
    assert "".join(map(chr, ids)) == "<user>1+1?\n\nBox it.<assistant>"
    ids = chat_ids(make_tokenizer(), "1+1?", system="Box it.")
    assert "".join(map(chr, ids)) == "<system>Box it.<user>1+1?<assistant>"


def test_a_missing_or_refusing_chat_template_is_one_sentence():
    with pytest.raises(
        ValueError, match=r"^the tokenizer '' has no chat template; set chat_template in "
    ):
        chat_ids(make_tokenizer(None), "1+1?")
    refusing = make_tokenizer("{{ raise_exception('System role not supported') }}")
    with pytest.raises(
        ValueError,
        match=r"^the chat template of '' cannot write the prompt '1\+1\?': System role not supported$",
    ):
        chat_ids(refusing, "1+1?", system="x")


def test_prompts_over_the_limit_are_dropped_counted_and_said(capsys):
    problems = [Problem("x" * n, "1") for n in (3, 5, 4)]
    length = len("<user>xxxx!<assistant>")
    kept = encode_prompts(problems, make_tokenizer(), Template("!", max_tokens=length))
    prompts = [problem.prompt_ids for problem in kept]
    assert [problem.text for problem in kept] == ["xxx", "xxxx"] and [
        len(prompt) for prompt in prompts
    ] == [
        length - 1,
        length,
    ]
    assert capsys.readouterr().out == f"1 of 3 prompts are longer than {length} tokens: dropped\n"
    with pytest.raises(
        ValueError, match=r"^no prompt of 3 fits in 5 tokens \(the shortest has 21\)$"
    ):
        encode_prompts(problems, make_tokenizer(), Template("!", max_tokens=5))


# --- the order ---


def test_an_epoch_holds_every_index_once_and_epochs_differ():
    order = Order(100, seed=0)
    epochs = [order[start : start + 100] for start in (0, 100, 200)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_a_function_of_the_seed_alone():
    random.seed(1)
    first = Order(50, seed=7)[0:120]
    random.seed(2)
    assert Order(50, seed=7)[0:120] == first != Order(50, seed=8)[0:120]


def test_the_order_is_pinned_for_all_versions():
    assert Order(8, seed=0)[0:16] == [3, 5, 7, 1, 2, 0, 4, 6, 5, 7, 0, 1, 6, 4, 3, 2]


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
    **{
        "gsm8k_train": 7473,
        "gsm8k_test": 1319,
        "math_train_7498": 7498,
        "math500": 500,
        "deepmath_5k": 4994,
    },
    **{"aime24": 30, "aime25": 30, "amc23": 40, "minerva": 272, "olympiadbench": 674},
    **{"hmmt25": 30, "brumo25": 30, "cmimc25": 40, "dapo_aime2024": 30, "dapo_math_17k_head14": 14},
}


@needs_shared
@pytest.mark.parametrize("name", ROWS)
def test_public_files_load_whole(name, capsys):
    path = SHARED / f"{name}.jsonl"
    problems = load_problems(str(path))
    raw = [json.loads(line) for line in path.open()]
    assert len(problems) == len(raw) == ROWS[name]
    assert capsys.readouterr().out == ""
    assert [problem.text for problem in problems] == [row["problem"].strip() for row in raw]
    unpadded = [re.sub(r"^0+(?=\d+$)", "", row["answer"].strip()) for row in raw]
    if name != "olympiadbench":  # its golds are formulas, see below
        assert [problem.answer for problem in problems] == unpadded
    assert {problem.task for problem in problems} == {name}


@needs_shared
def test_every_public_data_file_is_listed_above():
    assert {path.stem for path in SHARED.glob("*.jsonl")} == set(ROWS)


@needs_shared
@pytest.mark.parametrize("name", ["dapo_aime2024", "dapo_math_17k_head14"])
def test_unwrapping_real_dapo_prompts_gives_the_bare_problem(tmp_path, name):
    rows = [json.loads(line) for line in (SHARED / f"{name}.jsonl").open()]
    bare = [{"prompt": row["prompt"], "reward_model": row["reward_model"]} for row in rows]
    problems = load_problems(write(tmp_path / "bare.parquet", bare))
    assert [(problem.text, problem.answer) for problem in problems] == [
        (row["problem"], row["answer"]) for row in rows
    ]


@needs_shared
@pytest.mark.parametrize("name", ["gsm8k_train", "gsm8k_test"])
def test_golds_out_of_gsm8k_solutions(tmp_path, name):
    rows = [json.loads(line) for line in (SHARED / f"{name}.jsonl").open()]
    hub_layout = [{"question": row["problem"], "answer": row["solution"]} for row in rows]
    problems = load_problems(write(tmp_path / "hub.jsonl", hub_layout))
    assert [problem.answer for problem in problems] == [row["answer"] for row in rows]


@needs_shared
def test_golds_out_of_math_solutions(tmp_path):
    rows = [json.loads(line) for line in (SHARED / "math500.jsonl").open()]
    hub_layout = [{key: row[key] for key in ("problem", "solution", "level")} for row in rows]
    problems = load_problems(write(tmp_path / "hub.jsonl", hub_layout))
    assert [problem.answer for problem in problems] == [row["answer"] for row in rows]


@needs_shared
def test_known_leaks_are_without(capsys):
    deepmath, math_train = (
        load_problems(str(SHARED / f"{name}.jsonl")) for name in ("deepmath_5k", "math_train_7498")
    )
    assert len(deepmath) - len(without(deepmath, math_train)) == 286
