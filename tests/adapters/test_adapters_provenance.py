"""Test what is said of an adapter's origin, and that one is never applied twice."""

import dataclasses
import json

import adapters
import numpy as np
import pytest

import cv3jax
from cv3jax.adapters import formats, trees
from cv3jax.adapters.applied import applied_to
from cv3jax.adapters.folder import read_folder
from cv3jax.adapters.format_names import FORMATS
from cv3jax.adapters.given import parse_all
from cv3jax.adapters.provenance import BASE, MERGED, merged_in
from cv3jax.api import hub
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.commands import lora_convert, lora_merge
from data_pipeline.io.errors import InputError

DESCRIPTION = cascades.read_cascade("scenes")[1]
STAGES = DESCRIPTION.stages


def written(path, stage="base", *, base=None, seed=1):
    """Write an adapter of a stage of the packaged scenes, which says on what it was trained."""
    made = adapters.of_stage(STAGES[stage], seed=seed, every=9, size=0.3)
    metadata = {**made.metadata, **({BASE: base} if base else {})}
    formats.write(path, dataclasses.replace(made, metadata=metadata), "native")
    return str(path)


def test_an_adapter_of_another_base_is_remarked_and_one_of_the_same_is_not(tmp_path, capsys):
    own = written(tmp_path / "own.safetensors", base=parts_fingerprint("scenes", ("base",)))
    other = written(tmp_path / "other.safetensors", base="1" * 64, seed=2)
    silent = written(tmp_path / "silent.safetensors", seed=3)
    applied_to(parse_all([own, silent]), DESCRIPTION, "scenes")
    assert capsys.readouterr().err == ""
    applied_to(parse_all([other]), DESCRIPTION, "scenes")
    said = capsys.readouterr().err
    assert "other.safetensors was trained on another base than that of scenes (hash 1111" in said
    assert said.count("\n") == 1
    # of the same bytes, in a cascade that is not the packaged one: the teacher it was made for
    applied_to(parse_all([own]), DESCRIPTION, "scenes_teacher")
    assert "trained on another base" in capsys.readouterr().err


def test_the_same_adapter_is_not_given_twice(tmp_path):
    one = written(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    two = str(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"b.safetensors and a.safetensors are the same adapter"):
        applied_to(parse_all([f"{one}:0.5", two]), DESCRIPTION)
    # one that does nothing is no second one
    assert len(applied_to(parse_all([one, f"{two}:0"]), DESCRIPTION).applied) == 2


def test_an_adapter_that_a_cascade_has_in_its_weights_is_refused(tmp_path):
    one, two = (written(tmp_path / f"{k}.safetensors", seed=k) for k in (1, 2))
    merged, again = tmp_path / "merged", tmp_path / "again"
    lora_merge.main(["--checkpoint", "scenes", "--lora", f"{one}:0.5", "--out", str(merged)])
    kept = json.loads((merged / MERGED).read_text())["adapters"]
    assert [(one["file"], one["stage"], one["weight"]) for one in kept] == [
        ("1.safetensors", "base", 0.5)
    ]
    flags = ["--checkpoint", str(merged), "--out", str(again)]
    with pytest.raises(InputError, match=r"the base of .*merged has it in its weights already"):
        lora_merge.main([*flags, "--lora", one])
    with pytest.raises(ValueError, match=r"has it in its weights already"):
        cv3jax.Cascade.load(merged, lora=one)
    lora_merge.main([*flags, "--lora", two])
    assert [one["file"] for one in merged_in(again)] == ["1.safetensors", "2.safetensors"]
    hub.save(merged, tmp_path / "card")
    assert merged_in(tmp_path / "card") == merged_in(merged)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "one.safetensors").write_bytes((tmp_path / "1.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"has it in its weights already"):
        read_folder(tmp_path / "dir", DESCRIPTION, merged)
    (merged / MERGED).write_text('{"adapters": [{"file": 1}]}')
    with pytest.raises(InputError, match=r"adapters.json is damaged"):
        lora_merge.main([*flags[:3], str(tmp_path / "third"), "--lora", two])


def test_an_adapter_goes_into_the_stage_that_its_header_names(tmp_path):
    base = written(tmp_path / "base.safetensors")
    with pytest.raises(InputError, match=r"is for the base, as its header says, and not for the"):
        applied_to(parse_all([f"relay={base}"]), DESCRIPTION)


def test_each_adapter_is_announced_with_its_stage_and_weight(tmp_path):
    files = [written(tmp_path / f"{name}.safetensors", name) for name in STAGES]
    said = [str(one) for one in applied_to(parse_all([f"{files[0]}:0.5"]), DESCRIPTION).applied]
    said += [str(one) for one in applied_to(parse_all([f"{files[1]}:0"]), DESCRIPTION).applied]
    stages = list(STAGES)
    assert said[0].startswith(f"--lora {stages[0]}.safetensors: ")
    assert said[0].endswith(f" for the {stages[0]}, weight 0.5")
    assert said[1].endswith(f" for the {stages[1]}, weight 0, so it is left out")


def test_a_converted_file_keeps_the_stage_that_its_header_names(tmp_path):
    relay = written(tmp_path / "relay.safetensors", "relay")
    out = tmp_path / "out.safetensors"
    argv = ["--lora", relay, "--checkpoint", "scenes", "--to", "diffusers", "--out", str(out)]
    lora_convert.main(argv)
    with pytest.raises(InputError, match=r"out.safetensors exists already; give a new name"):
        lora_convert.main(argv)
    back = formats.read(out)
    sizes = STAGES["relay"]
    assert back.stage == "relay"
    assert (
        trees.fitted(back, sizes, "it").layers.keys()
        == formats.read(tmp_path / "relay.safetensors").layers.keys()
    )


def test_commands_list_the_formats_that_there_are():
    assert tuple(formats.FORMATS) == FORMATS


def test_leaves_are_replaced_and_others_shared():
    tree = {"a": {"b": np.zeros(1), "c": np.ones(1)}, "d": {"e": np.ones(2)}}
    made = trees.replaced(tree, {("a", "b"): 5})
    assert made["a"]["b"] == 5
    assert made["a"]["c"] is tree["a"]["c"]
    assert made["d"] is tree["d"]
    assert trees.at(tree, ("a", "b")) is tree["a"]["b"]
