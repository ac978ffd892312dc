"""Plain numbers, exactly: 1/3, 1 4/5, 12,345.67, 4.5e33, 0.1\\overline{6}, 62.5%."""

import re
from fractions import Fraction
from typing import NamedTuple

# Of decimals: relative below 1, absolute above. 0.333333 stands for 1/3.
TOLERANCE = Fraction(1_001, 1_000_000_000)
_NUM = r"(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_FORMS = [
    # -3/4, 1 4/5, (3/4)
    rf"(?P<whole>\d+\s+)?\(?(?P<top>-?{_NUM})\s*/\s*(?P<bottom>{_NUM})\)?",
    # \frac{3}{4}, 1\frac{4}{5}
    rf"(?:(?P<whole>\d+)\s*(?=\\frac\{{\d))?\\frac\{{(?P<top>[+-]?{_NUM})\}}\{{(?P<bottom>[+-]?{_NUM})\}}",
    # 42, 1,234.5
    rf"(?P<decimal>{_NUM})",
    # 4.5e33, 4.5E-3
    rf"(?P<decimal>{_NUM})[eE](?P<exponent>[+-]?\d{{1,3}})",
    # 4.5 \cdot 10^{33}, 4.5 x 10^33
    rf"(?P<decimal>{_NUM})\s*(?:\\cdot|x)\s*10\s*\^\s*\{{?\s*(?P<exponent>[+-]?\d{{1,3}})\s*\}}?",
    # 10^{-5}
    r"10\s*\^\s*\{?\s*(?P<exponent>[+-]?\d{1,3})\s*\}?",
    # 0.1\overline{6}
    r"(?P<head>\d+\.\d*)\\(?:overline|bar|dot)\s*\{?(?P<period>\d+)\}?",
]
_FORMS = [re.compile(rf"(?P<sign>[+-]?)\s*{form}\s*(?P<percent>%?)") for form in _FORMS]


class Number(NamedTuple):
    value: Fraction  # before any percent sign
    percent: bool
    decimal: bool  # written with a decimal point


def parse_number(latex: str) -> Number | None:
    """The number that `latex` is, or None if it is anything else."""
    latex = latex.replace(r"\degree", "").strip()
    found = next(filter(None, (form.fullmatch(latex) for form in _FORMS)), None)
    if not found:
        return None
    groups = {name: (text or "0").replace(",", "") for name, text in found.groupdict().items()}
    if "bottom" in groups:
        if Fraction(groups["bottom"]) == 0:
            return None
        value = Fraction(groups["top"]) / Fraction(groups["bottom"]) + Fraction(groups["whole"])
    elif "period" in groups:
        decimals = len(groups["head"].partition(".")[2])
        repeating = Fraction(int(groups["period"]), 10 ** len(groups["period"]) - 1)
        value = Fraction(groups["head"]) + repeating / 10**decimals
    else:
        value = Fraction(groups.get("decimal", "1")) * Fraction(10) ** int(
            groups.get("exponent", 0)
        )
    if found["sign"] == "-":
        value = -value
    return Number(value, bool(found["percent"]), "." in latex)


def tolerance(number: Fraction) -> Fraction:
    """How far a decimal may be from what it stands for."""
    return TOLERANCE * min(1, abs(number))


def _close(a: Fraction, b: Fraction) -> bool:
    return abs(a - b) <= tolerance(max(abs(a), abs(b)))


def same_number(a: Number, b: Number) -> bool:
    """Accepts 0.333333 for 1/3, 0.4 for 40%, and 40 for 40% (questions that ask for a percentage).

    Rejects 0.33 for 1/3 and 0.4 for 0.4%.
    """
    same = _close if a.decimal or b.decimal else Fraction.__eq__
    if a.percent == b.percent or (same(a.value, b.value) and abs(a.value) >= 1):
        return same(a.value, b.value)
    return same(a.value / 100, b.value) if a.percent else same(a.value, b.value / 100)
