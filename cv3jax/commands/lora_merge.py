"""`cv3jax lora merge`: a cascade with LoRA adapters in its weights, as a new checkpoint.

It needs no adapter later, and samples, serves and exports as any other.
"""

from cv3jax.adapters.given import parse_all
from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import lora_flags
from cv3jax.distributed.backend import loading
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json, reporting, tell_json
from data_pipeline.io.progress import say
from data_pipeline.io.staging import check_new

EXAMPLE = """cv3jax lora merge --checkpoint scenes --lora teal.safetensors:0.8 --out scenes_teal
  cv3jax lora merge --checkpoint scenes --lora base=a.safetensors --lora relay=b.safetensors \\
      --out scenes_ab"""


def parser() -> Parser:
    """Return the parser of `cv3jax lora merge`."""
    made = command_line.command("lora merge", __doc__, EXAMPLE)
    command_line.add_checkpoint(made, "a cascade directory, a --workdir, or an installed cascade")
    lora_flags.add_lora(made, "an adapter to merge; may be given several times", required=True)
    command_line.add_out(made, "the directory to make; it appears when it is complete")
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Merge. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    check_new(args.out)
    check_json(args.json)
    given = parse_all(args.lora)
    if not any(one.weight for one in given):
        raise InputError("every --lora has the weight 0, so nothing would change; give others")
    checkpoint = cascades.pinned(args.checkpoint)
    description = cascades.read_cascade(checkpoint)[1]

    with loading():
        from cv3jax.adapters.applied import applied_to
        from cv3jax.adapters.into_cascade import merge

    with reporting(args.json) as report:
        loras = applied_to(given, description, checkpoint)
        changed = merge(checkpoint, loras, args.out)
        say(f"{args.out}: {', '.join(changed)} with {len(given)} adapter{'s' * (len(given) > 1)}")
        report({"out": str(args.out), "changed": changed, "loras": loras.records()})
        tell_json({"out": str(args.out)})
