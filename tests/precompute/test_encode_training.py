"""Test training on a feature cache: losses of the run without it, loaded parts and exports."""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from encode_runs import cache_of, config

from cv3jax.checkpoints import cascades
from cv3jax.training import diffusion, frozen, resume
from cv3jax.training import programs as stage_programs
from cv3jax.training import run as training
from cv3jax.training.build import build
from cv3jax.training.changes import Asked
from cv3jax.training.metrics import read_lines
from cv3jax.training.stage import Stage
from data_pipeline.io.errors import InputError

STEPS = 4
SMALL = ("mesh.fsdp=1", "batch.per_device=8", "train.preview_every=0")  # one device
VIEW = ("data.random_crop=False", *SMALL)
# (latents, text) → largest relative difference of a loss; None is not cached. A value of float16 is
# off by 2^-11, of bfloat16 by 2^-8 at most, of int8 by 1/254 of its token's largest; in the mean
# over thousands of them most of it cancels
STORED = {
    ("float32", None): 1e-6,
    (None, "float32"): 1e-6,
    ("float16", "bfloat16"): 1e-3,
    ("bfloat16", "int8"): 1e-2,
}  # ("float32", "float32") is the run below, in two sittings


class Online(NamedTuple):
    """Hold a relay that encodes for itself."""

    losses: list[float]
    train: Callable  # its compiled train step
    like: Any
    start: Any  # its first state


@functools.cache
def online() -> Online:
    tiny_runs.trained("base")  # not what is listened to below
    programs, compile_all = [], diffusion.compiled_and_announced

    def compiling(*args):
        programs.extend(compile_all(*args))
        return programs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "compiled_and_announced", compiling)
        pieces = built("relay", *VIEW)
        start = pieces.create()
        return Online(losses(pieces, start), programs[1], pieces.like, start)


def built(name: str, *fields: str) -> Stage:
    """Return a compiled stage on one device."""
    given = config(name, *fields)
    with tiny_runs.devices(1):
        made = build(given, tiny_runs.root() / "unused")
    made.compile()
    return made


def losses(pieces: Stage, start: Any) -> list[float]:
    """Return the losses of the first steps from a state, which is not changed."""
    state, out = jax.tree.map(lambda x: x.copy(), start), []
    for _ in range(STEPS):
        state, metrics = pieces.step(state, pieces.place(next(pieces.data)))
        out.append(float(metrics["loss"]))
    return out


@pytest.fixture
def cheap(monkeypatch):
    """Let relays take the compiled train step of `online`, and compile their encode step alone."""
    known = online()
    monkeypatch.setattr(
        diffusion,
        "compiled_and_announced",
        lambda programs, *_: [programs[0][0], known.train],
    )
    monkeypatch.setattr(stage_programs, "state_shapes", lambda *_: known.like)


@pytest.mark.parametrize(("latents", "text"), STORED)
def test_losses_are_those_of_the_run_that_encodes_for_itself(latents, text, cheap):
    pieces = built("relay", *VIEW, f"data.cache={cache_of(latents, text)}")
    batch = next(pieces.data)
    pieces.data.set_state({"next_index": 0})
    latent_names = {"mean", "dev", "low_mean", "low_dev"} if latents else {"image"}
    text_names = {"text", "text_scale"} if text == "int8" else {"text"} if text else {"tokens"}
    assert batch.keys() == latent_names | text_names | {"sizes"}
    ours, theirs = losses(pieces, online().start), online().losses
    assert len(set(theirs)) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=STORED[latents, text])
    if "float32" not in (latents, text):
        assert ours != theirs  # else the other losses would say nothing


def test_a_base_has_the_same_batches_from_the_relay_s_feature_cache(cheap, monkeypatch):
    """The inputs of the loss are compared; the relay's tests compare losses too."""
    monkeypatch.setattr(
        diffusion,
        "compiled_and_announced",
        lambda programs, *_: [programs[0][0], lambda state, _, encoded: (state, encoded)],
    )

    def encoded(*fields: str) -> dict:
        pieces = built("base", *VIEW, *fields)
        state = types.SimpleNamespace(key=jax.random.key(3), step=jnp.int32(5))
        return jax.device_get(pieces.step(state, pieces.place(next(pieces.data)))[1])

    plain = encoded()
    assert plain["x0"].shape == (8, 4, 4, 8)
    for stored, rtol in (("float32", "float32"), 1e-5), (("float16", "bfloat16"), 2**-8):
        cut = encoded(f"data.cache={cache_of(*stored)}")
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=rtol, atol=rtol / 8), cut, plain
        )


def test_a_cached_run_resumes_and_writes_a_whole_cascade(cheap, tmp_path, monkeypatch):
    loaded = []
    load = frozen.load_params
    monkeypatch.setattr(frozen, "load_params", lambda *args: loaded.append(args[2]) or load(*args))
    fields = (*VIEW, f"data.cache={cache_of('float32', 'float32')}", "train.save_every=0")
    for given in [config("relay", *fields, f"train.steps={steps}") for steps in (2, STEPS)]:
        with tiny_runs.devices(1):
            training.run(given, tmp_path / "run")
    assert loaded == []  # neither of the encoders
    lines = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    np.testing.assert_allclose(lines, online().losses, rtol=1e-6)
    directory, description = cascades.read_cascade(tmp_path / "run")
    assert {"vae", "t5"} <= set(description.parts)
    assert {path.name for path in directory.iterdir()} == {
        "cascade.json",
        "vae",
        "t5",
        "base",
        "relay",
    }
    for part in ("vae", "t5"):
        cascades.check_part(directory / part)
    assert (directory / "t5" / "tokenizer" / "tokenizer.json").is_file()
    with pytest.raises(InputError, match=r"other values of data\.cache"):
        resume.check_resume(Asked(config("relay", *VIEW).json), tmp_path / "run")


def test_text_alone_leaves_the_images_their_crops():
    fields = (*SMALL, "data.random_crop=True", "data.flip=True", "data.zoom=(1.0, 2.0)")
    plain = next(built("relay", *fields).data)
    cut = next(built("relay", *fields, f"data.cache={cache_of(None, 'float32')}").data)
    np.testing.assert_array_equal(cut["image"], plain["image"])
    np.testing.assert_array_equal(cut["sizes"], plain["sizes"])
    assert len(np.unique(cut["sizes"][:, 2:4], axis=0)) > 1
    assert cut.keys() == {"image", "sizes", "text"}
