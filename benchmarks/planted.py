"""Make img2dataset tars of various pictures with known faults, to test `cv3jax data build`.

Each picture is drawn from its own seed: a field of colours, shapes and grain, of its own size and
quality. The index of a record decides its kind. Of N records 3 % are from blocked sources, 2 % are
undecodable, 1 % are bombs or oversize, 5 % are exact and 5 % near duplicates of others. The last
tar is cut in the middle.
"""

import dataclasses
import functools
import io
import json
import struct
import tarfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHARES = {
    "blocked": 0.03,
    "undecodable": 0.02,
    "bomb": 0.005,
    "oversize": 0.005,
    "exact": 0.05,
    "near": 0.05,
}
MAX_BYTES = 1_000_000  # given to the build as --max-bytes; oversize images have more
CLAIMED = 60_000  # the side of a bomb that has no pixels
CROP = 0.03  # of a side, at most, in all
BLOCKED = ("evil.example", "пример-зло.рф", "stock.test/adult/", "xn--bcher-kva.bad")
_BLOCKED_URLS = (
    "http://evil.example/{i}.jpg",
    "HTTPS://WWW.EVIL.EXAMPLE/{i}.JPG",
    "http://cdn.evil.example:8080/a?b={i}",
    "https://xn----itbhbscsbjd.xn--p1ai/{i}",
    "http://пример-зло.рф/{i}",
    "http://ПРИМЕР-ЗЛО.рф/{i}.png",
    "https://stock.test/%61dult/{i}",
    "https://Stock.Test/adult/{i}",
    "http://bücher.bad/{i}",
    "http://XN--BCHER-KVA.BAD/{i}",
)
WORDS = (
    "old",
    "bright",
    "small",
    "quiet",
    "red",
    "field",
    "house",
    "river",
    "dog",
    "market",
    "window",
    "cloud",
    "paper",
    "train",
    "hill",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Hold the kind of each record, and the index of the record that each duplicate repeats."""

    kinds: tuple[str, ...]
    repeats: dict[int, int]
    lost: range  # indices after the cut


def plan(count: int, seed: int, shard: int) -> Plan:
    """Return a plan that assigns kinds to indices at random.

    Records after the cut are neither faulty nor repeated.
    """
    rng = np.random.default_rng([seed, 1])
    cut = count - shard // 2
    order = rng.permutation(cut)
    kinds, start = ["good"] * count, 0
    for kind, share in SHARES.items():
        for index in order[start : start + round(share * count)]:
            kinds[index] = kind
        start += round(share * count)
    copies = [index for index in range(cut) if kinds[index] in ("exact", "near")]
    return Plan(
        tuple(kinds),
        dict(zip(copies, (int(index) for index in order[start:]), strict=False)),
        range(cut, count),
    )


def generate(
    folder: Path, count: int, *, seed: int = 0, shard: int = 1000, processes: int = 2
) -> Plan:
    """Write ceil(count / shard) tars, and the list of blocked sources, blocked.txt.

    Returns the plan of their records.
    """
    faults = plan(count, seed, shard)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blocked.txt").write_text("\n".join(BLOCKED) + "\n", encoding="utf-8")
    jobs = [
        (folder / f"{n:05d}.tar", range(n * shard, min(count, (n + 1) * shard)), faults, seed)
        for n in range(-(-count // shard))
    ]
    if processes == 1:
        list(map(_write, jobs))
    else:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(_write, jobs))
    _cut(jobs[-1][0], faults.lost[0])
    return faults


def key_of(index: int) -> str:
    """Return the key of the record at an index."""
    return f"{index:09d}"


def _write(job: tuple[Path, range, Plan, int]) -> None:
    path, indices, faults, seed = job
    with tarfile.open(path, "w") as tar:
        for index in indices:
            data, suffix = encoded(index, faults, seed)
            rng = np.random.default_rng([seed, 3, index])
            text = " ".join(rng.choice(WORDS, 6)) + f", number {index}"
            url = f"https://host{rng.integers(200)}.example.org/{index}.{suffix}"
            if faults.kinds[index] == "blocked":
                url = _BLOCKED_URLS[index % len(_BLOCKED_URLS)].format(i=index)
            fields = {
                "url": url,
                "key": key_of(index),
                "punsafe": round(float(rng.random()), 4),
                "NSFW": "UNLIKELY",
            }
            for name, part in (
                (suffix, data),
                ("txt", text.encode()),
                ("json", json.dumps(fields).encode()),
            ):
                member = tarfile.TarInfo(f"{key_of(index)}.{name}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))


def _cut(path: Path, index: int) -> None:
    """Cut a tar in the middle of the image of `index`, which is lost with all that follow."""
    with tarfile.open(path) as tar:
        member = next(m for m in tar if m.name.startswith(key_of(index)))
    with path.open("r+b") as file:
        file.truncate(member.offset_data + member.size // 2)


def encoded(index: int, faults: Plan, seed: int) -> tuple[bytes, str]:
    """Return the bytes of a record's file, and its suffix."""
    kind = faults.kinds[index]
    rng = np.random.default_rng([seed, 2, index])
    if kind == "bomb":
        return _bomb((30_000, CLAIMED)[index % 2]), "png"
    if kind in ("exact", "near"):
        data, suffix = encoded(faults.repeats[index], faults, seed)
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if kind == "exact":
            return [
                (data, suffix),
                (_save(image, "PNG"), "png"),
                (_save(image, "WEBP", lossless=True, method=0), "webp"),
            ][index % 3]
        return near(image, rng), "jpg"
    image = picture(seed, index)
    if kind == "oversize":
        return _save(image, "JPEG", quality=90) + rng.bytes(MAX_BYTES), "jpg"
    if index % 20 == 0:
        data, suffix = _save(image, "PNG", compress_level=1), "png"
    elif index % 20 == 1:
        data, suffix = _save(image, "WEBP", quality=90, method=0), "webp"
    else:
        data, suffix = (
            _save(
                image,
                "JPEG",
                quality=int(rng.integers(80, 96)),
                subsampling=int(rng.choice([0, 2])),
            ),
            "jpg",
        )
    return (damaged(data, index), suffix) if kind == "undecodable" else (data, suffix)


def picture(seed: int, index: int) -> Image.Image:
    """Draw a picture from its own seed, with sides of 200 to 640 pixels.

    It has a field of colours, some shapes, and grain.
    """
    rng = np.random.default_rng([seed, 0, index])
    width, height = (int(x) for x in rng.integers(200, 641, 2))
    cells = rng.integers(0, 256, (*rng.integers(2, 7, 2), 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 12)):
        x, y = rng.uniform(-0.1, 1, 2) * (width, height)
        w, h = rng.uniform(0.05, 0.5, 2) * (width, height)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        elif kind == 1:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        elif kind == 2:
            draw.polygon(
                [
                    tuple(p)
                    for p in rng.uniform(0, 1, (int(rng.integers(3, 7)), 2)) * (w, h) + (x, y)
                ],
                fill=colour,
            )
        else:
            draw.line((x, y, x + w, y + h), fill=colour, width=int(rng.integers(2, 20)))
    grain = Image.fromarray(rng.integers(0, 256, (height // 2, width // 2), dtype=np.uint8)).resize(
        (width, height)
    )
    image = Image.blend(image, Image.merge("RGB", [grain] * 3), float(rng.uniform(0, 0.15)))
    return image.filter(ImageFilter.BoxBlur(float(rng.uniform(0, 1.5))))


def near(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Return a near duplicate of an image as a JPEG of quality 50 to 95.

    Each side is cut by at most CROP, and the result is resized by 0.5 to 2.
    """
    across, down = rng.uniform(0, CROP, 2)
    left, top = across * rng.random(), down * rng.random()
    width, height = image.size
    box = (left * width, top * height, (1 - across + left) * width, (1 - down + top) * height)
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
    image = image.crop([round(x) for x in box])
    image = image.resize(
        [max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS
    )
    return _save(image, "JPEG", quality=int(rng.integers(50, 96)))


def damaged(data: bytes, index: int) -> bytes:
    """Return a file that is undecodable in one of five ways."""
    return (
        data[: len(data) // 2],
        data[: len(data) - len(data) // 10 - 2],
        b"<html><body>404 Not Found</body></html>",
        bytes(data[i] ^ 0x5A for i in range(len(data))),
        b"",
    )[index % 5]


@functools.cache
def _bomb(side: int) -> bytes:
    """Return a PNG of a hundred kilobytes that has 30,000² pixels.

    At a side of CLAIMED it has no pixels at all.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    body = zlib.compress(bytes(1 + side // 8) * side, 9) if side < CLAIMED else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _save(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
