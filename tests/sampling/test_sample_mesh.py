"""Test that sampling on eight devices draws one device's pictures and is really sharded."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import described
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from golden import PNG_PIXELS
from hollow_samplers import one_step
from jax.sharding import Mesh
from PIL import Image
from small_stages import FIELDS

from cv3jax.cascade.parts import build_on, model_shapes
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.stage_network import SamplerOptions
from cv3jax.cascade.stage_sampler import make_stage_sampler
from cv3jax.checkpoints import cascades
from cv3jax.commands import sample
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import context_problem
from cv3jax.models.layers import attend
from cv3jax.models.unet import UNet
from cv3jax.sampling import resumable
from data_pipeline.io.errors import InputError

PROMPTS = [
    f"a {size} {colour} circle"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
]


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Check that pictures are equal up to the rounding to 8 bits.

    Sums in another order may round differently.
    """
    off = np.abs(ours.astype(int) - theirs.astype(int)).max(-1)
    return off.max() <= 1 and (off > 0).mean() < 10 * PNG_PIXELS


def cascade_at() -> Path:
    return tiny_runs.trained("relay").workdir


@pytest.fixture(autouse=True)
def larger(monkeypatch):
    """Use bases of 64²: with a context of two each device has two rows of the smallest latents."""
    cascade_at()  # trained as it is: a run that reads a doubled cascade writes it so
    read = cascades.read_cascade

    def doubled(path):
        directory, description = read(path)
        for name, stage in description.stages.items():
            larger = dataclasses.replace(stage, image_size=2 * stage.image_size)
            description = description.with_stage(name, larger)
        return directory, description

    monkeypatch.setattr(cascades, "read_cascade", doubled)


def on_one_device(size: int) -> np.ndarray:
    """Return the pictures of PROMPTS with seeds 3, 4, ..."""
    made = load(cascade_at()).generate(
        PROMPTS, list(range(3, 3 + len(PROMPTS))), size=size, final=True
    )
    return made.get("relay", made["base"])


def on_a_mesh(monkeypatch, tmp_path: Path, mesh: str, size: int) -> tuple[Cascade, np.ndarray]:
    """Return the cascade and the pictures of the command on all eight devices."""
    loaded: list[Cascade] = []
    monkeypatch.setattr(resumable, "load", lambda *args: loaded.append(load(*args)) or loaded[0])
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    sample.main(
        [
            "--checkpoint",
            str(cascade_at()),
            "--prompts",
            str(tmp_path / "p.txt"),
            "--out",
            str(tmp_path / "out"),
            "--seed",
            "3",
            "--batch",
            "1",
            "--mesh",
            mesh,
            "--size",
            str(size),
        ]
    )
    entries = [
        json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()
    ]
    assert [(entry["prompt"], entry["seed"]) for entry in entries] == list(
        zip(PROMPTS, range(3, 9), strict=True)
    )
    return loaded[0], np.stack(
        [np.asarray(Image.open(tmp_path / "out" / entry["file"])) for entry in entries]
    )


def test_the_pictures_are_one_device_s(monkeypatch, tmp_path):
    alone = on_one_device(64)
    # batches of four: a whole one and a half
    cascade, pictures = on_a_mesh(monkeypatch, tmp_path, "data=2,fsdp=2,context=2", 64)
    assert alike(pictures, alone)
    assert not alike(pictures[:1], alone[1:2])
    assert dict(cascade.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 1, "context": 2}
    assert any(
        not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(cascade.params["base"])
    )
    keys = jax.vmap(jax.random.key)(cascade.put_rows(np.arange(4, dtype=np.uint32)))
    latents = cascade.stage("base", cascade.text(PROMPTS[:4]), keys, cascade.noise(keys, 64))
    assert {shard.data.shape for shard in latents.addressable_shards} == {
        (1, latents.shape[1] // 2, *latents.shape[2:])
    }
    # four rows and two halves of each: no device idles
    assert len({str(shard.index[:2]) for shard in latents.addressable_shards}) == 8


@pytest.mark.slow
def test_the_pictures_of_a_relay_are_one_device_s_on_other_meshes(monkeypatch, tmp_path):
    alone = on_one_device(128)
    for mesh in ("data=-1", "fsdp=8", "fsdp=2,tensor=2,context=2"):
        assert alike(on_a_mesh(monkeypatch, tmp_path / mesh, mesh, 128)[1], alone), mesh


def test_a_context_that_is_too_large():
    cascade = load(cascade_at(), ("vae", "base"), make_mesh(data=1, context=8))
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(
        InputError,
        match="mesh context=8: latents of 4 rows do not divide over 8 devices; give a",
    ):
        cascade.noise(keys, 32)
    with pytest.raises(
        InputError,
        match=r"base stage: mesh context=8: latents of 8 rows have 8 at .*; give a context of 4",
    ):
        cascade.stage("base", jnp.zeros((1, 24, 16)), keys, cascade.noise(keys, 64))
    uneven = context_problem(make_mesh(data=1, context=8), 80, 3)
    assert uneven.startswith("context=8: latents of 80 rows have 20 at ")
    assert uneven.endswith("give a context of 10")
    assert context_problem(make_mesh(data=1, context=8), 64, 3) is None


@pytest.mark.parametrize(
    ("mesh", "within"), [({"context": 4}, None), (None, {"fsdp": 8}), (None, None)]
)
def test_stages_attend_by_the_kernel_of_their_devices(mesh, within, monkeypatch):
    mesh, within = (sizes and make_mesh(**sizes) for sizes in (mesh, within))
    kernels, given = [], []

    def kernel(kind, platform, on, *, head_dim, dtype):
        kernels.append((kind, platform, on, head_dim, dtype))
        return len(kernels)

    monkeypatch.setattr("cv3jax.cascade.stage_network.make_attend", kernel)
    monkeypatch.setattr(
        "cv3jax.cascade.samplers.make_stage_steps",
        lambda stage, options: given.append(options) or one_step(lambda *args: args[3]),
    )
    cascade = Cascade(
        cascades.read_cascade(cascade_at())[1], {"base": {}}, None, mesh, "splash", within=within
    )
    cascade.stage("base", jnp.zeros(2), None, np.zeros((2, 16, 16, 4)))
    assert given[0].attend in (1, 2)
    assert {call[:2] + call[3:] for call in kernels} == {("splash", "cpu", 16, "float32")}
    assert all(
        call[2] == (mesh or within or make_mesh(data=1, devices=jax.devices()[:1]))
        for call in kernels
    )


def test_a_sampler_uses_the_attention_that_it_is_given():
    """XLA's logits of 1024² are gigabytes, so sampling has to use an available kernel."""
    seen = []
    params, shapes = stage_shapes()
    jax.eval_shape(
        stage_sampler(None, lambda q, k, v: seen.append(q.shape) or attend(q, k, v)),
        params,
        *shapes,
    )
    # 32² positions, 4 heads; the rows that guidance adds have self-attention alone
    assert set(seen) == {(2, 1024, 4, 16), (1, 1024, 4, 16)}


def stage_sampler(mesh: Mesh | None, *kernel):
    """Return a sampler of one image of 64×64 latents by a small UNet."""
    given = {"attend": kernel[0]} if kernel else {}
    return make_stage_sampler(described.stage(model=FIELDS), SamplerOptions(2, mesh=mesh, **given))


def stage_shapes():
    """Return the shapes of its arguments."""
    shapes = (
        jax.ShapeDtypeStruct((1, 8, 16), jnp.float32),
        None,
        jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32),
    )
    keys, w = (
        jax.ShapeDtypeStruct((1,), jax.random.key(0).dtype),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    return model_shapes(build_on(None, UNet, FIELDS), 16), (*shapes, keys, w)


def test_context_shares_the_activations_of_one_image():
    params, shapes = stage_shapes()
    compiled = [
        stage_sampler(mesh).lower(params, *shapes).compile()
        for mesh in (None, make_mesh(data=1, context=8))
    ]
    one, eight = (program.memory_analysis().temp_size_in_bytes for program in compiled)
    assert eight < one / 4, "of its halves, keys and values each device has all"


def test_what_eight_devices_trained_is_loaded_onto_one():
    cascade = load(cascade_at(), ("vae", "base"))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(cascade.params)} == {1}


def command(out: Path, prompts: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "cv3jax",
        "sample",
        "--checkpoint",
        str(cascade_at()),
        "--prompts",
        str(prompts),
        "--out",
        str(out),
        "--seed",
        "3",
        "--batch",
        "2",
        *flags,
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_processes_that_are_killed_leave_what_one_process_makes(tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(PROMPTS * 8))
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        command(tmp_path / "whole", prompts), env=environ, check=True, capture_output=True
    )
    whole = contents(tmp_path / "whole")
    assert len(whole) == 50
    out = tmp_path / "killed"
    parts = [
        command(out, prompts, "--process-id", str(i), "--num-processes", "2") for i in range(2)
    ]
    first = subprocess.Popen(
        parts[0], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while first.poll() is None and not any(out.glob("*.png")):
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == -signal.SIGKILL, "it ended before the kill; give it more prompts"
    assert 0 < len(list(out.glob("*.png"))) < 24
    for part in parts[::-1]:
        subprocess.run(part, env=environ, check=True, capture_output=True)
    assert contents(out) == whole
