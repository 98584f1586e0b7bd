"""img2dataset tars of diverse made pictures with known faults, for what `cv3jax data build` finds
of them.

Each picture is drawn by its own seed: a field of colours, shapes and grain, of its own size and
quality. Of N records, by their index, 3 % are from blocked sources, 2 % undecodable, 1 % bombs or
oversize, 5 % exact and 5 % near duplicates of others, and the last tar is cut in its middle.
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
MAX_BYTES = 1_000_000  # what the build is told; oversize images have more
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
    """What each record is: its kind, and for duplicates the index of the record that it repeats."""

    kinds: tuple[str, ...]
    repeats: dict[int, int]
    lost: range  # indices after the cut


def plan(count: int, seed: int, shard: int) -> Plan:
    """Deals kinds to indices at random. What is after the cut is neither a fault nor repeated."""
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
    """Writes ceil(count / shard) tars and the list of blocked sources, blocked.txt, beside them."""
    dealt = plan(count, seed, shard)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blocked.txt").write_text("\n".join(BLOCKED) + "\n", encoding="utf-8")
    jobs = [
        (folder / f"{n:05d}.tar", range(n * shard, min(count, (n + 1) * shard)), dealt, seed)
        for n in range(-(-count // shard))
    ]
    if processes == 1:
        list(map(_write, jobs))
    else:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(_write, jobs))
    _cut(jobs[-1][0], dealt.lost[0])
    return dealt


def key_of(index: int) -> str:
    return f"{index:09d}"


def _write(job: tuple[Path, range, Plan, int]) -> None:
    path, indices, dealt, seed = job
    with tarfile.open(path, "w") as tar:
        for index in indices:
            data, suffix = encoded(index, dealt, seed)
            rng = np.random.default_rng([seed, 3, index])
            text = " ".join(rng.choice(WORDS, 6)) + f", number {index}"
            url = f"https://host{rng.integers(200)}.example.org/{index}.{suffix}"
            if dealt.kinds[index] == "blocked":
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
    """Cuts a tar in the middle of the image of `index`, which is lost with all that follow."""
    with tarfile.open(path) as tar:
        member = next(m for m in tar if m.name.startswith(key_of(index)))
    with path.open("r+b") as file:
        file.truncate(member.offset_data + member.size // 2)


def encoded(index: int, dealt: Plan, seed: int) -> tuple[bytes, str]:
    """The file of a record, and its suffix."""
    kind = dealt.kinds[index]
    rng = np.random.default_rng([seed, 2, index])
    if kind == "bomb":
        return _bomb((30_000, CLAIMED)[index % 2]), "png"
    if kind in ("exact", "near"):
        data, suffix = encoded(dealt.repeats[index], dealt, seed)
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
    """A picture of its own: a field of colours, some shapes, grain. Sides 200 to 640 pixels."""
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
    """Cut by at most CROP of each side, resized 0.5 to 2 times, JPEG of quality 50 to 95."""
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
    """Undecodable in one of five ways."""
    return (
        data[: len(data) // 2],
        data[: len(data) - len(data) // 10 - 2],
        b"<html><body>404 Not Found</body></html>",
        bytes(data[i] ^ 0x5A for i in range(len(data))),
        b"",
    )[index % 5]


@functools.cache
def _bomb(side: int) -> bytes:
    """A PNG of 30,000² pixels in a hundred kilobytes; some claim even more and have nothing."""

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
