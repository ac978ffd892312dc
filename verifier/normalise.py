r"""One spelling for LaTeX that means the same, and the unit cut off: `\dfrac12\,\text{cm}` ->
`\frac{1}{2}` and cm.
"""

import functools
import re
from typing import NamedTuple

from .units import Unit, parse_unit

END = r"(?![a-zA-Z])"  # the end of a command's name
TEXT = rf"\\(?:text(?:bf|it|rm|normal)?|[mh]box|math(?:rm|bf|it|sf)|operatorname){END}\s*"

_GREEK_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma
sigma tau upsilon phi chi psi omega
"""
_GREEK = _GREEK_NAMES.split()
_SYMBOLS = str.maketrans(
    {
        **{chr(ord("α") + index): rf"\{name} " for index, name in enumerate(_GREEK)},
        **{minus: "-" for minus in "−–‐‑"},
        **{times: r"\cdot " for times in "×·⋅∙"},
        **{space: " " for space in "\u00a0\u2009\u202f"},
        **{chr(ord("₀") + digit): f"_{digit}" for digit in range(10)},
        **dict(zip("²³⁴", ("^2", "^3", "^4"), strict=True)),
        **dict(zip("½¼¾", (r"\frac12 ", r"\frac14 ", r"\frac34 "), strict=True)),
        **dict(zip("≤≥≠≈", (r"\le ", r"\ge ", r"\ne ", r"\approx "), strict=True)),
        **dict(zip("∪∩∈∖", (r"\cup ", r"\cap ", r"\in ", r"\setminus "), strict=True)),
        **dict(zip("∞±∅ℝ", (r"\infty ", r"\pm ", r"\emptyset ", r"\mathbb{R}"), strict=True)),
        **dict(zip("÷′，％√°", ("/", "'", ",", "%", r"\sqrt ", r"^\circ "), strict=True)),
    }
)
_FUNCTIONS = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|sqrt|ln|log|exp|gcd|lcm|pi"
)
_EXPONENT = r"(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)"
_UNIT_PART = rf"{TEXT}\{{[^{{}}]*\}}{_EXPONENT}?"
_WORD = "(?:[A-Z]?[a-z]{2,}|YES|NO|TRUE|FALSE|NONE)"
_DOTS = r"(?:\\[lc]?dots(?![a-zA-Z])|\.\.\.|…)"
_LEAD = (
    r"(?i:(?:about|approximately|approx)\b\.?"
    r"|(?:the )?(?:final )?(?:answer|result|value)(?: is|:| is:)\s*[:=]?\s*)"
)


def _relation(found: re.Match) -> str:
    return rf"\{found[1] or {'<': 'l', '>': 'g'}[found[2]]}e "


def _unwrap(found: re.Match) -> str:
    """The content of a command, if its brace closes at the very end."""
    depth = 0
    for char in found[1]:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return found[0]
    return found[1]


_REWRITES = [  # in this order
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Size and style say nothing.
        (rf"\\(?:left|right|[bB]igg?[lrm]?){END}\.?", ""),
        (rf"\\(?:display|text|script)style{END}|\\limits{END}|\\phantom\s*\{{[^{{}}]*\}}", ""),
        (rf"\\(?:normalsize|small|large|Large|LARGE|huge|Huge){END}", ""),
        (r"\\(?:text)?color\s*\{\w+\}|\\underline(?=\s*\{)|\\checkmark|\\\\\s*$", ""),
        (r"^\s*\\boxed\s*\{(.*)\}\s*$", _unwrap),
        (rf"^\s*(?:{TEXT}\{{\s*{_LEAD}\s*\}}|{_LEAD})\s*", ""),
        # 0.333... is 0.\overline{3}.
        (rf"(\d\.\d*?)(\d+?)\2{{2,}}\s*{_DOTS}", r"\1\\overline{\2}"),
        (rf"(?<=\d)\s*{_DOTS}\s*$", ""),
        # Spaces, and commas between digits.
        (rf"{TEXT}\{{\s*\}}", " "),
        (r"(?<!\d)0\{,\}(?=\d)", "0."),
        (r",\\!\s*|(?<=\d)\{,\}(?=\d)", ","),
        (rf"(?<!\\)\\[,;:!> ]|~|\\q?quad{END}|\\[hv]space\s*\{{[^{{}}]*\}}|\s+", " "),
        # Math mode and currency.
        (r"\\?\$|(?<!\\)\\[()\[\]]|[€£]", ""),
        # Percent and degrees.
        (r"\\%|\\?percent(?:age)?\b|(?:\\text|\\mbox)\s*\{\s*(?:\\?%|percent)\s*\}", "%"),
        (rf"\^\s*\{{?\s*\\(?:circ|degree){END}\s*\}}?|\\degrees?{END}", r"\\degree "),
        (r"\\degree\s*(?:\\(?:text|mathrm)\s*\{\s*[CF]\s*\}|[CF]\b)", r"\\degree "),
        (rf"^\s*(?:{TEXT}|\\boldsymbol\s*|\\bm\s*)\{{(\s*(?:-\s*)?[\d\\].*)\}}\s*$", _unwrap),
        # Commands with several names.
        (rf"\\[dtc](frac|binom){END}", r"\\\1"),
        (rf"\{{([^{{}}]*?)\\choose{END}([^{{}}]*)\}}", r"\\binom{\1}{\2}"),
        (r"\^\s*\{?\s*(?:\*|\\ast(?![a-zA-Z]))\s*\}?(?!\*)", r"^\\star "),
        (r"\\nabla\s*\\times", r"\\nabla\\cross "),
        (r"\\times(?=\s*\\(?:vec|mathbf|hat|boldsymbol|overrightarrow))", r"\\cross "),
        (rf"\\(?:times|ast|cdotp){END}|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (rf"\\([lg])(?:eq|eqslant|eqq){END}|([<>])=", _relation),
        (rf"\\neq{END}|!=", r"\\ne "),
        (rf"\\lt{END}", "<"),
        (rf"\\gt{END}", ">"),
        (rf"\\(?:simeq|doteq){END}", r"\\approx "),
        (rf"\\varnothing{END}", r"\\emptyset "),
        (rf"\\infinity{END}|(?<![\\a-zA-Z])(?:infinity|oo){END}", r"\\infty "),
        (
            rf"(?:{TEXT}\{{)?\s*(?i:all real numbers|all reals)\s*\}}?|\\(?:Reals|R){END}",
            r"\\mathbb{R}",
        ),
        (rf"\\var(epsilon|phi|theta|rho){END}", r"\\\1"),
        (rf"\\[lr]?vert{END}", "|"),
        (rf"\\lbrace{END}", r"\\{"),
        (rf"\\rbrace{END}", r"\\}"),
        (rf"\\langle{END}", "("),
        (rf"\\rangle{END}", ")"),
        (rf"\\prime{END}\s*", "'"),
        (r"\^\s*(?:\{\s*('+)\s*\}|('+))", r"\1\2"),
        (r"\\(?:mathrm|text)\s*\{\s*([dei])\s*\}", r"\1"),
        # Plain text and Python.
        (r"\b(?:np|math|numpy|sympy)\.(?=[a-z])", ""),
        (rf"(?<![\\a-zA-Z])((?:{_FUNCTIONS}){END}|(?:max|min)(?=\s*[({{]))", r"\\\1"),
        # Arguments in braces.
        (r"\\(sqrt)\s*(\d+)", r"\\\1{\2}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}"),
        (r"\\frac\s*\{\s*([^{}]*?)\s*\}\s*\{\s*([^{}]*?)\s*\}", r"\\frac{\1}{\2}"),
        (rf"\\frac\{{({_UNIT_PART})\}}\{{({_UNIT_PART})\}}\s*$", r"\1/\2"),
        # The rest.
        (r"(?<=\d)\.(?!\d)(?=\s*[^\s.\\])", ""),
        (r"\\(begin|end)\{(?:[bvBV]|small)?matrix\}", r"\\\1{pmatrix}"),
        (r"^\s*[(\[]\s*(\\begin\{(?:pmatrix|array)\}[^()\[\]]*?\\end\{\w+\})\s*[)\]]\s*$", r"\1"),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"^\s+|[\s.,;:]+$", ""),
    )
]


_UNIT_TEXT = re.compile(  # \text{...} at the end
    rf"(?<=[\d}})\]a-z])\s*{TEXT}\{{(?P<words>(?:[^{{}}]|\{{[^{{}}]*\}})*)\}}(?P<power>{_EXPONENT}?)"
    rf"(?P<more>(?:\s*(?:/|\\cdot)\s*{_UNIT_PART})*)\s*$"
)
_UNIT_BARE = re.compile(  # km/h, sq cm, m s^{-2} or words at the end
    rf"(?:(?<=[\d}})])|(?<=\\pi ))\s*(?P<words>(?:(?:square|cubic|sq|cu) )?[a-zA-Zμµ]++{_EXPONENT}?"
    rf"(?:(?:\s*(?:/|\\cdot)\s*|\s+)\(?[a-zA-Zμµ]++{_EXPONENT}?\)?)*+)\s*$"
)
_NOT_UNIT = re.compile(
    r"\b(?:or|and|not|no|more|less|than|least|most|if|for|when|where|to|mod)\b|[\\=<>]"
)


class Spelling(NamedTuple):
    latex: str  # one spelling, without the unit
    unit: Unit  # {} where there is none, or none that we know
    whole: str  # with the unit, as `latex` would be if it were none


@functools.lru_cache(maxsize=4096)
def normalise(text: str) -> Spelling:
    """One spelling for fractions, spaces, degrees, thousands, ...; the unit cut off."""
    unit = {"dollar": 1} if text.lstrip("$ ").startswith(r"\$") else {}
    text = text.translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    whole = text
    if found := _UNIT_TEXT.search(text):
        words = re.sub(TEXT, " ", found["words"].strip(" .()") + found["power"] + found["more"])
        words = re.sub(r"[{}()]", "", words)
        known = parse_unit(words.replace(".", ""))
        named = re.search("[a-zA-Z]", words) and not _NOT_UNIT.search(
            words.lower().replace(r"\cdot", "")
        )
        if named and (known is not None or not text[found.start() - 1].isalpha()):
            text, unit = text[: found.start()], known or unit
    elif found := _UNIT_BARE.search(text):
        words, gap = found["words"], text[found.start() : found.start("words")]
        known = parse_unit(words)
        several = known is not None and re.search(r"[a-zA-Zμµ]{2}|[/^]", words)
        if several and not gap and not re.search(r"[a-zA-Zμµ]{2}", words):
            several = False  # 2m/s may be a product, 2 m/s is not
        single = known and gap and re.fullmatch(r"[a-zA-Z]", words)
        plain = (
            gap
            and re.fullmatch(r"[a-z]{3,}(?: [a-z]+)*", words)
            and text[found.start() - 1].isdigit()
        )
        if not _NOT_UNIT.search(words.replace(r"\cdot", "")) and (several or single or plain):
            text, unit = text[: found.start()], known or unit
    return Spelling(text.strip(), unit, whole)


def key(latex: str) -> str:
    """A spelling to compare by `==`: no text commands, spaces, or braces around one character;
    words in lower case.
    """
    result = re.sub(TEXT + r"\{([^{}]*)\}", r"\1", latex)
    result = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", result).rstrip(".")  # "4 2" is not 42
    result = re.sub(r"\{(\w|\\[a-zA-Z]+)\}", r"\1", result)
    if not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", result):
        result = result.replace(r"\degree", "")
    if choice := re.fullmatch(r"\(?([A-Z])\)?[.:]?", result):
        return choice[1]
    if based := re.fullmatch(r"\((\w+)\)(_.*)", result):  # (52)_8
        return based[1] + based[2]
    return result.lower() if re.fullmatch(rf"{_WORD}(?:[,'-]{_WORD})*", result) else result
