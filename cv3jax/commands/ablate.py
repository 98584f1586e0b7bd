"""`cv3jax ablate`: draw and score the variants of an ablation, and compare them in one report.

The recipe says what is drawn and scored, and its `sweep()` yields the variants by group. Each is
compared with the first of its group, by the same prompts and seeds. The same command resumes after
it was stopped. A variant that needs a run or a language model that is not there is left out, and
the report says so.
"""

import argparse
from pathlib import Path
from typing import Any

from cv3jax import recipes
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import parse_size
from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import evaluate_tables as tables
from cv3jax.commands import expansion_flags
from cv3jax.commands.evaluate import DRAWS, LEAST, MOST
from cv3jax.commands.sample import BATCH, MAX_BATCH, check_drawable
from cv3jax.diffusion import FORMS
from cv3jax.distributed import parse_axes
from cv3jax.distributed.backend import loading
from cv3jax.evaluation.metrics.registry import spec_of
from cv3jax.evaluation.prompt_sets import open_set
from cv3jax.sampling.inputs import LAST_SEED
from data_pipeline.io import extras, locks
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.files import check_directory
from data_pipeline.io.progress import say
from data_pipeline.io.terminal import tell

EXAMPLE = """cv3jax ablate --config=scenes_ablations --out runs/ablations
  cv3jax ablate --config=scenes_ablations --out runs/steps --groups steps --config.limit=20"""
# a run's fields that all variants share, and fields that are no setting of a picture
SHARED = ("weights", "reference", "num")
WORDS = ("group", "name")


def parser() -> Parser:
    """Return the parser of `cv3jax ablate`."""
    made = command_line.evaluation_command("ablate", __doc__, EXAMPLE, swept=True)
    command_line.add_out(made, "directory for the variants, the report and its page")
    made.add_argument(
        "--groups",
        type=lambda text: tuple(name.strip() for name in text.split(";")),
        metavar="G;G",
        help="run these groups of the recipe alone, separated by semicolons",
    )
    made.add_argument(
        "--draws",
        type=int,
        default=DRAWS,
        metavar="N",
        help=(
            "draws of the bootstrap for intervals, a tenth of them for distances between sets"
            " (default: %(default)s)"
        ),
    )
    command_line.add_devices(
        made, str(BATCH), "how this machine's devices share the drawing (default: data=-1)"
    )
    command_line.add_attention(made)
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Run an ablation. Raises InputError on flags, fields and files that cannot be."""
    args, overrides = parser().parse_known_args(argv)
    check_json(args.json)
    if not LEAST <= args.draws <= MOST:
        raise InputError(f"--draws {args.draws}: must be {LEAST}..{MOST}")
    args.batch = BATCH if args.batch is None else args.batch
    if not 1 <= args.batch <= MAX_BATCH:
        raise InputError(f"--batch {args.batch}: must be 1..{MAX_BATCH}")
    if args.mesh is not None:
        parse_axes(args.mesh)
    check_directory(args.out, "--out")
    extras.check("cv3jax ablate", "jinja2", "scipy", extra="eval")
    points = _points(args)
    values = [_values(args.config, point, overrides) for point in points]
    with loading():
        from cv3jax.evaluation.ablations.run import ablate
        from cv3jax.evaluation.ablations.variants import Scoring
        from cv3jax.evaluation.figures import Bootstrap

    variants = [_variant(args, point, one) for point, one in zip(points, values, strict=True)]
    first = values[0]
    if any(one[name] != first[name] for one in values for name in SHARED):
        raise InputError(f"sweep() sets one of {', '.join(SHARED)}, which all variants share")
    weights, reference = (
        None if first[name] is None else Path(first[name]) for name in ("weights", "reference")
    )
    with reporting(args.json) as report, locks.hold(args.out, "--out"):
        scoring = Scoring(weights, reference, first["num"])
        found = ablate(variants, scoring, Bootstrap(args.draws), args.out)
        tell(tables.of_ablations(found))
        say(f"{args.out / 'report.html'} has the tables and pictures")
        report(found)


def _points(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the points of the groups that are run. Raises InputError on a group of none."""
    points = recipes.sweep_points(args.config)
    if any(not point.get(word) for point in points for word in WORDS):
        raise InputError(f"--config={args.config}: each point of sweep() needs a group and a name")
    known = list(dict.fromkeys(point["group"] for point in points))
    for name in args.groups or ():
        if name not in known:
            raise InputError(f"--groups: no group {name!r}; give some of {'; '.join(known)}")
    return [point for point in points if args.groups is None or point["group"] in args.groups]


def _values(spec: str, point: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return all fields of a point as JSON values."""
    flags = recipes.sweep_flags(spec, point, overrides, ("checkpoint", "base", "relay", "expand"))
    return recipes.to_json(recipes.load(spec, [*flags, *overrides], ()))


def _variant(args: argparse.Namespace, point: dict[str, Any], values: dict[str, Any]):
    """Return the variant of a point. Raises InputError on values that cannot be."""
    from cv3jax.evaluation.ablations.variants import Variant
    from cv3jax.evaluation.drawing import Drawing
    from cv3jax.sampling.resumable import Devices

    metrics = tuple(values["metrics"])
    for name in metrics:
        spec_of(name)
    if not 1 <= values["num"] <= 10_000:
        raise InputError(f"--config.num={values['num']}: must be 1..10000")
    if not 0 <= values["seed"] <= LAST_SEED:
        raise InputError(f"--config.seed={values['seed']}: must be 0..{LAST_SEED}")
    sets = values["prompt_sets"]
    prompts = open_set(values["prompts"], None if sets is None else Path(sets), values["limit"])
    base, relay = (_settings(stage, values[stage]) for stage in ("base", "relay"))
    size = None if values["size"] is None else parse_size(values["size"])
    checkpoint, left_out = _checkpoint(values)
    expanding = None
    if values["expand"]["on"] and not left_out:
        if values["expand"]["where"] is None:
            left_out = "it needs a language model; give one as --config.expand.where"
        else:
            expanding = _expanding(values["expand"])
    drawing = None
    if not left_out:
        check_drawable(cascades.read_cascade(checkpoint)[1], size, base, relay)
        devices = Devices(args.batch, args.mesh, args.attention)
        drawing = Drawing(checkpoint, base, relay, devices, size, values["seed"], expanding)
    changes = {field: value for field, value in point.items() if field not in WORDS}
    return Variant(
        point["group"],
        point["name"],
        changes,
        recipes.point_name(changes) or "recipe",
        _used(values),
        prompts,
        metrics,
        drawing,
        left_out,
    )


def _used(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that a variant's pictures and scores depend on."""
    unused = {*WORDS, "checkpoint" if values["trained"] else "runs"}
    unused |= set() if values["expand"]["on"] else {"expand"}
    return {field: value for field, value in values.items() if field not in unused}


def _checkpoint(values: dict[str, Any]) -> tuple[Path, str]:
    """Return the checkpoint of a variant, and why it cannot be drawn, or ""."""
    if not values["trained"]:
        return cascades.pinned(values["checkpoint"]), ""
    runs = values["runs"]
    place = Path(runs or ".") / values["trained"]
    if runs is None:
        return place, (
            "it needs a training run of its own; train them by launch/sweep.py, and give its"
            " --workdir as --config.runs"
        )
    if not (place / "cascade").is_dir():
        return place, f"{place} has no run that has ended"
    return cascades.pinned(place), ""


def _settings(stage: str, values: dict[str, Any]) -> SamplerSettings:
    """Return how a stage is sampled. Raises InputError on values out of range."""
    limits = {"steps": (1, 1000), "guidance": (0.0, 100.0), "eta": (0.0, 1.0)}
    for name, (least, most) in limits.items():
        if values[name] is not None and not least <= values[name] <= most:
            raise InputError(f"--config.{stage}.{name}={values[name]}: must be {least:g}..{most:g}")
    if values["form"] not in (None, *FORMS):
        raise InputError(
            f"--config.{stage}.form={values['form']}: must be one of {', '.join(FORMS)}"
        )
    return SamplerSettings(**values)


def _expanding(values: dict[str, Any]):
    """Return what expands prompts, as the flags of `cv3jax sample` would say it."""
    flags = {f"expand_{name}": one for name, one in values.items() if name not in ("on", "where")}
    for name in ("template", "cache"):
        flags[f"expand_{name}"] = values[name] and Path(values[name])
    given = argparse.Namespace(expand=values["where"], expand_timeout=None, **flags)
    return expansion_flags.expansion_of(given)
