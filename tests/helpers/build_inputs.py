"""Make pictures of which no two are near, the files of one sample, and builds of such inputs."""

import io
import json

import numpy as np
from PIL import Image

from data_pipeline.cli import main
from data_pipeline.records.records import open_records


def jpeg(i, size=(64, 48)):
    """Return JPEG bytes of a picture; no two of them are near."""
    field = np.random.default_rng(i).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(field).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


def build(out, *flags):
    main(["build", "--out", str(out), *(str(flag) for flag in flags)])
    return {record["key"]: record for record in open_records(out)}, json.loads(
        (out / "report.json").read_text()
    )


def sample(i, **fields):
    return [
        (f"{i:03d}.jpg", jpeg(i)),
        (f"{i:03d}.txt", b"picture %d" % i),
        (f"{i:03d}.json", json.dumps(fields).encode()),
    ]
