"""`cv3jax finetune`: teach a trained stage a style or a thing by an adapter (LoRA), from pictures.

The stage itself is frozen. The adapter is WORKDIR/lora/adapter.safetensors. An existing workdir is
resumed.
"""

from pathlib import Path

from cv3jax import recipes
from cv3jax.commands import arguments as command_line
from cv3jax.commands.train import add_run, train_adapter
from cv3jax.distributed import processes
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import check_json

EXAMPLE = """cv3jax finetune --config=scenes_lora --pictures runs/scenes \\
      --checkpoint scenes_teacher --workdir runs/adapter"""


def parser() -> Parser:
    """Return the parser of `cv3jax finetune`."""
    made = command_line.command("finetune", __doc__, EXAMPLE, config=True)
    made.add_argument(
        "--pictures",
        required=True,
        type=Path,
        metavar="DIR",
        help="the pictures to learn from: a directory of records, as `cv3jax data pack` writes it",
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
    config.cascade, config.data.path = str(args.checkpoint), str(args.pictures)
    train_adapter(config, args)
