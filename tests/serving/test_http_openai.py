"""Test that the official `openai` client works unchanged: generate, stream, edit, errors."""

import base64
import dataclasses
import io

import http_server
import numpy as np
import openai
import pytest
import square_engine
from PIL import Image

from cv3jax.sampling.metadata import read_drawing


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with http_server.running(tmp_path_factory.mktemp("serve") / "data") as found:
        yield found


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def drawn(server, seed: int, relay_pass: int) -> np.ndarray:
    order = next(o for o in reversed(server.engine.submitted) if o.seed == seed)
    return square_engine.picture(order, relay_pass)


def test_generate(server, tmp_path):
    made = server.openai().images.generate(
        prompt="a red star", n=2, size="192x128", extra_body={"seed": 5, "guidance": [3, 2.5]}
    )
    assert (made.size, made.output_format, made.background) == ("192x128", "png", "opaque")
    assert made.usage.total_tokens == made.usage.input_tokens == 4
    assert [one.seed for one in made.data] == [5, 6]
    for one in made.data:
        image = opened(one.b64_json)
        assert (image.size, image.format) == ((192, 128), "PNG")
        assert (np.asarray(image) == drawn(server, one.seed, 1)).all()
    orders = server.engine.submitted[-2:]
    assert [(o.base.guidance, o.relay.guidance) for o in orders] == [(3.0, 2.5)] * 2
    assert all(order.sizes == ((64, 96), (128, 192)) for order in orders)  # height first
    # the picture says what it was drawn from
    (tmp_path / "a.png").write_bytes(base64.b64decode(made.data[0].b64_json))
    record = read_drawing(tmp_path / "a.png")
    assert (record.prompt, record.seed, record.size) == ("a red star", 5, (128, 192))


def test_the_record_has_the_tiles_of_the_server(tmp_path):
    model = dataclasses.replace(http_server.model(), tile=64)
    with http_server.running(tmp_path / "data", model=model) as server:
        made = server.openai().images.generate(prompt="a red star")
    (tmp_path / "a.png").write_bytes(base64.b64decode(made.data[0].b64_json))
    assert read_drawing(tmp_path / "a.png").tile == 64


def test_without_a_seed_each_request_has_another(server):
    ask = server.openai().images.generate
    seeds = {one.seed for _ in range(3) for one in ask(prompt="a star", n=2).data}
    assert len(seeds) == 6


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_formats_and_compression(server, kind):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(
        noise, "PNG"
    )

    def size(compression: int) -> int:
        made = server.openai().images.edit(
            image=("a.png", noise.getvalue()),
            prompt="noise",
            output_format=kind,
            output_compression=compression,
        )
        assert made.output_format == kind
        assert opened(made.data[0].b64_json).format == kind.upper()
        return len(made.data[0].b64_json)

    assert size(10) < size(100)


def test_addresses_in_place_of_bytes(server):
    made = server.openai().images.generate(prompt="a star", response_format="url", n=2)
    urls = [one.url for one in made.data]
    assert len({*urls}) == 2
    for url, one in zip(urls, made.data, strict=True):
        answer = server.get(url.removeprefix(server.address))
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        image = np.asarray(Image.open(io.BytesIO(answer.body)))
        assert (image == drawn(server, one.seed, 1)).all()
        assert one.b64_json is None


def test_a_stream_begins_with_the_base_s_own_picture(server):
    stream = server.openai().images.generate(
        prompt="a red star", stream=True, partial_images=1, extra_body={"seed": 9}
    )
    events = list(stream)
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    first, last = events
    assert first.partial_image_index == 0
    assert (np.asarray(opened(first.b64_json)) == drawn(server, 9, 0)).all()
    assert (np.asarray(opened(last.b64_json)) == drawn(server, 9, 1)).all()
    assert (last.size, last.quality, last.seed) == ("128x128", "auto", 9)
    assert last.usage.input_tokens == 4


def test_a_stream_of_a_base_alone_shows_what_it_predicts(server):
    """The packaged base was distilled to four steps."""
    stream = server.openai().images.generate(
        prompt="a red star", size="64x64", stream=True, partial_images=3, extra_body={"seed": 9}
    )
    *partial, last = stream
    order = server.engine.submitted[-1]
    assert [one.partial_image_index for one in partial] == [0, 1, 2]
    for done, one in enumerate(partial, 1):
        image = np.asarray(opened(one.b64_json))
        assert (image == square_engine.colour(order, 0, done)).all()
        assert image.shape == (64, 64, 3)
    assert (np.asarray(opened(last.b64_json)) == drawn(server, 9, 0)).all()


def test_a_stream_of_several_pictures(server):
    stream = server.openai().images.generate(prompt="stars", n=3, stream=True, partial_images=1)
    seen = [(event.image_index, event.type.partition(".")[2]) for event in stream]
    assert sorted(seen) == [(i, kind) for i in range(3) for kind in ("completed", "partial_image")]


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"prompt": "fail"}, openai.InternalServerError, "drawing_failed"),
        ({"prompt": "refuse"}, openai.BadRequestError, "cannot_be_drawn"),
        ({"prompt": " "}, openai.BadRequestError, "missing_required_parameter"),
        ({"prompt": "x", "model": "dall-e-3"}, openai.NotFoundError, "model_not_found"),
        ({"prompt": "x", "quality": "hd"}, openai.BadRequestError, "invalid_value"),
    ],
)
def test_errors_are_the_client_s_own(server, asked, error, code):
    with pytest.raises(error) as e:
        server.openai().images.generate(**asked)
    assert e.value.code == code
    assert "\n" not in e.value.message


def test_a_failing_stream_ends_with_the_error(server):
    stream = server.openai().images.generate(prompt="fail", stream=True)
    with pytest.raises(openai.APIError, match="the values are not finite") as e:
        list(stream)
    assert e.value.code == "drawing_failed"


def test_models(server):
    client = server.openai()
    assert [one.id for one in client.models.list()] == ["scenes"]
    assert client.models.retrieve("scenes").owned_by == "cv3jax"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-1")


def test_edit_enlarges_a_picture(server):
    data = http_server.png(50, 40)
    made = server.openai().images.edit(
        image=("a.png", data), prompt="a red square", extra_body={"seed": 2, "steps": 1}
    )
    order = server.engine.submitted[-1]
    assert order.image.shape == (64, 64, 3)  # padded to a compiled size
    assert (made.size, order.sizes) == ("100x80", ((64, 64), (128, 128)))
    image = opened(made.data[0].b64_json)
    assert (image.size, image.getpixel((99, 79))) == ((100, 80), (255, 0, 0))


def test_edit_keeps_transparency_and_streams(server):
    data = http_server.png(90, 60, "RGBA", (0, 0, 255, 100))
    stream = server.openai().images.edit(
        image=("a.png", data), prompt="blue", stream=True, size="180x120"
    )
    (event,) = stream
    assert event.type == "image_edit.completed"
    assert (event.background, event.size) == ("transparent", "180x120")
    assert opened(event.b64_json).getpixel((3, 3)) == (0, 0, 255, 100)
    jpeg = server.openai().images.edit(image=("a.png", data), prompt="blue", output_format="jpeg")
    assert jpeg.background == "opaque"
    assert opened(jpeg.data[0].b64_json).mode == "RGB"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mask": ("m.png", http_server.png(9, 9))}, "mask cannot hold"),
        ({"size": "51x41"}, "becomes 100x80"),
        ({"size": "200x160"}, "to enlarge 4 times"),
        ({"image": ("a.png", http_server.png(97, 64))}, "fit into"),
        ({"image": [("a.png", http_server.png(9, 9))] * 2}, "2 pictures"),
        ({"extra_body": {"strength": 0.5}}, "works from no other"),
    ],
)
def test_edits_that_cannot_be(server, more, said):
    asked = {"image": ("a.png", http_server.png(50, 40)), "prompt": "x", **more}
    with pytest.raises(openai.BadRequestError, match=said):
        server.openai().images.edit(**asked)
