"""Pictures as bytes: PNG with what it was drawn from, JPEG and WebP, and data URLs."""

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from cv3jax.cascade.sizes import Size
from cv3jax.sampling.metadata import Drawing
from cv3jax.sampling.png_record import Checkpoint
from cv3jax.serving.http.plan import EDIT, Model, Plan

MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
QUALITY = 95  # of JPEG and WebP without output_compression
MOST_PREVIEW = 512  # pixels of the longer side


def encode(image: Image.Image, plan: Plan, texts: dict[str, str] | None = None) -> bytes:
    """Return a picture, mode RGB or RGBA, in the format that a plan asks for.

    texts: of a PNG, by keyword. A JPEG has what is transparent on white.
    """
    out, kind = io.BytesIO(), plan.output_format
    quality = QUALITY if plan.compression is None else plan.compression
    if kind == "png":
        info = PngImagePlugin.PngInfo()
        for keyword, text in (texts or {}).items():
            info.add_itxt(keyword, text)
        image.save(out, "PNG", pnginfo=info, compress_level=1)
    elif kind == "jpeg":
        if image.mode == "RGBA":
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
        image.save(out, "JPEG", quality=quality)
    else:
        image.save(out, "WEBP", quality=quality)
    return out.getvalue()


def texts_of(plan: Plan, number: int, model: Model) -> dict[str, str]:
    """Return the texts of a PNG: what `cv3jax sample --from-png` draws picture `number` from."""
    stages = {
        stage: {
            "steps": one.steps,
            "guidance": one.guidance,
            "eta": one.eta,
            "form": model.description.stages[stage].form,
        }
        for stage, one in plan.stages.items()
    }
    return Drawing(
        plan.prompt,
        plan.seed + number,
        plan.size,
        stages,
        Checkpoint(
            model.name,
            model.drawn_by[tuple(plan.stages)],
            loras=[{k: v for k, v in one.items() if k != "name"} for one in plan.loras],
        ),
        model.tile,
        given=("image",) if plan.kind == EDIT else (),
        expansion=plan.expansion,
    ).chunks()


def enlarged(preview: np.ndarray, size: Size) -> Image.Image:
    """Return a preview, uint8 [h, w, 3], at the size of its stage's picture."""
    return Image.fromarray(preview).resize((size.width, size.height), Image.Resampling.BICUBIC)


def data_url(picture: np.ndarray) -> str:
    """Return uint8 [H, W, 3] as the data URL of a PNG of at most MOST_PREVIEW pixels per side."""
    image, out = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((MOST_PREVIEW, MOST_PREVIEW), Image.Resampling.BILINEAR)
    image.save(out, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64_of(out.getvalue())}"


def base64_of(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def json_of(said: Any) -> bytes:
    """Return JSON, in which bytes are base64 text. With large pictures it takes a while."""
    return json.dumps(said, default=base64_of).encode()


def event_of(name: str, said: dict[str, Any]) -> bytes:
    """Return a server-sent event; `said` is as for `json_of`."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json_of(said))
