"""Units: one name for each, and exponents: "km per hour" is {"km": 1, "h": -1}."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

# name: other names; the plural and the prefixes k, M, G, m, c, n, p, μ need no mention.
_TABLE = """
m: meter metre, in: inch inches, ft: foot feet, yd: yard, mi: mile, g: gm gram, lb: lbs pound
oz: ounce, gal: gallon, L: l liter litre, acre:, s: sec second, min: minute, h: hr hour, day:
week:, month:, yr: year, am: AM, pm: PM, rad: radian, deg: degree, dollar: USD, cent:, N: newton
J: joule, W: watt, V: volt, A: amp ampere, Pa: pascal, Hz: hertz, K: kelvin, C: coulomb, mol: mole
ohm: Ω, mph:, kph: kmph kmh, rpm:, unit:, eV:, F:, T:, cal:, kcal:, atm:, bar:, Wh:, kWh:
"""
_PREFIXES = {"k": "kilo", "M": "mega", "G": "giga", "m": "milli", "c": "centi", "n": "nano"}
_PREFIXES |= {"p": "pico", "μ": "micro"}
_PREFIXED = re.compile("[mgsLNJWVAFTC]|Pa|Hz|eV|mol")
_WORDS = {}  # every word to its unit
for _entry in _TABLE.replace("\n", ",").strip(",").split(","):
    _unit, _, _others = _entry.strip().partition(":")
    for _name in (_unit, *_others.split()):
        _WORDS |= {_name: _unit} | ({_name + "s": _unit} if len(_name) > 2 else {})
        if _PREFIXED.fullmatch(_unit):
            _WORDS |= {p + _unit: p + _unit for p in _PREFIXES if _name == _unit}
            _WORDS |= {f"{_PREFIXES[p]}{_name}{s}": p + _unit for p in _PREFIXES for s in ("", "s")}
_WORDS |= {"hrs": "h", "yrs": "yr", "kms": "km"}
_SYNONYMS = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}}
_CLEAR = re.compile("[cmk]m|in|ft|yd|mi|[gk][gm]|lb|oz|hr|yr|[ap]m|[AP]M|Pa|Hz")
_NO_WORD = {"a", "an", "the", "of", "in", "to", "total", "each", "approximately"}
_TOKEN = re.compile(
    r"(?P<over>/|\bper\b)|(?P<power>square|sq\b|cubic|cu\b)"
    r"|(?P<name>[a-zA-ZΩμ]+)(?:\s*\^?\s*\{?\s*(?P<exponent>-?\d)\s*\}?)?|[()]|(?P<other>\S)"
)


class Unit(NamedTuple):
    """Exponents of the known units, and all words from the first one that is not known."""

    powers: Mapping[str, int] = MappingProxyType({})
    words: frozenset[str] = frozenset()


def _known(word: str | None) -> str | None:
    """The unit of a word; capitals count in symbols alone: Newtons, but mg and Mg."""
    return _WORDS.get(word) or (_WORDS.get(word.lower()) if word and len(word) > 3 else None)


def parse_unit(text: str) -> Unit:
    """The unit that `text` names: "km per hour north" is {"km": 1, "h": -1} and north."""
    powers: dict[str, int] = {}
    words: set[str] = set()
    sign, power = 1, 1
    for token in _TOKEN.finditer(text.replace(r"\cdot", " ").replace(r"\mu ", "μ")):
        if token["over"]:
            sign = -1
        elif token["power"]:
            power = 2 if token["power"].startswith("sq") else 3
        elif (name := _known(token["name"])) and not words:
            for part, times in _SYNONYMS.get(name, {name: 1}).items():
                exponent = sign * times * power * int(token["exponent"] or 1)
                powers[part] = powers.get(part, 0) + exponent
            power = 1
        elif token["name"] not in _NO_WORD and token[0] not in "()":
            words.add(token[0].lower().removesuffix("s"))
    return Unit(powers, frozenset(words))


def ambiguous(text: str) -> bool:
    """Whether a unit could as well be a product of variables: m or mg, but not cm or hours."""
    return bool(re.fullmatch("[a-zA-Z]{1,2}", text.strip()) and not _CLEAR.fullmatch(text.strip()))


def conflict(one: Unit, other: Unit) -> bool:
    """Whether two units contradict each other: km and m, dollars and percent, north and south.

    What only one of them says contradicts nothing. Money may be per anything: $5 and 5 dollars per
    hour agree.
    """
    if one == other or Unit() in (one, other):
        return False
    if "unit" in {**one.powers, **other.powers}:
        return (
            sum(one.powers.values()) != sum(other.powers.values()) and not one.words | other.words
        )
    if one.powers and other.powers and one.powers != other.powers:
        dollars = one.powers.get("dollar") == other.powers.get("dollar") == 1
        return not (dollars and 1 in (len(one.powers), len(other.powers)))
    if one.words and other.words:
        return not (one.words <= other.words or other.words <= one.words)
    return bool(one.powers) != bool(other.powers)  # hours and cups
