"""Fields of a recipe: what each means, of which type it is, and the rule that its value must meet.

A settings class, a frozen dataclass, declares a field by `field(meaning, rule)`. `check` enforces
the rule, and whatever prints a field prints the same rule: there is no second place for a range.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data_pipeline.io.errors import InputError

METADATA = "described"  # the key of a dataclass field's metadata


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        type: the type's name for people, such as "int" or "tuple of float".
        right: the range in words, which follows "must be".
        typed: whether a value is of the type.
        within: whether a value of the type is in the range.
        outside: values just outside of it, for tests.
        none: whether the field may also have no value.
    """

    type: str
    right: str
    typed: Callable[[Any], bool]
    within: Callable[[Any], bool] = lambda value: True
    outside: tuple[Any, ...] = ()
    none: bool = False

    def fits(self, value: Any) -> bool:
        """Return whether the value is of the type and in the range."""
        return self.none if value is None else self.typed(value) and bool(self.within(value))


class Described(NamedTuple):
    """What a field means, and its rule."""

    meaning: str
    rule: Rule

    def check(self, name: str, value: Any) -> None:
        """Raise InputError where the value of `config.<name>` breaks the rule."""
        rule = self.rule
        wrong_type = value is not None and not rule.typed(value)
        right = rule.right
        if wrong_type and right != rule.type:
            right = f"of type {rule.type} ({right})"
        require(rule.fits(value), name, value, right)


class Row(NamedTuple):
    """A field of one recipe, as it is printed."""

    name: str  # dotted, without "config."
    value: Any
    type: str
    range: str
    meaning: str
    changed: bool = False
    own: Any = None  # the recipe's own value, where it was changed


def field(meaning: str, rule: Rule, default: Any = dataclasses.MISSING) -> Any:
    """Return a dataclass field with a meaning and a rule.

    A default of None that the rule does not allow stands for a field that the recipe lacks.
    """
    return dataclasses.field(default=default, metadata={METADATA: Described(meaning, rule)})


def described(cls: type) -> dict[str, Described]:
    """Return name → description of the fields of a settings class that have one."""
    fields = {each.name: each.metadata.get(METADATA) for each in dataclasses.fields(cls)}
    return {name: one for name, one in fields.items() if one}


def check(settings: Any, section: str = "") -> None:
    """Raise InputError where a field of a settings object breaks its rule."""
    defaults = {each.name: each.default for each in dataclasses.fields(settings)}
    for name, one in described(type(settings)).items():
        value = getattr(settings, name)
        if value is not None or defaults[name] is not None:
            one.check(f"{section}.{name}" if section else name, value)


def check_given(cls: type, values: Mapping[str, Any], section: str) -> None:
    """Raise InputError where one of the given values breaks the rule of its field in `cls`.

    Names that `cls` does not have are left alone.
    """
    for name, one in described(cls).items():
        if name in values:
            one.check(f"{section}.{name}", values[name])


def require(fine: bool, name: str, value: Any, right: str) -> None:
    """Raise InputError where the value of `config.<name>` is not fine; `right` says what is."""
    if not fine:
        raise InputError(f"config.{name} = {value}: must be {right}")


def rows(values: dict, fields: Mapping[str, Described], own: Mapping[str, Any]) -> list[Row]:
    """Return a row for each field of a recipe, in the order of `fields`, others last.

    values: the recipe as nested dictionaries. own: name → the recipe's own value, of the fields
    that were changed.
    """
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    for section, inner in values.items():
        if isinstance(inner, dict):
            flat |= {f"{section}.{name}": value for name, value in inner.items()}
    found = []
    order, sections = {name: place for place, name in enumerate(fields)}, {}
    for name, place in order.items():
        sections.setdefault(name.rpartition(".")[0], place)
    last = len(order)

    def place_of(name: str) -> tuple:
        section = name.rpartition(".")[0]
        return bool(section), sections.get(section, last), section, order.get(name, last)

    for name in sorted(flat, key=place_of):
        one, value = fields.get(name, UNKNOWN), flat[name]
        more = (name in own, own.get(name))
        found.append(Row(name, value, one.rule.type, one.rule.right, one.meaning, *more))
    return found


def whole(low: int, high: int | None = None) -> Rule:
    """Return the rule of an integer from `low` to `high`, both included."""
    right = f"at least {low}" if high is None else f"{low}..{high}"
    outside = (low - 1,) if high is None else (low - 1, high + 1)
    most = math.inf if high is None else high
    return Rule("int", right, _is_int, lambda value: low <= value <= most, outside)


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Rule:
    """Return the rule of a finite number: at least `low` or `above`, at most `high` or `below`."""
    words = {"at least": low, "above": above, "at most": high, "below": below}
    parts = [f"{word} {bound:g}" for word, bound in words.items() if bound is not None]
    both = low is not None and high is not None
    right = f"{low:g}..{high:g}" if both else " and ".join(parts)
    near = ((low, -1e-6), (high, 1e-6), (above, 0.0), (below, 0.0))
    outside = (*(bound + by for bound, by in near if bound is not None), math.nan, math.inf)

    def within(value: float) -> bool:
        least = (low is None or value >= low) and (above is None or value > above)
        most = (high is None or value <= high) and (below is None or value < below)
        return math.isfinite(value) and least and most

    return Rule("float", right, _is_number, within, outside)


def one_of(*names: str) -> Rule:
    """Return the rule of a name among others."""
    right = f"one of {', '.join(names)}"
    return Rule("str", right, _is_text, lambda value: value in names, ("no such name",))


def exactly(value: Any, kind: str) -> Rule:
    """Return the rule of a field that has one value alone; kind: its type's name."""
    return Rule(kind, f"{value}", lambda other: True, lambda other: other == value, (value + 1,))


def optional(rule: Rule) -> Rule:
    """Return the rule of a field that may have no value."""
    return dataclasses.replace(
        rule, type=f"{rule.type} or none", right=f"{rule.right}, or none", none=True
    )


def each(rule: Rule, *, least: int = 1, most: int | None = None) -> Rule:
    """Return the rule of a tuple of so many values, each of which meets `rule`."""
    few = "one or more" if least else "none or more"
    few = few if most is None else f"{least}..{most} numbers"
    many = () if most is None else ((1,) * (most + 1),)
    return Rule(
        f"tuple of {rule.type}",
        f"{few}, each {rule.right}",
        lambda values: isinstance(values, (tuple, list)) and all(map(rule.typed, values)),
        lambda values: (
            least <= len(values) <= (len(values) if most is None else most)
            and all(map(rule.fits, values))
        ),
        (*((value,) for value in rule.outside), *(((),) if least else ()), *many),
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


TEXT = Rule("str", "any text", _is_text, outside=(7,))
PATH = Rule("str or none", "a path, or none", _is_text, outside=(7,), none=True)
SWITCH = Rule("bool", "True or False", lambda value: isinstance(value, bool), outside=(2,))
# of a field that a recipe given by path has beside those that are read
UNKNOWN = Described("Not read by cv3jax.", Rule("any", "anything", lambda value: True))
