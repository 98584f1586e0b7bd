"""Test `cv3jax plan`: costs from reports and from traced programs, and its table."""

import json
import re
import shlex
from pathlib import Path

import pytest

from cv3jax import recipes
from cv3jax.aot import budget
from cv3jax.aot.budget_report import Hardware, Texts, figures, text
from cv3jax.aot.roofline import chip_hours as hours_of_steps
from cv3jax.commands import plan
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.distributed.chips import CHIPS
from cv3jax.kernels import flops
from data_pipeline.io.errors import InputError

NAME = "base_256"
ROOT = Path(__file__).parents[2]


def report(step="train", **changes):
    return {
        "config": NAME,
        "step": step,
        "topology": "v5e:16x16",
        "images": 2048,
        "model_flops_per_step": 3e15 if step == "train" else 5e15,
        "mfu_bound": 0.6 if step == "train" else 0.9,
        "fits": True,
        **changes,
    }


def settings(name=NAME):
    return parse_recipe(recipes.load(name, []))


def cost(*reports, name=NAME, where="v5e:16x16"):
    return budget.cost_of(name, settings(name), where, list(reports), lambda line: None)[0]


def test_a_cost_is_that_of_the_reports():
    found = cost(report(), report("encode"))
    assert (found.updates, found.images, found.seen) == (600_000, 2048, 600_000 * 2048)
    assert found.train == 600_000 * 3e15
    assert found.encoders == 600_000 * 5e15
    assert (found.fits, found.bound) == (True, 0.6)
    assert cost(report(fits=False), report("encode")).fits is False
    # FLOPs do not depend on the hardware; memory does
    other = cost(report(), report("encode"), where="v5p:8x8x4")
    assert (other.train, other.fits, other.bound) == (found.train, None, None)


def test_the_text_encoder_s_share_is_that_of_the_released_t5():
    one = budget.text_flops(settings())
    d, f, inner, layers, length = 4096, 10240, 4096, 24, 225
    products = layers * (4 * d * inner + 3 * d * f) * length * 2
    attention = layers * 2 * 2 * inner * length * length
    assert one == products + attention
    assert cost(report(), report("encode")).text == one * 600_000 * 2048
    assert budget.text_bytes(settings()) == 225 * 4096 * 2


def test_chip_hours_are_those_of_a_compile_report():
    chip, count = budget.chip_of("v5e:16x16")
    assert (chip, count) == (CHIPS["v5e"], 256)
    theirs = hours_of_steps(chip, 256, 3e15, None, 600_000, 0.4)
    assert budget.chip_hours(600_000 * 3e15, chip, 0.4) == pytest.approx(
        theirs["chip_hours_at_mfu"]
    )
    assert Hardware("x", chip, 256, 0.4).days(theirs["chip_hours_at_mfu"]) == pytest.approx(
        theirs["days_at_mfu"]
    )


def test_sums_cached_text_and_price():
    costs = [
        budget.Cost("a", 10, 4, 6e18, 4e18, 3e18, True, 0.5),
        budget.Cost("b", 1, 8, 1e18, 0.0, 0.0, None, None),
    ]
    where = Hardware("v5e:2x2", CHIPS["v5e"], 4, 0.5, price=2.0)
    found = figures(costs, where, Texts(100, 1e18, 2e12))
    hour = 197e12 * 0.5 * 3600
    assert found["chip_hours"] == pytest.approx(11e18 / hour)
    assert found["cached_text"]["chip_hours"] == pytest.approx((11e18 - 3e18 + 1e18) / hour)
    assert found["price"] == pytest.approx(2.0 * found["chip_hours"])
    assert found["days"] == pytest.approx(found["chip_hours"] / 4 / 24)
    shown = text(costs, where, Texts(100, 1e18, 2e12))
    assert "48 images are seen in all. Text features of 100 records take 2.0 TB." in shown
    assert f"| **{found['chip_hours']:,.0f}** " in shown
    assert "not compiled" in shown
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1


def test_a_recipe_without_reports_is_traced_and_counted(monkeypatch, tmp_path):
    import jax

    from cv3jax.aot import topology

    def load(name):
        return topology.Topology(name, CHIPS["v5e"], (2, 4), jax.devices())

    monkeypatch.setattr(budget.topology, "load", load)
    said = []
    name = "scenes_base:tiny"
    found, counted = budget.cost_of(name, settings(name), "v5e:2x4", [], said.append)
    assert said == [f"counting the FLOPs of {name}, {step}" for step in ("train", "encode")]
    work = budget.program(settings(name), jax.devices(), "train")
    traced = flops.count_jaxpr(work.jitted.trace(*work.args).jaxpr)
    assert found.train == found.updates * traced.model > 0
    assert found.fits is None
    # what was counted is a report that says nothing of memory, and is not counted again
    said.clear()
    assert budget.cost_of(name, settings(name), "v5e:2x4", counted, said.append) == (found, [])
    assert said == []
    kept = tmp_path / "plan.json"
    kept.write_text(json.dumps({"plans": [], "results": dict(enumerate(counted))}))
    assert budget.read_reports([kept]) == counted
    distilled = "scenes_distill_base:tiny"
    steps = budget.steps_of(settings(distilled))
    rounds = settings(distilled).rounds
    assert sum(step.updates for step in steps) == sum(one.updates for one in rounds)
    assert [step.name for step in steps] == ["train", "later"][: len(rounds)]


def test_reports_are_files_folders_or_results_of_the_benchmark(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(report()))
    several = {"results": {"x": report("encode"), "y": {"error": "no"}}}
    (tmp_path / "b.json").write_text(json.dumps(several))
    found = budget.read_reports([tmp_path])
    assert [one["step"] for one in found] == ["train", "encode"]
    assert budget.read_reports([tmp_path / "a.json"]) == [report()]
    wrong = [json.dumps(report(**{name: 0})) for name in ("images", "model_flops_per_step")]
    for bad in ("{", "[1]", '{"config": "x"}', *wrong):
        (tmp_path / "a.json").write_text(bad)
        with pytest.raises(InputError, match=r"--reports .*a\.json"):
            budget.read_reports([tmp_path / "a.json"])
    with pytest.raises(InputError, match=r"--reports .*none"):
        budget.read_reports([tmp_path / "none"])


def test_the_command_prints_the_table_and_its_figures(tmp_path, capsys):
    reports = tmp_path / "r.json"
    reports.write_text(json.dumps({"results": {"a": report(), "b": report("encode")}}))
    argv = ["--topology", "v5e:16x16", "--topology", "v5p:8x8x4", "--recipes", NAME]
    argv += [
        "--reports",
        str(reports),
        "--price",
        "1",
        "--price",
        "3",
        "--json",
        str(tmp_path / "f"),
    ]
    plan.main(argv)
    shown = capsys.readouterr().out
    assert shown.count("| base_256 ") == 2
    first, second = json.loads((tmp_path / "f").read_text())["plans"]
    ratio = CHIPS["v5p"].flops / CHIPS["v5e"].flops
    assert first["chip_hours"] / second["chip_hours"] == pytest.approx(ratio)
    assert second["price"] == pytest.approx(3 * second["chip_hours"])
    assert f"| v5p:8x8x4      | 40%          | {second['chip_hours']:,.0f} " in shown
    speed = 256 * 0.4 * CHIPS["v5e"].flops * 2048 / 8e15
    assert first["recipes"][NAME]["images_per_second"] == pytest.approx(speed)
    assert first["costs"][0]["seen"] == 600_000 * 2048


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--topology v5e:16x16 --mfu 0", r"--mfu 0.0: must be above 0"),
        ("--topology v5e:16x16 --price -1", r"--price -1: must be 0"),
        ("--topology v5e:16x16 --price 1 --price 2", r"2 --price for 1 --topology"),
        ("--topology v5e:16x16 --records 0", r"--records 0: must be"),
        ("--topology v5e:16x17", r"no TPU v5e has this shape"),
        ("--topology v5e:16x16 --recipes lora_base", r"--recipes lora_base: an adapter's"),
        (
            "--topology v5e:16x16 --recipes base_257",
            r"unknown recipe 'base_257' \(nearest: base_256",
        ),
    ],
)
def test_wrong_flags_are_one_line(flags, said):
    with pytest.raises(InputError, match=said):
        plan.main(flags.split())


def test_the_book_s_tables_are_those_of_its_command(capsys, monkeypatch):
    """Nothing is traced for them: the page's command names reports of every program."""
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "scale" / "five-stages.md").read_text()
    (block,) = re.findall(r"```sh\n(cv3jax plan .*?)```", page, re.DOTALL)
    plan.main(shlex.split(block.replace("\\\n", " "))[2:])
    captured = capsys.readouterr()
    assert "counting" not in captured.err
    shown = [line for line in captured.out.splitlines() if line]
    assert len(shown) == 3 * 14 + 5
    assert [line for line in shown if line not in page.splitlines()] == []
