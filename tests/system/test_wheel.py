"""Test that the wheel contains commands and recipes, and works from any directory."""

import subprocess
import sys
from pathlib import Path

import pytest
import subprocesses

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_installed_wheel_finds_its_recipes_from_another_directory(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"  # a build leaves directories behind
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [*pip, "wheel", str(source), "--no-deps", "-w", str(tmp_path / "dist")],
        check=True,
        timeout=600,
    )
    (wheel,) = (tmp_path / "dist").glob("cv3jax-*.whl")
    target = tmp_path / "target"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=600
    )
    (tmp_path / "elsewhere").mkdir()
    where = {"cwd": tmp_path / "elsewhere", "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}

    code = (
        "import cv3jax, data_pipeline, cv3jax.configs as c; print(cv3jax.__file__,"
        " data_pipeline.__file__, c.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=subprocesses.environment(PYTHONPATH=str(target)),
        cwd=where["cwd"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(Path(path).is_relative_to(target) for path in found)
    assert not (target / "configs").exists()
    for name in (
        "cv3jax/quickstart/report.css",
        "cv3jax/quickstart/report.html.jinja",
        "cv3jax/quickstart/report_distilled.html.jinja",
        "cv3jax/evaluation/people/page/index.html",
        "cv3jax/evaluation/people/report.html.jinja",
        "cv3jax/serving/http/page/index.html",
        "cv3jax/topologies/h100.textproto",
        "cv3jax/py.typed",
        "data_pipeline/py.typed",
        "data_pipeline/builder/report.html.jinja",
        "data_pipeline/expansion/template.json",
        "data_pipeline/expansion/words.json",
        "data_pipeline/recaption/dialogue.json",
    ):
        assert (target / name).is_file()
    weights = [
        name
        for name in listed.stdout.splitlines()
        if name.startswith("cv3jax/packaged/") and (ROOT / name).is_file()
    ]
    assert [
        name
        for name in weights
        if not (target / name).is_file()
        or (target / name).read_bytes() != (ROOT / name).read_bytes()
    ] == []
    shown = subprocesses.run("cv3jax", "train", "--help", **where).stdout
    for name in (
        path.stem
        for path in (ROOT / "configs").glob("*.py")
        if path.stem not in ("__init__", "common", "common_distillation")
    ):
        assert name in shown
    code = (
        "from cv3jax import recipes; [recipes.load(f'{name}{v}', []) for name in recipes.recipes()"
        " for v in ('', ':tiny')]; recipes.sweep_points('scenes_ablations'); print('all')"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=subprocesses.environment(PYTHONPATH=str(target)),
        cwd=where["cwd"],
        capture_output=True,
        text=True,
    )
    assert loaded.stdout == "all\n", loaded.stderr[-1000:]
    for command in ("train", "sample", "compile", "quickstart", "data"):
        assert "usage: cv3jax" in subprocesses.run("cv3jax", command, "--help", **where).stdout
    assert list((tmp_path / "elsewhere").iterdir()) == []
