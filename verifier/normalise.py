r"""Rewrite LaTeX that means the same to one spelling, and cut off the unit.

`\dfrac12\,\text{cm}` becomes `\frac{1}{2}` with the unit cm.
"""

import functools
import itertools
import re
import unicodedata
from typing import NamedTuple

from .brackets import END, TEXT, depths
from .units import Unit, parse_unit

_TABLE = (  # what NFKC leaves as it is, or makes something else of
    r"−–‐‑=-  ×·⋅∙∗=\cdot  °º˚=^\circ  ≤⩽≦=\le  ≥⩾≧=\ge  ≠=\ne  ≈=\approx  →=\to  ¬=\neg  ∪=\cup "
    r" ∩=\cap  ∈=\in  ∖=\setminus  ∞=\infty  ±=\pm  ∓=\mp  ∅=\emptyset  √=\sqrt  ∛=\sqrt[3] "
    r" ∜=\sqrt[4]  ∑=\sum  ∫=\int  ∨=\lor  ∧=\land  ≡=\equiv  ∶=: ÷⁄∕=/ ′=' ⟨=( ⟩=) 。=. "
    r" ¢=\text{cents} ℝ=\mathbb{R} ℤ=\mathbb{Z} ℕ=\mathbb{N} ℚ=\mathbb{Q} ℂ=\mathbb{C}"
)


def _renames(table: str) -> dict[str, str]:
    r"""Each name of `names=new`; a space follows a command, so that \le x stays apart."""
    return {
        name: new + " " * new[-1:].isalpha()
        for names, new in (pair.split("=") for pair in table.split())
        for name in re.findall("[a-zA-Z]+|[^,]", names)
    }


_SYMBOLS = str.maketrans(
    {
        **{
            letter: "\\" + (name.lower() if letter.islower() else name.capitalize()) + " "
            for letter in "αβγδεζηθικλμνξοπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
            for name in [unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")]
        },
        **{"或": " or ", "和": " and ", "且": " and "},
        **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),  # have no width
        **_renames(_TABLE),
    }
)
_FUNCTIONS = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|cis|sqrt|ln|log|exp|gcd|lcm|pi"
)
_EXPONENT = r"(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)"
_UNIT_PART = rf"{TEXT}\{{[^{{}}]*\}}{_EXPONENT}?"
_WORD = r"(?<![\\a-zA-Z])(?:[A-Z][a-z]{2,}|No|NO|YES|TRUE|FALSE|NONE)(?![a-zA-Z])"
_OPEN, _SHUT = rf"(?:{TEXT}\{{)?\s*", r"\s*\}?"  # of a \text{...} that may be there
_DOTS = r"(?:\\[lc]?dots(?![a-zA-Z])|\.\.\.|…)"
_LEAD = (  # about, The area is, Total:
    r"(?i:(?:about|approximately|approx|exactly)\b\.?|(?:(?!not?\b|false)[a-z]+,? ){0,6}"
    r"(?!not?\b)(?:(?:[a-z]+|\$\w+\$) (?:is|are)\b:?|[a-z]{3,}:(?!=))\s*=?\s*)"
)
_RENAMED = _renames(
    r"times,ast,cdotp=\cdot  div=/ lt=< gt=> neq=\ne  leq,leqslant,leqq=\le  geq,geqslant,geqq=\ge "
    r" simeq,doteq=\approx  varnothing=\emptyset  infinity=\infty  Reals,R=\mathbb{R} prime='"
    r" backslash=\setminus  vert,lvert,rvert=| lbrace=\{ rbrace=\} langle,lparen=( rangle,rparen=)"
    r" lbrack=[ rbrack=] dots,cdots,dotsc,dotsb=\ldots  bmod,pmod=\mod  lnot=\neg  rightarrow=\to "
    r" wedge=\land  vee=\lor  overrightarrow=\vec "
)
_GROUPS = r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})*,0\d\d(?:,\d{3})*(?!\d|,\d)"
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBERS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_INNER = r"(?:[^{}]|\{[^{}]*\})*"
_CELL = r"(?:(?!\\begin|\\end).)*"
_IF = rf"^{_OPEN}(?:if|for|when|and)\b{_SHUT}"
_FACTOR = (
    r"(?:-?\s*(?:\d+|\\[dt]?frac\s*(?:\d\s*\d|\{[^{}]*\}\s*\{[^{}]*\})|\b[a-z])\s*(?:\\cdot)?\s*"
    r"|(?<![^=,(])\s*-\s*)"
)
_TURNED = r"(?:\s*\^\s*(?:\{\s*)?(?:T|t|\\top|\\intercal)(?![a-zA-Z])\s*\}?)"
_CHOOSE = rf"(?:(?<![a-zA-Z\\])(?:C(?!_\{{?[01]\D)|nCr)|{TEXT}\{{\s*C\s*\}})"  # C_1 is a constant
_N = r"\{?((?<=\{)\w+|\d+|[a-z])\}?"
_ARGUMENT = r"(?:\{\s*([^{}]*?)\s*\}|(\w))"
_BOLD = r"\\(?:hat|mathbf|vec|boldsymbol)\s*"
_PLAIN = {"**": "^", "*": r"\cdot ", "<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "...": r"\ldots "}
_NO_SOLUTION = (
    r"(?:there (?:is|are) )?no (?:(?:real|integer|such) )?(?:solutions?|roots?)(?: exists?)?"
    r"|(?:the )?empty set"
)
_END_POINTS = r"[^\[\](),]+,[^\[\](),]+"


def _plain(text: str) -> str:
    r"""Unicode's variants of characters as LaTeX or ASCII: x² -> x^{2}, ⅖ -> \frac{2}{5}."""
    result = []
    for kind, run in itertools.groupby(
        text.translate(_SYMBOLS), lambda char: unicodedata.decomposition(char).partition(" ")[0]
    ):
        run = unicodedata.normalize("NFKC", "".join(run)).translate(_SYMBOLS)
        if kind in ("<super>", "<sub>"):
            run = f"{'^' if kind == '<super>' else '_'}{{{run}}}"
        elif kind == "<circle>":  # the statements 1 and 3
            run = ", ".join(run)
        elif kind == "<fraction>":
            run = re.sub(r"(\d+)/(\d+)", r"\\frac{\1}{\2}", run)
        result.append(run)
    return "".join(result)


def _unwrap(found: re.Match) -> str:
    """The content of a command, if its brace closes at the very end."""
    return found[1] if min(depths(found[1]), default=0) >= 0 else found[0]


def _rows(cells: str) -> list[list[str]]:
    rows = cells.strip().removesuffix(r"\\").split(r"\\")
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _matrix(found: re.Match) -> str:
    """A matrix as the tuple of its rows, a column as a tuple, a row as a list in brackets."""
    rows = _rows(found[2])
    if found[3]:
        rows = [list(column) for column in zip(*rows, strict=False)]
    if found[1].strip():
        rows = [[f"{found[1]}({cell})" for cell in row] for row in rows]
    if len(rows) == 1:
        return f"[{','.join(rows[0])}]"
    rows = [row[0] if len(row) == 1 else f"({','.join(row)})" for row in rows]
    return f"({','.join(rows)})"


def _determinant(found: re.Match) -> str:
    r"""A determinant of up to three rows as the expression that it is."""
    rows = _rows(found[1])
    square = len(rows) < 4 and all(len(row) == len(rows) for row in rows)
    return f"({_expanded(rows)})" if square else found[0]


def _expanded(rows: list[list[str]]) -> str:
    """The determinant, expanded by the first row."""
    minors = ([row[:n] + row[n + 1 :] for row in rows[1:]] for n in range(len(rows)))
    terms = (f"({cell})({_expanded(minor)})" for cell, minor in zip(rows[0], minors, strict=True))
    return "".join("+-"[n % 2] + term for n, term in enumerate(terms)) if rows[1:] else rows[0][0]


def _lines(found: re.Match) -> str:
    r"""Equations below each other as a list; of `cases`, each value with its condition."""
    rows = [[re.sub(_IF, "", cell).strip(" ,.;") for cell in row] for row in _rows(found[2])]
    if found[1] in ("cases", "array") and len(rows[0]) == 2:
        rows = [[f"({', '.join(filter(None, row))})"] for row in rows]
    return ", ".join(map("".join, rows))


def _repeating(found: re.Match) -> str:
    r"""0.1\overline{6} as \frac{15}{90}."""
    whole, decimals, period = found.groups()
    top = int(whole + decimals + period) - int(whole + decimals)
    return rf"\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(decimals)}}}"


def _words_apart(found: re.Match) -> str:
    r"""`\text{A and C}` as `\text{A} and \text{C}`."""
    parts = re.split(r"(\s*,?\s*\b(?:and|or)\b\s*|\s*,\s*)", found[1])
    return "".join(part if n % 2 else rf"\text{{{part}}}" for n, part in enumerate(parts) if part)


_REWRITES = [  # in this order
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        # A doubled backslash, as careless JSON has it, outside of an environment.
        (r"^(?!.*\\begin).*\\\\[a-zA-Z{}%$].*", lambda found: found[0].replace(r"\\", "\\")),
        # Size and style say nothing.
        (rf"\\(?:left|right|[bB]igg?[lrm]?){END}\.?", ""),
        (rf"\\(?:(?:display|text|script)style|limits|hline|checkmark|underline){END}|\\\\\s*$", ""),
        (rf"\\(?:normalsize|small|[lL]arge|LARGE|[hH]uge){END}|\\mathcal(?=\s*\{{?O\b)", ""),
        (r"\\(?:(?:text)?color|phantom)\s*\{[^{}]*\}", ""),
        (r"^\s*\\boxed\s*\{(.*)\}\s*$", _unwrap),
        (rf"^\s*(?:{TEXT}\{{\s*{_LEAD}\s*\}}|({TEXT}\{{)?\s*{_LEAD})\s*", r"\1"),
        (rf"^\s*{TEXT}\{{[A-Za-z ]* of\s*\}}[^{{}}=<]{{1,9}}{TEXT}\{{\s*(?:is|are)\s*\}}", ""),
        (rf"\\\{{\s*\\begin\{{(array)\}}\{{\w+\}}({_CELL})\\end\{{array\}}(?!\s*\\\}})", _lines),
        (rf"\\begin\{{(cases|aligned|align\*?|gathered|split)\}}({_CELL})\\end\{{\1\}}", _lines),
        # Matrices: `array` and its fences, rows and determinants.
        (rf"\\\\\s*\[[^\]]*(?:pt|em|ex|mm|cm)\]|\\cr{END}", r"\\\\"),
        (r"\\(begin|end)\{(?:array|[bB]?matrix|smallmatrix)\}", r"\\\1{pmatrix}"),
        (r"(\\begin\{pmatrix\})\s*\{[clr|\s]*\}", r"\1"),
        (rf"[(\[]\s*(\\begin\{{pmatrix\}}{_CELL}\\end\{{pmatrix\}})\s*[)\]]", r"\1"),
        (
            rf"(?:\||\\det)\s*\\begin\{{pmatrix\}}({_CELL})\\end\{{pmatrix\}}\s*\|?",
            r"\\begin{vmatrix}\1\\end{vmatrix}",
        ),
        (rf"\\begin\{{vmatrix\}}({_CELL})\\end\{{vmatrix\}}", _determinant),
        (rf"({_FACTOR}?)\\begin\{{pmatrix\}}({_CELL})\\end\{{pmatrix\}}({_TURNED}?)", _matrix),
        (rf"[(\[]([^()\[\]]*,[^()\[\]]*)[)\]]\s*{_TURNED}\s*$", r"(\1)"),
        # 0.333... is 0.\overline{3}.
        (rf"(\d\.\d*?)(\d+?)\2{{2,}}\s*{_DOTS}", r"\1\\overline{\2}"),
        (rf"(?<=\d)\s*{_DOTS}\s*$", ""),
        (r"(?<=\d\.)(\d*)\\dot\{?(\d)\}?(\d*)\\dot\{?(\d)\}?", r"\1\\overline{\2\3\4}"),
        # Spaces, and commas between digits.
        (rf"{TEXT}\{{(\s*,?\s*)\}}", r"\1 "),
        (r"(?<!\d)0\{,\}(?=\d)", "0."),
        (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)\{,\}(?=\d)", "."),
        (_GROUPS, lambda found: found[0].replace(",", "")),  # 1,005: 005 is no element of a list
        (rf"(?<!\\)\\[,;:!> ]|~|\\q?quad{END}|\\[hv]space\s*\{{[^{{}}]*\}}|\s+", " "),
        # Math mode and currency.
        (r"\\?\$|(?<!\\)\\[()\[\]]|[€£]", ""),
        # Percent and degrees.
        (r"\\%|\\?percent(?:age)?\b|(?:\\text|\\mbox)\s*\{\s*(?:\\?%|percent)\s*\}", "%"),
        (rf"\^\s*\{{?\s*\\(?:circ|degree){END}\s*\}}?|\\degrees?{END}", r"\\degree "),
        (rf"(?:\\degree|degrees?)\s*{_OPEN}[CF](?:elsius|ahrenheit)?\b{_SHUT}", r"\\degree "),
        (rf"^\s*(?:{TEXT}|\\boldsymbol\s*|\\bm\s*)\{{(\s*(?:-\s*)?[\d\\].*)\}}\s*$", _unwrap),
        (rf"^\s*{TEXT}\{{([^{{}}\\$]*(?:\b(?:and|or)\b|,)[^{{}}\\$]*)\}}\s*$", _words_apart),
        (rf"{TEXT}\{{(\s*[a-z][^{{}}]*?)\s+(and|or)\s*\}}", r"\\text{\1} \2 "),  # 2 cm and 3 cm
        # Numbers in words.
        (
            rf"(?<=\d)\s*{_OPEN}(thousand|million|billion|trillion)\b{_SHUT}",
            lambda found: rf"\cdot 10^{{{_POWERS[found[1]]}}}",
        ),
        (
            rf"(?:(?<=[\d)]_)\{{?|^\s*){_OPEN}(?i:({_NUMBERS}))\W*$",
            lambda found: str(_NUMBERS.split("|").index(found[1].lower())),
        ),
        (rf"(?<=\d)\s*{_OPEN}\bto\b{_SHUT}\s*(?=\d)", ":"),
        (r"(?<=\d)(\W+[apAP])\.\s?([mM])\.?(?![a-z])", r"\1\2"),
        (rf"(?<=\d)\s*{_OPEN}(?:\s\\mu|\\mu\s*\}})\s*{_OPEN}([a-zA-Z]+){_SHUT}$", r" \\text{μ\1}"),
        (rf"(?<=\d)(?:\s+|\s*{TEXT}\{{)\s*([kM]?)\\Omega\s*\}}?\s*$", r" \\text{\1ohm}"),
        # Commands with several names.
        (rf"\\(?:[dtcs]|nice)(frac|binom){END}", r"\\\1"),
        (rf"\{{({_INNER}?)\\choose{END}({_INNER})\}}", r"\\binom{\1}{\2}"),
        (rf"(?:\{{|^)({_INNER}?)\\over{END}({_INNER})(?:\}}|$)", r"\\frac{\1}{\2}"),
        (rf"{_CHOOSE}\s*\^\s*{_N}\s*_\s*{_N}", r"C_{\2}^{\1}"),
        (rf"(?:\{{\}})?\s*[_^]\s*\{{?(\d+)\}}?\s*{_CHOOSE}\s*_\s*{_N}", r"C_{\1}^{\2}"),
        (
            rf"{_CHOOSE}(?:\s*_\s*{_N}\s*\^\s*{_N}|\s*\((\d+|n)\s*,\s*(\d+|[kmr])\))",
            r"\\binom{\1\3}{\2\4}",
        ),
        (r"\^\s*\{?\s*(?:\*|\\ast(?![a-zA-Z]))\s*\}?(?!\*)", r"^\\star "),
        (r"(\\nabla\s*)\\times|\\times(?=\s*\\(?:vec|mathbf|hat|bold|overright))", r"\1\\cross "),
        (rf"\\({'|'.join(_RENAMED)}){END}", lambda found: _RENAMED[found[1]]),
        (r"\\not\s*(?==)", "!"),
        (r"\*\*?|[<>!]=|\.\.\.(?!$)", lambda found: _PLAIN[found[0]]),
        (rf"{TEXT}\{{\s*mod\s*\}}|(?<![\\a-zA-Z])mod\b", r"\\mod "),
        (r"\bd([a-z])\s*/\s*d([a-z])\b", r"\\frac{d\1}{d\2}"),
        (rf"^\\bigcup(?:\\limits)?\s*_\s*\{{({_INNER})\}}(.*)$", r"\2, \1"),
        # Between letters \lor and \land are operators.
        (rf"\\l(or|and){END}(?=.*(?:[=<>]|\\(?:[lg]e|ne|in){END}))", r" \1 "),
        (rf"(?<![\\a-zA-Z])(?:inf(?:inity)?|oo){END}", r"\\infty "),
        (rf"^\s*{_OPEN}(?i:{_NO_SOLUTION})\W*$", r"\\emptyset "),
        (rf"^\s*{_OPEN}(?i:DNE|(?:the )?(?:limit )?does not exist)\W*$", r"\\text{does not exist}"),
        (rf"{_OPEN}(?i:all real numbers|all reals){_SHUT}", r"\\mathbb{R}"),
        (rf"(?<=R\}})\s*{_OPEN}(?:except|but|excluding|other than|-)(?!\w){_SHUT}", r"\\setminus "),
        (r"(\\in|^(?=\\))\s*(?:\\mathbf\s*)?\{?([RZNQ])\}?(?![a-zA-Z_'({])", r"\1 \\mathbb{\2}"),
        (rf"\\var(epsilon|phi|theta|rho){END}", r"\\\1"),
        (rf"\]({_END_POINTS}[\[\]])", r"(\1"),  # the French ]0, 1[
        (rf"([\[(]{_END_POINTS})\[", r"\1)"),
        (r"\^\s*(?:\{\s*('+)\s*\}|('+))", r"\1\2"),
        (rf"{_BOLD}(?:\{{\s*(?:\\([ij])math|([ijk]))\s*\}}|([ijk])\b)", r"\1\2\3"),
        # Plain text and Python.
        (r"\b(?:np|math|numpy|sympy)\.(?=[a-z])", ""),
        (rf"(?<![\\a-zA-Z])((?:{_FUNCTIONS}){END}|(?:max|min)(?=\s*[({{]))", r"\\\1"),
        # Arguments in braces. \sqrt23 is the root of 23, as its writers mean it, not 3\sqrt2.
        (r"\\sqrt\s*((?:\[[^\]]*\])?)\s*(\d+)", r"\\sqrt\1{\2}"),
        (rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}", r"\\frac{\1\2}{\3\4}"),
        (rf"\\frac\{{({_UNIT_PART})\}}\{{({_UNIT_PART})\}}\s*$", r"\1/\2"),
        # Numbers.
        (r"\b(\d+)\s+(\d+)\s*/\s*(\d+)\b", r"\1\\frac{\2}{\3}"),
        # One decimal with its own tolerance: that of 7.33 alone would grow by 10^20.
        (r"(?<=\d)\s*(?:\\cdot|x)\s*10\s*\^\s*(?:\{\s*([+-]?\d{1,3})\s*\}|(-?\d))", r"e\1\2"),
        (r"(\d+)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?", _repeating),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"^\s*(?:(?:\\approx|=)\s*)?|[\s.,;:]+$", ""),
    )
]


_UNIT_TEXT = re.compile(  # \text{...} at the end
    rf"(?<=[\d}})\]a-z])\s*{TEXT}\{{({_INNER})\}}({_EXPONENT}?)"
    rf"((?:\s*(?:/|\\cdot)\s*{_UNIT_PART})*)\s*$"
)
_UNIT_BARE = re.compile(  # km/h, sq cm, m s^{-2} or words at the end
    rf"(?:(?<=[\d}})])|(?<=\\pi ))\s*((?:(?:square|cubic|sq|cu) )?[a-zA-Zμ]++{_EXPONENT}?"
    rf"(?:(?:\s*(?:/|\\cdot)\s*|\s+)\(?[a-zA-Zμ]++{_EXPONENT}?\)?)*+)\s*$"
)
_NOT_UNIT = re.compile(
    r"\b(?:or|and|not|no|is|are|more|less|than|least|most|if|for|when|where|mod)\b|[\\=<>]"
)
_SCALE = re.compile(r"(?:\\circ|\\?degrees?|°|º)[\s})]*(?:\\\w+\{\s*)?(C|F)(?:elsius|ahrenheit)?\b")


class Spelling(NamedTuple):
    latex: str  # one spelling, without the unit
    unit: Unit  # with the words that are no units
    whole: str  # with the unit, as `latex` would be if it were none


def _cut_unit(text: str) -> tuple[str, Unit]:
    """(the text before its unit, the unit). Bare letters may be a product: 2m/s, 2 a."""
    found = _UNIT_TEXT.search(text) or _UNIT_BARE.search(text)
    if not found:
        return text, Unit()
    words = re.sub(rf"{TEXT}|[{{}}()]", " ", "".join(filter(None, found.groups()))).strip(" .")
    unit, bare = parse_unit(words.replace(".", "")), found.re is _UNIT_BARE
    before, gap = text[found.start() - 1], found[0][0] == " "
    fits = not unit.words or not before.isalpha()
    if bare and unit.words:
        fits = gap and before.isdigit() and re.fullmatch(r"[a-z]+(?: [a-z]+)*", words)
        fits = fits and (unit.powers or len(words.split()[0]) > 2)
    elif bare and not re.search("[a-zA-Zμ]{2}", words):
        fits = gap and re.fullmatch(r"[a-zA-Z]|.*[/^].*", words)
    named = re.search("[a-zA-Z]{3}" if unit == Unit() else "[a-zA-Z]", words)
    listed = re.search(r"\b(?:and|or)\W*$", text[: found.start()])  # A and C
    if not fits or not named or listed or _NOT_UNIT.search(words.lower().replace(r"\cdot", "")):
        return text, Unit()
    return text[: found.start()], unit


@functools.lru_cache(maxsize=4096)
def normalise(text: str) -> Spelling:
    """Rewrite fractions, spaces, degrees, thousands, ... to one spelling; cut off the unit."""
    text = _plain(text)
    scale, money = _SCALE.search(text), text.lstrip("$ ").startswith(r"\$")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    whole, (text, unit) = text, _cut_unit(text)
    powers = dict(unit.powers)
    if text.endswith("%"):
        powers = {"%": 1}
    elif scale or text.rstrip().endswith(r"\degree"):
        powers = {"deg": 1}
    powers |= {"dollar": 1} if money and min(powers.values(), default=-1) < 0 else {}
    words = unit.words | ({scale[1]} if scale else set())
    return Spelling(text.strip(), Unit(powers, words), whole)


def key(latex: str) -> str:
    """A spelling to compare by `==`: no text commands, spaces or articles; words in lower case."""
    result = re.sub(TEXT + r"\{([^{}]*)\}", r"\1", latex)
    result = re.sub(_WORD, lambda found: found[0].lower(), result)
    result = re.sub(r"^\s*(?:a|(?i:an|the|on|option|choice))\s+(?=[a-z]{3}|[(A-Z])", "", result)
    result = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", result).rstrip(".")  # "4 2" is not 42
    result = re.sub(r"\{(\w|\\[a-zA-Z]+)\}", r"\1", result)
    if not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", result):
        result = result.replace(r"\degree", "")
    if choice := re.fullmatch(r"\(?([A-Z])\)?[.:]?", result):
        return choice[1]
    return re.sub(r"^\((\w+)\)(?=_)", r"\1", result)  # (52)_8
