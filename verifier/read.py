r"""The normal form of an answer: a set of solutions, each a map from names to values.

`x=1, y=2` and `(x,y)=(1,2)` are one solution, {x: 1, y: 2}. `x=1 \text{ or } x=2`, `x_1=1, x_2=2`
and `x \in \{1,2\}` are two. What has no name has the name "": the list `1, 2` is two solutions, the
tuple `(1,2)` is one. An equation that is no assignment is a value as well.
"""

import re
from typing import NamedTuple

from .brackets import COMMA, CUP, END, TEXT, cut, elements, enclosed, relations, split
from .normalise import key

Solution = dict[str, str]


class Reading(NamedTuple):
    kind: str  # "" of a bare list, "or" of one with that word, "{}" of a set, "{" without backslash
    solutions: list[Solution]


_DECORATION = r"\s*_(?:\{[^{}]*\}|\\[a-zA-Z]+|\w)\s*|\^\{?-1\}?|\^\s*\\star|'"
_LETTER = rf"\\(?!(?:pi|infty|emptyset){END}|sin|cos|tan|cot|sec|csc)[a-zA-Z]+|[a-zA-Z]"
_ACCENT = r"\\(?:vec|mathbf|mathcal|hat|bar|overline|overrightarrow|tilde)\s*\{[^{}]*\}"
_QUANTITY = "|".join(
    (
        _LETTER,
        r"[A-Z]{2,}|[a-zA-Z]{4,9}",  # the segment AB, area
        _ACCENT,
        rf"{TEXT}\{{[^{{}}]*\}}",
        r"\[[A-Z]{3,}\]",  # an area
        rf"\|\s*(?:[A-Z]{{2}}|{_ACCENT})\s*\|",  # a length
        r"\(\s*[a-zA-Z]\s*(?:\\circ\b|[-+/])?\s*[a-zA-Z]\s*\)\s*\([a-z]\)",  # (f + g)(x)
        r"(?:m\s*)?\\(?:angle|triangle|operatorname)\s*(?:\{?\w+\}?|\\[a-z]+)",
        r"\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*\{?2\}?)?\s*\\?[a-zA-Z]+",
        r"\\(?:max|min|sup|inf|lim|det|dim|deg)\b[^\d+]*",
        r"\\frac\{d\^?\d?\s*[a-z]\}\{d\s*[a-z]\^?\d?\}",
    )
)
_SINGLE = re.compile(rf"(?:{_QUANTITY})\s*")
_RATIO = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_ASSIGNED = rf"=|\\(?:in|approx){END}"
_UNKNOWNS = set("xyztrkmnw") | {"\\lambda"}


def _bare(name: str) -> str:
    """A name without indices, primes and the arguments of a function."""
    bare = re.sub(_DECORATION, "", name)
    call = re.fullmatch(r"(.*?[a-zA-Z}])\s*\(([^()]*)\)\s*", bare)
    return call[1] if call and call[1] not in call[2] else bare.strip()


def is_quantity(latex: str) -> bool:
    r"""Whether this names one quantity: x, a_n, f(2), AB, \angle ABC, \frac{AM}{MB}, S_1:S_2."""
    bare = _bare(latex)
    ratio = _RATIO.fullmatch(bare)
    parts = [*ratio.groups()] if ratio else split(bare, "[:/]")
    several = len(parts) > 1 and all(map(is_quantity, parts))
    return several or _SINGLE.fullmatch(bare) is not None


def is_name(latex: str) -> bool:
    r"""Whether this names something: a quantity, or a sum, product or modulus without a number."""
    if is_quantity(latex) or len(split(latex, "-")) > 1:
        return is_quantity(latex)
    other = rf"[\d,=<>]|\\(?:pm|infty|pi|emptyset|mathbb|begin){END}"
    return bool(re.search("[a-zA-Z]", latex)) and not re.search(other, _bare(latex))


def kind_of(name: str) -> str:
    patterns = {"angle": r"\\angle", "segment": r"[A-Z]{2,}", "function": r"\(", "index": "_"}
    patterns["letter"] = rf"^(?:{_LETTER})'*$"
    return next((kind for kind, pattern in patterns.items() if re.search(pattern, name)), "other")


def holds_kin(value: str, name: str) -> bool:
    """Whether a value holds a name of the same kind: AB = BC, PQ = 2RS, but not f(x) = x."""
    if kind_of(value) != kind_of(name):
        return False
    whole = kind_of(name) not in ("angle", "segment")
    return not whole or (is_quantity(value) and value not in ("e", "i"))


def unindexed(name: str) -> str:
    """The x of x_1 and x_2, which an index alone tells apart; any other name as it is."""
    base = re.sub(r"_(?:\{\d+\}|\d)", "", name)
    return base if base in _UNKNOWNS else name


def _apart(solution: Solution) -> list[Solution]:
    """`x_1 = 1, x_2 = -2` as two solutions of x."""
    bases = {unindexed(name) for name in solution}
    if len(bases) > 1 or bases & solution.keys() or len(solution) == 1:
        return [solution]
    return [{base: value} for base in bases for value in solution.values()]


def _assignment(item: str) -> tuple[tuple[str, ...], list[str]] | None:
    r"""(names, values): `(x,y) = (1,2)` -> (("x", "y"), ["(1,2)"]), `x \in \{1,2\}` -> (("x",),
    ["1", "2"]); `S = 2a = 6` has the value `2a = 6`.
    """
    parts = cut(item, _ASSIGNED)
    if len(parts) < 2 or parts[0][0]:
        return None
    name = parts[0][1]
    names = tuple(map(key, (elements(name) or ("", ()))[1]))
    if len({one.partition("_")[2] for one in names}) == 1:
        names = tuple(one.partition("_")[0] for one in names)  # (x_1, y_1) is (x, y)
    if not names or not all(map(is_quantity, names)):
        if not is_name(name):
            return None
        names = ("?" * (not is_quantity(name)) + _canonical(name),)
    rest = [part for _, part in parts[1:]]
    while len(rest) > 1 and is_name(rest[0]):
        rest = rest[1:]
    if len(rest) == 1 < len(parts) - 1 and is_name(rest[0]):
        return None  # x = y = z
    value = " = ".join(rest)
    opened, inner = _open(value)
    return names, split(inner, COMMA) if opened else [value]


def spread(latex: str) -> str:
    """`x = 2, y = 2` of `x = y = 2`, alone or in a list; any other text is returned as it is."""
    items, found = "", False
    for before, item in cut(latex, COMMA):
        (*names, value), signs = relations(item)
        letters = len(names) > 1 and all(kind_of(key(name)) == "letter" for name in names)
        if letters and set(signs) == {"="} and not is_name(value):
            item, found = ", ".join(f"{name} = {value}" for name in names), True
        items += f"{before} {item}"
    return items if found else latex


def _canonical(name: str) -> str:
    name = re.sub(r"^m\s*(?=\\angle)|\s*:\s*", lambda found: "/" if ":" in found[0] else "", name)
    name = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", name)
    name = re.sub(r"\\(?:vec|mathbf|overrightarrow)\s*\{([^{}]*)\}|\|([A-Z]{2})\|", r"\1\2", name)
    name = re.sub(r"[A-Z]{2,3}$", lambda found: min(found[0], found[0][::-1]), name)  # BA is AB
    return key(name.replace("\\max", "max").replace("\\min", "min"))


def _open(latex: str) -> tuple[str, str]:
    r"""(kind, inner): `\{1,2\} \cup \{3\}` -> ("{}", "1,2, 3"), `{1,2}` -> ("{", "1,2")."""
    sets = [enclosed(part, r"\\\{", r"\\\}") for part in split(latex, CUP)]
    if sets and None not in sets and r"\emptyset" not in sets:
        return "{}", ", ".join(sets)
    inner = enclosed(latex, r"\{", r"\}")
    if inner is None:
        return "", latex
    return ("{", inner) if len(split(inner, COMMA)) > 1 else _open(inner)


def _signs(solution: Solution) -> list[Solution]:
    r"""The two solutions of one with a single `\pm`."""
    if "".join(solution.values()).count(r"\pm") != 1:
        return [solution]
    return [
        {name: one.replace(r"\pm", a).replace(r"\mp", b) for name, one in solution.items()}
        for a, b in ("+-", "-+")
    ]


def read(latex: str) -> Reading:
    kind, inner = _open(latex)
    solutions: list[Solution] = []
    names: tuple[str, ...] = ("",)
    for separator, item in cut(inner, COMMA):
        kind = kind or "or" * ("or" in separator)
        assigned = _assignment(item)
        names, values = assigned or (names, [item])
        for n, value in enumerate(values):
            parts = [value]
            if len(names) > 1:
                parts = (elements(value) or ("", []))[1]
                if len(parts) != len(names):
                    names, parts = ("",), [item if assigned else value]
            new = dict(zip(names, parts, strict=True))
            joins = solutions and assigned and not n and len(names) == 1 and "or" not in separator
            if joins and "" not in new | solutions[-1] and not new.keys() & solutions[-1].keys():
                solutions[-1] |= new
            else:
                solutions.append(new)
    signed = [each for solution in solutions for each in _signs(solution)]
    return Reading(kind, [each for solution in signed for each in _apart(solution)])
