"""Problems in, prompts out, and an order to walk through them that a killed run can resume.

    problems = load_problems("BytedTsinghua-SIA/DAPO-Math-17k")
    problems, prompts = encode_prompts(problems, tokenizer, suffix, system, max_tokens=1024)
    order = Order(len(prompts), seed=1)
    batch = [prompts[i] for i in order.take(256)]

A source is one of
    tiny:SPLIT/LEVEL                   the embedded world, e.g. tiny:train/easy
    liteppo:easy | medium | hard       the three training sets of Lite PPO, drawn from the hub
    logic:NAME or logic:NAME:SIZE      Reasoning Gym puzzles (see logic.py), e.g. logic:train, logic:held_out:300
    ID, ID:SPLIT or ID:CONFIG/SPLIT    a dataset of the Hugging Face hub: one of HUB, or any with columns that we know
    PATH.jsonl | .json | .parquet      a local file

Rows have either plain columns (TEXT_COLUMNS and ANSWER_COLUMNS) or verl's layout:
prompt = [{role, content}], reward_model = {ground_truth}.
"""

import json
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

TEXT_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("reward_model", "answer", "final_answer", "ground_truth", "solution")
OTHER_COLUMNS = ("extra_info", "task", "verify", "difficulty")
FILE_KINDS = (".jsonl", ".json", ".parquet")
ACCEPTED = "a .jsonl, .json or .parquet file, a hub id such as openai/gsm8k, tiny:SPLIT/LEVEL, liteppo:LEVEL or logic:NAME"


@dataclass(frozen=True)
class Problem:
    """A problem and its gold answer.

    text: the bare problem, prompt wrappers stripped. answer: the gold as a string, unboxed, without zero padding.
    task: the benchmark, level or logic task it belongs to, for reports. verify: what else its reward needs, or None.
    """

    text: str
    answer: str
    task: str = ""
    verify: dict | None = None


@dataclass(frozen=True)
class Sampling:
    """How an engine samples: at most max_tokens a response, temperature 0 is greedy, top_k -1 keeps all tokens."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1


@dataclass(eq=False)
class Rollout:
    """One sampled response. The engine fills in the first four, the recipe the others."""

    prompt_ids: np.ndarray  # int32
    response_ids: np.ndarray  # int32, the final eos included, when it was sampled
    logps: np.ndarray  # float32, the engine's log-prob of each response token, in nats
    truncated: bool  # cut at the length limit
    text: str = ""  # the response decoded, for the verifier and for people
    right: float = 0.0  # the verifier's verdict, 0 to 1
    reward: float = 0.0  # what it is trained on: the verdict and, in some recipes, a penalty


@dataclass(frozen=True)
class Hub:
    """Where a hub dataset keeps its problems. A column of None is found among the known ones, row by row."""

    task: str
    split: str
    text: str | None = "problem"
    answer: str | None = "answer"
    configs: tuple[str | None, ...] = (None,)  # several are read one after another
    folders: bool = (
        False  # a config is a folder of SPLIT.parquet files that the hub does not know as a config
    )
    blanks: bool = False  # some rows are known to lack a problem or an answer: drop and count them


MATH = "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"
HUB = {
    # training sets
    "BytedTsinghua-SIA/DAPO-Math-17k": Hub("dapo", "train", "prompt", "reward_model"),
    "open-r1/DAPO-Math-17k-Processed": Hub(
        "dapo", "train", "prompt", "reward_model", configs=("all",)
    ),
    "openai/gsm8k": Hub("gsm8k", "train", "question", "answer", configs=("main",)),
    "EleutherAI/hendrycks_math": Hub(
        "math", "train", "problem", "solution", configs=tuple(MATH.split())
    ),
    "agentica-org/DeepScaleR-Preview-Dataset": Hub("deepscaler", "train", blanks=True),
    "zwhe99/DeepMath-103K": Hub("deepmath", "train", "question", "final_answer"),
    "POLARIS-Project/Polaris-Dataset-53K": Hub("polaris", "train", blanks=True),
    "hkust-nlp/SimpleRL-Zoo-Data": Hub(
        "simplerl", "train", None, None, ("simplelr_qwen_level3to5",), True, True
    ),
    # benchmarks
    "BytedTsinghua-SIA/AIME-2024": Hub(
        "aime24", "train", "prompt", "reward_model"
    ),  # 30 problems x 32
    "HuggingFaceH4/aime_2024": Hub("aime24", "train"),  # 7 of 30 answers are zero-padded
    "math-ai/aime24": Hub("aime24", "test", None, None),
    "math-ai/aime25": Hub("aime25", "test", None, None),
    "math-ai/amc23": Hub("amc23", "test", None, None),
    "math-ai/minervamath": Hub("minerva", "test", None, None),
    "opencompass/AIME2025": Hub(
        "aime25", "test", "question", configs=("AIME2025-I", "AIME2025-II")
    ),
    "HuggingFaceH4/MATH-500": Hub("math500", "test"),
    "MathArena/aime_2025": Hub("aime25", "train"),
    "MathArena/hmmt_feb_2025": Hub("hmmt25", "train"),
    "MathArena/brumo_2025": Hub("brumo25", "train"),
    "MathArena/cmimc_2025": Hub("cmimc25", "train"),
}


def load_problems(source: str, seed: int = 42) -> list[Problem]:
    """Problems of a source (see the top of this file), in the source's order; what was dropped is printed with counts.

    Rows in verl's layout are collapsed by problem text: the public DAPO file repeats each of its 17.9k rows 100 times
    by accident (JustRL's run kept them, which does nothing but put 100 epochs in one). Problems that occur with two
    different answers there are dropped. Rows in plain columns are all kept, so that a benchmark stays whole.
    `seed` matters to liteppo:* and logic:* alone.

    Raises FileNotFoundError (no such file or dataset, hub out of reach) and ValueError (a malformed row: file, line or
    row, and fault), each with one sentence.
    """
    path = Path(source)
    kind, _, rest = source.partition(":")
    if kind == "tiny":
        from tiny import pretrain as tiny  # here, not above: real data needs no tiny world

        split, slash, level = rest.partition("/")
        if not slash:
            raise ValueError(f"{source}: write tiny:SPLIT/LEVEL, such as tiny:train/easy")
        return tiny.problems(split, level)
    if kind == "liteppo":
        return lite_ppo_problems(rest, seed)
    if kind == "logic":
        from trainer.sources import logic  # here, not above: it imports this module

        return logic.load(rest, seed)
    if path.suffix in FILE_KINDS:
        if not path.is_file():
            raise FileNotFoundError(f"{source}: no such file; give {ACCEPTED}")
        return [
            problem
            for problem, _ in _collect(source, _file_rows(path), Hub(path.stem, "", None, None))
        ]
    if path.is_file():
        raise ValueError(f"{source}: unknown kind of file; give {ACCEPTED}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", source):
        raise FileNotFoundError(f"{source}: not a known source; give {ACCEPTED}")
    return [problem for problem, _ in _hub_pairs(source)]


# --- rows of each kind of source: pairs of (place, row), the place for error messages ---


def _file_rows(path):
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path}: not a Parquet file ({error})") from None
        yield from _arrow_rows(file.iter_batches(10_000, columns=_known(file.schema_arrow.names)))
        return
    with open(
        path, "rb"
    ) as file:  # bytes: json finds the encoding, and a bad byte is reported with its line
        if path.suffix == ".json" and file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from (
                (f"row {n}", row) for n, row in enumerate(_parse_json(path.read_bytes(), path), 1)
            )
            return
        file.seek(0)
        for n, line in enumerate(file, 1):
            if line.strip():
                yield f"line {n}", _parse_json(line, f"{path}, line {n}")


def _parse_json(data, place):
    try:
        return json.loads(data)
    except ValueError as error:  # a JSONDecodeError or a UnicodeDecodeError
        raise ValueError(f"{place}: not valid JSON ({error})") from None


def _hub_pairs(source):
    """(Problem, row) pairs of ID, ID:SPLIT or ID:CONFIG/SPLIT."""
    import datasets

    hub_id, _, choice = source.partition(":")
    config, _, split = choice.rpartition("/")
    hub = HUB.get(hub_id, Hub(hub_id.partition("/")[2], "train", None, None))
    split = split or hub.split
    rows = []
    for name in (config,) if config else hub.configs:
        try:
            if hub.folders:
                part = datasets.load_dataset(
                    hub_id, data_files=f"{name}/{split}.parquet", split="train"
                )
            else:
                part = datasets.load_dataset(hub_id, name, split=split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise FileNotFoundError(
                f"{source}: cannot load it from the Hugging Face hub ({reason}); check the network and the name "
                f"(ID, ID:SPLIT or ID:CONFIG/SPLIT), or give a local .jsonl, .json or .parquet file"
            ) from None
        part = part.select_columns(_known(part.column_names)).with_format("arrow")
        rows.append(_arrow_rows(part.iter(10_000)))
    return _collect(source, chain(*rows), hub)


def _known(columns):
    """The columns that we read: the others (worked solutions, above all) are gigabytes in some sets."""
    return [column for column in columns if column in TEXT_COLUMNS + ANSWER_COLUMNS + OTHER_COLUMNS]


def _arrow_rows(batches):
    rows = chain.from_iterable(batch.to_pylist() for batch in batches)
    return ((f"row {n}", row) for n, row in enumerate(rows, 1))


# --- from rows to problems ---


class _Blank(ValueError):
    """The row has no problem or no answer; some hub sets are known for it."""


def _collect(name, numbered_rows, hub):
    """(Problem, row) pairs: the one loop that every dataset passes through. Holds unique problems only."""
    text_columns = (hub.text,) if hub.text else TEXT_COLUMNS
    answer_columns = (hub.answer,) if hub.answer else ANSWER_COLUMNS
    pairs, answers, conflicts, count = [], {}, set(), Counter()
    for place, row in numbered_rows:
        count["rows"] += 1
        try:
            if not isinstance(row, dict):
                raise ValueError(
                    f"expected an object with a problem and an answer, found {type(row).__name__}"
                )
            text = _text(row, text_columns)
            answer = _answer(row, answer_columns)
            verify = row.get("verify")
            if not isinstance(verify, dict | None):
                raise ValueError(f"verify is {type(verify).__name__}; expected an object")
        except ValueError as error:
            if hub.blanks and isinstance(error, _Blank):
                count["blank"] += 1
                continue
            raise ValueError(f"{name}, {place}: {error}") from None
        if isinstance(row.get("prompt"), list):
            if text in answers:
                count["repeated"] += 1
                if answers[text] != answer:
                    conflicts.add(text)
                continue
            answers[text] = answer
        pairs.append((Problem(text, answer, str(row.get("task") or hub.task), verify), row))
    pairs = [pair for pair in pairs if pair[0].text not in conflicts]
    if len(pairs) < count["rows"]:
        print(
            f"{name}: {count['rows']:,} rows, {len(pairs):,} problems kept; {count['repeated']:,} repeated rows "
            f"collapsed, {len(conflicts):,} problems with conflicting answers and {count['blank']:,} blank rows dropped"
        )
    if not pairs:
        raise ValueError(f"{name}: no problems in it")
    return pairs


def _find(row, columns, what):
    """The first of the columns that the row holds something in, and what it holds."""
    for column in columns:
        if row.get(column) is not None:
            return column, row[column]
    if any(column in row for column in columns):
        raise _Blank(f"empty {what}")
    raise ValueError(f"no {what} column; expected one of {', '.join(columns)}")


def _text(row, columns):
    column, value = _find(row, columns, "problem")
    if isinstance(value, list):
        value = _bare_prompt(row, value)
    if not isinstance(value, str):
        raise ValueError(f"{column} is {type(value).__name__}; expected text")
    text = strip_wrapper(value)
    if not text:
        raise _Blank("empty problem")
    return text


def _bare_prompt(row, messages):
    """The problem inside verl's prompt: its raw copy in extra_info, or else the one user message."""
    extra = row.get("extra_info")
    if isinstance(extra, dict) and (raw := extra.get("raw_problem") or extra.get("question")):
        return raw
    if not all(isinstance(message, dict) for message in messages):
        raise ValueError("prompt is not a list of {role, content} messages")
    users = [message.get("content") for message in messages if message.get("role") == "user"]
    if len(users) != 1:
        raise ValueError(f"prompt has {len(users)} user messages; expected one")
    return users[0]


# DAPO's wrapper: a first paragraph that asks for a last line "Answer: $Answer", and a last one that reminds of it.
# Whole paragraphs go, known by their opening words, because the public copies differ in the rest.
WRAPPER_HEAD = "Solve the following math problem step by step."
WRAPPER_TAIL = "Remember to put your answer on its own line after"
# What other preparations append: a recipe appends its own, and asking twice would be another prompt.
INSTRUCTIONS = (
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Let's think step by step and output the final answer within \\boxed{}.",
    'Let\'s think step by step and output the final answer after "####".',
)
CHATML_USER = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)


def strip_wrapper(text: str) -> str:
    """The bare problem. Never cuts by sets of characters (lstrip), which eats into problems that share letters."""
    if text.startswith("<|im_start|>") and (user := CHATML_USER.search(text)):
        text = user[1]
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


def _answer(row, columns):
    column, value = _find(row, columns, "answer")
    if column == "reward_model":
        if not isinstance(value, dict):
            raise ValueError(
                f"reward_model is {type(value).__name__}; expected an object with ground_truth"
            )
        column, value = _find(value, ("ground_truth",), "answer")
    if column == "solution" and isinstance(value, str) and "####" not in value:
        value = last_box(value)
        if value is None:
            raise _Blank("the solution holds no \\boxed{} and no #### with the answer")
    return clean_answer(value)


def clean_answer(value) -> str:
    r"""The gold as a string: "\boxed{204}" -> "204", "025" -> "25", 7.0 -> "7", "... #### 1,080" -> "1080"."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise _Blank("empty answer")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"answer is {type(value).__name__}; expected text or a number")
    answer = str(value).strip()
    if "####" in answer:
        answer = answer.rpartition("####")[2].strip()
        answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
    bare = answer.strip("$ ")
    if bare.startswith("\\boxed{") and _closing_brace(bare, 6) == len(bare) - 1:
        answer = bare[7:-1].strip()
    if padded := re.fullmatch(r"(-?)0+([0-9]+)", answer):
        answer = padded[1] + padded[2]
    if not answer:
        raise _Blank("empty answer")
    return answer


def last_box(text: str) -> str | None:
    r"""Content of the last \boxed{...}, \fbox{...} or bare "\boxed 2" of a worked solution, None without one.

    More lenient than the strict verifier's search, which has to share its reference's quirks: this reads golds.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    box = re.sub(r"^\\(boxed|fbox)\s*", "", text[start:])
    if box.startswith("{"):
        end = _closing_brace(box, 0)
        return box[1:end] if end > 0 else None
    return re.split(r"[\s$]", box)[0]


def _closing_brace(text, opening):
    """Position of the brace that closes the one at `opening`, -1 if none does; escaped braces do not count."""
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return brace.start()
    return -1


# --- Lite PPO's training sets (arXiv 2508.08221, section 3.1) ---

LITE_PPO_SIZE = 5_000
LITE_PPO_EASY = (
    "hkust-nlp/SimpleRL-Zoo-Data:simplelr_qwen_gsm8k_level1/train"  # GSM8K and MATH level 1
)
LITE_PPO_HARDER = "zwhe99/DeepMath-103K"
TRUE_FALSE = {"true", "false", "yes", "no"}


def lite_ppo_problems(level: str, seed: int) -> list[Problem]:
    """5,000 problems: easy = random of SimpleRL-Zoo's easy set, medium = the easiest of DeepMath-103K by its label,
    hard = drawn from DeepMath-103K without replacement, with probability proportional to the label.

    The paper removes "excess" True/False items without saying how many. Here all golds true, false, yes and no go
    before the draw: a guess earns half the reward on them, and of a public 5k sample of DeepMath they are 18 %. So do
    problems without a positive rating. Deterministic in the seed; ties in difficulty are broken by it.
    """
    if level not in ("easy", "medium", "hard"):
        raise ValueError(
            f"liteppo:{level}: no such level; choose liteppo:easy, liteppo:medium or liteppo:hard"
        )
    pairs = _hub_pairs(LITE_PPO_EASY if level == "easy" else LITE_PPO_HARDER)
    rated = [
        (problem, 1.0 if level == "easy" else float(row["difficulty"] or 0))
        for problem, row in pairs
    ]
    pool = [
        (problem, rating)
        for problem, rating in rated
        if rating > 0 and not _is_true_false(problem.answer)
    ]
    rng = random.Random(f"liteppo:{level}:{seed}")
    if level == "medium":
        keys = [(rating, rng.random()) for _, rating in pool]
    else:  # exponential variables with the ratings as rates: the smallest is i with probability rating_i / sum
        keys = [-math.log(1 - rng.random()) / rating for _, rating in pool]
    chosen = sorted(range(len(pool)), key=keys.__getitem__)[:LITE_PPO_SIZE]
    unfit = len(pairs) - len(pool)
    print(
        f"liteppo:{level}: {len(chosen):,} of {len(pool):,} problems, {unfit:,} true/false or unrated ones left out"
    )
    return [Problem(pool[i][0].text, pool[i][0].answer, f"liteppo:{level}") for i in chosen]


def _is_true_false(answer):
    return re.sub(r"\\text(bf)?|[{}$.\s]", "", answer).lower() in TRUE_FALSE


# --- leakage ---


def held_out(problems: list[Problem], reserved: list[Problem]) -> list[Problem]:
    """The training problems whose normalised text is not among the reserved (evaluation) problems; says how many went.

    Overlaps are real: MATH's training set shares 322 problems with AIME 1983-2023 and 286 with 5,000 of DeepMath.
    """
    taken = {normalise(problem.text) for problem in reserved}
    kept = [problem for problem in problems if normalise(problem.text) not in taken]
    if len(kept) < len(problems):
        print(
            f"{len(problems) - len(kept):,} of {len(problems):,} training problems are evaluation problems: dropped"
        )
    return kept


def normalise(text: str) -> str:
    """Lower-case letters, digits, decimal points and operators only: "Find $3 + 5.0$." -> "find3+5.0".

    Operators stay: two problems of MATH differ by one sign.
    """
    return re.sub(r"[^\w+\-*/=<>^!.]|_|(?<!\d)\.|\.(?!\d)", "", text.lower())


# --- prompts ---


def chat_ids(tokenizer, text: str, suffix: str = "", system: str = "") -> list[int]:
    """Token ids of a chat: an optional system turn, the user turn text + suffix, and the generation prompt.

    Raises ValueError if the tokenizer has no chat template or its template refuses the turns. There is no silent
    fall-back to plain text: it would be another prompt than the papers', whose models all have a template.
    """
    import jinja2  # what transformers renders templates with

    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set chat_template in its "
            'tokenizer_config.json ("{% for m in messages %}{{ m.content }}{% endfor %}" gives plain text)'
        )
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text + suffix})
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    except jinja2.TemplateError as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} refuses the prompt ({error})"
        ) from None


def encode_prompts(
    problems: list[Problem], tokenizer, suffix: str, system: str, max_tokens: int
) -> tuple[list[Problem], list[list[int]]]:
    """The problems that fit, and their prompts' token ids. Prompts over max_tokens are dropped, never cut.

    Problems with a verifier of their own (logic puzzles) say how to answer themselves: they get no suffix.
    Raises ValueError if none is left.
    """
    prompts = [
        chat_ids(tokenizer, problem.text, "" if problem.verify else suffix, system)
        for problem in problems
    ]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= max_tokens]
    if not fits:
        shortest = min(map(len, prompts), default=0)
        raise ValueError(
            f"no prompt of {len(prompts):,} fits in {max_tokens} tokens (the shortest has {shortest})"
        )
    if len(fits) < len(prompts):
        print(
            f"{len(prompts) - len(fits):,} of {len(prompts):,} prompts are longer than {max_tokens} tokens: dropped"
        )
    return [problems[i] for i in fits], [prompts[i] for i in fits]


class Order:
    """Endless indices 0..size-1, a fresh permutation each epoch, no index twice within one.

    An epoch's permutation depends on (seed, epoch) alone and uses random.Random.random(), the one draw that Python
    promises to keep the same across versions; so a position is all there is to resume from.
    """

    def __init__(self, size: int, seed: int):
        if size < 1:
            raise ValueError("there is nothing to order: size must be at least 1")
        self.size, self.seed, self.position = size, seed, 0
        self._epoch, self._permutation = -1, []

    def take(self, k: int) -> list[int]:
        """The next k indices; they may cross into the next epoch."""
        return [self._next() for _ in range(k)]

    def _next(self):
        epoch, place = divmod(self.position, self.size)
        if epoch != self._epoch:
            rng = random.Random(f"{self.seed}:{epoch}")
            self._epoch, self._permutation = (
                epoch,
                sorted(range(self.size), key=lambda _: rng.random()),
            )
        self.position += 1
        return self._permutation[place]

    def state(self) -> dict:
        return {"position": self.position, "size": self.size, "seed": self.seed}

    def restore(self, state: dict) -> None:
        """Go to a saved position. Raises ValueError if it was saved over other data or with another seed."""
        for name in ("size", "seed"):
            if state.get(name, getattr(self, name)) != getattr(self, name):
                raise ValueError(
                    f"the checkpoint's data order has {name} {state[name]}, this run's has {getattr(self, name)}: "
                    f"resume with the data and seed that the run began with"
                )
        self.position = state["position"]
