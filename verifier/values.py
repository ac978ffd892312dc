"""The values of a tree at fixed points, to compare two expressions without algebra.

Two expressions are equal where they agree at every point. The points look random but are computed
from the names of the variables, so a verdict never changes. Rational numbers stay exact; all others
have 150 digits, of which 100 must agree. A sum in which a term is too small to be seen has no
value, so 1 + e^{-1000} is not 1. A function that is not known, such as f or dim, has a value
computed from its name and its arguments.
"""

import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import mpmath

from .parse import Tree, symbols

DIGITS, AGREE, NOISE = 150, 100, 130
# 9 points, two of integers for floor and ceiling, which differ only there, and four whose
# coordinates are from 1e-30 to 1e30: there no coefficient hides behind a large one.
POINTS, INTEGERS, SCALES = 9, 2, 4
DECIMALS = 8  # groups of decimals whose tolerances are looked at one by one
BITS = 100_000  # of an exact number
LARGEST = 1_000_000  # of the natural logarithm of a number

_LOCAL = threading.local()  # an mpmath context changes its precision while it works: one a thread


class Value(NamedTuple):
    value: object  # Fraction, mpf, mpc, or None where it is undefined
    left_reals: bool  # a root or logarithm of a negative number on the way


def _context() -> mpmath.MPContext:
    if not hasattr(_LOCAL, "context"):
        _LOCAL.context = mpmath.MPContext()
        _LOCAL.context.dps = DIGITS
        _LOCAL.values = functools.lru_cache(maxsize=2048)(_values)
        _LOCAL.tolerances = functools.lru_cache(maxsize=2048)(_tolerances)
    return _LOCAL.context


def _coordinate(name: str, point: int) -> Fraction:
    """The value of a variable: below 1, above 1, or of either sign, by the point."""
    draw = int.from_bytes(hashlib.sha256(repr((name, point)).encode()).digest()[:6])
    if point < 3:
        return Fraction(100 + draw % 800, 997)
    if point >= POINTS + INTEGERS:
        return Fraction(100 + draw % 800, 997) * Fraction(10) ** (draw // 4096 % 61 - 30)
    if point >= POINTS:
        return Fraction(2 + draw % 50)
    if point < 6:
        return Fraction(1100 + draw % 3000, 997)
    return Fraction(100 + draw % 3000, 997) * (-1) ** (draw // 4096 % 2)


class _Evaluator:
    def __init__(self, point: int):
        self.point = point
        self.left_reals = False
        self.mp = _context()

    def inexact(self, value):
        if isinstance(value, Fraction):
            return self.mp.mpf(value.numerator) / value.denominator
        return value

    def small(self, value, bound):
        if not abs(value) <= bound:
            raise ArithmeticError("too large")
        return value

    def real(self, value):
        if value.imag:
            raise ArithmeticError("not real")
        return value.real

    def negative(self, value) -> bool:
        return value.imag == 0 and value.real < 0

    def whole(self, value) -> int | None:
        return int(value) if isinstance(value, Fraction) and value.denominator == 1 else None

    def clean(self, value, size):
        """Zero for what is only the rounding of numbers of `size`, in each part of a number."""
        if isinstance(value, Fraction):
            return value
        noise = size * self.mp.mpf(10) ** -NOISE
        real, imag = (part if abs(part) > noise else 0 for part in (value.real, value.imag))
        return self.mp.mpc(real, imag) if imag else self.mp.mpf(real)

    def __call__(self, tree: Tree):
        kind, *children = tree
        if kind in ("num", "dec"):
            return children[0]
        if kind == "const":
            return {"pi": +self.mp.pi, "e": +self.mp.e, "i": self.mp.j}[children[0]]
        if kind == "sym":
            return _coordinate(children[0], self.point)
        if kind == "call":
            return self.call(children[0], [self(child) for child in children[1:]])
        return getattr(self, kind)(*(self(child) for child in children))

    def add(self, *terms):
        if all(isinstance(term, Fraction) for term in terms):
            return self.exact(sum(terms))
        terms = [self.inexact(term) for term in terms if term] or [self.mp.mpf(0)]
        sizes = [abs(term) for term in terms]
        if min(sizes) < max(sizes) * self.mp.mpf(10) ** (5 - AGREE):
            raise ArithmeticError("a term is lost")
        return self.clean(self.mp.fsum(terms), max(sizes))

    def exact(self, value: Fraction) -> Fraction:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS:
            raise ArithmeticError("too large")
        return value

    def mul(self, *factors):
        product = factors[0]
        for factor in factors[1:]:
            if isinstance(product, Fraction) and isinstance(factor, Fraction):
                product = self.exact(product * factor)
            else:
                product = self.inexact(product) * self.inexact(factor)
                product = self.clean(product, abs(product))
        return product

    def div(self, a, b):
        if b == 0:
            raise ArithmeticError("division by zero")
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.exact(a / b)
        quotient = self.inexact(a) / self.inexact(b)
        return self.clean(quotient, abs(quotient))

    def pow(self, a, b):
        if a == 0:
            if b == 0 or b.imag or b.real < 0:
                raise ArithmeticError("0^0 or a division by zero")
            return Fraction(0)
        times = self.whole(b)
        if isinstance(a, Fraction) and times is not None:
            size = max(a.numerator.bit_length(), a.denominator.bit_length())
            if a not in (1, -1):
                self.small(times, BITS // size)
            return a**times if abs(a) != 1 else a ** (times % 2)
        a, b = self.inexact(a), self.inexact(b)
        self.small(b, LARGEST)
        self.small(b * self.mp.log(a), LARGEST)
        if times is None and self.negative(a):
            self.left_reals = True
        power = self.mp.power(a, times if times is not None else b)
        return self.clean(power, abs(power))

    def root(self, index, a):
        degree = self.whole(index)
        if degree and degree % 2 and self.negative(a):
            return -self.pow(-self.real(a), 1 / index)
        return self.pow(a, self.div(Fraction(1), index))

    def fac(self, a):
        whole = self.whole(a)
        if whole is not None and whole >= 0:
            return Fraction(math.factorial(self.small(whole, 5_000)))
        if whole is not None:
            raise ArithmeticError("factorial of a negative number")
        return self.mp.gamma(self.small(self.inexact(a), 1_000) + 1)

    def call(self, name: str, arguments: list):
        known = _KNOWN.get(name.rstrip("_"))
        if known and known[0] <= len(arguments) <= known[1]:
            return known[2](self, *arguments)
        if name in _MPMATH and len(arguments) == 1:
            bound = 100 if name in ("sinh", "cosh", "tanh", "zeta", "Gamma") else 10**15
            value = self.small(self.inexact(arguments[0]), bound)
            self.left_reals |= name in ("arcsin", "arccos") and bool(abs(value) > 1)
            result = getattr(self.mp, _MPMATH[name])(value)
            return self.clean(result, 1 if name in ("sin", "cos") else abs(result))
        return self.opaque(name, arguments)

    def opaque(self, name: str, arguments: list) -> Fraction:
        """A function that is not known: some number that its name and its arguments decide."""
        texts = [self.mp.nstr(self.inexact(argument), 25) for argument in arguments]
        return _coordinate(repr([name, *texts]), self.point)

    def floor(self, a):
        a = self.real(a)
        if isinstance(a, Fraction):
            return Fraction(math.floor(a))
        nearest = self.mp.nint(self.small(a, 10**30))
        near = abs(a - nearest) < self.mp.mpf(10) ** -AGREE
        return Fraction(int(nearest if near else self.mp.floor(a)))

    def log(self, a, base=None):
        if a == 0:
            raise ArithmeticError("logarithm of zero")
        self.left_reals |= self.negative(a)
        result = self.clean(self.mp.log(self.inexact(a)), 1)
        return result if base is None else self.div(result, self.log(base))

    def binom(self, n, k):
        if (a := self.whole(n)) is not None and (b := self.whole(k)) is not None:
            if min(a, b) >= 0:
                return Fraction(math.comb(self.small(a, 5_000), b))
            raise ArithmeticError("binomial of a negative number")
        return self.mp.binomial(*(self.inexact(self.small(one, 1_000)) for one in (n, k)))

    def integers(self, name, function, arguments):
        wholes = [self.whole(argument) for argument in arguments]
        if None not in wholes:
            return self.exact(Fraction(function(*wholes)))
        return self.opaque(name, sorted(arguments, key=lambda value: (abs(value), str(value))))


_KNOWN = {  # (least, most arguments, function)
    "abs": (1, 1, lambda self, a: abs(a)),
    "floor": (1, 1, _Evaluator.floor),
    "ceil": (1, 1, lambda self, a: -self.floor(-a)),
    "ln": (1, 1, _Evaluator.log),
    "log": (1, 2, lambda self, a, base=Fraction(10): self.log(a, base)),
    "lg": (1, 1, lambda self, a: self.log(a, Fraction(10))),
    "exp": (1, 1, lambda self, a: self.pow(+self.mp.e, a)),
    "cis": (1, 1, lambda self, a: self.pow(+self.mp.e, self.mp.j * self.inexact(a))),
    "binom": (2, 2, _Evaluator.binom),
    "fac2": (1, 1, lambda self, a: self.mp.fac2(self.small(self.inexact(a), 1_000))),
    "max": (1, 99, lambda self, *several: max(map(self.real, several))),
    "min": (1, 99, lambda self, *several: min(map(self.real, several))),
    "gcd": (1, 99, lambda self, *several: self.integers("gcd", math.gcd, several)),
    "lcm": (1, 99, lambda self, *several: self.integers("lcm", math.lcm, several)),
}
_MPMATH = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "Gamma": "gamma", "zeta": "zeta"}
_MPMATH |= {name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_MPMATH |= {name: name for name in ("sinh", "cosh", "tanh")}


_CALLS = {f"{name}{base}()" for name in (*_KNOWN, *_MPMATH) for base in ("", "_")}


def constant(tree: Tree):
    """The value of a tree without variables and unknown functions; None of any other."""
    return None if symbols(tree) - _CALLS else values(tree)[0].value


def values(tree: Tree, scales: bool = False) -> tuple[Value, ...]:
    """The value of a tree at each point; at one point only if it has no variables. Cached.

    scales: at the last four points too.
    """
    _context()
    return _LOCAL.values(tree, scales)


def _values(tree: Tree, scales: bool) -> tuple[Value, ...]:
    result = []
    for point in range(POINTS + INTEGERS + SCALES * scales if symbols(tree) else 1):
        evaluator = _Evaluator(point)
        try:
            value = evaluator(tree)
        except (ArithmeticError, ValueError, mpmath.libmp.NoConvergence):  # a pole, to mpmath
            value = None
        result.append(Value(value, evaluator.left_reals))
    return tuple(result)


def _tolerance(decimal: Fraction) -> Fraction:
    """How far it may be from the truth: relative below 1, absolute above. 0.333333 is 1/3."""
    return min(1, abs(decimal)) * Fraction(1_001, 1_000_000_000)


def _decimals(tree: Tree) -> int:
    if tree[0] == "dec":
        return 1
    return sum(_decimals(child) for child in tree[1:] if isinstance(child, tuple))


def _shifted(tree: Tree, group: int, numbers: Iterator[int]) -> Tree:
    """The tree with every decimal of a group larger by its tolerance."""
    if tree[0] == "dec":
        return ("num", tree[1] + _tolerance(tree[1]) * (next(numbers) % DECIMALS == group))
    return tuple(
        _shifted(child, group, numbers) if isinstance(child, tuple) else child for child in tree
    )


def _tolerances(tree: Tree, scales: bool) -> tuple:
    """How far the value at each point may be from the true one, because decimals are rounded."""
    evaluator, exact = _Evaluator(0), values(tree, scales)
    total = [evaluator.mp.mpf(0)] * len(exact)
    for group in range(min(_decimals(tree), DECIMALS)):
        shifted = values(_shifted(tree, group, itertools.count()), scales)
        for point, (one, other) in enumerate(zip(exact, shifted, strict=True)):
            if None not in (one.value, other.value):
                total[point] += abs(evaluator.inexact(other.value) - evaluator.inexact(one.value))
    return tuple(total)


def _agree(a, b, slack=0) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and not slack:
        return a == b
    evaluator = _Evaluator(0)
    a, b = evaluator.inexact(a), evaluator.inexact(b)
    return abs(a - b) <= slack + evaluator.mp.mpf(10) ** -AGREE * max(abs(a), abs(b))


def _pairs(one: Tree, other: Tree, scales: bool = False) -> list[tuple] | None:
    """(a, b, slack of a, slack of b), point by point; see _tolerances.

    None if their domains differ or too few points are left.

    Where one of them leaves the reals, as ln x does for a negative x, the point tells nothing,
    unless an absolute value is there for just that: ln|x| is not ln x.
    """
    names = symbols(one) | symbols(other)
    absolute = "abs()" in names
    points = [*range(POINTS + INTEGERS * bool(names & {"floor()", "ceil()"}))] if names else [0]
    length = len(points)
    if scales:
        points += range(POINTS + INTEGERS, POINTS + INTEGERS + SCALES)
    sides = [
        list(zip(values(tree, scales), _LOCAL.tolerances(tree, scales), strict=True))
        for tree in (one, other)
    ]
    real, complex_ = [], []
    for point in points:
        (a, slack_a), (b, slack_b) = (side[point % len(side)] for side in sides)
        if (a.value is None) != (b.value is None) and point < POINTS + INTEGERS:
            return None
        if None in (a.value, b.value) or (a.left_reals != b.left_reals and not absolute):
            continue
        (complex_ if a.left_reals else real).append((a.value, b.value, slack_a, slack_b))
    needed = min(3, length)
    result = real if len(real) >= needed and not absolute else real + complex_
    return result if len(result) >= needed else None


def same(one: Tree, other: Tree) -> bool:
    """Whether two expressions have the same value at every point, as far as decimals are exact."""
    pairs = _pairs(one, other)
    return pairs is not None and all(_agree(a, b, slack + more) for a, b, slack, more in pairs)


def proportional(one: Tree, other: Tree) -> int:
    """The sign of the c where one = c * other at every point; 0 if there is no such c."""
    decimal = _decimals(one) + _decimals(other) > 0
    pairs = [pair for pair in _pairs(one, other, scales=decimal) or [] if pair[0] or pair[1]]
    if len(pairs) < 3 or not all(a and b for a, b, *_ in pairs):
        return 0
    if all(_agree(a, pairs[0][0]) for a, *_ in pairs):
        return 0
    evaluator, ratios, slacks = _Evaluator(0), [], []
    for a, b, slack_a, slack_b in pairs:
        ratios.append(evaluator.div(a, b))
        sizes = [abs(evaluator.inexact(one)) for one in (a, b)]
        slacks.append((slack_a / sizes[0] + slack_b / sizes[1]) * sizes[0] / sizes[1])
    if not all(
        map(_agree, ratios, ratios[:1] * len(pairs), [slack + slacks[0] for slack in slacks])
    ):
        return 0
    ratio = evaluator.clean(ratios[0], abs(ratios[0]))
    return -1 if evaluator.negative(ratio) else 1  # a complex one will do for an equation
