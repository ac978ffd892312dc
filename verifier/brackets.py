"""Cut a text at commas, words or signs that are outside of all brackets."""

import itertools
import re

END = r"(?![a-zA-Z])"  # the end of a command's name
TEXT = rf"\\(?:text(?:bf|it|rm|normal)?|[mh]box|math(?:rm|bf|it|sf)|operatorname){END}\s*"


def _word(words: str) -> str:
    return rf"(?:(?<![\\a-zA-Z])(?:{words})\b|{TEXT}\{{\s*,?\s*(?:{words})\s*\}})\s*"


COMMA = rf"[,;]\s*(?:{_word('and|or')})?|{_word('and|or')}"
OR, AND = rf",?\s*{_word('or')}", rf",?\s*{_word('and')}"
CUP, CAP, WITHOUT = (rf"\\{name}{END}" for name in ("cup", "cap", "setminus"))
RELATION = rf"\\(?:le|ge|ne|equiv){END}|[=<>]"


def depths(latex: str) -> list[int]:
    """The nesting depth after each bracket of any kind."""
    brackets = re.findall(r"[{(\[\])}]", latex)
    return list(itertools.accumulate(1 if bracket in "{([" else -1 for bracket in brackets))


def cut(latex: str, separator: str) -> list[tuple[str, str]]:
    """(the separator before it, part) of each part that is not blank."""
    parts, depth, start, before = [], 0, 0, ""
    for token in re.finditer(rf"(?P<bracket>[{{(\[\])}}])|{separator}", latex):
        if token["bracket"]:
            depth += 1 if token["bracket"] in "{([" else -1
        elif depth == 0:
            parts.append((before, latex[start : token.start()].strip()))
            before, start = token[0], token.end()
    return [pair for pair in (*parts, (before, latex[start:].strip())) if pair[1]]


def split(latex: str, separator: str) -> list[str]:
    return [part for _, part in cut(latex, separator)]


def relations(latex: str) -> tuple[list[str], list[str]]:
    r"""(sides, signs): `1 < x \le 2` -> (["1", "x", "2"], ["<", "\le"])."""
    parts = cut(latex, RELATION)
    if not parts or parts[0][0] or len(cut(latex + " x", RELATION)) > len(parts):
        return [latex], []
    return [part for _, part in parts], [sign for sign, _ in parts[1:]]


def enclosed(latex: str, opening: str, closing: str) -> str | None:
    """What is inside the two brackets, given as patterns, around the whole text; else None."""
    found = re.fullmatch(f"(?:{opening})(.*?)(?:{closing})", latex.strip(), re.DOTALL)
    return found[1].strip() if found and min(depths(found[1]), default=0) >= 0 else None


def elements(latex: str) -> tuple[str, list[str]] | None:
    """("[)", ["1", "2"]) of the tuple or interval [1, 2); None if it is none."""
    inner = enclosed(latex, r"[(\[]", r"[)\]]")
    parts = split(inner, "[,;]") if inner else []
    return (latex.strip()[0] + latex.strip()[-1], parts) if len(parts) > 1 else None
