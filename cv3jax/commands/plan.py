"""`cv3jax plan`: what all stages cost on some hardware, in chip-hours, days and money.

The FLOPs are counted and the MFU is assumed. Reports of `cv3jax compile` are used where there are
some; other programs are traced, which takes seconds each and says nothing of memory. A file of
--json given as --reports spares the next plan, at other prices or on other hardware, the tracing.
"""

import math
from pathlib import Path

from cv3jax import recipes
from cv3jax.aot import topology
from cv3jax.commands import arguments as command_line
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed.backend import loading
from cv3jax.lora.settings import LoraSettings
from cv3jax.training.settings import StageSettings
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.progress import say
from data_pipeline.io.terminal import tell

EXAMPLE = """cv3jax plan --topology v5e:16x16 --price 0.60
  cv3jax plan --topology v5e:16x16 --topology h100:16x8x1 --mfu 0.35 --reports base_512.json"""
STAGES = ("base_256", "base_512", "base_aesthetic", "sr_1024", "relay_1024")
DISTILLATIONS = ("distill_base", "distill_relay")


def parser() -> Parser:
    """Return the parser of `cv3jax plan`."""
    made = command_line.command("plan", __doc__, EXAMPLE)
    made.add_argument(
        "--topology",
        action="append",
        required=True,
        metavar="CHIP:SHAPE",
        help="the devices, such as v5e:16x16 or h100:16x8x1; may be given several times",
    )
    made.add_argument(
        "--recipes",
        nargs="+",
        default=[*STAGES, *DISTILLATIONS],
        metavar="NAME",
        help="the recipes, in order (default: the paper's five stages and both distillations)",
    )
    made.add_argument(
        "--reports",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="files of cv3jax compile --json or of this command's own, or folders of them",
    )
    made.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        metavar="X",
        help="the MFU (model FLOPs utilization) that is assumed, 0..1 (default: 0.4)",
    )
    made.add_argument(
        "--price",
        type=float,
        action="append",
        metavar="P",
        help="what a chip costs for an hour, in any currency; one for each --topology, or one for"
        " all",
    )
    made.add_argument(
        "--records",
        type=int,
        default=100_000_000,
        metavar="N",
        help="records whose text a feature cache would hold (default: 100000000)",
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Plan and report. Raises InputError on flags, recipes and reports that cannot be."""
    args = parser().parse_args(argv)
    check_json(args.json)
    if not 0 < args.mfu <= 1:
        raise InputError(f"--mfu {args.mfu}: must be above 0 and at most 1, such as 0.4")
    if not 1 <= args.records <= 10**12:
        raise InputError(f"--records {args.records}: must be 1..1000000000000")
    prices = args.price or [None]
    for price in args.price or ():
        if not (math.isfinite(price) and 0 <= price <= 1e6):
            raise InputError(f"--price {price:g}: must be 0..1000000")
    if len(prices) not in (1, len(args.topology)):
        raise InputError(
            f"{len(prices)} --price for {len(args.topology)} --topology: give one for each, or one"
        )
    for name in args.topology:
        topology.parse(name)
    settings = {name: parse_recipe(recipes.load(name, [])) for name in args.recipes}
    for name, one in settings.items():
        if isinstance(one, LoraSettings):
            raise InputError(f"--recipes {name}: an adapter's; give stages and distillations")
    text_of = next((one for one in settings.values() if _stage(one).stage != "vae"), None)

    with loading():
        from cv3jax.aot import budget
        from cv3jax.aot.budget_report import Hardware, Texts, figures, summary, text

    with reporting(args.json) as report:
        reports = budget.read_reports(args.reports)
        texts = Texts(0, 0.0, 0.0)
        if text_of is not None:
            stage = _stage(text_of)
            once = args.records * budget.text_flops(stage)
            texts = Texts(args.records, once, args.records * budget.text_bytes(stage))
        made, traced = [], {}
        for number, where in enumerate(args.topology):
            costs = []
            for name, one in settings.items():
                cost, found = budget.cost_of(
                    name, one, where, reports, lambda line: say(f"cv3jax: {line}")
                )
                costs.append(cost)
                reports += found
                traced |= {f"{each['config']} {each['step']}": each for each in found}
            chip, count = budget.chip_of(where)
            hardware = Hardware(where, chip, count, args.mfu, prices[number % len(prices)])
            tell(text(costs, hardware, texts) + "\n" * (len(args.topology) > 1))
            made.append({**figures(costs, hardware, texts), "costs": budget.to_json(costs)})
        if len(made) > 1:
            tell(summary(made))
        report({"plans": made, "results": traced})


def _stage(settings: StageSettings | DistillSettings) -> StageSettings:
    """Return the settings of the stage that a recipe trains."""
    return settings.stage if isinstance(settings, DistillSettings) else settings
