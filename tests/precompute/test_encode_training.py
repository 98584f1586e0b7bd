"""Training on a companion dataset: the losses of the run that encodes for itself, what it loads and
exports, and what it refuses.
"""

import dataclasses
import functools
import pickle
import shutil
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from encode_runs import companion, config, data, opened, records

from cv3jax.checkpoints import cascades
from cv3jax.diffusion.conditioning import stored_text
from cv3jax.precompute import run as precomputing
from cv3jax.training import diffusion, feature_cache, frozen, resume
from cv3jax.training import programs as stage_programs
from cv3jax.training import run as training
from cv3jax.training.build import build
from cv3jax.training.frozen import frozen_description
from cv3jax.training.metrics import read_lines
from cv3jax.training.stage import Stage
from data_pipeline.io.errors import InputError
from data_pipeline.loading.cached import CachedExamples
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.records import RecordWriter, open_records

pytestmark = pytest.mark.usefixtures("quick_compiles")

STEPS = 4
# one device, one resolution, one transformer: what is asked here does not depend on the UNet, and
# compiling it is these tests' time
SMALL = (
    "mesh.fsdp=1",
    "batch.per_device=8",
    "model.channel_mult=(1,)",
    "model.depth=(1,)",
    "model.mid_depth=0",
    "train.preview_every=0",
)
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
    """The relay that encodes for itself."""

    losses: list[float]
    training: Callable  # its compiled train step
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
    """A stage on one device, compiled."""
    given = config(name, *fields)
    with tiny_runs.devices(1):
        made = build(given, tiny_runs.root() / "unused")
    made.compile()
    return made


def losses(pieces: Stage, start: Any) -> list[float]:
    """Of the first steps from a state, which stays."""
    state, out = jax.tree.map(lambda x: x.copy(), start), []
    for _ in range(STEPS):
        state, metrics = pieces.step(state, pieces.place(next(pieces.data)))
        out.append(float(metrics["loss"]))
    return out


@pytest.fixture
def cheap(monkeypatch):
    """Relays take the train step that `online` compiled, and compile their encode step alone."""
    known = online()
    monkeypatch.setattr(
        diffusion,
        "compiled_and_announced",
        lambda programs, *_: [programs[0][0], known.train],
    )
    monkeypatch.setattr(stage_programs, "state_shapes", lambda *_: known.like)


@pytest.mark.parametrize(("latents", "text"), STORED)
def test_losses_are_those_of_the_run_that_encodes_for_itself(latents, text, cheap):
    pieces = built("relay", *VIEW, f"data.cache={companion(latents, text)}")
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


def test_a_base_has_the_same_batches_from_the_relay_s_companion(cheap, monkeypatch):
    """What its loss is a function of; the relay's tests go on to the loss."""
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
        cut = encoded(f"data.cache={companion(*stored)}")
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=rtol, atol=rtol / 8), cut, plain
        )


def test_a_cached_run_goes_on_where_it_was_and_leaves_a_whole_cascade(cheap, tmp_path, monkeypatch):
    loaded = []
    load = frozen.load_params
    monkeypatch.setattr(frozen, "load_params", lambda *args: loaded.append(args[2]) or load(*args))
    fields = (*VIEW, f"data.cache={companion('float32', 'float32')}", "train.save_every=0")
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
        resume.check_resume(config("relay", *VIEW).json, tmp_path / "run")


def test_text_alone_leaves_the_images_their_crops():
    fields = (*SMALL, "data.random_crop=True", "data.flip=True", "data.zoom=(1.0, 2.0)")
    plain = next(built("relay", *fields).data)
    cut = next(built("relay", *fields, f"data.cache={companion(None, 'float32')}").data)
    np.testing.assert_array_equal(cut["image"], plain["image"])
    np.testing.assert_array_equal(cut["sizes"], plain["sizes"])
    assert len(np.unique(cut["sizes"][:, 2:4], axis=0)) > 1
    assert cut.keys() == {"image", "sizes", "text"}


def test_captions_are_chosen_as_without_a_companion():
    cache, ours = opened("float32", "float32"), records()
    examples = CachedExamples(cache, latents=(), text=True, image=None, recaption_prob=0.5)
    prepare = pickle.loads(pickle.dumps(examples))  # as worker processes get it
    chosen = set()
    for seed in range(20):
        recaption = bool(ours[1]["recaption"]) and np.random.default_rng(seed).random(5)[4] < 0.5
        out = prepare(ours, 1, np.random.default_rng(seed), (32, 32))
        np.testing.assert_array_equal(
            out["text"], cache[1]["recaption_text" if recaption else "text"]["text"]
        )
        chosen.add(bool(recaption))
    assert chosen == {True, False}
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="where the records have"):
        dataclasses.replace(examples, text=False)([ours[0]] * 2, 1, rng, (32, 32))
    with pytest.raises(InputError, match="no features of the present caption of"):
        dataclasses.replace(examples, image=lambda *_: {"caption": "another"})(
            ours, 1, rng, (32, 32)
        )


def test_int8_features_are_multiples_of_their_token_s_scale():
    text = stored_text(
        {
            "text": np.array([[[-127, 2], [3, 4]]], np.int8),
            "text_scale": np.array([[0.5, 2.0]], np.float32),
        }
    )
    np.testing.assert_array_equal(text, [[[-63.5, 1.0], [6.0, 8.0]]])
    assert text.dtype == np.float32


@pytest.mark.parametrize(
    ("fields", "stored", "line"),
    [
        (
            ("data.random_crop=True", "data.flip=True"),
            ("float16", None),
            r"give --config\.data\.random_crop=False --config\.data\.flip=False,",
        ),
        (
            ("data.zoom=(1.0, 2.0)",),
            ("float16", None),
            r"give --config\.data\.zoom='\(1\.0, 1\.0\)'",
        ),
        (
            ("data.zoom=(1.0, 1.0)", "data.image_size=64"),
            ("float16", None),
            r"\(other latents\.shape, view\.image_size, view\.zoom\)",
        ),
        (
            ("vae.dtype=bfloat16", "text.dtype=bfloat16"),
            ("float16", "bfloat16"),
            r"\(other latents\.computed, text\.computed\)",
        ),
        (("cascade=RELAY",), ("float16", "bfloat16"), None),  # the same encoders, carried over
        (("cascade=VAE",), (None, "float32"), r"config\.cascade = .* no t5 that made them"),
        (("schedule.blur=none",), ("float16", None), None),
    ],
)
def test_what_a_companion_does_not_suit(fields, stored, line):
    fields = [
        field.replace("RELAY", str(tiny_runs.trained("base").workdir / "cascade"))
        for field in fields
    ]
    fields = [field.replace("VAE", str(tiny_runs.trained("vae").workdir)) for field in fields]
    cfg = config("relay", "data.random_crop=False", *fields, f"data.cache={companion(*stored)}")
    directory, description = frozen_description(cfg)
    if line is None:
        assert feature_cache.open_companion(cfg, directory, description, records()) is not None
        return
    with pytest.raises(InputError, match=line):
        feature_cache.open_companion(cfg, directory, description, records())


def test_a_base_s_companion_has_nothing_for_a_relay(tmp_path):
    base = config("base", "data.random_crop=False")
    precomputing.run(base, tmp_path / "out", latents="float16", text=None, batch=2)
    cfg = config("relay", "data.random_crop=False", f"data.cache={tmp_path / 'out'}")
    with pytest.raises(InputError, match=r"\(other latents\.low\)"):
        feature_cache.open_companion(cfg, *frozen_description(cfg), records())


def rewritten(path, change) -> None:
    with RecordWriter(path, shards=3) as writer:
        for i, record in enumerate(sorted_by_row()):
            writer.write({**record, **change(i, record)})


@functools.cache
def sorted_by_row() -> list[dict]:
    """The records in the order in which they were written."""
    ours = records()
    starts = np.cumsum([0, *ours.lengths])
    return [ours[starts[i % 3] + i // 3] for i in range(len(ours))]


def test_the_companion_of_another_dataset_is_refused(tmp_path):
    whole = companion("float16", "bfloat16")
    rewritten(tmp_path / "same", lambda i, record: {})
    assert len(open_cache(whole, open_records(tmp_path / "same"))) == 20
    rewritten(tmp_path / "other", lambda i, record: {"key": f"other {i}"})
    with pytest.raises(
        InputError,
        match=(
            r"was encoded from other records than .*/other holds .their keys, images or shards"
            r" differ"
        ),
    ):
        open_cache(whole, open_records(tmp_path / "other"))
    with pytest.raises(
        InputError, match=r"other records than .*/scenes holds .20 where there are 64"
    ):
        open_cache(whole, open_records(tiny_runs.scenes()))
    rewritten(
        tmp_path / "said", lambda i, record: {"recaption": "something new"} if i == 13 else {}
    )
    with pytest.raises(InputError, match=r"text features of other captions than .*/said has now"):
        open_cache(whole, open_records(tmp_path / "said"))
    # latents bear new captions
    assert len(open_cache(companion("float32", None), open_records(tmp_path / "said"))) == 20
    with pytest.raises(
        InputError, match=r"holds no latents or text features: it has no encoded\.json"
    ):
        open_cache(data(), records())


def test_a_damaged_companion_is_one_line(tmp_path):
    shutil.copytree(companion("float16", "bfloat16"), tmp_path / "c")
    (tmp_path / "c" / "encoded.json").write_text("{")
    with pytest.raises(InputError, match=r"encoded\.json is damaged .*; encode again"):
        open_cache(tmp_path / "c", records())
    (tmp_path / "c" / "encoded.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="is of format 2, not 1"):
        open_cache(tmp_path / "c", records())
    shutil.copy(companion("float32", "bfloat16") / "encoded.json", tmp_path / "c")
    with pytest.raises(
        InputError, match=r"record 0 of .*encoded-train.array_record-00000-of-00003 is damaged"
    ):
        open_cache(tmp_path / "c", records())[0]
