"""Units: every name of a unit to one name, and compound units to exponents: "km per hour" -> {"km":
1, "h": -1}.
"""

import re

Unit = dict[str, int]

_TABLE = """
m meter meters metre metres
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters millimetre millimetres
km kilometer kilometers kilometre kilometres kms
in inch inches
ft foot feet
yd yard yards
mi mile miles
g gm gram grams
kg kilogram kilograms
lb lbs pound pounds
oz ounce ounces
gal gallon gallons
L l liter liters litre litres
acre acres
s sec secs second seconds
min mins minute minutes
h hr hrs hour hours
day days
week weeks
month months
yr year years
am AM
pm PM
rad radian radians
deg degree degrees
dollar dollars USD
cent cents
N newton newtons
J joule joules
W watt watts
V volt volts
A amp amps ampere amperes
Pa pascal pascals
Hz hertz
K kelvin kelvins
C coulomb coulombs
mol mole moles
ohm ohms Ω
mph
kph kmph kmh
rpm
"""
_WORDS = {name: line.split()[0] for line in _TABLE.strip().splitlines() for name in line.split()}
_PREFIXED = ("m", "g", "s", "L", "N", "J", "W", "V", "A", "F", "T", "C", "Pa", "Hz", "eV", "mol")
_NAMES = {
    **{prefix + unit: prefix + unit for prefix in "kMGmcnpμ" for unit in _PREFIXED},
    **{unit: unit for unit in ("eV", "F", "T", "cal", "kcal", "atm", "bar", "Wh", "kWh")},
    **_WORDS,
}
_SYNONYMS = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}}
_TOKEN = re.compile(
    r"(?P<over>/|\bper\b)|(?P<power>square|sq\b|cubic|cu\b)"
    r"|(?P<name>[a-zA-ZΩμµ]+)(?:\s*\^?\s*\{?\s*(?P<exponent>-?\d)\s*\}?)?|[()]|(?P<other>\S)"
)


def parse_unit(words: str) -> Unit | None:
    """Exponents of the units in `words`, with one name for each; None if a word is no unit.

    "square units" are {}.
    """
    unit: Unit = {}
    sign, power = 1, 1
    for token in _TOKEN.finditer(words.replace(r"\cdot", " ").replace("µ", "μ")):
        if token["over"]:
            sign = -1
        elif token["power"]:
            power = 2 if token["power"].startswith("sq") else 3
        elif token["name"] in ("unit", "units"):
            return {}
        elif token["name"] in _NAMES:
            name = _NAMES[token["name"]]
            for part, times in _SYNONYMS.get(name, {name: 1}).items():
                exponent = sign * times * power * int(token["exponent"] or 1)
                unit[part] = unit.get(part, 0) + exponent
            power = 1
        elif token[0] not in "()":
            return None
    return unit


def ambiguous(words: str) -> bool:
    """Whether a unit could as well be a product of variables: m or mg, but not cm or hours."""
    return bool(re.fullmatch(r"\s*[a-zA-Z]{1,2}\s*", words)) and not (
        len(words.strip()) > 1 and words.strip() in _WORDS
    )


def conflict(one: Unit, other: Unit) -> bool:
    """Whether two units contradict each other.

    Money may be per anything: $5 and 5 dollars per hour agree.
    """
    if not one or not other or one == other:
        return False
    return not (one.get("dollar") == other.get("dollar") == 1 and 1 in (len(one), len(other)))
