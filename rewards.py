r"""Rule-based rewards for math answers: a string in, +1 or -1 out. No model, and no file of ours, is needed.

    strict_box        JustRL's verifier to the letter (DAPO's strict box): the last box near the end, compared by `==`
    robust            math-verify behind guards, in a worker process that can be killed: few false negatives, no hangs
    robust_many       the same for a whole batch, on all cores
    deepscaler_match  DeepScaleR-style normalised string match, for the "robust verifier" ablation without sympy
    overlong_penalty  DAPO's soft overlong punishment, in tokens

Why a process: sympy can spin for minutes inside one C call or eat all memory on a hostile answer, and neither a thread
nor SIGALRM can stop that; the kernel can. Why a plain `subprocess` that runs this file, and not `multiprocessing`: fork
copies a process that holds CUDA and vLLM threads, spawn and forkserver import the user's `__main__` again. A worker
(`python rewards.py --worker`) reads one JSON line per pair, answers "1" or "0", and ends when its stdin closes, so it
cannot outlive the run, however the run ends.
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

TIMEOUT = 2.0  # seconds of wall clock a worker may spend on one pair
STARTUP = 60  # seconds a worker may need to import math-verify (cold disk, busy cores)
MEMORY = 2 << 30  # bytes of address space of one worker
LONGEST = 300  # characters; the longest MATH-500 answer has 159
TOLERANCE = Fraction(1, 1_000_000)  # of decimals: relative below 1, absolute above


# ---------------------------------------------------------------- the box, JustRL's reward, the length penalty


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` of `text`, or None if it has none or the last one never closes.

    Braces are counted without escapes, as DAPO's code does: `\}` closes. An unclosed last box voids an earlier one.
    """
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    start += len(r"\boxed{")
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    return None


def strict_box(response: str, answer: str) -> float:
    """JustRL's training reward: +1.0 if the last box in the last 100 characters is `answer` to the letter, else -1.0.

    No normalisation, not even strip, on either side. (DAPO's code cuts to 300 characters first; 100 of 300 is 100.)
    """
    return 1.0 if last_boxed(response[-100:]) == answer else -1.0


def overlong_penalty(length: int, max_length: int, buffer: int, factor: float = 1.0) -> float:
    """DAPO's soft overlong punishment (eq. 13, veRL's form), to be added to the reward; in [-factor, 0].

    length, max_length, buffer are response tokens: 0 up to max_length - buffer, then linear, -factor at max_length.
    Raises ValueError unless 0 < buffer <= max_length.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"The overlong buffer must lie between 1 and max_length={max_length} tokens, not {buffer}."
        )
    return min(0.0, -(length - (max_length - buffer)) / buffer * factor)


# ---------------------------------------------------------------- robust: one spelling

_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\cdot ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
    }
    | {
        "°": r"^\circ ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
    }
    | {
        "±": r"\pm ",
        "²": "^2",
        "³": "^3",
        "½": r"\frac12 ",
        "¼": r"\frac14 ",
        "¾": r"\frac34 ",
        "，": ",",
        "％": "%",
    }
    | {
        "θ": r"\theta ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_FUNCTIONS = "arcsin|arccos|arctan|sin|cos|tan|sec|csc|cot|sqrt|ln|log|exp|pi"
_TEXT = r"\\(?:text|mbox|hbox|mathrm|textbf|textit|textrm|textnormal|mathbf|mathit|mathsf|operatorname)\s*"
_REWRITES = [  # in this order; \W closes a command's name
    (re.compile(pattern.replace(r"\W", "(?![a-zA-Z])")), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|[bB]igg?[lrm]?)\W\.?|\\(?:displaystyle|textstyle|limits)\W", ""),
        (r",\\!\s*|(?<=\d)\{,\}(?=\d)", ","),
        (r"(?<!\\)\\[,;:!> ]|~|\\q?quad\W|\s+", " "),
        (r"\\?\$|(?<!\\)\\[()\[\]]|[€£]", ""),
        (r"\\%|\\?percent(?:age)?\b|(?:\\text|\\mbox)\s*\{\s*(?:\\?%|percent)\s*\}", "%"),
        (r"\^\s*\{?\s*\\(?:circ|degree)\W\s*\}?|\\degrees?\W", ""),
        (r"\\[dtc](frac|binom)\W", r"\\\1"),
        (r"\\(?:times|ast)\W|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\\([lg])(?:eq|eqslant|eqq)\W", r"\\\1e "),
        (r"\\neq\W", r"\\ne "),
        (r"\\varnothing\W", r"\\emptyset "),
        (r"\\([lr])brace\W", lambda found: r"\{" if found[1] == "l" else r"\}"),
        (r"\\([lr])angle\W", lambda found: "(" if found[1] == "l" else ")"),
        (r"(?<=[a-zA-Z)])'(?![a-zA-Z'])", r"^{\\prime}"),  # math-verify drops quotes
        (r"\\(?:mathrm|text)\s*\{\s*([ei])\s*\}", r"\1"),
        (r"\b(?:np|math|numpy|sympy)\.(?=[a-z])", ""),
        (rf"(?<![\\a-zA-Z])({_FUNCTIONS})\W", r"\\\1"),
        (r"√\s*(\d+)", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}"),
        (r"\\frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}"),
        (r"(?<=\d)\.(?!\d)(?=\s*[^\s.\\])", ""),
        (r"\\(begin|end)\{[bvBV]?matrix\}", r"\\\1{pmatrix}"),
        (r"^\s+|[\s.,;:]+$", ""),
    )
]
_THOUSANDS = re.compile(
    r"([+-]?[1-9]\d{0,2}(?:[, ]\d{3})+)(?![\d,])((?:\.\d+)?\s*(?:%|\\?[a-zA-Z].*)?)"
)
_UNITS = {  # every name -> the first one: 5 cm and 5 m differ, 5 cm and 5 do not
    name: names.split()[0]
    for names in re.findall(
        r"[^;]+",
        "cm centimeter centimeters centimetres;m meter meters metres;mm millimeter millimeters;km kilometer kilometers;"
        "in inch inches;ft foot feet;yd yard yards;mi mile miles;g gram grams;kg kilogram kilograms;mph;acre acres;"
        "s sec second seconds;min mins minute minutes;h hr hrs hour hours;day days;month months;yr year years;"
        "deg degree degrees;rad radian radians;dollar dollars USD;cent cents;l liter liters litres;am AM;pm PM;"
        "week weeks;unit units;lb lbs pound pounds;oz ounce ounces;gal gallon gallons",
    )
    for name in names.split()
}
_LONG_UNITS = "|".join(name for name in _UNITS if len(name) > 1)
_POWER = r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?\s*$"
_UNIT_TEXT = re.compile(rf"(?<=[\d}})\]a-z])\s*{_TEXT}\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}{_POWER}")
_WORDS = rf"(?:(?:square|cubic|sq|cu) )?(?:{_LONG_UNITS})"
_UNIT_WORD = re.compile(
    rf"(?<=[\d}})])(?:\s*({_WORDS})|\s+([mgshl]|(?<=\d )[a-z]{{3,}}(?: [a-z]+)*)){_POWER}"
)
_NOT_UNIT = re.compile(
    r"\b(?:or|and|not|no|more|less|than|least|most|if|for|when|where|to)\b|[\\=<>]"
)


@functools.lru_cache(maxsize=4096)
def normalise(text: str) -> tuple[str, str]:
    """(LaTeX, unit): one spelling for fractions, spaces, degrees, thousands, ...; the unit cut off, "" if unknown."""
    unit = "dollar" if text.lstrip("$ ").startswith(r"\$") else ""
    text = text.translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if found := _UNIT_TEXT.search(text) or _UNIT_WORD.search(text):
        words = next(filter(None, found.groups()), "").strip(" .()")
        known = _UNITS.get(words.replace(".", "").split(" ")[-1], "")
        if not _NOT_UNIT.search(words.lower()) and (known or not text[found.start() - 1].isalpha()):
            text, unit = text[: found.start()], "" if re.search(r"\bper\b|unit|/", words) else known
    if thousands := _THOUSANDS.fullmatch(text):
        text = re.sub("[, ]", "", thousands[1]) + thousands[2]
    return text, unit


def _key(latex: str) -> str:
    """A spelling to compare by `==`: text unwrapped, no spaces, no braces around one character, words in lower case."""
    key = re.sub(_TEXT + r"\{([^{}]*)\}", r"\1", latex)
    key = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", key).rstrip(".")  # "4 2" is not 42
    key = re.sub(r"\{(\w)\}", r"\1", key)
    if wrapped := re.fullmatch(
        r"\(?([A-Z])\)?[.:]?|\((\w+)\)(_.*)", key
    ):  # the choice (C), and (52)_8
        return wrapped[1] or wrapped[2] + wrapped[3]
    return key.lower() if re.fullmatch(r"[a-zA-Z,'-]{3,}", key) else key


# ---------------------------------------------------------------- robust: plain numbers, exactly

_NUM = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?P<sign>[+-]?)\s*(?:
        (?:(?P<mixed>\d+)\s*(?=\\frac\{{\d))?\\frac\{{(?P<top>[+-]?(?:{_NUM}))\}}\{{(?P<bottom>[+-]?(?:{_NUM}))\}}
      | (?P<whole>\d+\s+)?\(?(?P<over>-?(?:{_NUM}))\s*/\s*(?P<under>{_NUM})\)?
      | (?P<decimal>{_NUM})?(?:(?:(?<=[\d.])[eE]|(?:(?<=[\d.])\s*(?:\\cdot|x)\s*|(?<![\d.]))10\s*\^)\s*
            \{{?\s*(?P<exponent>[+-]?\d{{1,3}})\s*\}}?)?
      | (?P<head>\d+\.\d*)\\(?:overline|bar|dot)\s*\{{?(?P<period>\d+)\}}?
    )\s*(?P<percent>%?)""",
    re.VERBOSE,
)


def _number(latex: str) -> tuple[Fraction, bool, bool] | None:
    """(value before any percent sign, is it a percentage, is it a decimal) of a plain number; None if it is not one."""
    found = _NUMBER.fullmatch(latex.strip())
    if not found or not re.search(r"\d", latex):
        return None

    def part(name: str) -> Fraction:
        return Fraction((found[name] or "0").replace(",", ""))

    if found["bottom"] or found["under"]:
        bottom = part("bottom") + part("under")
        if bottom == 0:
            return None
        value = part("mixed") + part("whole") + (part("top") + part("over")) / bottom
    elif found["period"]:
        shift = 10 ** len(found["head"].partition(".")[2])
        value = part("head") + part("period") / (10 ** len(found["period"]) - 1) / shift
    else:
        value = (part("decimal") if found["decimal"] else 1) * Fraction(10) ** int(part("exponent"))
    return -value if found["sign"] == "-" else value, bool(found["percent"]), "." in latex


def _close(a, b) -> bool:
    """Whether two numbers agree to TOLERANCE, relative below 1 and absolute above."""
    return a == b or abs(a - b) <= TOLERANCE * min(1, max(abs(a), abs(b)))


def _same_number(a: tuple, b: tuple) -> bool:
    """1/3 = 0.333333, 40% = 0.4, and 40 for 40% (a question for percents); 0.33, or 0.4 for 0.4%, is not equal."""
    (a, a_percent, a_decimal), (b, b_percent, b_decimal) = a, b
    same = _close if a_decimal or b_decimal else Fraction.__eq__
    if a_percent == b_percent or (same(a, b) and abs(a) >= 1):
        return same(a, b)
    return same(a / 100, b) if a_percent else same(a, b / 100)


# ---------------------------------------------------------------- robust: the verdict without algebra, the guards

_ASSIGNMENTS = re.compile(  # x =, f(x) =, x_1 =, x \in, x \approx; also in chains
    r"(?:\\?[a-zA-Z]\w{0,8}(?:_\{?\w+\}?)?(?:\([\w, ]+\))?'?\s*(?:=|\\(?:in|approx)(?![a-z]))\s*)+|\\approx(?![a-z])"
)


def _values(answer: str, gold: str) -> tuple[str, str]:
    """Both without the assignments they start with: x = 5 is 5. But x = 5 is not y = 5, and x = 1, y = 2 stays."""
    found = _ASSIGNMENTS.match(answer), _ASSIGNMENTS.match(gold)
    if all(found) and (_key(found[0][0]) != _key(found[1][0]) or "=" in gold[found[1].end() :]):
        return answer, gold
    return tuple(
        side[match.end() :].strip() if match else side
        for side, match in zip((answer, gold), found, strict=True)
    )


def _quick(answer: str, gold: str) -> bool | None:
    """The verdict that needs no algebra: equal spelling, or two plain numbers. None: not settled."""
    (answer, answer_unit), (gold, gold_unit) = normalise(answer), normalise(gold)
    if not answer or not gold or (answer_unit and gold_unit and answer_unit != gold_unit):
        return False
    answer, gold = _values(answer, gold)
    answer_key, gold_key = _key(answer), _key(gold)
    if answer_key == gold_key:
        return True
    if (label := re.match(r"\(([A-Z])\)|([A-Z])[):.]", answer_key)) and (
        label[1] or label[2]
    ) == gold_key:
        return True  # the choice with its text: (C) 12
    based = [re.fullmatch(r"(\w+)_(?:\{(\d+)\}|(\d))", key) for key in (answer_key, gold_key)]
    if all(based) and based[0].groups() != based[1].groups():
        return False  # math-verify ignores the base of 52_8
    numbers = _number(answer), _number(gold)
    return _same_number(*numbers) if all(numbers) else None


_HOSTILE = re.compile(
    r"""\d{40}                                # long numbers
      | \^\s*[{(]*\s*[+-]?[\d,.]{5,}          # large exponents
      | [)}\]]\s*\^\s*[{(]*\s*[\d,.]{3,}      # powers of sums, which sympy expands
      | \^\s*[{(][^{}()]*\d[\s})]*\^          # power towers of numbers
      | \^\s*\\?\w+\s*\^
      | \^[^^]*\^\s*[{(][^^{}()]*\^           # three storeys of any kind
      | \d{4}[\s)}]*! | ![\s)}\]]*!           # large factorials, factorials of factorials
      | \\(?:sum|prod|coprod|i*nt|oint|lim|bigcup|bigcap)(?![a-zA-Z])
      | \\binom\s*\{[^{}]*\d{4} | (?:\\binom.*){3}
      | (?:\\(?:sin|cos|tan|cot|sec|csc|arc\w+|ln|log|exp)[\s({^\d]*){4}  # functions of functions of ...
      | __|[\x00-\x08\ud800-\udfff]
    """,
    re.VERBOSE,
)


def _depths(latex: str) -> list[int]:
    """The nesting depth after each bracket of any kind."""
    return list(
        itertools.accumulate(
            1 if bracket in "{([" else -1 for bracket in re.findall(r"[{(\[\])}]", latex)
        )
    )


def _tractable(latex: str) -> bool:
    """Whether sympy may see this: short, balanced, shallow, no power tower, large factorial or big operator."""
    depths = [0, *_depths(latex)]
    balanced = (
        min(depths) == depths[-1] == 0
    )  # else math-verify reads the balanced start and drops the rest
    return balanced and max(depths) <= 10 and len(latex) <= LONGEST and not _HOSTILE.search(latex)


# ---------------------------------------------------------------- in the worker: structure, then math-verify


def _split(latex: str, separator: str) -> list[str]:
    """`latex` cut at every match of `separator` that stands outside all brackets; empty parts are dropped."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"(?P<bracket>[{{(\[\])}}])|{separator}", latex):
        if token["bracket"]:
            depth += 1 if token["bracket"] in "{([" else -1
        elif depth == 0:
            parts.append(latex[start : token.start()])
            start = token.end()
    return [part.strip() for part in (*parts, latex[start:]) if part.strip()]


_CUP = r"\\cup(?![a-z])"
_AND = rf"(?:\b(?:and|or)\b|{_TEXT}\{{\s*(?:and|or)\s*\}})\s*"
_COMMA = rf"[,;]\s*(?:{_AND})?|{_AND}"


def _elements(latex: str) -> tuple[str, list[str]]:
    r"""(brackets, elements) of a tuple, interval, set or bare list: "[1, 2)" -> ("[)", ["1", "2"]); `\pm` gives two."""
    if column := re.fullmatch(r"\\begin\{pmatrix\}([^&]*)\\end\{pmatrix\}", latex):
        latex = (
            "(" + column[1].replace(r"\\", ",") + ")"
        )  # a column vector may be written as a tuple
    brackets, inner = "", re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", latex)
    if inner and min(_depths(inner[2]), default=0) >= 0 and len(_split(inner[2], _COMMA)) > 1:
        brackets, latex = inner[1][-1] + inner[3][-1], inner[2]
    parts = _split(latex, _COMMA)
    if brackets in ("", "{}"):
        parts = [
            part.replace(r"\pm", sign)
            for part in parts
            for sign in ("+-" if part.count(r"\pm") == 1 else [r"\pm"])
        ]
    return brackets, parts


def _matched(answers: list[str], golds: list[str]) -> bool:
    """Equal in some order: each gold takes its first equal among the answers that are left."""
    left = list(answers)
    for gold in golds:
        equal = next((answer for answer in left if equivalent(answer, gold)), None)
        if equal is None:
            return False
        left.remove(equal)
    return not left


def equivalent(answer: str, gold: str) -> bool:
    """The full comparison, run in a worker: tuples, intervals, sets, lists by element, the rest by math-verify."""
    verdict = _quick(answer, gold)
    if verdict is not None:
        return verdict
    answer, gold = normalise(answer)[0], normalise(gold)[0]
    unions = _split(answer, _CUP), _split(gold, _CUP)
    if len(unions[0]) == len(unions[1]) > 1 and _matched(*unions):
        return True
    (answer_kind, answers), (gold_kind, golds) = map(_elements, _values(answer, gold))
    if len(answers) == 1 or len(golds) == 1:
        return _algebra(answer, gold)
    if {answer_kind, gold_kind} <= {"", "{}"}:
        return _matched(answers, golds)
    ordered = answer_kind == gold_kind or {answer_kind, gold_kind} == {"", "()"}
    return ordered and len(answers) == len(golds) and all(map(equivalent, answers, golds))


@functools.lru_cache(maxsize=256)
def _parse(latex: str) -> list:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse  # half a second: only workers pay it

    # Its unit stripper is off: it takes the t of 12 + 10t for a unit. Ours came before.
    spelling = NormalizationConfig(
        basic_latex=True, malformed_operators=True, nits=True, units=False, boxed="last"
    )
    config = LatexExtractionConfig(normalization_config=spelling)
    return parse(
        r"\boxed{" + latex + "}", [config], fallback_mode="no_fallback", parsing_timeout=None
    )


def _algebra(answer: str, gold: str) -> bool:
    """math-verify's verdict, but numbers must also agree to TOLERANCE (it calls all tiny ones equal)."""
    from math_verify import verify

    golds, answers = _parse(gold), _parse(answer)
    if not golds or not answers or not verify(golds, answers, timeout_seconds=None):
        return False
    values = [getattr(side[0], "doit", lambda: None)() for side in (answers, golds)]
    if all(getattr(value, "is_number", False) and value.is_finite for value in values):
        return bool(_close(*(value.evalf(30) for value in values)))
    return True


def _work() -> None:
    """A worker's loop: one JSON pair a line on stdin, "1" or "0" on stdout, the end at EOF."""
    import logging
    import resource

    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that a stray print of a library cannot pass for a verdict
    logging.disable()
    if not equivalent(
        r"\frac{x}{2}+1", r"1+\frac12x"
    ):  # import and warm up before the clock starts
        sys.exit("rewards.py: math-verify does not work here; is its antlr4 extra installed?")
    with contextlib.suppress(ValueError, OSError):  # macOS knows no address-space limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", file=replies)
    for line in sys.stdin:
        signal.alarm(
            int(TIMEOUT) + 1
        )  # its default action kills: a hung worker ends even if nobody is left to kill it
        try:
            verdict = equivalent(*json.loads(line))
        except Exception:  # sympy raises anything on odd input, MemoryError and RecursionError included: not proven equal
            verdict = False
        signal.alarm(0)
        print(int(verdict), file=replies)


# ---------------------------------------------------------------- in the parent: the pool


def _cores() -> int:
    """Cores for this process: those it may use, shared with the other ranks that torchrun started on this machine."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(32, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _new_slots() -> None:
    """Empty the pool. A slot holds an idle worker or None (none started yet); LIFO keeps as few running as will do."""
    global _SLOTS
    _SLOTS = queue.LifoQueue()
    for _ in range(_cores()):
        _SLOTS.put(None)


_new_slots()
os.register_at_fork(
    after_in_child=_new_slots
)  # a forked child must not talk into its parent's pipes


def _start_worker() -> subprocess.Popen:
    if importlib.util.find_spec("math_verify") is None:
        raise RuntimeError(
            "The robust reward needs math-verify: pip install 'math-verify[antlr4_13_2]==0.9.0'."
        )
    pipe = subprocess.PIPE
    worker = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--worker"],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=os.environ
        | {
            "PYTHONSAFEPATH": "1"
        },  # or our data.py, plot.py, ... could stand in for others' modules
        start_new_session=True,  # Ctrl-C is the parent's business
    )
    if _reply(worker, STARTUP) != b"ready\n":
        worker.kill()
        raise RuntimeError(
            f"A reward worker did not start within {STARTUP} s: run `python rewards.py --worker` to see why."
        )
    return worker


def _reply(worker: subprocess.Popen, seconds: float) -> bytes:
    """The worker's next line; empty if it died or the time is up."""
    poll = select.poll()
    poll.register(worker.stdout, select.POLLIN)
    return worker.stdout.readline() if poll.poll(seconds * 1000) else b""


def _ask_worker(answer: str, gold: str) -> bool:
    """`equivalent` in a worker process; False if it hangs (it is killed), dies or runs out of memory."""
    worker, reply = _SLOTS.get(), b""
    try:
        if worker is None or worker.poll() is not None:
            worker = _start_worker()
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(
                json.dumps([answer, gold]).encode() + b"\n"
            )  # ASCII: lone surrogates pass as escapes
            reply = _reply(worker, TIMEOUT)
    finally:
        if (
            worker and not reply
        ):  # hung, dead, or we were interrupted: it may still owe a reply, so never reuse it
            with worker:
                worker.kill()
            worker = None
        _SLOTS.put(worker)
    return reply == b"1\n"


def _judge(answer: str | None, gold: str) -> bool | None:
    """The verdict that needs no worker, or None."""
    if (
        not isinstance(answer, str)
        or not isinstance(gold, str)
        or not answer.strip()
        or not gold.strip()
    ):
        return False
    if answer.strip() == gold.strip():
        return True
    if max(len(answer), len(gold)) > 4 * LONGEST:
        return False
    verdict = _quick(answer, gold)
    if verdict is None and not (
        _tractable(normalise(answer)[0]) and _tractable(normalise(gold)[0])
    ):
        return False
    return verdict


def robust(response: str, answer: str) -> float:
    r"""+1.0 if the last box of `response` is mathematically equal to `answer`, else -1.0; never slower than about 3 s.

    Equal spelling and plain numbers are settled here; everything else by math-verify in a worker, unless it is over
    300 characters or hostile (power towers, huge factorials, deep nesting, ...), which only an equal spelling passes.
    Safe from any thread. Raises RuntimeError if math-verify is not installed.
    """
    return robust_many([response], [answer])[0]


def robust_many(
    responses: list[str], answers: list[str], workers: int | None = None
) -> list[float]:
    """`robust` of each pair, over a pool of `workers` processes (default: one a core); equal pairs are judged once."""
    pairs = [
        (last_boxed(response) if isinstance(response, str) else None, answer)
        for response, answer in zip(responses, answers, strict=True)
    ]
    verdicts = {pair: _judge(*pair) for pair in dict.fromkeys(pairs)}
    open_pairs = [pair for pair, verdict in verdicts.items() if verdict is None]
    if len(open_pairs) == 1:
        verdicts[open_pairs[0]] = _ask_worker(*open_pairs[0])
    elif open_pairs:
        with ThreadPoolExecutor(min(workers or _cores(), len(open_pairs))) as pool:
            verdicts.update(
                zip(open_pairs, pool.map(lambda pair: _ask_worker(*pair), open_pairs), strict=True)
            )
    return [1.0 if verdicts[pair] else -1.0 for pair in pairs]


# ---------------------------------------------------------------- DeepScaleR-style string match


def _mathd(text: str) -> str:
    """The MATH normaliser's idea: one LaTeX spelling, units and decoration gone, then plain string equality."""
    text = text.strip().replace("\n", "").replace(r"\!", "").replace(r"\\", "\\")
    text = re.sub(r"\\[td]frac", r"\\frac", text)
    text = re.sub(r"\\left|\\right|\^\{?\\circ\}?|\\\$|\\?%", "", text)
    text = re.sub(r"\\text\{ .*$", "", text)  # a unit follows a space
    text = re.sub(r"^\\text\{(.+)\}$", r"\1", text)
    text = re.sub(r"(^|[ {])\.(?=\d)", r"\g<1>0.", text)
    text = re.sub(r"^[^=]{1,2}=([^=]+)$", r"\1", text.replace(" ", ""))  # k = 5
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


def deepscaler_match(response: str, answer: str) -> float:
    """+1.0 if the last box equals `answer` after a MATH-style normalisation of both, else -1.0."""
    box = last_boxed(response)
    return (
        1.0
        if box is not None
        and len(box) + len(answer) < 4 * LONGEST
        and _mathd(box) == _mathd(answer)
        else -1.0
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--worker"]:
        sys.exit(
            "rewards.py: this is a library; `import rewards`. (Its own workers call it with --worker.)"
        )
    _work()
