r"""A parser of LaTeX expressions.

`2\sqrt{x}+1` becomes ("add", ("mul", ("num", 2), ("root", 2, x)), ("num", 1)).

It reads what it knows and raises Unreadable on everything else, so that nothing is dropped or
guessed. A letter is a variable, whatever it means elsewhere: only e, i and \pi are constants.

    ("num", Fraction), and ("dec", Fraction) of a decimal
    ("const", "pi" | "e" | "i")  ("sym", name)
    ("add", a, b, ...)  ("mul", a, b, ...)  ("div", a, b)  ("pow", a, b)  ("root", n, a)  ("fac", a)
    ("call", name, a, ...)
"""

import functools
import re
from fractions import Fraction

from .brackets import TEXT

Tree = tuple

_TOKEN = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?|\\[a-zA-Z]+|\\.|\S")


def _commands(names: str) -> set[str]:
    return {"\\" + name for name in names.split()}


_SYMBOLS = _commands(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell aleph"
    " infty"
)
TRIG = ("sin", "cos", "tan", "cot", "sec", "csc", "cis", "sinh", "cosh", "tanh")
_FUNCTIONS = _commands(" ".join(TRIG)) | _commands(
    "arcsin arccos arctan ln log lg exp max min gcd lcm det dim ker deg arg Re Im"
)
_ACCENTS = _commands(
    "vec hat bar overline dot ddot tilde widehat widetilde overrightarrow mathcal mathfrak"
)
_FONTS = _commands("mathbf boldsymbol mathit mathsf bm")
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_FENCES = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil")}
_FRACTION = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}")
_OPERAND_ENDS = {*"+-/^_!%)]},'", "\\}", *_commands("cdot degree rfloor rceil")}
ONE, MINUS_ONE, PERCENT = (("num", Fraction(number)) for number in (1, -1, 100))
DEEPEST = 30  # operands inside operands


# The letters that are written together behind a stroke, as in t/RC: all of them divide.
_TOGETHER = re.compile(r"/((?!d[a-z]\b)(?:[a-zA-Z](?:\^(?:\w|\{[^{}]*\}))?){2,})(?![(_'])")


class Unreadable(ValueError):
    """The text is not an expression that the parser knows."""


def _is_number(token: str) -> bool:
    return token[:1] in set("0123456789.") and token != "."


def _number(token: str) -> Tree:
    return ("dec" if "." in token else "num", Fraction(token))


def _product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else ("mul", *factors)


class _Parser:
    def __init__(self, latex: str, functions: frozenset[str], variables: frozenset[str]):
        latex = _TOGETHER.sub(r"/(\1)", latex)
        self.tokens = [token[0] for token in _TOKEN.finditer(latex)]
        self.at = 0
        self.functions, self.variables = functions, variables
        self.depth = 0
        self.bars = 0  # open absolute values
        self.trig = False  # inside an argument of sin, cos, ..., where a degree is pi / 180

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            raise Unreadable(f"{token!r} instead of {expected!r}")
        self.at += 1
        return token

    def skip(self, token: str) -> bool:
        if self.next == token:
            self.at += 1
            return True
        return False

    def raw(self) -> str:
        """The next argument as text, without braces, spaces and text commands."""
        if not self.skip("{"):
            return self.take()
        start, depth = self.at, 1
        while depth:
            token = self.take()
            depth += (token == "{") - (token == "}")
        text = "".join(self.tokens[start : self.at - 1])
        return re.sub(r"[{}]", "", re.sub(TEXT + r"(?=\{)", "", text))

    def sum(self) -> Tree:
        terms = [self.product()]
        while self.next in ("+", "-"):
            terms.append(self.product())  # which reads its own sign
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def sign(self) -> int:
        sign = 1
        while self.next in ("+", "-"):
            sign *= 1 if self.take() == "+" else -1
        return sign

    def product(self) -> Tree:
        sign = self.sign()
        factors = [self.postfix()]
        while True:
            if self.skip("\\cdot"):
                factors.append(self.signed())
            elif self.skip("/"):
                factors.append(("div", ONE, self.signed()))
            elif self.starts_operand():
                factors.append(self.postfix())
            else:
                return _product([MINUS_ONE, *factors] if sign < 0 else factors)

    def signed(self) -> Tree:
        return self.postfix() if self.sign() > 0 else _product([MINUS_ONE, self.postfix()])

    def starts_operand(self) -> bool:
        token, before = self.next, self.tokens[self.at - 1]
        if not token or token in _OPERAND_ENDS or (token == "|" and self.bars):
            return False
        if _is_number(token) and (before[-1].isalnum() and before[0] != "\\"):
            raise Unreadable("a number after a number or a letter: 4 2, x2")
        return _is_number(token) or token.isalpha() or token[0] in "({[|\\"

    def postfix(self) -> Tree:
        result, raised = self.primary(), False
        for _ in range(5):
            if self.skip("^"):
                if raised:
                    raise Unreadable("a double exponent")
                raised = True
                if self.next in ("T", "\\top", "\\star", "\\dagger"):
                    result = ("call", "^" + self.take(), result)
                else:
                    result = ("pow", result, self.exponent())
            elif self.skip("!"):
                result = ("call", "fac2", result) if self.skip("!") else ("fac", result)
            elif self.skip("%"):
                result = ("div", result, PERCENT)
            elif self.skip("\\degree"):
                if self.trig:
                    result = ("div", ("mul", result, ("const", "pi")), ("num", Fraction(180)))
            else:
                return result
        raise Unreadable("too many signs after an operand")

    def exponent(self) -> Tree:
        if self.next in ("+", "-"):
            return self.signed()
        if _is_number(self.next):
            return _number(self.take())
        return self.argument()

    def argument(self) -> Tree:
        r"""What a command takes: a group in braces, one command, one letter or one digit."""
        if self.next[:1].isdigit() and len(self.next) > 1:  # \frac\pi23 is \frac{\pi}{2}3
            digit, self.tokens[self.at] = self.next[0], self.next[1:]
            return ("num", Fraction(digit))
        if self.next and self.next in "+-*/^_!)]|'":
            raise Unreadable("no argument")
        return self.primary(subscripts=False)

    def arguments(self, closing: str) -> list[Tree]:
        bars, self.bars = self.bars, int(closing == "|")
        result = [self.sum()]
        while self.skip(","):
            result.append(self.sum())
        self.take(closing)
        self.bars = bars
        return result

    def group(self, closing: str) -> Tree:
        result = self.arguments(closing)
        if len(result) > 1:
            raise Unreadable("a list")
        return result[0]

    def primary(self, subscripts: bool = True) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("too deep")
        result = self.operand(self.take(), subscripts)
        self.depth -= 1
        return result

    def operand(self, token: str, subscripts: bool) -> Tree:
        if _is_number(token):
            if self.next == "_":
                raise Unreadable("a number in another base")
            mixed = _FRACTION.fullmatch("".join(self.tokens[self.at : self.at + 7]))
            if not (token.isdigit() and mixed):
                return _number(token)
            self.at += 7
            return ("add", _number(token), ("div", _number(mixed[1]), _number(mixed[2])))
        if token in ("(", "[", "{"):
            return self.group(_CLOSING[token])
        if token == "|":
            return ("call", "abs", self.group("|"))
        if token in _FENCES:
            return ("call", _FENCES[token][1], self.group(_FENCES[token][0]))
        if token == "\\frac":
            return ("div", self.argument(), self.argument())
        if token == "\\binom":
            return ("call", "binom", self.argument(), self.argument())
        if token == "\\sqrt":
            index = self.group("]") if self.skip("[") else ("num", Fraction(2))
            inner = self.group(")") if self.skip("(") else self.argument()
            return ("root", index, inner)
        if token == "\\pi" and self.next != "_":
            return ("const", "pi")
        if token in _FUNCTIONS:
            return self.function(token[1:])
        if token in ("\\operatorname", "\\mathrm", "\\text") and self.next == "{":
            return self.named(self.raw())
        if token == "\\partial":
            return ("sym", "\\partial" + self.raw())
        if token in _ACCENTS:
            return self.symbol(token + self.raw(), subscripts)
        if token in _FONTS:
            return self.symbol("\\" * (self.next in ("i", "e")) + self.raw(), subscripts)
        if token in _SYMBOLS or (len(token) == 1 and token.isascii() and token.isalpha()):
            return self.symbol(token, subscripts)
        raise Unreadable(token)

    def symbol(self, name: str, subscripts: bool) -> Tree:
        if name in ("e", "i") and name not in self.variables and self.next not in ("_", "'"):
            return ("const", name)
        if name == "d" and subscripts and re.fullmatch(r"[p-zA-Z]|\\theta|\\phi", self.next):
            name += self.take()  # a differential
        while subscripts and self.next in ("_", "'"):
            name += self.take() if self.next == "'" else self.take() + self.raw()
        known = name[0] in self.functions or "'" in name or name in ("\\zeta", "\\Gamma")
        if self.next == "(" and (known or self.holds_argument()):
            self.take()
            return ("call", name.removeprefix("\\"), *self.arguments(")"))
        return ("sym", name)

    def holds_argument(self) -> bool:
        """Whether the parenthesis here holds a list or a number: U(0, 1), y(0), but not n(-1)^n."""
        depth, inner = 0, ""
        for token in self.tokens[self.at :]:
            depth += (token in "({[") - (token in ")}]")
            if depth == 0:
                break
            inner += token if depth == 1 else " "
        power = self.tokens[self.at + 4 : self.at + 5] == ["^"]
        return "," in inner or bool(re.fullmatch(rf"\({'-?' * (not power)}\d+(?:\.\d+)?", inner))

    def named(self, name: str) -> Tree:
        name = name.removeprefix("\\")
        if "\\" + name in _FUNCTIONS:
            return self.function(name)
        if not re.fullmatch(r"[a-zA-Z]+", name) or (len(name) > 1 and self.next != "("):
            raise Unreadable(name)
        return self.function(name) if self.next == "(" else self.symbol(name, True)

    def function(self, name: str) -> Tree:
        power, base = None, None
        while self.next in ("^", "_"):
            if self.take() == "^":
                power = self.exponent()
            else:
                base = self.argument()
        if power == ("mul", MINUS_ONE, ("num", Fraction(1))) and name in TRIG[:3]:
            name, power = "arc" + name, None
        trig, self.trig = self.trig, name in TRIG
        if self.next in _CLOSING:
            arguments = self.arguments(_CLOSING[self.take()])
        else:
            arguments = [self.bare_argument()]
        self.trig = trig
        if base is not None:
            arguments.append(base)
            name += "_"
        result = ("call", name, *arguments)
        return result if power is None else ("pow", result, power)

    def bare_argument(self) -> Tree:
        r"""The 2x of `\sin 2x \cos y`: factors up to a sign, a function or an operator."""
        factors = [self.postfix()]
        while True:
            if self.next == "/" and (self.tokens[self.at + 1 : self.at + 2] or [""])[0].isdigit():
                self.take()
                factors.append(("div", ONE, self.postfix()))
            elif self.starts_operand() and self.next not in _FUNCTIONS | {"(", "[", "|"}:
                factors.append(self.postfix())
            else:
                return _product(factors)


@functools.lru_cache(maxsize=4096)
def parse(
    latex: str, functions: frozenset[str] = frozenset(), variables: frozenset[str] = frozenset()
) -> Tree:
    r"""The tree of an expression. Raises Unreadable.

    functions: letters that are functions where a parenthesis follows, as in f(2x).
    variables: the letters of "e" and "i" that are no constants here.
    """
    parser = _Parser(latex, functions, variables)
    tree = parser.sum()
    if parser.next:
        raise Unreadable(parser.next)
    return tree


def symbols(tree: Tree) -> set[str]:
    """The names of the variables of a tree; functions that are not known count too."""
    if tree[0] == "sym":
        return {tree[1]}
    found = {tree[1] + "()"} if tree[0] == "call" else set()
    return found.union(*(symbols(child) for child in tree[1:] if isinstance(child, tuple)))
