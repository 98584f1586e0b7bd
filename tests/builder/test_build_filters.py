"""Test each filter of `cv3jax data build` alone: what it drops, the reason, and its settings."""

import dataclasses
import io
import random
import urllib.parse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_shards import encoded
from PIL import Image

from data_pipeline.builder.blocklist import blocker, plain_url, read_blocked
from data_pipeline.builder.filters import make_judge
from data_pipeline.builder.measure import Facts, look, read_facts, write_rows
from data_pipeline.builder.settings import Settings, load_settings
from data_pipeline.io.errors import InputError
from data_pipeline.sources.items import Item, Place, Skip

GOOD = Facts(
    ordinal=0,
    key="k",
    url="http://a.example/x.jpg",
    scores={"punsafe": 0.2, "pwatermark": 0.3, "AESTHETIC_SCORE": 5.5, "NSFW": "UNLIKELY"},
    place=Place("f", 0, 9),
    bytes=5000,
    sha256="ab",
    caption=40,
    repetition=0.1,
    width=600,
    height=400,
    contrast=40.0,
    pixels="p",
)


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({"nsfw_tags": "NSFW, unlikely"}, {}, "nsfw"),
        ({"nsfw_tags": "NSFW"}, {}, None),
        ({"max_unsafe": 0.1}, {}, "unsafe"),
        ({"max_unsafe": 0.2}, {}, None),
        ({"max_watermark": 0.29}, {}, "watermark"),
        ({"min_aesthetic": 6}, {}, "aesthetic"),
        ({"min_aesthetic": 5.5}, {}, None),
        ({"max_unsafe": 0.1}, {"scores": {}}, None),
        ({"max_unsafe": 0.1, "require_scores": True}, {"scores": {}}, "no_unsafe_score"),
        (
            {"min_aesthetic": 1, "require_scores": True},
            {"scores": {"aesthetic": "high"}},
            "no_aesthetic_score",
        ),
        ({"min_caption": 41}, {}, "caption_short"),
        ({"max_caption": 39}, {}, "caption_long"),
        ({"max_repetition": 0.05}, {}, "caption_repetition"),
        ({"min_bytes": 5001}, {}, "too_few_bytes"),
        ({"min_side": 401}, {}, "min_side"),
        ({"min_side": 400}, {}, None),
        ({"max_aspect": 1.4}, {}, "aspect"),
        ({"max_aspect": 1.5}, {"width": 400, "height": 600}, None),
        ({}, {"animated": True}, "animation"),
        ({"keep_animations": True}, {"animated": True}, None),
        ({}, {"contrast": 1.9}, "uniform"),
        ({"min_contrast": 0}, {"contrast": 0.0}, None),
        ({}, {"problem": "undecodable"}, "undecodable"),
        ({"min_side": 9000}, {"problem": "decompression_bomb"}, "decompression_bomb"),
        ({}, {}, None),
    ],
)
def test_a_filter(settings, changes, reason):
    drop = make_judge(Settings(**settings), ())(dataclasses.replace(GOOD, **changes))
    assert (drop and drop.reason) == reason


def test_where_an_image_is_from_comes_first():
    drop = make_judge(Settings(), ("a.example",))(dataclasses.replace(GOOD, problem="undecodable"))
    assert drop.reason == "blocked_source"
    assert drop.detail == "a.example"


# a Cyrillic host, whose letters look Latin: xn--e1afmkfd.xn--p1ai
CYRILLIC = "\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444"


def test_blocked_sources_in_any_spelling(tmp_path):
    path = tmp_path / "blocked.txt"
    path.write_text(
        f"# a comment\n\nBad.Example\n{CYRILLIC}\nxn--bcher-kva.shop\nhost.net/Adult/\n",
        encoding="utf-8",
    )
    find = blocker(read_blocked(path))
    for url in (
        "http://bad.example/1.jpg",
        "HTTPS://CDN.BAD.EXAMPLE:80/x",
        "http://x/?from=bad%2Eexample",
        f"http://{CYRILLIC.upper()}/a",
        "http://xn--e1afmkfd.xn--p1ai/a",
        "http://XN--E1AFMKFD.XN--P1AI/a",
        "http://Bücher.shop",
        "http://bu\u0308cher.shop/",
        "http://xn--bcher-kva.shop/",
        "http://host.net/%61dult/1",
        "http://\uff42\uff41\uff44.example/1",
        "bad.example",
    ):
        assert find(url), url
    for url in (
        "http://bad.example2".replace("bad.", "good."),
        "http://host.net/adults",
        "",
        "http://xn--/",
        "http://xn--99999999999/",
    ):
        assert not find(url), url


@given(
    st.lists(st.text("abcdeäöüп\u0440и.-", min_size=2, max_size=12), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_spelling_never_matters(labels, seed):
    host = ".".join(label.strip(".-") or "x" for label in labels)
    rng = random.Random(seed)
    spelled = "".join(rng.choice([c, c.upper(), urllib.parse.quote(c)]) for c in host)
    assert plain_url(host) == plain_url(spelled)
    try:
        ascii_host = host.encode("idna").decode()
    except UnicodeError:  # not every text is a host name
        return
    assert plain_url(ascii_host) == plain_url(ascii_host.upper())
    assert plain_url(ascii_host) == plain_url(host)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"# only this\n\n", "is empty"),
        (b"a\xff\n", "is not UTF-8"),
    ],
)
def test_a_list_of_sources_that_is_none(content, message, tmp_path):
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_blocked(tmp_path / "list")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"min_side": 0},
            r"min_side = 0: give a whole number in 1..65535 .smallest shorter side, pixels",
        ),
        ({"min_side": 2.5}, "min_side = 2.5: give a whole number"),
        ({"max_unsafe": 1.5}, r"max_unsafe = 1.5: give a number in 0..1"),
        ({"max_unsafe": "low"}, "max_unsafe = 'low': give a number"),
        ({"keep_exact": 1}, "keep_exact = 1: give true or false"),
        ({"near_radius": 30}, r"near_radius = 30: give a whole number in 0..20"),
        ({"min_caption": 9, "max_caption": 8}, "min_caption = 9 is above max_caption = 8"),
        ({"max_side": 3}, "no filter 'max_side'; give some of blocked_sources, nsfw_tags"),
    ],
)
def test_settings_that_cannot_be(values, message, tmp_path):
    path = tmp_path / "filters.yaml"
    path.write_text(
        "\n".join(
            f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
            for name, value in values.items()
        )
    )
    with pytest.raises(InputError, match=message):
        load_settings(path, {})


def test_flags_override_the_file(tmp_path):
    path = tmp_path / "filters.yaml"
    path.write_text("min_side: 256\nmax_unsafe: 1\n")
    settings = load_settings(path, {"min_side": 512})
    assert (settings.min_side, settings.max_unsafe) == (512, 1.0)
    assert settings.fingerprint() != load_settings(path, {}).fingerprint()
    path.write_text("- 1\n")
    with pytest.raises(InputError, match="not a mapping"):
        load_settings(path, {})


def item(data, caption="some words and some more"):
    return Item("k", data, caption, "http://u", {"punsafe": 0.5}, Place("f", 512, len(data)))


def test_what_the_first_pass_learns():
    facts = look(item(encoded(1, "WEBP", (40, 20))), 7, 10**6, 10**6)
    assert (facts.ordinal, facts.width, facts.height, facts.problem, facts.animated) == (
        7,
        40,
        20,
        "",
        False,
    )
    assert facts.repetition == 0.2
    assert facts.contrast > 10
    uniform = Image.new("RGB", (30, 30), (10, 200, 30))
    assert look(item(saved(uniform, "PNG")), 0, 10**6, 10**6).contrast == 0
    assert look(item(encoded(1)[:60]), 0, 10**6, 10**6).problem == "undecodable"
    assert look(item(encoded(1)), 0, 50, 10**6).problem == "too_large"
    assert look(item(encoded(1)), 0, 10**6, 50).problem == "decompression_bomb"
    skipped = look(Skip("x", "no caption", "\ud800"), 3, 1, 1)
    assert (skipped.problem, skipped.detail, skipped.ordinal) == ("no_caption", "\\ud800", 3)


def test_pixels_decide_what_is_the_same():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    png, webp = (
        look(item(saved(image, "PNG")), 0, 10**6, 10**6),
        look(item(saved(image, "WEBP", lossless=True)), 0, 10**6, 10**6),
    )
    assert png.pixels == webp.pixels
    assert png.sha256 != webp.sha256
    turned = look(item(saved(image.transpose(Image.Transpose.ROTATE_90), "PNG")), 0, 10**6, 10**6)
    assert turned.pixels != png.pixels
    wide = Image.fromarray(np.asarray(image).reshape(20, 60, 3))  # the same bytes in another shape
    assert look(item(saved(wide, "PNG")), 0, 10**6, 10**6).pixels != png.pixels


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF"])
def test_animations(kind):
    frames = [Image.new("RGB", (20, 20), (i * 80, 40, 255 - i * 80)) for i in range(3)]
    facts = look(
        item(saved(frames[0], kind, save_all=True, append_images=frames[1:])), 0, 10**6, 10**6
    )
    assert facts.animated if kind != "GIF" else facts.problem == "unsupported_format_GIF"


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_facts_survive_their_file(tmp_path):
    facts = [look(item(encoded(i)), i, 10**6, 10**6) for i in range(3)]
    for name in ("a", "b"):
        write_rows(str(tmp_path / name), [{"items": 3, "bad": 0}, *map(dataclasses.asdict, facts)])
    assert list(read_facts(str(tmp_path / "a"))) == facts
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
