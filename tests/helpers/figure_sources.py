"""Compute from result files what the documents must say.

Each function yields pairs of a document and a sentence or table row.
"""

import re
import statistics
from collections.abc import Iterator

from documents import flat, read, result
from figure_sources_ablations import ablations
from figure_sources_data import many_records, shuffle_windows
from figure_sources_sampling import (
    evaluate,
    expansion,
    finetune_memory,
    large_pictures,
    text_kv,
    tiled_autoencoder,
    tiles,
)
from figure_text import WORDS, Saying, figure, row, spread


def loop() -> Iterator[Saying]:
    found = result("loop")
    for name in ("loop", "loop, loader"):
        yield "docs/benchmarks.md", f"| {spread(found['ratio'][name])} |"


def cascade() -> Iterator[Saying]:
    found = result("cascade")
    yield "docs/benchmarks.md", f"| {spread(found['measured']['ratio'])} |"
    yield "docs/benchmarks.md", f"| {found['counted']['ratio']:.3f} |"


def distill() -> Iterator[Saying]:
    made = result("distill")["rows"]
    for each in made:
        stage = each["recipe"].removeprefix("scenes_distill_")
        seconds = [f"{statistics.median(each['seconds'][name]):.3f}" for name in each["seconds"]]
        ratios = [spread(each[name]) for name in ("ratio", "ratio_passes")]
        flops = f"{each['flops_ratio_passes']:.2f}"
        cells = (f"{stage}, {each['kind']}", each["batch"], *seconds, *ratios, flops)
        yield "docs/benchmarks.md", row(*cells)
    with_update, passes = ([each[k][0] for each in made] for k in ("ratio", "ratio_passes"))
    for label, ratios in (
        ("the passes and the update", with_update),
        ("the passes alone", passes),
    ):
        both = f"| {label} | {min(ratios):.2f} to {max(ratios):.2f} |"
        yield "docs/guides/distillation.md", both


def loader() -> Iterator[Saying]:
    for side, found in result("loader")["sizes"].items():
        speeds = [statistics.median(found["images_a_second"][who]) for who in ("threads", "peer")]
        ratios = spread(found["ratio"]["threads"]), figure(found["ratio"]["processes"][0])
        yield "docs/benchmarks.md", row(f"{side}²", *(f"{speed:.0f}" for speed in speeds), *ratios)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def packaged() -> Iterator[Saying]:
    found = result("packaged")
    where = "docs/start/scenes.md"
    right = {name: found["following"][name] for name in ("scenes", "scenes_teacher")}
    for label, kind, what, bar in (
        ("held-out captions: colour", "heldout", "colour", "97 %"),
        ("held-out captions: all", "heldout", "all", "85 %"),
        ("relational captions: order", "relational", "position", "90 %"),
    ):
        shares = (percent(right[name][kind]["relay"][what]) for name in right)
        yield where, row(label, *shares, bar)
    trips = (percent(found["vae"][side]["all"]) for side in ("64", "128"))
    yield where, f"64² and 128²: all | | {', '.join(trips)} |"
    yield where, f"| a picture by itself, compiled | {found['one_picture'][0]:.3f} s |"
    first, again = (f"{found['commands'][name]:.0f} s" for name in ("first", "again"))
    yield where, f"takes {first} for one picture, and {again} when its programs are in the"
    samplers = found["samplers"]
    for label, name in (
        ("full, 20 + 10 guided", "full"),
        ("undistilled 4 + 1, guided", "undistilled_4_1"),
        ("undistilled 4 + 1, w = 1", "undistilled_4_1_w1"),
        ("distilled 4 + 1", "distilled_4_1"),
        ("distilled 4 + 1, w = 1", "distilled_4_1_w1"),
    ):
        one, seconds = samplers[name], samplers[name]["seconds"]
        denoising = 1000 * (seconds["base"] + seconds["relay"])
        distance = f"{one['image_distance']:.4f}" if one["image_distance"] else 0
        times = f"{denoising:.1f}", f"{1000 * seconds['total']:.1f}"
        yield where, row(label, percent(one["all"]), distance, *times)
    passes = (samplers[name]["seconds"] for name in ("undistilled_4_1", "distilled_4_1"))
    slower, faster = (seconds["base"] + seconds["relay"] for seconds in passes)
    yield where, f"takes {slower / faster:.1f} times as long to denoise"
    for w, distances in zip(found["weights"], found["guidance"], strict=True):
        yield where, row(f"{w:g}", *(f"{distance:.4f}" for distance in distances))
    count = len(samplers["full"]["right"])
    assert right["scenes"]["heldout"]["relay"]["all"] == 1  # of which README says:
    yield "README.md", f"draws all of {count} held-out captions right"


def packaged_distances() -> Iterator[Saying]:
    samplers = result("packaged")["samplers"]
    for label, name in (
        ("distilled 4 + 1", "distilled_4_1"),
        ("undistilled guided 4 + 1", "undistilled_4_1"),
    ):
        yield "docs/benchmarks.md", row(label, f"{samplers[name]['image_distance']:.4f}")


def guidance() -> Iterator[Saying]:
    steps = result("guidance")["steps"]
    where = "docs/start/scenes.md"
    yield where, row("σ at its start", *(f"{step['sigma']:.1f}" for step in steps))
    yield where, row("effect of w", *(f"{step['difference']:.2f}" for step in steps))
    shares = (percent(step["share"], 0) for step in steps)
    yield where, row("share of the effect that the student has", *shares)


def compile_time() -> Iterator[Saying]:
    made = result("compile_time")["results"]
    at = "v5e:16x16"
    encode, train = (made[f"relay_1024 {step} {at}"] for step in ("encode", "train"))
    state = train["argument_bytes_per_chip"] / 1e9
    both = encode["peak_bytes_per_chip"] / 1e9 + state
    yield "docs/scale/compile.md", f"its encode and {state:.2f} GB of state, {both:.1f} GB of 16"
    for recipe in ("base_256", "base_512", "relay_1024"):
        flops = [made[f"{recipe} {step} {at}"]["flops_per_step"] for step in ("encode", "train")]
        yield "docs/guides/encode.md", f"| `{recipe}` | {percent(flops[0] / sum(flops), 0)} |"
    steps = [each for each in made.values() if each["step"] == "train"]
    minutes = [each["compile_seconds"] / 60 for each in steps]
    gb = max(each["host_peak_bytes"] for each in steps) / 1e9
    took = f"{WORDS[round(min(minutes))]} to {WORDS[round(max(minutes))]} minutes of two cores"
    yield "docs/scale/compile.md", f"{took} and up to {gb:.0f} GB"


def relay_start() -> Iterator[Saying]:
    for start, f in result("docs/theory/relay_start").items():
        shares = ("all", "control", "detail", "detail_control", "detail_noise", "detail_se")
        yield (
            "docs/theory/relay_start.md",
            row(start, *(f"{100 * f[name]:.1f} %" for name in shares)),
        )


def weights() -> Iterator[Saying]:
    found = result("docs/guides/weights")
    where, once = "docs/guides/convert.md", found["rounds"][0]
    for label, name in (
        ("in: SAT → checkpoint", "in"),
        ("out: → SAT", "sat"),
        ("out: → diffusers", "diffusers"),
        ("out: → safetensors", "safetensors"),
    ):
        seconds, times = once[name]["seconds"], once[name]["times_plain"]
        yield where, row(label, f"{seconds:.0f}", f"{times:.2f}", f"{once[name]['peak_gb']:.1f} GB")
    plain = row(f"{once['plain']['seconds']:.0f}", 1, f"{once['plain']['peak_gb']:.1f} GB")
    yield where, f"of the same file {plain}"
    yield where, f"has {found['sat_gb']:.2f} GB, the checkpoint {once['checkpoint_gb']:.2f}"
    yield where, f"({found['parameters']:,} parameters)"


def quickstart() -> Iterator[Saying]:
    """Yield the ranges above the page's own tables and those of the README.

    The reports of these runs are not kept.
    """
    where = "docs/start/quickstart.md"
    page = flat(read(where))

    def seeds(label: str) -> list[float]:
        cells = re.search(rf"\| {label} \|([\d.% |]+)", page)[1].split("|")[:3]
        return [float(cell.removesuffix(" % ")) for cell in cells]

    busy = re.search(r"\| ([\d.]+) % \(colour ([\d.]+) %\) \|", page)
    minutes = [int(m) + int(s) / 60 for m, s in re.findall(r"(\d+) min (\d+) s", page)]
    minutes += seeds("minutes in all, set-up included")
    for document in ("README.md", where):
        took = f"takes {min(minutes):.0f} to {max(minutes):.0f} minutes on two cores"
        yield document, took
    for what, least, shares in (
        ("colours are right", float(busy[2]), seeds("base: colour")),
        ("places", 100.0, seeds("base: position")),
        ("everything in the caption", float(busy[1]), seeds("base: all")),
    ):
        between = f"{min(least, *shares):g} % to {max(shares):g} %"
        yield where, f"{what} in {between}"
    took = re.search(r"\| (25 min 42 s) \| (\d+ s) \|", page)
    yield "docs/guides/distillation.md", f"All rounds took {took[2]} of that run's {took[1]}"


def recaption() -> Iterator[Saying]:
    """Yield the sentence of the page of benchmarks that repeats the recaptioning page's table."""
    page = flat(read("docs/guides/recaption.md"))
    given, found = re.findall(r"\| (?:given|found)[^|]*\| (\d+\.\d %) \|", page)
    repeated = f"{given} of the limit where it is given, {found} where it is found"
    yield "docs/benchmarks.md", repeated


def serve() -> Iterator[Saying]:
    found, where = result("serve"), "docs/benchmarks.md"
    full, half, mixed = found["saturation"], found["half"], found["mixed"]
    speeds = {name: spread(values) for name, values in full["spread"].items()}
    yield where, row("continuous batches", speeds["continuous"], "")
    yield where, row("sample --prompts", speeds["sample"], spread(full["over_sample"]))
    yield where, row("one request at a time", speeds["single"], spread(full["over_single"]))
    short, long = mixed["latency"]["alone"], mixed["latency"]
    for label, one in (
        ("a lone request", half["latency"]["lone"]),
        ("half load, continuous", half["latency"]["continuous"]),
        ("half load, static batches", half["latency"]["static"]),
        ("4 + 1 alone, continuous", short["4+1"]),
        ("4 + 1 mixed, continuous", long["continuous"]["4+1"]),
        ("4 + 1 mixed, static batches", long["static"]["4+1"]),
        ("20 + 10 mixed, continuous", long["continuous"]["20+10"]),
        ("20 + 10 mixed, static batches", long["static"]["20+10"]),
    ):
        seconds = (f"{one[key]:.3f}" for key in ("mean", "p50", "p95", "p99"))
        yield where, row(label, one["count"], *seconds)
    for ratio in (
        *(half["over_lone"][how] for how in ("continuous", "static")),
        *mixed["over_alone"].values(),
    ):
        yield where, f"{ratio:.2f}"


def fuzz() -> Iterator[Saying]:
    text = flat(read("docs/reference/limits.md"))
    for name, found in result("fuzz")["fuzzers"].items():
        share = f"{100 * found['past_first_check'] / found['tries']:.0f} %"
        ends = row(f"{found['tries']:,}", share, found["failures"], found["revision"])
        yield "docs/reference/limits.md", ends
        assert re.search(rf"\| `{name}` \| [^|]+ {re.escape(ends)}", text), name


def eval_statistics() -> Iterator[Saying]:
    found = result("eval_statistics")
    for label, table, wanted in (
        ("means of scores, 20 to 200 prompts", "means", lambda one: one["clusters"] >= 20),
        ("means of scores, 10 prompts", "means", lambda one: one["clusters"] < 20),
        ("paired differences, 20 to 200 prompts", "pairs", lambda one: True),
        ("win rates, 3 to 50 raters", "rates", lambda one: one["raters"] > 2),
        ("win rates, 2 raters", "rates", lambda one: one["raters"] == 2),
        ("ratings of four models, 4 to 30 raters", "ratings", lambda one: one["raters"] > 2),
        ("ratings of four models, 2 raters", "ratings", lambda one: one["raters"] == 2),
        ("Krippendorff's alpha, 20 to 200 pairs", "alphas", lambda one: True),
        ("power of planned votes; 80 % is wanted", "powers", lambda one: True),
    ):
        shares = [each.get("coverage", each.get("power")) for each in filter(wanted, found[table])]
        ends = dict.fromkeys(percent(one) for one in (min(shares), max(shares)))
        yield "docs/benchmarks.md", row(label, len(shares), " to ".join(ends))


SOURCES = (
    fuzz,
    serve,
    loop,
    cascade,
    distill,
    loader,
    shuffle_windows,
    many_records,
    packaged,
    packaged_distances,
    guidance,
    compile_time,
    relay_start,
    weights,
    quickstart,
    tiles,
    recaption,
    tiled_autoencoder,
    text_kv,
    large_pictures,
    finetune_memory,
    expansion,
    ablations,
    evaluate,
)
