"""What an enlarged picture was made from, in its PNG, and the call that makes it again."""

import dataclasses
import hashlib
import shlex
from typing import TYPE_CHECKING, Any

from cv3jax.cascade import COLOUR_FIXES
from cv3jax.cascade.sizes import FACTORS, Size
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.sampling import png_record
from cv3jax.sampling.png_record import Checkpoint

if TYPE_CHECKING:  # these import JAX, which reading a record does not need
    from cv3jax.cascade.own_pictures import Layers
    from cv3jax.cascade.upscaling import Enlarging

UPSCALE = "upscale"  # a record's field that drawn pictures do not have
SHOWN = 16  # characters of a SHA-256


@dataclasses.dataclass(frozen=True)
class Source:
    """The picture that was enlarged: its file's name and SHA-256, or None and its pixels'."""

    name: str | None
    sha256: str


@dataclasses.dataclass(frozen=True)
class Upscaling:
    """What an enlarged picture was made from."""

    prompt: str
    seed: int
    size: Size  # of the enlarged picture
    relay: dict[str, Any]  # png_record.FIELDS
    checkpoint: Checkpoint
    source: Source
    factor: int
    strength: float
    colour_fix: str
    tile: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {
            **png_record.head(self.prompt, self.seed, self.size, self.checkpoint, self.tile),
            "relay": self.relay,
            UPSCALE: {
                "image": dataclasses.asdict(self.source),
                "factor": self.factor,
                "strength": self.strength,
                "colour_fix": self.colour_fix,
            },
        }

    def parameters(self) -> str:
        """Return the prompt and the settings as AUTOMATIC1111's web UI writes them."""
        more = {"Denoising strength": f"{self.strength:g}", "Hires upscale": self.factor}
        return png_record.parameters(self.prompt, self.to_json(), self.relay, more)

    def chunks(self) -> dict[str, str]:
        """Return the texts of a PNG by their keywords."""
        return png_record.chunks(self.to_json(), self.parameters())


def upscaling(
    description: CascadeDescription,
    checkpoint: Checkpoint,
    source: Source,
    prompt: str,
    how: "Enlarging",
    size: Size,
) -> Upscaling:
    """Return what a picture was enlarged from, as `how` says, to `size`."""
    return Upscaling(
        prompt,
        how.seed,
        size,
        png_record.stage_fields(description, {"relay": how.settings})["relay"],
        checkpoint,
        source,
        how.factor,
        how.settings.strength,
        how.colour_fix,
        how.settings.tile,
    )


def pixels_of(layers: "Layers") -> Source:
    """Return a picture without a file.

    Its SHA-256 is that of its uint8 pixels [H, W, 3] on white, and then of its transparency [H, W].
    """
    inner = layers.colours[: layers.size.height, : layers.size.width]
    alpha = b"" if layers.alpha is None else layers.alpha.tobytes()
    return Source(None, hashlib.sha256(inner.tobytes() + alpha).hexdigest())


def upscaling_of(value: dict[str, Any]) -> Upscaling:
    """Return what a record holds, whose every field is checked. Raises ValueError or another."""
    prompt, seed, size, checkpoint, tile = png_record.head_of(value)
    own = value[UPSCALE]
    factor, strength, fix, image = (
        own[name] for name in ("factor", "strength", "colour_fix", "image")
    )
    source = Source(image["name"], image["sha256"])
    if type(factor) is not int or factor not in FACTORS or fix not in COLOUR_FIXES:
        raise ValueError("factor or colour fix")
    if type(strength) not in (int, float) or not 0.0 < strength <= 1.0:
        raise ValueError("strength")
    if not isinstance(source.sha256, str) or not isinstance(source.name, str | None):
        raise ValueError("image")
    relay = png_record.stage_of(value["relay"])
    return Upscaling(prompt, seed, size, relay, checkpoint, source, factor, strength, fix, tile)


def again(value: dict[str, Any]) -> str:
    """Return a line for a record: that the picture is enlarged, and what makes it again.

    Raises ValueError, or another error, on a damaged record.
    """
    made = upscaling_of(value)
    digest = f"(SHA-256 {_quoted(made.source.sha256[:SHOWN])}…)"
    if made.source.name is None:
        return (
            f"is an upscaled picture, of pixels from Python {digest}; to make it again, call"
            f" {_call(made)}"
        )
    name = _quoted(made.source.name)
    return f"is an upscaled picture, of {name} {digest}; to make it again, run {_command(made)}"


def _command(made: Upscaling) -> str:
    """Return the command that enlarges the picture again."""
    words = ["--checkpoint", made.checkpoint.name, "--image", made.source.name]
    words += ["--prompt", made.prompt, "--factor", made.factor, "--strength", made.strength]
    words += ["--steps", made.relay["steps"], "--guidance", made.relay["guidance"]]
    words += ["--seed", made.seed, "--tile", made.tile]
    words += ["--colour-fix", made.colour_fix, "--out", "DIR"]
    return " ".join(["cv3jax upscale", *(_quoted(str(word)) for word in words)])


def _call(made: Upscaling) -> str:
    """Return the call of `Cascade.upscale` that enlarges the pixels again."""
    given = {"factor": made.factor, "strength": made.strength, "seed": made.seed}
    given |= {name: made.relay[name] for name in ("steps", "guidance", "eta")}
    given |= {"tile": made.tile, "colour_fix": made.colour_fix}
    written = ", ".join(f"{name}={one!r}" for name, one in given.items())
    dtype = "" if made.checkpoint.dtype is None else f", dtype={made.checkpoint.dtype!r}"
    load = f"cv3jax.Cascade.load({made.checkpoint.name!r}{dtype})"
    return f"{load}.upscale(image, {made.prompt!r}, {written})"


def _quoted(word: str) -> str:
    """Return a word as a shell reads it, on one line."""
    if word.isprintable():
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in plain) + "'"
