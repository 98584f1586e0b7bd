"""Commands that a reader of the report may want to run next."""

import shlex
from pathlib import Path


def next_steps(workdir: Path) -> list[tuple[str, str]]:
    """Return [(what it does, command)] for a reader of the report."""
    here, distilled = shlex.quote(str(workdir)), shlex.quote(str(workdir / "distilled"))
    prompt = (
        "a small green star on the left and a large purple circle on the right, black background"
    )
    mine = "--config.data.path=runs/mine/data"
    return [
        (
            "Draw your own prompts, in the words of the captions above.",
            f'cv3jax sample --checkpoint {here} --num 4 --out runs/mine --prompt "{prompt}"',
        ),
        (
            ("Try other numbers of base and relay steps, and another guidance weight."),
            (
                f"cv3jax sample --checkpoint {here} --steps 20,10 --guidance 3 --out runs/mine"
                f' --prompt "{prompt}"'
            ),
        ),
        (
            (
                "Draw the same with the distilled stages, in the fewest steps. They take the"
                " guidance weight as an input, so each step runs the network once, not twice."
            ),
            f'cv3jax sample --checkpoint {distilled} --num 4 --out runs/fast --prompt "{prompt}"',
        ),
        (
            "Pack your own pictures: a folder with a .txt caption beside each, or img2dataset"
            " tars.",
            "cv3jax data pack --input pictures/ --out runs/mine/data",
        ),
        (
            "Train the three stages on them.",
            (
                f"cv3jax train --config=scenes_vae --workdir runs/mine/vae {mine}\ncv3jax train"
                f" --config=scenes_base --workdir runs/mine/base {mine}"
                " --config.cascade=runs/mine/vae\ncv3jax train --config=scenes_relay --workdir"
                f" runs/mine/relay {mine} --config.cascade=runs/mine/base"
                " --config.init_from=runs/mine/base"
            ),
        ),
        (
            "Distil the result: first the base, then the relay. The second run's cascade has both.",
            (
                f"cv3jax distill --config=scenes_distill_base --workdir runs/mine/fast_base {mine}"
                " --config.cascade=runs/mine/relay\ncv3jax distill --config=scenes_distill_relay"
                f" --workdir runs/mine/fast {mine} --config.cascade=runs/mine/fast_base"
            ),
        ),
    ]
