"""`cv3jax finetune`: teach a trained stage a style or a thing by an adapter (LoRA), from pictures.

The stage itself is frozen. The adapter is WORKDIR/lora/adapter.safetensors. An existing workdir is
resumed.
"""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from cv3jax.commands.train import add_run, train_adapter
from cv3jax.distributed import processes
from cv3jax.lora.folder_captions import is_packed, listed
from cv3jax.lora.parsing import parse_lora, parse_pictures
from cv3jax.lora.picture_settings import PictureSettings
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import check_json
from data_pipeline.io.files import check_directory

EXAMPLE = """cv3jax finetune --config=scenes_lora --pictures runs/scenes \\
      --checkpoint scenes_teacher --workdir runs/adapter"""


def parser() -> Parser:
    """Return the parser of `cv3jax finetune`."""
    made = command_line.command("finetune", __doc__, EXAMPLE, config=True, known=recipes.adapters)
    made.add_argument(
        "--pictures",
        required=True,
        type=Path,
        metavar="DIR",
        help=(
            "the pictures to learn from: a folder with captions in .txt files or in folders' names"
            " such as 10_red_teapot, or records of `cv3jax data pack`"
        ),
    )
    command_line.add_checkpoint(made, "the trained cascade whose stage is adapted")
    add_run(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Train an adapter. Raises InputError on flags, fields and files that cannot be."""
    args, overrides = parser().parse_known_args(argv)
    check_json(args.json)
    processes.check(args)
    config = recipes.load(args.config, overrides)
    if "lora" not in config:
        raise InputError(
            f"--config={args.config} trains a whole stage; run it with cv3jax train, or give the"
            " recipe of an adapter, such as lora_base"
        )
    if not args.pictures.is_dir():
        raise InputError(
            f"--pictures {args.pictures} is no folder; give a folder of pictures with captions"
        )
    config.cascade = str(args.checkpoint)
    chosen = parse_pictures(config)

    def check() -> None:
        if not is_packed(args.pictures):
            listed(args.pictures, chosen)

    train_adapter(config, args, functools.partial(prepared, args.pictures, chosen), check)


def prepared(
    pictures: Path,
    chosen: PictureSettings,
    config: ConfigDict,
    workdir: Path,
    resume_from: int | None,
    allowed: tuple[str, ...],
) -> ConfigDict:
    """Return the recipe on records and a feature cache of these pictures, which are made first.

    Raises InputError where the workdir has the run of another recipe, base or folder of pictures,
    before anything of it is written again.
    """
    from cv3jax.lora.base import check_fit
    from cv3jax.lora.run import check_unchanged
    from cv3jax.lora.small_sets import prepare
    from cv3jax.training.resume import hold

    config = config.copy_and_resolve_references()
    config.data.path = str(pictures) if is_packed(pictures) else None
    settings = parse_lora(config)
    check_fit(settings)
    check_directory(workdir, "--workdir")
    with hold(workdir):  # a run that goes on there removes checkpoints
        looked = (settings, workdir, resume_from, allowed)
        begun = processes.first("begun", lambda: check_unchanged(*looked))
    begun = None if "data.path" in allowed else begun
    config.data.update(prepare(pictures, workdir, settings.stage, chosen, begun=begun))
    return config
