"""Datasets of rendered scenes, by seed."""

import dataclasses
from pathlib import Path

from data_pipeline.io import progress
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.scenes.grammar import (
    NEW_COLOURS,
    SPLITS,
    Object,
    Scene,
    Split,
    caption,
    sample_scene,
)


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """The scenes of a dataset: scenes 0..num-1 of `seed`, of one split.

    Attributes:
        size: side of the square images, pixels.
        textured, two, relational, new: see `grammar.sample_scene`.

    Raises:
        InputError: a value is out of range.
    """

    num: int
    seed: int
    split: Split
    size: int = 128
    textured: float = 0.5
    two: float = 0.6
    relational: float = 0.2
    new: str | None = None

    def __post_init__(self):
        """Check the values."""
        for name, fine, right in (
            ("num", self.num >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
            ("size", 16 <= self.size <= 4096, "16..4096"),
        ):
            if not fine:
                raise InputError(f"{name} = {getattr(self, name)}: must be {right}")
        if self.split not in SPLITS:
            raise InputError(f"split = {self.split!r}: give one of {', '.join(SPLITS)}")
        for name in ("textured", "two", "relational"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{name} = {share}: give a probability in 0..1")
        if self.new not in (None, *NEW_COLOURS):
            raise InputError(f"new = {self.new!r}: give one of {', '.join(NEW_COLOURS)}")


def build(
    out: str | Path, settings: SceneSettings, *, shards: int = 8, overwrite: bool = False
) -> int:
    """Render scenes, write them as records, and return how many.

    A record's `scores` holds {"scene": …, "split", "seed", "index"}: the scene has coordinates, so
    that a judge need not parse captions. Its key is SPLIT-SEED-INDEX.

    Raises:
        InputError: RecordWriter refuses `out`.
    """
    # Imported here, because pixels and records need more libraries than the grammar does.
    from data_pipeline.images.decode import encode_png
    from data_pipeline.records.records import RecordWriter, make_record
    from data_pipeline.scenes.render import render

    seed, split = settings.seed, settings.split
    with (
        RecordWriter(out, shards=shards, overwrite=overwrite) as writer,
        progress.bar(settings.num, f"scenes {split}", "image") as bar,
    ):
        for index in range(settings.num):
            scene = sample_scene(
                seed,
                index,
                split=split,
                textured=settings.textured,
                two=settings.two,
                relational=settings.relational,
                new=settings.new,
            )
            scores = {
                "scene": dataclasses.asdict(scene),
                "split": split,
                "seed": seed,
                "index": index,
            }
            png = encode_png(render(scene, settings.size))
            writer.write(
                make_record(png, caption(scene), key=f"{split}-{seed}-{index:07d}", scores=scores)
            )
            bar.update()
        return writer.count


def scene_of(scores: str) -> Scene:
    """Return the scene that `build` put into a record's `scores`.

    Raises:
        InputError: the record is not a rendered scene.
    """
    try:
        fields = parse_json(scores)["scene"]
        return Scene(
            fields["background"], fields["layout"], tuple(Object(**o) for o in fields["objects"])
        )
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"not the scores of a rendered scene ({type(e).__name__}: {str(e)[:80]}); give records"
            " of `cv3jax data scenes`"
        ) from e
