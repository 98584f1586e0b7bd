"""Test `cv3jax lora merge, extract, inspect, compare, convert` on the packaged cascade."""

import json

import adapters
import numpy as np
import pytest
from released_files import stored

from cv3jax.adapters import formats, trees
from cv3jax.adapters.adapter import Adapter
from cv3jax.checkpoints import cascades
from cv3jax.commands import (
    lora_compare,
    lora_convert,
    lora_extract,
    lora_inspect,
    lora_merge,
)
from data_pipeline.io.errors import InputError

DIRECTORY, DESCRIPTION = cascades.read_cascade("scenes")
STAGES = DESCRIPTION.stages


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the folder of base.safetensors, of the base, and relay.safetensors, of the relay."""
    at = tmp_path_factory.mktemp("files")
    for name in STAGES:
        made = adapters.of_stage(STAGES[name], seed=len(name))
        formats.write(at / f"{name}.safetensors", made, "native")
    return at


@pytest.fixture(scope="module")
def merged(files):
    """Return the cascade with both adapters in it, the base's by half."""
    base, relay = (files / f"{name}.safetensors" for name in STAGES)
    argv = ["--lora", f"{base}:0.5", "--lora", str(relay), "--out", str(files / "merged")]
    lora_merge.main(["--checkpoint", "scenes", *argv])
    return files / "merged"


def test_merging_changes_the_adapted_weights_alone(merged, files):
    assert cascades.read_cascade(merged)[1] == DESCRIPTION
    for part in DESCRIPTION.parts:
        before, after = stored(DIRECTORY, part), stored(merged, part)
        changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
        assert all(after[name].dtype in (np.float32, before[name].dtype) for name in before)
        if part not in STAGES:
            assert changed == set()
            continue
        adapter = formats.read(files / f"{part}.safetensors")
        table = trees.modules(trees.Sizes.of(STAGES[part]))
        assert changed == {"/".join(table[name].path) for name in adapter.layers}
        for name, layer in adapter.layers.items():
            entry, (up, down) = table[name], layer.matrices()
            weight = 0.5 if part == "base" else 1.0
            wanted = (weight * adapter.scale(name) * up @ down).reshape(layer.shape)
            wanted = wanted.transpose(2, 3, 1, 0) if entry.layout == "conv" else wanted.T
            key = "/".join(entry.path)
            found = after[key].astype(np.float64) - before[key]
            found = found if entry.layer is None else found[entry.layer]
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_unchanged_parts_are_linked_and_all_have_manifests(merged):
    vae = next(path for path in (merged / "vae").rglob("*") if path.is_file())
    assert vae.stat().st_ino == (DIRECTORY / "vae" / vae.relative_to(merged / "vae")).stat().st_ino
    for part in DESCRIPTION.parts:
        cascades.check_part(merged / part)
    assert (merged / "t5" / "tokenizer").is_dir()


def test_extraction_finds_the_adapter_again(merged, files, capsys):
    out = files / "back.safetensors"
    argv = ["--checkpoint", str(merged), "--original", "scenes", "--stage", "relay"]
    lora_extract.main([*argv, "--rank", "8", "--out", str(out), "--json", str(files / "e.json")])
    figures = json.loads((files / "e.json").read_text())
    assert figures["energy"] == pytest.approx(1, abs=1e-6)
    assert figures["others"] == 0
    back, ours = formats.read(out), formats.read(files / "relay.safetensors")
    assert back.layers.keys() == ours.layers.keys()
    assert back.stage == "relay"
    for name in ours.layers:
        wanted, found = (
            one.scale(name) * one.layers[name].matrices()[0] @ one.layers[name].matrices()[1]
            for one in (ours, back)
        )
        np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert "which keep 100.0 % of the energy" in capsys.readouterr().err


def test_a_smaller_rank_keeps_the_largest_singular_values(merged, files):
    argv = ["--checkpoint", str(merged), "--original", "scenes", "--stage", "relay"]
    out = files / "small.safetensors"
    lora_extract.main([*argv, "--rank", "1", "--out", str(out), "--json", str(files / "s.json")])
    figures = json.loads((files / "s.json").read_text())
    ours, kept, whole = formats.read(files / "relay.safetensors"), 0.0, 0.0
    for name, layer in ours.layers.items():
        up, down = layer.matrices()
        values = np.linalg.svd(ours.scale(name) * up @ down, compute_uv=False)
        share = values[0] ** 2 / (values**2).sum()
        assert figures["layers"][name]["energy"] == pytest.approx(share, abs=1e-4)
        kept, whole = kept + values[0] ** 2, whole + (values**2).sum()
    assert figures["energy"] == pytest.approx(kept / whole, abs=1e-4)
    assert 0.3 < figures["energy"] < 0.95


def test_energy_takes_as_many_values_as_hold_it(merged, files):
    argv = ["--checkpoint", str(merged), "--original", "scenes", "--stage", "base"]
    out = files / "energy.safetensors"
    lora_extract.main(
        [*argv, "--energy", "0.8", "--out", str(out), "--json", str(files / "n.json")]
    )
    figures = json.loads((files / "n.json").read_text())
    assert all(row["energy"] >= 0.8 for row in figures["layers"].values())
    ours = formats.read(files / "base.safetensors")
    assert all(figures["layers"][name]["rank"] <= ours.layers[name].rank for name in ours.layers)
    assert any(figures["layers"][name]["rank"] < ours.layers[name].rank for name in ours.layers)


def test_inspection_says_what_is_in_a_file(files, capsys):
    path = files / "relay.safetensors"
    ours = formats.read(path)
    hostile = Adapter(ours.layers, "relay", metadata={**ours.metadata, "ss_tag": "a\x1b[2Jb\nc"})
    formats.write(files / "hostile.safetensors", hostile, "kohya")
    argv = ["--lora", str(files / "hostile.safetensors"), "--json", str(files / "i.json")]
    lora_inspect.main(argv)
    out = capsys.readouterr().out
    (found,) = json.loads((files / "i.json").read_text())["files"]
    assert found["format"] == "kohya"
    assert found["stage"] == "relay"
    assert found["unet"]["channels"] == STAGES["relay"].model["channels"]
    assert found["ranks"].keys() == {"2", "3", "4"}
    assert found["metadata"]["ss_tag"] == "a\x1b[2Jb\nc"
    assert "\x1b" not in out
    assert r"ss_tag: a\x1b[2Jb\nc" in out
    name = next(iter(ours.layers))
    up, down = ours.layers[name].matrices()
    row = next(row for row in found["layers"] if row["layer"] == name)
    wanted = np.linalg.norm(ours.scale(name) * up @ down)
    assert row["norm"] == pytest.approx(wanted, rel=1e-6)
    lora_inspect.main([*argv[:2], "--layers"])
    assert len(capsys.readouterr().out.splitlines()) > len(ours.layers)


def test_comparison_is_that_of_the_changes(files, tmp_path):
    ours = formats.read(files / "base.safetensors")
    names = list(ours.layers)
    other = adapters.of_stage(STAGES["base"], seed=9)
    layers = {name: other.layers[name] for name in names[:-1]}
    formats.write(tmp_path / "b.safetensors", Adapter(layers, "base"), "native")
    two = ["--lora", str(files / "base.safetensors"), "--lora", str(tmp_path / "b.safetensors")]
    lora_compare.main([*two, "--json", str(tmp_path / "c.json")])
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["first_only"] == [names[-1]]
    changes = [
        {n: a.scale(n) * a.layers[n].matrices()[0] @ a.layers[n].matrices()[1] for n in a.layers}
        for a in (ours, Adapter(layers))
    ]
    for row in found["layers"]:
        a, b = (each[row["layer"]] for each in changes)
        cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
        assert row["cosine"] == pytest.approx(cosine, abs=1e-6)
        difference = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert row["difference"] == pytest.approx(difference, rel=1e-6)
    flat = [
        np.concatenate([each.get(n, 0 * changes[0][n]).ravel() for n in names]) for each in changes
    ]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert found["cosine"] == pytest.approx(cosine, abs=1e-6)


def test_an_adapter_is_like_itself_in_another_format(files, tmp_path, capsys):
    base = str(files / "base.safetensors")
    lora_convert.main(["--lora", base, "--to", "peft", "--out", str(tmp_path / "peft")])
    lora_compare.main(["--lora", base, "--lora", str(tmp_path / "peft")])
    assert "relative difference 0.0000, cosine 1.0000" in capsys.readouterr().out


def test_conversion_through_all_formats_is_the_same_bits(files, tmp_path):
    last = files / "base.safetensors"
    for i, format in enumerate(("kohya", "diffusers", "peft", "native")):
        out = tmp_path / (str(i) + ".safetensors" * (format != "peft"))
        lora_convert.main(["--lora", str(last), "--to", format, "--out", str(out)])
        last = out
    assert adapters.same(formats.read(files / "base.safetensors"), formats.read(last)) == []


def test_names_of_diffusers_take_a_checkpoint_where_the_header_has_no_sizes(files, tmp_path):
    ours = formats.read(files / "relay.safetensors")
    sizes = trees.Sizes.of(STAGES["relay"])
    bare = Adapter(ours.layers)
    formats.write(tmp_path / "d.safetensors", bare, "diffusers", sizes)
    argv = ["--lora", str(tmp_path / "d.safetensors"), "--to", "native"]
    argv += ["--out", str(tmp_path / "n.safetensors")]
    with pytest.raises(InputError, match="give its cascade as --checkpoint"):
        lora_convert.main(argv)
    lora_convert.main([*argv, "--checkpoint", "scenes", "--stage", "relay"])
    assert adapters.same(ours, formats.read(tmp_path / "n.safetensors")) == []
