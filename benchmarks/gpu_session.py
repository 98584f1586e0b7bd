"""Check the machine for benchmarks/gpu_session.sh, and compose its table and JSON.

    python benchmarks/gpu_session.py check --out runs/gpu_session
    python benchmarks/gpu_session.py report --out runs/gpu_session

`check` says in one line what is missing, and writes check.json. `report` takes what the sections
have written so far, and writes gpu_session.json and gpu_session.md. A section that did not run, or
not to its end, has a row that says why.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
from measure import Spread

SECTIONS = ("forward", "sampling", "decode", "serving", "train")
# what each imports beside JAX
NEEDS = {
    "forward": ("flax", "optax", "tokenizers"),
    "sampling": ("flax", "ml_collections", "tokenizers"),
    "decode": ("flax", "optax", "ml_collections", "tokenizers"),
    "serving": (
        *("flax", "ml_collections", "orbax", "tokenizers", "fastapi", "uvicorn", "httpx"),
        *("prometheus_client", "python_multipart"),
    ),
    "train": ("flax", "optax", "tokenizers"),
}
VERSIONS = ("torch", "triton", "diffusers", "jax-cuda13-plugin", "nvidia-cudnn-cu13")
PARTS = ("text", "base", "relay", "vae", "rest")
COLUMNS = ("section", "what", "cv3jax", "beside", "ratio", "MFU", "GB", "beside GB")
TIMED_OUT, STOPPED = (124, 137), (130, 143)  # how `timeout` ends, and a session that is stopped


def missing_jax(device: str) -> str | None:
    """Return why JAX does not run on the device, or None."""
    import jax

    try:
        found = jax.default_backend()
    except RuntimeError as e:
        return f"JAX finds no device: {str(e).splitlines()[0]}"
    wanted = {"cuda": "gpu", "cpu": "cpu"}[device]
    return None if found == wanted else f"no jax with {device.upper()} (it runs on the {found})"


def missing_rival(device: str) -> str | None:
    """Return what the peer of the UNet lacks, or None."""
    for name in ("torch", "diffusers"):
        if importlib.util.find_spec(name) is None:
            return f"no {name}"
    if device == "cpu":
        return None
    import torch

    return None if torch.cuda.is_available() else "no torch with CUDA"


def driver() -> dict[str, str]:
    """Return the GPU's name, driver and memory as nvidia-smi has them, or nothing without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    fields = "name,driver_version,memory.total"
    words = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return {"nvidia-smi": done.stdout.strip()} if done.returncode == 0 else {}


def check(out: Path, device: str, revision: str | None) -> None:
    """Write check.json: the facts, what each section lacks, and the UNet's rival."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    jax_missing = missing_jax(device)
    if jax_missing is None:
        facts = measure.facts()
    else:  # hardware cannot be asked
        facts = {"date": measure.now(), "revision": measure.revision(measure.ROOT) or "none"}
    if revision:
        facts["revision"] = revision
    for name in VERSIONS:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    lacks = {}
    for section in SECTIONS:
        packages = [name for name in NEEDS[section] if importlib.util.find_spec(name) is None]
        if jax_missing or packages:
            lacks[section] = jax_missing or f"no {', '.join(packages)}"
    rival = missing_rival(device)
    name = "" if rival else "torch" if device == "cpu" else "torch.compile"
    found = {**facts, **driver(), "device": device, "missing": lacks}
    found |= {"rival": name, "rival_missing": rival}
    measure.write_json(out / "check.json", found)
    (out / "rival").write_text(name)
    for section in SECTIONS:
        (out / f"{section}.missing").write_text(lacks.get(section, ""))
    said = [f"{section}: {why}" for section, why in lacks.items()]
    said += [f"beside forward and train: {rival}"] if rival else []
    print("missing: " + ("; ".join(said) or "nothing"), flush=True)


def read(path: Path) -> Any:
    """Return the JSON of a file, or None where there is none or it is half written."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def last_line(path: Path) -> str:
    """Return the last line of a log that says something, or that it said nothing."""
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1].strip()[:200] if lines else "it said nothing"


def section(out: Path, name: str) -> dict[str, Any]:
    """Return what came of a section: its status, why, its seconds, and its figures, if any."""
    lacks = out / f"{name}.missing"
    if lacks.is_file() and (why := lacks.read_text().strip()):
        return {"status": f"not run: {why}", "figures": None}
    end, figures = out / f"{name}.end", read(out / f"{name}.json")
    if not end.is_file():
        running = (out / f"{name}.log").is_file()
        return {"status": "stopped" if running else "not run: not reached", "figures": figures}
    code, seconds, limit = map(int, end.read_text().split())
    found = {"code": code, "seconds": seconds, "limit": limit, "figures": figures}
    if code in TIMED_OUT:
        return {**found, "status": f"stopped at its limit of {limit} s"}
    if code == 0 or code in STOPPED:
        return {**found, "status": "stopped" if code else "done"}
    why = last_line(out / f"{name}.log")
    # a comparison that misses a bar, or whose rival failed, is one all the same
    compared = code == 1 and name in ("forward", "train") and figures is not None
    return {**found, "status": f"done; {why}" if compared else f"failed ({code}): {why}"}


def share(value: list | None) -> str:
    """Return the median of a spread of shares in percent."""
    return "" if value is None else f"{value[0]:.0%}"


def gigabytes(size: float | None) -> str:
    """Return a number of bytes in GB."""
    return "" if size is None else f"{size / 1e9:.2f}"


def compared(figures: dict, rival_missing: str | None) -> list[tuple]:
    """Return the line of a forward pass or a train step."""
    row = figures["rows"][0]
    size = f"{row['parameters'] / 1e9:.2f} B, {row['batch']} × {row['side']}², {row['dtype']}"
    took = next(iter(row["seconds"].values()))["cv3jax"]
    rivals = [name for name in row["seconds"] if name in row["ratio"]]
    if not rivals:
        why = "; ".join(row["failed"].values()) or f"not run: {rival_missing or 'not reached'}"
        mfu, memory = share(row.get("mfu")), gigabytes(row["memory_bytes"]["cv3jax"])
        return [(size, f"{measure.spread(took)} s", why, "", mfu, memory, "")]
    lines = []
    for rival in rivals:
        theirs, mfu = measure.spread(row["seconds"][rival][rival]), share(row.get("mfu"))
        mfu += f", beside {share(row['mfu_beside'][rival])}" if mfu else ""
        memory = [gigabytes(row["memory_bytes"][name]) for name in ("cv3jax", rival)]
        ratio, beside = Spread(*row["ratio"][rival]), f"{rival} {theirs} s"
        lines.append((size, f"{measure.spread(took)} s", beside, ratio, mfu, *memory))
    return lines


def sampled(figures: dict, _: str | None) -> list[tuple]:
    """Return a line for each kind of sampling."""
    lines = []
    for kind, row in figures["rows"].items():
        parts = ", ".join(f"{part} {row['part_seconds'][part][0]:.3g}" for part in PARTS)
        what = f"{kind} steps, {row['batch']} × {row['side']}², {row['dtype']}: {parts} s"
        took = f"{Spread(*row['picture_seconds'])} s a picture"
        memory = gigabytes(row["memory_bytes"])
        lines.append((what, took, "", "", share(row.get("mfu")), memory, ""))
    return lines


def decoded(figures: dict, _: str | None) -> list[tuple]:
    """Return the line of the tiled decode."""
    tiles, whole = figures["rows"]["tiles"], figures["rows"].get("whole", {})
    what = f"{tiles['side']}², tiles of {tiles['tile']}, {tiles['dtype']}"
    beside = "whole: " + (
        f"{Spread(*whole['spread'])} s" if "spread" in whole else whole.get("failed", "not reached")
    )
    ratio = Spread(*tiles["ratio"]) if "ratio" in tiles else ""
    memory = [gigabytes(each.get("memory_bytes")) for each in (tiles, whole)]
    took = f"{Spread(*tiles['spread'])} s"
    return [(what, took, beside, ratio, share(tiles.get("mfu")), *memory)]


def served(figures: dict, _: str | None) -> list[tuple]:
    """Return the line of the server."""
    latency, clients = figures["latency"]["default"], figures["clients"]
    what = (
        f"4 + 1 steps, batches of {figures['batch']}, {clients} requests under way,"
        f" P50 {latency['p50']:.3g} s, P95 {latency['p95']:.3g} s"
    )
    took = f"{figures['pictures_per_second']:.3g} pictures/s"
    return [(what, took, "", "", "", gigabytes(figures["memory_bytes"]), "")]


LINES = {
    "forward": compared,
    "sampling": sampled,
    "decode": decoded,
    "serving": served,
    "train": compared,
}


def report(out: Path) -> dict[str, Any]:
    """Write the table and the JSON, and return the JSON's content."""
    facts = read(out / "check.json") or {"date": measure.now(), "revision": "none"}
    found, rows = {name: section(out, name) for name in SECTIONS}, []
    for name, one in found.items():
        if one["figures"] is not None:
            lines = LINES[name](one["figures"], facts.get("rival_missing"))
            rows += [(name, *map(str, line)) for line in lines]
        if one["figures"] is None or not one["status"].startswith("done"):
            rows.append((name, one["status"], *[""] * (len(COLUMNS) - 2)))
    shown = {key: value for key, value in facts.items() if isinstance(value, str) and value}
    made = ", ".join(f"{key} {value}" for key, value in shown.items())
    table = f"{measure.table(COLUMNS, rows)}\n\n{made}\n"
    measure.write_json(out / "gpu_session.json", {**facts, "sections": found})
    (out / "gpu_session.md").write_text(table)
    return {"table": table, "sections": found}


def main() -> None:
    """Run the command that is named first."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("command", choices=("check", "report"))
    made.add_argument("--out", required=True, type=Path, metavar="DIR")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--revision", help="the commit, where this is no Git checkout")
    made.add_argument("--sections", default=",".join(SECTIONS), help="those that were asked for")
    args = made.parse_args()
    if args.command == "check":
        return check(args.out, args.device, args.revision)
    found = report(args.out)
    print(found["table"], end="")
    asked = args.sections.split(",")
    if bad := [name for name in asked if not found["sections"][name]["status"].startswith("done")]:
        sys.exit(f"gpu_session: not measured, or not to the end: {', '.join(bad)}")
    return None


if __name__ == "__main__":
    main()
