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
import operator
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import mpmath

from .parse import TRIG, Tree, symbols

DIGITS, AGREE, NOISE = 150, 100, 130
# 9 points, two of integers for floor and ceiling, which differ only there, and four whose
# coordinates are from 1e-30 to 1e30: there no coefficient hides behind a large one.
POINTS, INTEGERS, SCALES = 9, 2, 4
DECIMALS = 8  # groups of decimals whose tolerances are looked at one by one
BITS = 100_000  # of an exact number
LARGEST = 1_000_000  # of the natural logarithm of a number


class Value(NamedTuple):
    value: object  # Fraction, mpf, mpc, or None where it is undefined
    left_reals: bool  # a root or logarithm of a negative number on the way


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


def _inexact(value):
    if isinstance(value, Fraction):
        return _THREAD.mp.mpf(value.numerator) / value.denominator
    return value


def _small(value, bound):
    if not abs(value) <= bound:
        raise ArithmeticError("too large")
    return value


def _real(value):
    if value.imag:
        raise ArithmeticError("not real")
    return value.real


def _negative(value) -> bool:
    return value.imag == 0 and value.real < 0


def _whole(value) -> int | None:
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _exact(value: Fraction) -> Fraction:
    _small(_bits(value), BITS)
    return value


def _clean(value, size=None):
    """Zero for what is only the rounding of numbers of `size`, in each part of a number."""
    noise = (abs(value) if size is None else size) * _THREAD.mp.mpf(10) ** -NOISE
    real, imag = (part if abs(part) > noise else 0 for part in (value.real, value.imag))
    return _THREAD.mp.mpc(real, imag) if imag else _THREAD.mp.mpf(real)


def _combined(operation, a, b):
    """A product or a quotient, exact if both numbers are."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _exact(operation(a, b))
    return _clean(operation(_inexact(a), _inexact(b)))


class _Evaluator:
    def __init__(self, point: int):
        self.point = point
        self.left_reals = False
        self.mp = _THREAD.mp

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
            return _exact(sum(terms))
        terms = [_inexact(term) for term in terms if term] or [self.mp.mpf(0)]
        sizes = [abs(term) for term in terms]
        if min(sizes) < max(sizes) * self.mp.mpf(10) ** (5 - AGREE):
            raise ArithmeticError("a term is lost")
        return _clean(self.mp.fsum(terms), max(sizes))

    def mul(self, *factors):
        return functools.reduce(functools.partial(_combined, operator.mul), factors)

    def div(self, a, b):
        return _combined(operator.truediv, a, b)

    def pow(self, a, b):
        if a == 0:
            if b == 0 or b.imag or b.real < 0:
                raise ArithmeticError("0^0 or a division by zero")
            return Fraction(0)
        times = _whole(b)
        if isinstance(a, Fraction) and times is not None:
            if abs(a) != 1:
                _small(times, BITS // _bits(a))
            return a**times
        a, b = _inexact(a), _inexact(b)
        _small(b, LARGEST)
        _small(b * self.mp.log(a), LARGEST)
        if times is None and _negative(a):
            self.left_reals = True
        return _clean(self.mp.power(a, times if times is not None else b))

    def root(self, index, a):
        degree = _whole(index)
        if degree and degree % 2 and _negative(a):
            return -self.pow(-_real(a), 1 / index)
        return self.pow(a, self.div(Fraction(1), index))

    def fac(self, a):
        whole = _whole(a)
        if whole is not None and whole >= 0:
            return Fraction(math.factorial(_small(whole, 5_000)))
        return self.mp.gamma(_small(_inexact(a), 1_000) + 1)

    def call(self, name: str, arguments: list):
        known = _KNOWN.get(name.rstrip("_"))
        if known and known[0] <= len(arguments) <= known[1]:
            return known[2](self, *arguments)
        if name in _MPMATH and len(arguments) == 1:
            bound = 100 if name in ("sinh", "cosh", "tanh", "zeta", "Gamma") else 10**15
            value = _small(_inexact(arguments[0]), bound)
            self.left_reals |= name in ("arcsin", "arccos") and bool(abs(value) > 1)
            result = getattr(self.mp, _MPMATH[name])(value)
            return _clean(result, 1 if name in ("sin", "cos") else None)
        return self.opaque(name, arguments)

    def opaque(self, name: str, arguments: list) -> Fraction:
        """A function that is not known: some number that its name and its arguments decide."""
        texts = [self.mp.nstr(_inexact(argument), 25) for argument in arguments]
        return _coordinate(repr([name, *texts]), self.point)

    def floor(self, a):
        a = _real(a)
        if isinstance(a, Fraction):
            return Fraction(math.floor(a))
        nearest = self.mp.nint(_small(a, 10**30))
        near = abs(a - nearest) < self.mp.mpf(10) ** -AGREE
        return Fraction(int(nearest if near else self.mp.floor(a)))

    def log(self, a, base=None):
        if a == 0:
            raise ArithmeticError("logarithm of zero")
        self.left_reals |= _negative(a)
        result = _clean(self.mp.log(_inexact(a)), 1)
        return result if base is None else self.div(result, self.log(base))

    def binom(self, n, k):
        wholes = _whole(n), _whole(k)
        if None not in wholes and min(wholes) >= 0:
            return Fraction(math.comb(_small(wholes[0], 5_000), wholes[1]))
        return self.mp.binomial(*(_inexact(_small(one, 1_000)) for one in (n, k)))

    def integers(self, name, function, arguments):
        wholes = [_whole(argument) for argument in arguments]
        if None not in wholes:
            return _exact(Fraction(function(*wholes)))
        return self.opaque(
            name, sorted(arguments, key=lambda value: (_inexact(abs(value)), str(value)))
        )


_KNOWN = {  # (least, most arguments, function)
    "abs": (1, 1, lambda self, a: abs(a)),
    "floor": (1, 1, _Evaluator.floor),
    "ceil": (1, 1, lambda self, a: -self.floor(-a)),
    "ln": (1, 1, _Evaluator.log),
    "log": (1, 2, lambda self, a, base=Fraction(10): self.log(a, base)),
    "lg": (1, 1, lambda self, a: self.log(a, Fraction(10))),
    "exp": (1, 1, lambda self, a: self.pow(+self.mp.e, a)),
    "cis": (1, 1, lambda self, a: self.pow(+self.mp.e, self.mp.j * _inexact(a))),
    "binom": (2, 2, _Evaluator.binom),
    "fac2": (1, 1, lambda self, a: self.mp.fac2(_small(_inexact(a), 1_000))),
    "max": (1, 99, lambda self, *several: max(map(_real, several), key=_inexact)),
    "min": (1, 99, lambda self, *several: min(map(_real, several), key=_inexact)),
    "gcd": (1, 99, lambda self, *several: self.integers("gcd", math.gcd, several)),
    "lcm": (1, 99, lambda self, *several: self.integers("lcm", math.lcm, several)),
}
_MPMATH = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "Gamma": "gamma", "zeta": "zeta"}
_MPMATH |= {name: name for name in TRIG if name != "cis"}
_CALLS = {f"{name}{base}()" for name in (*_KNOWN, *_MPMATH) for base in ("", "_")}


def constant(tree: Tree):
    """The value of a tree without variables and unknown functions; None of any other."""
    return None if symbols(tree) - _CALLS else values(tree)[0].value


def values(tree: Tree, scales: bool = False) -> tuple[Value, ...]:
    """The value of a tree at each point; at one point only if it has no variables. Cached.

    scales: at the last four points too.
    """
    return _THREAD.values(tree, scales)


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
    """How far it may be off: 0.333333 is 1/3. With up to four decimal places it is exact."""
    return (decimal.denominator > 10_000) * min(1, abs(decimal)) * Fraction(1_001, 1_000_000_000)


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
    exact = values(tree, scales)
    total = [_THREAD.mp.mpf(0)] * len(exact)
    for group in range(min(_decimals(tree), DECIMALS)):
        shifted = values(_shifted(tree, group, itertools.count()), scales)
        for point, (one, other) in enumerate(zip(exact, shifted, strict=True)):
            if None not in (one.value, other.value):
                total[point] += abs(_inexact(other.value) - _inexact(one.value))
    return tuple(total)


class _Thread(threading.local):
    """An mpmath context changes its precision while it works, so each thread has its own."""

    def __init__(self):
        self.mp = mpmath.MPContext()
        self.mp.dps = DIGITS
        self.values = functools.lru_cache(maxsize=2048)(_values)
        self.tolerances = functools.lru_cache(maxsize=2048)(_tolerances)


_THREAD = _Thread()


def _agree(a, b, slack=0) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and not slack:
        return a == b
    a, b = _inexact(a), _inexact(b)
    return abs(a - b) <= slack + _THREAD.mp.mpf(10) ** -AGREE * max(abs(a), abs(b))


def _pairs(one: Tree, other: Tree, scales: bool = False) -> list[tuple] | None:
    """(a, b, slack of a, slack of b), point by point; see _tolerances.

    None if their domains differ or too few points are left.

    Where one of them leaves the reals, as ln x does for a negative x, the point tells nothing,
    unless an absolute value is there for just that: ln|x| is not ln x.
    """
    absolute = "abs()" in symbols(one) | symbols(other)
    sides = [
        list(zip(values(tree, scales), _THREAD.tolerances(tree, scales), strict=True))
        for tree in (one, other)
    ]
    points = max(map(len, sides))
    real, complex_ = [], []
    for point in range(points):
        (a, slack_a), (b, slack_b) = (side[point % len(side)] for side in sides)
        if (a.value is None) != (b.value is None) and point < POINTS:
            return None
        if None in (a.value, b.value) or (a.left_reals != b.left_reals and not absolute):
            continue
        (complex_ if a.left_reals else real).append((a.value, b.value, slack_a, slack_b))
    needed = min(3, points)
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
        return 0  # 2 < 3 says nothing of 4 < 9
    ratios = []
    for a, b, slack_a, slack_b in pairs:
        ratio = _combined(operator.truediv, a, b)
        ratios.append((ratio, (slack_a + slack_b * abs(_inexact(ratio))) / abs(_inexact(b))))
    first, first_slack = ratios[0]
    if not all(_agree(ratio, first, slack + first_slack) for ratio, slack in ratios):
        return 0
    return -1 if _negative(first) else 1  # a complex one will do for an equation
