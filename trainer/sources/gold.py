r"""Turn the answer of a dataset into the gold: what a model would write into its box.

"\boxed{204}", "$204$", 204.0, ["204"], "['204']" and "so it is\n#### 204" all become "204".
"""

import math
import re
from decimal import Decimal

from rewards import final_boxes, joined
from trainer.errors import Refused
from verifier import equal


class Blank(Refused):
    """The row has no problem or no answer. Some public sets are known to have such rows."""

    counted = "blank rows dropped"


class NoAnswer(Blank):
    """The gold says that there is none, as NuminaMath's "proof" and "notfound" do."""

    counted = "rows whose answer says that there is none dropped"


NO_ANSWER = {"proof", "notfound", "n/a", "noanswer", "seesolution"}


def is_missing(value) -> bool:
    """None, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


CONTROL = re.compile(  # LaTeX such as \frac or \text, whose single backslash JSON has read
    r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"
    r"|\t(?=(?:ext(?:bf|it|rm)?|imes|heta|frac|an|au|riangle)(?![a-z]))"
    r"|\r(?=(?:ight(?:arrow)?|angle|ho|floor|ceil)(?![a-z]))|\n(?=(?:eq|abla|otin)(?![a-z]))"
)


def control_fault(text):
    """What is wrong with a control character in a problem or gold; None if there is none."""
    found = CONTROL.search(text)
    return found and (
        f"holds U+{ord(found[0]):04X} as character {found.start() + 1}: LaTeX in JSON needs two "
        "backslashes, as in \\\\frac"
    )


def clean_answer(value) -> str:
    r"""The gold as a string: "\boxed{204}" -> "204", "025" -> "25", 7.0 -> "7", "$x$" -> "x".

    A list of golds, or its text, becomes "1, 2": all of them are asked for. Raises Blank if nothing
    is left, and Refused for anything but text and numbers.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        if any(isinstance(part, list) for part in value):
            raise Refused("answer is a list of lists; expected text or a number")
        if not value:
            raise Blank("empty answer")
        return ", ".join(map(clean_answer, value))
    if is_missing(value):
        raise Blank("empty answer")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise Refused(f"answer is {type(value).__name__}; expected text or a number")
    answer = value if isinstance(value, str) else _digits(value)
    _, mark, answer = answer.rpartition("####")
    if fault := control_fault(answer):
        raise Refused(f"answer {fault}")
    answer = answer.strip()
    if mark:
        answer = (answer.splitlines() or [""])[0].strip()
        if amount := AMOUNT.fullmatch(answer):
            answer = amount[1].replace(",", "")
    while (bare := _unwrap(answer)) != answer:
        answer = bare
    if not re.search(r"\\begin", answer):  # where \\ ends a row
        answer = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", answer)
    if (box := last_box(answer)) is not None:  # maybe with words around it
        return clean_answer(box)
    if number := re.fullmatch(r"(-?)0*(0|[1-9][0-9]*)(?:\.0*)?", answer):
        answer = number[1] + number[2]
    if answer.lower() in ("", "nan", "null"):
        raise Blank("empty answer")
    if re.sub(r"\\text|[{}\s_.$]", "", answer).lower() in NO_ANSWER:
        raise NoAnswer(f"the answer is {answer!r}")
    return answer


def _digits(number):
    """A number in plain digits: 7.0 -> "7", 1e-07 -> "0.0000001"."""
    number = Decimal(repr(number)) if isinstance(number, float) else Decimal(number)
    if number.is_nan():
        raise Blank("empty answer")
    if not number.is_finite():
        raise Refused(f"answer is {number}; expected a finite number")
    digits = f"{number:f}" if number else "0"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


AMOUNT = re.compile(  # $18, 18 dollars
    r"\\?[$€£]?\s*([+-]?[\d,]*\.?\d+(?:/\d+)?)\s*(?:\\?%|[a-zA-Z][a-zA-Z. ]*)?\.?"
)
# One formula and nothing else. "$5" is money, and "$x$ and $y$" is a sentence.
FORMULA = re.compile(r"(\$\$?|\\\(|\\\[)((?:[^$\\]|\\[^()\[\]])*)(?:\1|\\\)|\\\])\s*\.?", re.DOTALL)
BETWEEN_FORMULAS = re.compile(
    r"(?<=\$)\s*,\s*(?=\$)|(?<=\\\))\s*,\s*(?=\\\()|(?<=\\\])\s*,\s*(?=\\\[)"
)
# A list with quotes in it. [1, 2] has none: it is an interval, and stays.
ITEM = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?\d+(?:\.\d+)?)"""
TEXT_LIST = re.compile(rf"(?=.*[\"'])\[+\s*{ITEM}(?:[\s,]+{ITEM})*[\s,]*\]+", re.DOTALL)
LONE_NUMBER = re.compile(r"\[\s*(-?\d+(?:\.\d+)?)\s*\]")  # no interval has one end
# A backslash that no quoting needs: the list was written with its LaTeX as it is.
UNQUOTED_LATEX = re.compile(r"""(?<!\\)(?:\\\\)*\\(?!["'\\]|u[0-9a-fA-F]{4})""")


def _unwrap(answer):
    """The answer without its outermost dollar signs or list brackets."""
    formulas = [FORMULA.fullmatch(part) for part in (answer, *BETWEEN_FORMULAS.split(answer))]
    if formulas[0]:
        return formulas[0][2].strip()
    if len(formulas) > 2 and all(formulas[1:]):
        return ", ".join(formula[2].strip() for formula in formulas[1:])
    if number := LONE_NUMBER.fullmatch(answer):
        return number[1]
    if TEXT_LIST.fullmatch(answer):
        parts = re.findall(ITEM, answer, re.DOTALL)
        parts = [part[1:-1] if part[0] in "\"'" else part for part in parts]
        if not UNQUOTED_LATEX.search(answer):
            parts = [re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescape, part) for part in parts]
        return ", ".join(map(clean_answer, parts))
    return answer


def _unescape(found):
    return chr(int(found[1][1:], 16)) if len(found[1]) > 1 else found[1]


def last_box(text: str) -> str | None:
    r"""The `last_answer` of a solution. Raises Refused if its boxes have different names."""
    boxes = final_boxes(text)
    if len(names := {name for _, name, _ in boxes if name}) > 1:
        raise Refused(f"it has a box each for {', '.join(sorted(names))}; write one answer")
    if boxes and all(equal(content, boxes[-1][2]) for _, _, content in boxes):
        return boxes[-1][2]  # 15 39/40 or 639/40
    return joined(boxes)
