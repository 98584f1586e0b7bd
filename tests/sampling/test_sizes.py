"""Which sizes a cascade draws, by how many relay passes, and what is said of the others."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv3jax.cascade.sizes import (
    MAX_PASSES,
    Size,
    as_size,
    drawn_sizes,
    enlarged_sizes,
    multiple_of,
    parse_size,
)
from cv3jax.checkpoints import cascades
from data_pipeline.io.errors import InputError

SCENES = cascades.read_cascade("scenes")[1]  # base 64², multiples of 16; relay 128², of 16
ALONE = dataclasses.replace(SCENES, stages={"base": SCENES.stages["base"]})


def listed(sizes):
    return [str(size) for size in sizes]


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (None, ["64×64", "128×128"]),
        (Size(64, 64), ["64×64"]),
        (Size(96, 64), ["96×64"]),
        (Size(192, 128), ["96×64", "192×128"]),
        (Size(128, 256), ["64×128", "128×256"]),
        (Size(256, 256), ["64×64", "128×128", "256×256"]),
        (Size(48, 80), ["48×80"]),
        (Size(96, 128), ["48×64", "96×128"]),
        (Size(512, 512), ["64×64", "128×128", "256×256", "512×512"]),
    ],
)
def test_the_passes_are_those_whose_base_picture_has_about_the_trained_area(size, sizes):
    assert listed(drawn_sizes(SCENES, size)) == sizes


@given(st.integers(1, 140), st.integers(1, 140))
def test_every_size_is_drawn_by_doublings_or_refused_with_one_that_is_drawn(high, wide):
    size = Size(8 * high, 8 * wide)
    try:
        sizes = drawn_sizes(SCENES, size)
    except InputError as e:
        near = str(e).partition("; ")[2].partition(" is the nearest")[0]
        if "×" in near and "trained" not in near:
            assert drawn_sizes(SCENES, parse_size(near))[-1] == parse_size(near)
        return
    assert sizes[-1] == size
    for before, after in itertools.pairwise(sizes):
        assert after == before.times(2)
        assert after.is_multiple(multiple_of(SCENES, "relay"))
    assert sizes[0].is_multiple(multiple_of(SCENES, "base"))
    # the base picture of another number of passes has an area that is further off

    def off(passes):
        return abs(math.log(size.height * size.width / 4**passes / 64**2))

    for other in range(MAX_PASSES + 1):
        assert off(other) >= off(len(sizes) - 1) - 1e-9


@pytest.mark.parametrize(
    ("description", "size", "line"),
    [
        (SCENES, Size(100, 60), r"multiples of 16 for 0 relay passes .* 96×64 is the nearest"),
        (SCENES, Size(104, 104), r"multiples of 32 for 1 relay pass .* 96×96 is the nearest"),
        # 96×144 as the base's own picture would be 3.4 times as large as the trained one
        (SCENES, Size(96, 144), r"multiples of 32 for 1 relay pass .* 96×(128|160) is the nearest"),
        (SCENES, Size(4, 1276), r"for 2 relay passes .* 64×1280 is the nearest"),
        (SCENES, Size(8, 8), r"pictures of about 32² to 2048² pixels; it was trained on 64×64"),
        (ALONE, Size(256, 256), r"about 32² to 128² pixels, because it has no relay stage"),
    ],
)
def test_a_size_that_cannot_be(description, size, line):
    with pytest.raises(InputError, match=line):
        drawn_sizes(description, size)


def test_a_given_picture_is_doubled():
    assert listed(enlarged_sizes(SCENES, Size(32, 48))) == ["32×48", "64×96"]
    sizes = enlarged_sizes(SCENES, Size(32, 48), Size(128, 192))
    assert listed(sizes) == ["32×48", "64×96", "128×192"]
    with pytest.raises(InputError, match=r"a picture of 32×48 becomes 64×96, 128×192"):
        enlarged_sizes(SCENES, Size(32, 48), Size(128, 128))
    with pytest.raises(InputError, match=r"30×30: the relay takes .* multiples of 8"):
        enlarged_sizes(SCENES, Size(30, 30))
    with pytest.raises(InputError, match="no relay stage, which enlarges"):
        enlarged_sizes(ALONE, Size(32, 32))


def test_sizes_are_written_height_first():
    assert parse_size("768x512") == parse_size("768×512") == parse_size("768X512") == (768, 512)
    assert parse_size("64") == (64, 64)
    for wrong in ("", "64x", "x64", "64x64x64", "6.4", "-64", "0", "64x0", "20000", "big"):
        with pytest.raises(InputError, match="HEIGHTxWIDTH such as 768x512"):
            parse_size(wrong)
    for wrong in ((1, 2, 3), (0, 4), (True, 4), (4.0, 4), "ab", ()):
        with pytest.raises(ValueError, match="one side or"):
            as_size(wrong)
