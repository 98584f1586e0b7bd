"""Test `cv3jax serve` with the packaged scenes: it draws what `cv3jax sample` draws."""

import base64
import signal

import numpy as np
import openai
import serve_process
import subprocesses
from PIL import Image

from cv3jax.commands import serve
from cv3jax.serving.engine import opening


def test_the_command_serves_the_picture_that_sample_draws(tmp_path):
    server = serve_process.Process(
        tmp_path / "data", "--batch", "1", program=["-m", "cv3jax", "serve"]
    )
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
    ask = {"prompt": "a small green star, black background", "extra_body": {"seed": 3}}
    base, last = client.images.generate(**ask, stream=True, partial_images=1)
    (tmp_path / "served.png").write_bytes(base64.b64decode(last.b64_json))
    (tmp_path / "base.png").write_bytes(base64.b64decode(base.b64_json))
    with (tmp_path / "base.png").open("rb") as image:
        edited = client.images.edit(image=image, prompt=ask["prompt"], extra_body={"seed": 3})
    assert edited.size == "128x128"
    code, said = server.end(signal.SIGTERM)
    assert (code, "Traceback" in said) == (0, False), said

    out = tmp_path / "drawn"
    subprocesses.run(
        *("cv3jax", "sample", "--checkpoint", "scenes"),
        *("--from-png", str(tmp_path / "served.png"), "--out", str(out), "--batch", "1"),
    )
    (path,) = out.glob("00_*.png")
    served, drawn = (np.asarray(Image.open(file), int) for file in (tmp_path / "served.png", path))
    apart = np.abs(served - drawn)
    assert served.shape == (128, 128, 3)
    assert (apart.max(), (apart > 0).mean() < 0.03) <= (1, True)
    assert Image.open(tmp_path / "base.png").size == (64, 64)


def test_the_flags_of_devices_and_tiles_reach_the_engine(monkeypatch):
    opened = []
    monkeypatch.setattr(opening, "open_engine", lambda *given: opened.append(given))
    flags = ["--mesh", "data=2,tensor=2,context=2", "--batch", "3", "--tile", "64"]
    args = serve.parser().parse_args(["--checkpoint", "scenes", *flags])
    serve.open_engine(args, (None,))
    ((checkpoint, settings, _),) = opened
    assert (str(checkpoint), settings.sizes, settings.tile) == ("scenes", (None,), 64)
    assert dict(settings.mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 2, "context": 2}
    assert (settings.ways, settings.rows) == (2, 6)  # three for each device that shares the rows
