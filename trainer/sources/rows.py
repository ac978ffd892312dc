"""Turn the rows of a dataset into Problems.

A row has either plain columns (TEXT_COLUMNS and ANSWER_COLUMNS) or verl's layout:
prompt = [{role, content}, ...], reward_model = {ground_truth}. A wrong row raises Refused with one
sentence that names the source and the row.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy

from trainer.data import INSTRUCTIONS, Problem, say
from trainer.errors import Refused
from trainer.sources.gold import Blank, NoAnswer, clean_answer, control_fault, is_missing, last_box
from verifier import choice

TEXT_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("reward_model", "answer", "final_answer", "expected_answer", "ground_truth")
ANSWER_COLUMNS += ("solution",)
SOLUTION_COLUMNS = ("solution", "r1_solution_1")
OTHER_COLUMNS = ("extra_info", "task", "verify", "difficulty", "ability")


class Code(Refused):
    """A row that asks for a program; mixed sets have them."""

    counted = "programming tasks dropped"


def collect(
    source: str,
    rows: Iterable[tuple[str, dict]],
    task: str,
    *,
    blanks: bool = False,
    solutions: bool = False,
) -> list[tuple[Problem, dict]]:
    """(Problem, row) pairs from (place, row) pairs; prints how many rows were dropped, and why.

    Of rows whose `prompt` is a list of messages, each prompt is kept once: the public DAPO file
    repeats each of its 17.9k rows 100 times by accident. Prompts with two different answers are
    dropped. Plain rows are all kept, so that a benchmark stays whole, but for programming tasks and
    answers that say that there is none.

    task: for problems whose row names no task. blanks: drop rows without a problem or an answer
    instead of refusing them. solutions: fill Problem.solution. Raises Refused for a wrong row, and
    if no problem is left.
    """
    pairs, answers, chats, count, faults = [], {}, set(), Counter(), []
    size = 0
    for place, row in rows:
        size += 1
        try:
            row = _lower(row)
            problem = problem_of(row, task, solutions)
        except ValueError as error:
            if isinstance(error, Code | NoAnswer) or (blanks and isinstance(error, Blank)):
                count[error.counted] += 1
                continue
            raise Refused(f"{source}, {place}: {error}") from None
        key = _prompt_key(problem)
        answers.setdefault(key, set()).add(problem.answer)
        if isinstance(row.get("prompt"), list):
            if key in chats:
                count["repeated rows collapsed"] += 1
                continue
            chats.add(key)
        pairs.append((problem, row))
        if fault := control_fault(problem.text):
            faults.append(f"{place}: the problem {fault}")
    torn = {key for key, found in answers.items() if len(found) > 1}
    if dropped := torn & chats:
        count["problems with conflicting answers dropped"] = len(dropped)
        pairs = [pair for pair in pairs if _prompt_key(pair[0]) not in dropped]
    if count:
        lost = ", ".join(f"{number:,} {what}" for what, number in count.items())
        say(f"{source}: {size:,} rows, {len(pairs):,} problems kept; {lost}")
    if faults:
        say(f"{source}, {faults[0]} ({len(faults):,} such problems; they are kept as they are)")
    repeated = len(pairs) - len({_prompt_key(problem) for problem, _ in pairs})
    if repeated:
        say(
            f"{source}: {repeated:,} repeated problems kept, {len(torn - chats):,} of them with "
            f"different answers"
        )
    if not pairs:
        raise Refused(f"{source}: no problems in it")
    return pairs


def _lower(row):
    """Problem and Answer are problem and answer, unless both are there."""
    if not isinstance(row, dict):
        found = type(row).__name__
        raise Refused(f"expected an object with a problem and an answer, found {found}")
    return {str(name).lower(): value for name, value in row.items()} | row


def _prompt_key(problem):
    return problem.text, problem.system, problem.history, problem.prefill


def problem_of(row: dict, task: str = "", solutions: bool = False) -> Problem:
    """One row's problem. Raises Blank, or Refused with what is wrong with the row."""
    if _is_code(row):
        raise Code("it asks for a program")
    text, system, history, prefill = _prompt(row)
    answer = _without_letter(_answer(row), text)
    if last_box(prefill):
        raise Refused("prompt ends in an assistant turn that holds a boxed answer: remove it")
    verify = None if is_missing(row.get("verify")) else row["verify"]
    if not isinstance(verify, dict | None):
        raise Refused(f"verify is {type(verify).__name__}; expected an object")
    solution = _solution(row, answer) if solutions else ""
    task = str(task if is_missing(row.get("task")) else row["task"] or task)
    problem = Problem(text, answer, task, verify, solution, system, history, prefill)
    _check_text(problem)
    return problem


NO_TEXT = re.compile("[\0\ud800-\udfff]")  # neither a tokenizer nor a JSON file can hold these


def _check_text(problem):
    try:
        verify = json.dumps(problem.verify, ensure_ascii=False)
    except TypeError as error:
        raise Refused(f"verify cannot be written as JSON ({error})") from None
    for name, value in (vars(problem) | {"verify": verify}).items():
        text = value if isinstance(value, str) else "".join(text for _, text in value)
        if wrong := NO_TEXT.search(text):
            code, place = f"U+{ord(wrong[0]):04X}", wrong.start() + 1
            raise Refused(f"{name} holds {code} as character {place}, which is no text: remove it")


def _find(row, columns, what):
    """The first of these columns with a value in this row, and the value."""
    for column in columns:
        if not is_missing(row.get(column)):
            return column, row[column]
    if any(column in row for column in columns):
        raise Blank(f"empty {what}")
    raise Refused(_no_column(what, columns, row))


def _no_column(what, columns, found):
    names = ", ".join(map(str, found)) or "nothing"
    return f"no {what} column; expected one of {', '.join(columns)}, found {names}"


# --- tables: rows of Parquet files and of the hub ---


def known_columns(source: str, names: list[str], solutions: bool = False) -> list[str]:
    """The columns to read; the others of a table can be gigabytes.

    Raises Refused if there is no column for the problem or for the answer, or if a column to be
    read occurs twice.
    """
    for what, columns in (("problem", TEXT_COLUMNS), ("answer", ANSWER_COLUMNS)):
        if not set(columns) & {name.lower() for name in names}:
            raise Refused(f"{source}: {_no_column(what, columns, names)}")
    wanted = {*TEXT_COLUMNS, *ANSWER_COLUMNS, *OTHER_COLUMNS}
    if solutions:
        wanted.update(SOLUTION_COLUMNS)
    known = [name for name in names if name in wanted or name.lower() in wanted - set(names)]
    if twice := [name for name, n in Counter(known).items() if n > 1]:
        raise Refused(f"{source}: the column {twice[0]} occurs twice")
    return known


def table_rows(batches: Iterable) -> Iterator[tuple[str, dict]]:
    """("row 1", row), ... of pyarrow tables or record batches."""
    import pyarrow

    n = 0
    for batch in batches:
        columns = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            columns[name] = column.to_pylist()
            if column.type in (pyarrow.float16(), pyarrow.float32()):  # 0.1, not 0.10000000149
                columns[name] = [float(str(number)) for number in numpy.asarray(column)]
        for values in zip(*columns.values(), strict=True):
            n += 1
            yield f"row {n}", dict(zip(columns, values, strict=True))


# --- the prompt ---


def _prompt(row):
    """(text, system, history, prefill) of a row; see Problem."""
    column, value = _find(row, TEXT_COLUMNS, "problem")
    messages = _messages(row.get("prompt"))
    if messages is None and column != "prompt":
        messages = _messages(value) if isinstance(value, str) else None
        column = "prompt" if messages else column
    system, history, prefill = "", (), ""
    if messages is not None:
        system, history, user, prefill = _turns(messages)
        if column == "prompt":
            value = _raw_problem(row) or user
    if not isinstance(value, str):
        raise Refused(f"{column} is {type(value).__name__}; expected text")
    text = strip_wrapper(value)
    if not text:
        raise Blank("empty problem")
    return text, system, history, prefill


def _raw_problem(row):
    """The bare problem, which verl's preparation scripts also keep in extra_info."""
    extra = row.get("extra_info")
    copies = (extra.get("raw_problem"), extra.get("question")) if isinstance(extra, dict) else ()
    return next((copy for copy in copies if isinstance(copy, str) and copy.strip()), "")


CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)


def _messages(prompt):
    """The chat as a list of messages, None if it is plain text.

    Some datasets hold a chat as text: ChatML, or JSON. ChatML also occurs inside the one message.
    """
    if isinstance(prompt, str):
        if prompt.startswith("<|im_start|>"):
            return [{"role": role, "content": text} for role, text in CHATML.findall(prompt)]
        if re.match(r"\s*\[\s*\{\s*'(role|content)'\s*:", prompt):
            raise Refused("prompt is a chat in Python's notation; write it as JSON")
        if re.match(r'\s*\[\s*\{\s*"(role|content)"\s*:', prompt):
            prompt = _from_json(prompt)
    if not isinstance(prompt, list):
        return None
    if not all(isinstance(message, dict) and "role" in message for message in prompt):
        raise Refused("prompt is not a list of {role, content} messages")
    if len(prompt) == 1 and str(prompt[0].get("content")).startswith("<|im_start|>"):
        return _messages(prompt[0]["content"])
    return prompt


def _turns(messages):
    """(system, history, user's text, prefill) of a chat. Raises Refused for other chats."""
    turns = [(_role(message["role"]), _content(message)) for message in messages]
    systems = [text for role, text in turns if role == "system"]
    turns = turns[len(systems) :]
    if any(role == "system" for role, _ in turns):
        raise Refused("prompt has a system message after another turn; put it first")
    prefill = turns.pop()[1] if turns and turns[-1][0] == "assistant" else ""
    prefill = prefill if prefill.strip() else ""  # an empty turn is the generation prompt
    if not turns:
        raise Refused("prompt has no user message")
    if turns[-1][0] != "user":
        raise Refused("prompt ends in two assistant messages; join them")
    system = "\n\n".join(filter(None, map(str.strip, systems)))
    return system, tuple(turns[:-1]), turns[-1][1], prefill


def _role(role):
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise Refused(f"prompt has a message of role {role!r}; expected system, user, assistant")
    return role


def _content(message):
    """A message's text; a list of text parts is joined."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Refused("prompt has a message with a part that is no text")
        return "".join(parts)
    if not isinstance(content, str):
        raise Refused(f"prompt has a message whose content is {type(content).__name__}, no text")
    return content


# DAPO's wrapper is a first paragraph that asks for a last line "Answer: $Answer", and a last one
# that repeats this. Their opening words identify them; public copies differ in the rest.
WRAPPER_HEAD = "Solve the following math problem step by step."
WRAPPER_TAIL = "Remember to put your answer on its own line after"


def strip_wrapper(text: str) -> str:
    """The bare problem: without DAPO's wrapper and without an instruction at its end.

    Only whole paragraphs are removed.
    """
    text = text.strip()
    for instruction in INSTRUCTIONS:
        text = text.removesuffix(instruction).rstrip()
    head, blank_line, rest = text.partition("\n\n")
    if blank_line and head.startswith(WRAPPER_HEAD) and "Answer:" in head:
        text = rest
    rest, blank_line, tail = text.rpartition("\n\n")
    if blank_line and tail.startswith(WRAPPER_TAIL):
        text = rest
    return text.strip()


# --- the answer ---


def _answer(row):
    extra = row.get("extra_info")
    if isinstance(extra, dict) and not set(ANSWER_COLUMNS) & set(row) and "answer" in extra:
        row = extra
    column, value = _find(row, ANSWER_COLUMNS, "answer")
    if column == "reward_model":
        value = _from_json(value)
        if not isinstance(value, dict):
            found = type(value).__name__
            raise Refused(f"reward_model is {found}; expected an object with ground_truth")
        column, value = _find(value, ("ground_truth",), "answer")
    if column == "solution" and isinstance(value, list):
        value = "\n\n".join(map(str, value))
    if column == "solution" and isinstance(value, str) and "####" not in value:
        value = last_box(value)
        if value is None:
            raise Blank("the solution holds no \\boxed{} and no #### with the answer")
    return clean_answer(value)


def _from_json(value):
    """What the JSON text of an object or a list holds; anything else as it is."""
    try:
        is_json = isinstance(value, str) and value.lstrip().startswith(("{", "["))
        return json.loads(value) if is_json else value
    except (ValueError, RecursionError):
        return value


TEST_CASES = {"inputs", "input", "fn_name", "test_cases", "assert_case"}


def _is_code(row):
    """Whether the row asks for a program: it says so, or its answer is a list of test cases."""
    if re.match(r"(?i)\s*(?:cod(?:e|ing)\b|programming)", str(row.get("ability"))):
        return True
    gold = _from_json(row.get("reward_model", row.get("answer")))
    if isinstance(gold, dict) and "ground_truth" in gold:
        gold = _from_json(gold["ground_truth"])
    gold = gold[0] if isinstance(gold, list) and gold else gold
    return isinstance(gold, dict) and bool(gold.keys() & TEST_CASES)


OPTION = re.compile(r"\(([A-H])\)|\b([A-H])[.)](?=[\s\\$}])")


def _without_letter(answer, text):
    r"""`\textbf{(D)}\ 12` as D if the problem lists its choices, else as 12."""
    letter, rest = choice(answer)
    if not letter or not rest:
        return answer
    listed = len({found[1] or found[2] for found in OPTION.finditer(text)}) > 1
    return letter if listed else clean_answer(rest)


def _solution(row, answer):
    """The worked solution of a row: its own column, or the text before GSM8K's ####."""
    for column in SOLUTION_COLUMNS:
        value = row.get(column)
        texts = [text for text in (value if isinstance(value, list) else [value]) if text]
        if texts and all(isinstance(text, str) for text in texts):
            solution = "\n\n".join(texts).strip()
            return "" if solution == answer else solution  # some sets repeat the gold there
    worked = row.get("answer")
    return worked.rpartition("####")[0].strip() if isinstance(worked, str) else ""
