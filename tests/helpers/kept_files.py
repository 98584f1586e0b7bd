"""Files of JSON and YAML that strangers can give, each with its reader and a valid content."""

import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from altered_descriptions import ANYWHERE, WHOLE, places, section_of
from image_shards import encoded

from cv3jax.sampling import inputs, jobs
from cv3jax.training import changes, metrics
from cv3jax.weights import diffusers, files, importing, release_yaml
from data_pipeline.builder.settings import load_settings
from data_pipeline.expansion.store import Store
from data_pipeline.expansion.template import load_template
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json
from data_pipeline.recaption.dialogue import load_dialogue
from data_pipeline.recaption.journal import Journal
from data_pipeline.records.feature_cache import read_identity
from data_pipeline.records.records import RecordWriter, make_record, open_records

ASKED = {"model": "m", "dialogue": {}}
BEGIN = {"event": "begin", "asked": ASKED}
LINE = {"event": "answer", "id": "ab" * 16, "key": "k", "sha256": "s", "turn": 0, "text": "a"}
LINE |= {"attempts": 1, "tokens": [1, 2]}
FAILED = {**LINE, "event": "failed", "reason": "refused", "detail": "no", "tokens": None}
FIRST = hashlib.sha256(b"a").hexdigest()  # of a file of prompts whose only line is "a"
PLAN = {"seed": 0, "prompts": {"lines": 1, "sha256": FIRST}, "tile": 0}
# what no reader may take, whatever it reads
NEVER = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 5000,
    "cut": b'{"a": [1, ',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "twice": b'{"a": 1, "a": 2}',
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
}
BREAKS = r'"a\u2028b\u2029c\u0085d\n\u001ce\r.safetensors"'  # each ends a line somewhere
ODD = {"null": b"null", "number": b"1", "list": b"[]", "object": b"{}", "lists": b"[[], [1]]"}


def journal(folder: Path) -> None:
    with Journal(folder, ASKED, turns=2) as kept:
        kept.result(LINE["id"])
        kept.answers(LINE["id"])


@functools.cache
def dataset() -> Path:
    """Return a folder of one record."""
    folder = Path(tempfile.mkdtemp()) / "d"
    with RecordWriter(folder, shards=1) as writer:
        writer.write(make_record(encoded(1), "a", key="k"))
    return folder


def described(name: str) -> Any:
    """Return what a file of that dataset says."""
    return json.loads((dataset() / name).read_text())


def records(folder: Path, name: str) -> None:
    """Read records whose file `name` is in the folder; the others are those of `dataset`."""
    for file in dataset().iterdir():
        if file.name != name:
            (folder / file.name).write_bytes(file.read_bytes())
    opened = open_records(folder)
    opened[0]


def index(folder: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(1)}, folder / "b.safetensors")
    files._open_shards(folder / "model.safetensors.index.json")


def plan(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a\nb\n")
    ours = {**PLAN, "prompts": {"lines": 2, "sha256": "b"}}
    pictures = jobs.Jobs([inputs.Prompt("a"), inputs.Prompt("b")], 1, 0)
    jobs.check_plan(folder, ours, pictures, folder / "prompts.txt")
    jobs.planned_tile(folder)


def vae_config(folder: Path) -> None:
    config = importing._read_config(folder)
    diffusers.vae_fields(config, "config.json")


# name → (file, how it is read, a valid content)
READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "an index of shards": (
        "model.safetensors.index.json",
        index,
        {"metadata": {"total_size": 1}, "weight_map": {"a": "b.safetensors"}},
    ),
    "an autoencoder's config": (
        "config.json",
        vae_config,
        {
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "scaling_factor": 0.5,
        },
    ),
    "a plan of pictures": ("plan.json", plan, PLAN),
    "a run's changes": (
        "run.json",
        changes.read_history,
        {"changes": [{"step": 1, "field": "seed", "was": 1, "now": 2}]},
    ),
    "figures": ("f.json", lambda folder: read_json(folder / "f.json"), {"updates": 1}),
    "a description of records": (
        "dataset_info.json",
        lambda folder: records(folder, "dataset_info.json"),
        described("dataset_info.json"),
    ),
    "features of records": (
        "features.json",
        lambda folder: records(folder, "features.json"),
        described("features.json"),
    ),
    "a feature cache": (
        "encoded.json",
        read_identity,
        {
            "format": 1,
            "records": {"lengths": [3], "sha256": "a"},
            "view": {"image_size": 64, "zoom": 1.0, "crop_grid": 8},
            "latents": {
                "shape": [8, 8, 4],
                "dtype": "float16",
                "low": True,
                "computed": "f",
                "vae": "a",
            },
            "text": {"shape": [5, 6], "dtype": "int8", "computed": "f", "t5": "b", "captions": "c"},
        },
    ),
    "a kept expansion": (
        "ab/ab.json",
        lambda folder: Store(folder).get("ab"),
        {
            "prompt": "a",
            "text": "b",
            "model": "c",
            "template_sha256": "d",
            "tokens": 1,
            "fallback": "",
        },
    ),
    "a template": (
        "t.json",
        lambda folder: load_template(folder / "t.json"),
        {"request": "{prompt}", "examples": [], "settings": {"max_tokens": 5}, "system": "s"},
    ),
    "a dialogue": (
        "d.json",
        lambda folder: load_dialogue(folder / "d.json"),
        {"turns": ["what?"], "system": "s", "settings": {"temperature": 0.5}, "triplet": "t"},
    ),
    "filters": (
        "f.yaml",
        lambda folder: load_settings(folder / "f.yaml", {}),
        {"min_side": 64, "max_unsafe": 0.5, "nsfw_tags": "NSFW", "keep_exact": False},
    ),
    "a released configuration": (
        "c.yaml",
        lambda folder: release_yaml.read_official(folder / "c.yaml"),
        {
            "args": {"sampling_image_size": 512},
            "model": {
                "scale_factor": 0.13,
                "network_config": {"params": {"model_channels": 8, "channel_mult": [1, 2]}},
                "sampler_config": {"target": "a.B", "params": {"num_steps": 4}},
            },
        },
    ),
    "prompts": (
        "p.jsonl",
        lambda folder: inputs.read_prompts(folder / "p.jsonl", 1),
        {"prompt": "a", "seed": 1, "name": "b"},
    ),
}
LINES: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "the head of a journal": ("journal.jsonl", journal, BEGIN),
    "an answer in a journal": ("journal.jsonl", journal, LINE),
    "a failure in a journal": ("journal.jsonl", journal, FAILED),
    "metrics": (
        "metrics.jsonl",
        lambda folder: metrics.read_lines(folder / "metrics.jsonl"),
        {"step": 1, "loss": 0.5},
    ),
}


def alterations(content: Any) -> dict[str, bytes]:
    """Return texts of a content with one field removed or of another value, by name."""
    found = {}
    for path, _ in places(content):
        for text in (*ANYWHERE, *WHOLE, BREAKS, None):
            value = json.loads(json.dumps(content))
            section = section_of(value, path[:-1])
            section[path[-1]] = "\0"
            if text is None:
                del section[path[-1]]
            made = json.dumps(value).replace(json.dumps("\0"), text or "")
            found[f"{'.'.join(path)}: {text}"[:60]] = made.encode()
    return found


def outcome(read: Callable[[Path], Any], folder: Path) -> str | None:
    """Return what is wrong with how a reader ends; None where it reads, or refuses in one line."""
    began = time.process_time()
    try:
        read(folder)
    except InputError as e:
        if len(str(e).splitlines()) != 1 or len(str(e)) > 600 + len(str(folder)):
            return f"not one short line: {e!r}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"[:200]
    return "slow" if time.process_time() - began > 5 else None
