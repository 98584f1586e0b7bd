"""Test that every recipe field has a meaning, a type and a range that is enforced."""

import dataclasses

import pytest

from cv3jax import diffusion, recipes
from cv3jax.diffusion import losses, sampler
from cv3jax.distillation.parsing import parse_recipe, recipe_fields
from cv3jax.distillation.settings import ENTRY
from cv3jax.fields import (
    UNKNOWN,
    check,
    check_given,
    each,
    exactly,
    field,
    number,
    one_of,
    optional,
    rows,
    whole,
)
from data_pipeline.io.errors import InputError

# fields whose range depends on another field's value; the sample holds what must be beside them
BESIDE = {"train.skip_spike": {"train.skip_nonfinite": 1}}


def flat(values: dict) -> dict:
    """Return the values of a recipe's fields by dotted name."""
    return {row.name: row.value for row in rows(values, {}, {})}


def put(config, name: str, value):
    """Set a field without ml_collections' own checks of its type."""
    *sections, last = name.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked(), config.ignore_type():
        config[last] = value


@pytest.mark.parametrize("variant", ["", ":tiny"])
@pytest.mark.parametrize("name", recipes.recipes())
def test_every_field_of_a_recipe_is_described_and_in_its_range(name, variant):
    config = recipes.load(name + variant, [])
    parse_recipe(config)
    values, fields = config.to_dict(), recipe_fields(config.to_dict())
    given = flat(values)
    assert len(given) > 40
    assert sorted(given.keys() - fields.keys()) == []
    for dotted, value in given.items():
        meaning, rule = fields[dotted]
        assert meaning[0].isupper(), dotted
        assert meaning.endswith("."), dotted
        assert rule.type, dotted
        assert rule.right, dotted
        if dotted != "distill.rounds":  # parsed first
            assert rule.fits(value), dotted


@pytest.mark.parametrize(
    "name", ["scenes_vae", "scenes_relay", "scenes_distill_base", "scenes_lora"]
)
def test_values_just_outside_of_a_range_are_refused_with_it(name):
    config = recipes.load(name, [])
    for dotted in flat(config.to_dict()):
        rule = recipe_fields(config.to_dict())[dotted].rule
        assert rule.outside, dotted
        for outside in rule.outside:
            copy = recipes.load(name, [])
            for other, beside in BESIDE.get(dotted, {}).items():
                put(copy, other, beside)
            put(copy, dotted, outside)
            with pytest.raises(InputError) as e:
                parse_recipe(copy)
            said = str(e.value)
            assert said.startswith(f"config.{dotted} = "), (dotted, said)
            assert said.removesuffix(")").endswith(rule.right.removesuffix(")")), (said, rule.right)


def test_a_distillation_allows_less_of_a_stage_s_fields():
    ours, theirs = (
        recipe_fields(recipes.load(name, []).to_dict())
        for name in ("distill_base", "base_aesthetic")
    )
    differ = {name for name in theirs if ours[name].rule.right != theirs[name].rule.right}
    own = {"stage", "objective.text_drop", "train.export_every", "model.w_dim", "optim.posthoc"}
    assert differ == own | {"schedule.zero_snr", "sample.guidance_rescale"}
    assert ENTRY in ours["distill.rounds"].rule.right


@pytest.mark.parametrize(
    ("given", "table"),
    [
        (diffusion.WEIGHTINGS, losses.WEIGHTINGS),
        (diffusion.NORMS, losses.NORMS),
        (diffusion.FORMS, sampler.FORMS),
    ],
)
def test_names_are_those_of_the_tables(given, table):
    assert given == tuple(table)


@pytest.mark.parametrize(
    ("rule", "right", "inside", "outside"),
    [
        (whole(2), "at least 2", (2, 10**9), (1, 2.0, True, "2", None)),
        (whole(0, 3), "0..3", (0, 3), (-1, 4)),
        (number(0, 1), "0..1", (0, 1, 0.5), (-0.1, 1.1, float("nan"), "0")),
        (number(0, below=1), "at least 0 and below 1", (0, 0.999), (1.0,)),
        (number(above=0, high=1), "above 0 and at most 1", (1e-9, 1), (0, 1.1)),
        (number(above=0), "above 0", (1e-9, 1e9), (0, float("inf"), float("nan"))),
        (one_of("a", "b"), "one of a, b", ("a", "b"), ("c", "", None, 1)),
        (exactly(0, "int"), "0", (0, 0.0), (1, None)),
        (optional(whole(1)), "at least 1, or none", (None, 1), (0,)),
        (each(whole(1)), "one or more, each at least 1", ((1,), [1, 2]), ((), (0,), 1, ("a",))),
        (each(whole(1), least=0), "none or more, each at least 1", ((), (1,)), ((0,),)),
    ],
)
def test_a_rule_holds_what_it_says(rule, right, inside, outside):
    assert rule.right == right
    assert [value for value in inside if not rule.fits(value)] == []
    assert [value for value in (*outside, *rule.outside) if rule.fits(value)] == []
    assert rule.outside


@dataclasses.dataclass(frozen=True)
class Toy:
    """Hold settings of two fields, of which a recipe may lack the second."""

    count: int = field("How many.", whole(1))
    share: float | None = field("Which share.", number(0, 1), None)


def test_checks_name_the_field_its_value_its_type_and_its_range():
    check(Toy(1), "toy")
    with pytest.raises(InputError) as e:
        check(Toy(0), "toy")
    assert str(e.value) == "config.toy.count = 0: must be at least 1"
    with pytest.raises(InputError) as e:
        check(Toy("two"))
    assert str(e.value) == "config.count = two: must be of type int (at least 1)"
    check_given(Toy, {"other": 3}, "toy")
    with pytest.raises(InputError) as e:  # given, so it is not lacking
        check_given(Toy, {"share": None}, "toy")
    assert str(e.value) == "config.toy.share = None: must be 0..1"


def test_rows_are_in_order_and_say_what_was_changed():
    values = {"mesh": {"data": 2}, "seed": 3, "extra": {"x": ()}}
    fields = recipe_fields({"stage": "base"})
    found = rows(values, fields, {"mesh.data": -1})
    assert [row.name for row in found] == ["seed", "mesh.data", "extra.x"]
    assert [(row.changed, row.own) for row in found] == [(False, None), (True, -1), (False, None)]
    assert found[1].range == "at least 1, or -1"
    assert found[2].meaning == UNKNOWN.meaning
