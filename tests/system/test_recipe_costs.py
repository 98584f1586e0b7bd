"""Test that the costs in the docstrings of full-size recipes are those of the reports."""

import ast
import re

import pytest
from documents import flat, read, result, rows

from cv3jax import recipes
from cv3jax.distributed.chips import CHIPS

AT, CHIP, COUNT, MFU = "v5e:16x16", CHIPS["v5e"], 256, 0.4
STAGES = ("base_256", "base_512", "base_aesthetic", "sr_1024", "relay_1024")
ADAPTERS = ("lora_base", "lora_relay")
DISTILLED = {"distill_base": "base_aesthetic", "distill_relay": "relay_1024"}


def docstring(name: str) -> str:
    return flat(ast.get_docstring(ast.parse(recipes.recipes()[name].read_text())))


def of(recipe: str, step: str) -> dict:
    return result("compile_time")["results"][f"{recipe} {step} {AT}"]


def roof(figures: dict) -> float:
    return max(figures["roofline_seconds"].values())


def hours(seconds: float) -> str:
    return f"{seconds * COUNT / 3600:,.0f} chip-hours"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_s_cost_is_the_compile_report_s(name):
    train, encode = (of(name, step) for step in ("train", "encode"))
    assert train["chips"] == COUNT
    steps = recipes.load(name, []).train.steps
    # each program beside the other's arguments, as docs/scale/mesh.md has it
    memory = max(
        one["peak_bytes_per_chip"] + other["argument_bytes_per_chip"]
        for one, other in ((train, encode), (encode, train))
    )
    flops = train["flops_per_step"] + encode["flops_per_step"]
    useful = steps * (train["model_flops_per_step"] + encode["model_flops_per_step"])
    at_mfu = useful / (CHIP.flops * MFU * 3600)
    said = (
        f"Cost on {AT} ({COUNT} chips), by `cv3jax compile`: {memory / 1e9:.1f} GB of"
        f" {CHIP.memory / 1e9:.0f} a chip; {flops / 1e15:.1f} PFLOP an update with its encoders;"
        f" {hours(steps * (roof(train) + roof(encode)))} at the roofline, {at_mfu:,.0f} at"
        f" {100 * MFU:.0f} % MFU."
    )
    assert said in docstring(name)


@pytest.mark.parametrize("name", DISTILLED)
def test_a_distillation_s_cost_is_that_of_its_page(name):
    first, later = [
        r for r in rows(read("docs/guides/distillation.md")) if r[0] == f"`{name}`" and len(r) == 8
    ]
    memory, pflop, ms = first[2].split()[0], (first[3], later[3]), []
    for row in (first, later):
        ms.append(max(float(cell.replace(",", "")) for cell in row[4:7]))
    updates = [entry[1] for entry in recipes.load(name, []).distill.rounds]
    encode = of(DISTILLED[name], "encode")
    seconds = (updates[0] * ms[0] + sum(updates[1:]) * ms[1]) / 1000 + sum(updates) * roof(encode)
    said = (
        f"Cost on {AT} ({COUNT} chips), by `cv3jax compile` (docs/guides/distillation.md):"
        f" {memory} GB of {CHIP.memory / 1e9:.0f} a chip; {pflop[0]} PFLOP an update in"
        f" round 1 and {pflop[1]} later, beside its encoders'"
        f" {encode['flops_per_step'] / 1e15:.1f}; at least {hours(seconds)} for all"
        f" {sum(updates):,} updates, by the roofline."
    )
    assert said in docstring(name)


@pytest.mark.parametrize(("name", "run"), [("lora_base", "adapter"), ("lora_relay", "relay")])
def test_an_adapter_s_memory_is_the_compile_report_s(name, run):
    kept = result("finetune_memory")["results"]
    steps = [kept[f"{run} rtx4090:1x1x1 {step}"] for step in ("train", "encode")]
    memory = max(one["peak_bytes_per_chip"] + one["beside_bytes_per_chip"] for one in steps)
    said = (
        f"Cost on rtx4090:1x1x1, by `cv3jax compile` (docs/scale/compile.md): {memory / 1e9:.1f} GB"
        f" of {steps[0]['capacity_bytes'] / 1e9:.0f}, with the encoders."
    )
    assert said in docstring(name)


def test_every_full_size_recipe_names_its_cost_and_what_to_expect():
    full = {name for name in recipes.recipes() if not name.startswith("scenes_")}
    assert full == {*STAGES, *DISTILLED, *ADAPTERS}
    for name in full:
        assert re.search(r"\bExpect [a-z]", docstring(name)), name
