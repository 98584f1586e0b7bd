"""WORKDIR/config.yaml: the config of a run as people read it, with what each field means."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv3jax.fields import Described, rows
from cv3jax.recipes import Source
from cv3jax.reports.recipe_tables import as_yaml
from data_pipeline.io.files import replacing

NAME = "config.yaml"


def keep_config(
    workdir: Path,
    config: dict[str, Any],
    fields: Mapping[str, Described],
    source: Source | None,
    changes: list[dict],
) -> None:
    """Write the config of a run to WORKDIR/config.yaml, whole or not at all, where it is not there.

    config: the recipe as plain values. fields: what its fields mean. source: the recipe that it was
    made of, if that is known. changes: what earlier sittings had, as `changes.check_changes` says.
    """
    path = workdir / NAME
    content = yaml_of(config, fields, source, changes)
    if not path.exists() or path.read_text() != content:
        with replacing(path) as temporary:
            temporary.write_text(content)


def yaml_of(
    config: dict[str, Any],
    fields: Mapping[str, Described],
    source: Source | None,
    changes: list[dict],
) -> str:
    """Return the config as YAML.

    Comments in its first lines say which recipe it is, which fields differ from the recipe, and
    which fields changed in the course of the run.
    """
    lines = [
        "The config of this run, for reading only; change a field in the command:"
        " --config.optim.lr=1e-4"
    ]
    own = source.own if source else {}
    if source:
        lines.append(f"Recipe: {source.spec}; changed: {', '.join(own) or 'nothing'}")
    for one in changes:
        was, now = (json.dumps(one[name], ensure_ascii=False) for name in ("was", "now"))
        lines.append(f"From step {one['step']} on: {one['field']} was {was}, is {now}")
    head = "".join(f"# {line}\n" for line in lines)
    return f"{head}\n{as_yaml(rows(config, fields, own))}"
