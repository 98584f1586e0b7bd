"""Make images and tars of them in the form of captioned image folders and shards."""

import io
import tarfile

import numpy as np
from PIL import Image

from data_pipeline.records.records import open_records


def encoded(i, fmt="PNG", size=(12, 10)):
    out = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    ).save(out, fmt)
    return out.getvalue()


def tar(path, files):
    with tarfile.open(path, "w") as f:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            f.addfile(member, io.BytesIO(data))


def keys(out):
    return [r["key"] for r in open_records(out)]
