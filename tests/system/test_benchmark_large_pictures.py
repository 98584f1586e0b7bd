"""Test the benchmark of large pictures: what it compiles, resumes and calls a failure."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from cv3jax.checkpoints.cascades import read_cascade


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("large_pictures")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_whole_cascade_computes_in_one_type_and_has_a_base(script, dtype, tmp_path):
    script.write_released(str(tmp_path), dtype)
    _, cascade = read_cascade(tmp_path)
    assert cascade.parts == ("vae", "t5", "base")
    assert {cascade.section(part).model["dtype"] for part in cascade.parts} == {dtype}


@pytest.mark.parametrize("held", ["recipe", "bfloat16"])
def test_each_chip_has_one_picture_and_all_parameters(script, held, monkeypatch):
    asked = []
    monkeypatch.setattr(script.compile_time, "compiled", lambda *given: asked.append(given))
    script.compiled("v5p:2x2x1", held, "decode", 4096, 1024)
    script.compiled("h100:1x1x1", held, "decode", 4096, 0)
    tiled, whole = ([*given[3:]] for given in asked)
    assert "--config.mesh.data=4" in tiled
    assert tiled[-2:] == ["--tile", "1024"]
    assert "--config.mesh.data=1" in whole
    assert "--tile" not in whole
    named = [flag.startswith("--config.cascade=") for flag in whole]
    assert any(named) == (held != "recipe")


def test_what_is_there_is_kept_and_tiles_that_do_not_fit_fail(
    script, monkeypatch, tmp_path, capsys
):
    sizes = ("peak_bytes_per_chip", "beside_bytes_per_chip", "total_bytes_per_chip", "usable_bytes")
    made = {**dict.fromkeys(sizes, 10**9), "flops_per_image": 1e12, "compile_seconds": 3.0}
    whole = {**made, "fits": False}
    kept = {"h100:1x1x1 recipe decode whole": {**whole, "date": "then", "revision": "abc"}}
    (tmp_path / "large_pictures.json").write_text(json.dumps({"results": kept}))
    asked = []

    def compiled(topology, held, step, size, tile):
        asked.append((topology, held, step, tile))
        return {**made, "fits": topology == "h100:1x1x1"}

    monkeypatch.setattr(script, "compiled", compiled)
    flags = ["--held", "recipe", "--steps", "decode", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["large_pictures.py", *flags, "--topologies", "h100:1x1x1"])
    script.main()
    assert asked == [("h100:1x1x1", "recipe", "decode", 1024)]
    stored = json.loads((tmp_path / "large_pictures.json").read_text())
    assert stored["results"]["h100:1x1x1 recipe decode whole"]["revision"] == "abc"
    assert stored["facts"]["date"] in (tmp_path / "large_pictures.md").read_text()
    sys.argv[-1] = "v5p:2x2x1"
    with pytest.raises(SystemExit, match=r"does not fit: v5p:2x2x1 recipe decode 1024$"):
        script.main()
    assert "| v5p:2x2x1  | recipe" in capsys.readouterr().out
