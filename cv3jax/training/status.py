"""What a run's workdir says of it, read by anybody at any time, without JAX.

Nothing is written or locked. The files may be damaged or somebody else's: they are read within
limits, and only their ends where they grow with the run.
"""

import math
import os
import socket
import time
from typing import Any

from cv3jax.checkpoints.manifest import NAME as MANIFEST
from cv3jax.training.heartbeat import FILE
from data_pipeline.io import kept_fields, storage
from data_pipeline.io.bounded_json import ParseError, parse_json
from data_pipeline.io.errors import InputError, first_line

TAIL = 2**22  # bytes of metrics.jsonl that are read, from its end
SMALL = 2**20  # bytes of each of the other files
SILENT = 12  # beats that a run which is alive never misses in a row
RECENT = 20  # lines of metrics over which the pace is taken
KINDS = {
    "step": "computing steps",
    "data": "waiting for data",
    "checkpoint": "writing a checkpoint",
    "preview": "drawing a preview",
    "evaluation": "evaluating",
    "compile": "compiling",
    "": "between two steps",
}
_AGES = (0, 2**53)
_BEAT = {
    "state": kept_fields.one_of("How it is.", "running", "finished", "stopped", "failed"),
    "beat": kept_fields.number("When the file was written.", *_AGES),
    "every": kept_fields.number("Seconds between two beats.", 0.001, 3600),
    "pid": kept_fields.whole("Its process.", 0, 2**31),
    "host": kept_fields.text("Its machine."),
    "why": kept_fields.text("How it ended."),
    "doing": kept_fields.text("The kind of what it does."),
    "waits": kept_fields.several("What it waits for.", kept_fields.text("", 4000), 0, 1),
}
_LOOP = {
    "name": kept_fields.text("The stage."),
    "step": kept_fields.whole("Updates done.", 0, 2**53),
    "steps": kept_fields.whole("Updates of the run.", 1, 2**53),
    "ended": kept_fields.number("When the last step ended.", *_AGES),
}
_BEST = {
    "step": kept_fields.whole("Of the checkpoint.", 0, 2**53),
    "metric": kept_fields.text("Its figure."),
    "value": kept_fields.anything("Its value."),
}


def read_status(workdir: str, now: float | None = None) -> dict[str, Any]:
    """Return the status of the run at `workdir`, a path or an object store's address, as JSON.

    now: seconds since 1970, by default the clock's. Raises InputError where there is no run, or a
    file of it is damaged.
    """
    now = time.time() if now is None else now
    beat = _object(storage.join(workdir, FILE), _BEAT)
    place = _place_of_loop(workdir)
    lines = _lines(storage.join(place, "metrics.jsonl"))
    saved = _checkpoints(place)
    if not (beat or lines or saved):
        raise InputError(
            f"{workdir} has no run: no {FILE}, metrics.jsonl or checkpoints; give the --workdir of"
            " cv3jax train, finetune or distill"
        )
    looped = beat if beat and kept_fields.wrong(beat, _LOOP) is None else {}
    logged = max((line["step"] for line in lines), default=0)
    step = looped.get("step", max(logged, max(saved, default=0)))
    losses = [[line["step"], line["loss"]] for line in lines if _number(line.get("loss"))]
    last = next((line for line in reversed(lines) if "seconds" in line), {})
    state, why = _state(beat, now)
    newest = max(saved, default=None)
    pace = _pace(lines)
    left = looped.get("steps", step) - step
    running = state == "running" and looped
    best = _object(storage.join(place, "best.json"), _BEST)
    return {
        "workdir": workdir,
        "name": looped.get("name"),
        "state": state,
        "doing": _doing(beat, looped, pace, now) if state == "running" else why,
        "step": step,
        "steps": looped.get("steps"),
        "eta_seconds": left * pace if running and pace is not None else None,
        "seconds_per_step": pace,
        "figures": {name: value for name, value in last.items() if _number(value)},
        "checkpoint": newest and {"step": newest, "age_seconds": max(now - saved[newest], 0.0)},
        "best": best and {name: best[name] for name in _BEST},
        "heldout": _heldout(lines),
        "losses": losses,
        "changes": _changes(workdir),
    }


def last_lines(workdir: str) -> list[dict]:
    """Return the last 4 MB of a run's lines of metrics, oldest first. Raises as `read_status`."""
    return _lines(storage.join(_place_of_loop(workdir), "metrics.jsonl"))


def _state(beat: dict | None, now: float) -> tuple[str, str]:
    """Return how a run is, and why."""
    if beat is None:
        return "unknown", "an older version of cv3jax ran it, or another kind of run"
    if beat["state"] != "running":
        return beat["state"], beat["why"]
    age = max(now - beat["beat"], 0.0)
    here = beat["host"] == socket.gethostname()
    if here and not _alive(beat["pid"]):
        return "killed", f"process {beat['pid']} is gone and said nothing"
    if age > SILENT * beat["every"]:
        return "silent", f"no sign of process {beat['pid']} on {beat['host']} for {age:.0f} s"
    return "running", ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _doing(beat: dict, looped: dict, pace: float | None, now: float) -> str:
    """Return what a running run does, as its last beat says."""
    if beat["waits"]:
        return beat["waits"][0]
    said = KINDS.get(beat["doing"], beat["doing"])
    if not looped:
        return f"starting: {said}" if beat["doing"] else "starting"
    quiet = now - looped["ended"]
    if beat["doing"] in ("step", "") and quiet > max(60.0, 5 * (pace or 0)):
        return f"no step has ended for {quiet:.0f} s: the devices or other processes are waited for"
    return said


def _place_of_loop(workdir: str) -> str:
    """Return where a run's lines are: its workdir, or the newest round of a distillation."""
    found = storage.files(storage.join(_plain(workdir), "rounds", "*_steps", "metrics.jsonl"))
    if not found:
        return workdir
    newest = max(found, key=lambda path: float(found[path].stamp))
    return newest.rsplit("/", 1)[0]


def _checkpoints(place: str) -> dict[int, float]:
    """Return step → when it was written, of whole checkpoints."""
    files = storage.files(storage.join(_plain(place), "checkpoints", "*", MANIFEST))
    unit = 1.0 if storage.is_remote(place) else 1e9
    steps = {path.split("/")[-2]: float(file.stamp) / unit for path, file in files.items()}
    return {int(name): when for name, when in steps.items() if name.isdigit() and len(name) < 16}


def _plain(path: str) -> str:
    """Return a path within a pattern of names."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _pace(lines: list[dict]) -> float | None:
    """Return the seconds of a step over the last lines, compilation apart."""
    timed = [line for line in lines if _number(line.get("seconds"))][-RECENT:]
    spent = [line["seconds"] - _of(line, "seconds_compile") for line in timed]
    if len(timed) > 1 and timed[-1]["step"] > timed[0]["step"] and spent[-1] > spent[0]:
        return (spent[-1] - spent[0]) / (timed[-1]["step"] - timed[0]["step"])
    if len(timed) == 1 and timed[0]["step"] > 0 and spent[0] > 0:
        return spent[0] / timed[0]["step"]
    return None


def _heldout(lines: list[dict]) -> dict[str, float] | None:
    """Return the last held-out figures, with their step."""
    for line in reversed(lines):
        found = {name: x for name, x in line.items() if name.startswith("heldout/") and _number(x)}
        if found:
            return {"step": line["step"], **found}
    return None


def _changes(workdir: str) -> list[dict]:
    """Return what was changed at restarts, as `changes.keep_history` wrote it."""
    kept = _object(storage.join(workdir, "run.json"), {})
    found = (kept or {}).get("changes", [])
    table = {"step": _BEST["step"], "field": kept_fields.text("Its name.")}
    if not isinstance(found, list) or any(kept_fields.wrong(one, table) for one in found):
        raise InputError(f"{storage.join(workdir, 'run.json')} is damaged; restore it")
    names = ("step", "field", "was", "now")
    return [{name: one.get(name) for name in names} for one in found]


def _object(path: str, table: kept_fields.Table) -> dict | None:
    """Return the object in a file, or None where there is none. Raises InputError on damage."""
    data = _end_of(path, SMALL)
    if data is None:
        return None
    try:
        value = parse_json(data, nan=True)
    except ParseError as e:
        raise InputError(f"{path} is damaged ({e}); restore or remove it") from e
    if wrong := kept_fields.wrong(value, table):
        raise InputError(f"{path} is damaged ({wrong}); restore or remove it")
    return value


def _lines(path: str) -> list[dict]:
    """Return the last lines of a metrics.jsonl; one that a kill cut off is left out."""
    data = _end_of(path, TAIL)
    if data is None:
        return []
    texts = data.decode(errors="replace").split("\n")
    texts = texts[1:] if len(data) == TAIL else texts
    found = []
    for number, text in enumerate(texts):
        if not text.strip():
            continue
        try:
            line = parse_json(text, nan=True)
            if not (isinstance(line, dict) and type(line.get("step")) is int):
                raise ParseError("it is no line of metrics")
        except ParseError as e:
            if number < len(texts) - 1:
                raise InputError(f"{path} is damaged ({e}); restore or remove it") from e
            continue
        found.append(line)
    return found


def _end_of(path: str, most: int) -> bytes | None:
    """Return the last bytes of a file, at most `most`, or None where there is no file."""
    if not storage.exists(path):
        return None
    try:
        with storage.open_read(path) as file:
            size = file.seek(0, os.SEEK_END) or file.tell()
            file.seek(max(size - most, 0))
            return file.read(most)
    except OSError as e:
        raise InputError(f"{path} cannot be read ({first_line(e)})") from e


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _of(line: dict, name: str) -> float:
    value = line.get(name, 0.0)
    return value if _number(value) else 0.0
