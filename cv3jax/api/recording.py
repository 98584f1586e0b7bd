"""What pictures drawn from Python say of it in their PNGs: the records that the commands write."""

import dataclasses
from pathlib import Path

from cv3jax.adapters.applied import Loras
from cv3jax.api.drawing import Request
from cv3jax.cascade.own_pictures import Layers
from cv3jax.cascade.upscaling import Enlarging, Upscaled
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.sampling.metadata import Record
from cv3jax.sampling.png_record import Checkpoint, stage_fields
from cv3jax.sampling.upscale_metadata import pixels_of, upscaling

STAGES = (("base",), ("base", "relay"), ("relay",))  # those that make a picture together


class Recorder:
    """The records of a loaded cascade's pictures.

    The parts' hashes are taken when it is made: a run may delete the checkpoint later.
    """

    def __init__(
        self, source: Path, description: CascadeDescription, dtype: str | None, loras: Loras
    ):
        """Take the hashes. description: as loaded, computing in `dtype` where that is not None."""
        self.loras = [one for one in loras.records() if one["stage"] in description.stages]
        self._description, parts = description, set(description.parts)
        own = cascades.read_cascade(source)[1]
        other = None if own == description else dtype
        self._checkpoints = {
            stages: Checkpoint(
                source.name,
                parts_fingerprint(source, ("vae", "t5", *stages)),
                other,
                [one for one in self.loras if one["stage"] in stages],
            )
            for stages in STAGES
            if {"vae", "t5", *stages} <= parts
        }

    def bare(self, source: Path) -> Path:
        """Return `source`. Raises ValueError where adapters are in the weights that are loaded."""
        if self.loras:
            raise ValueError(
                f"{source} was loaded with the adapter {self.loras[0]['file']}; merge it with"
                " cv3jax lora merge, and load the result"
            )
        return source

    def drawn(self, request: Request) -> Record:
        """Return what the pictures of a request are drawn from."""
        stages = request.stages
        return Record(
            request.sizes[-1],
            stage_fields(self._description, stages),
            self._checkpoints[tuple(stages)],
            request.relay.tile,
        )

    def upscaled(self, made: Upscaled, layers: Layers, prompt: str, how: Enlarging) -> Upscaled:
        """Return an enlarged picture with its record. layers: of the picture that was given."""
        size, checkpoint = layers.size.times(how.factor), self._checkpoints[("relay",)]
        source = pixels_of(layers)
        record = upscaling(self._description, checkpoint, source, prompt, how, size)
        return dataclasses.replace(made, texts=record.chunks())
