"""Test how training reads feature caches: captions, features, and caches that do not fit."""

import dataclasses
import functools
import pickle
import shutil

import numpy as np
import pytest
import tiny_runs
from encode_runs import cache_of, config, data, opened, records

from cv3jax.diffusion.conditioning import stored_text
from cv3jax.precompute import run as precomputing
from cv3jax.training import feature_cache
from cv3jax.training.frozen import frozen_description
from data_pipeline.io.errors import InputError
from data_pipeline.loading.cached import CachedExamples
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.records import RecordWriter, open_records


def test_captions_are_chosen_as_without_a_feature_cache():
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
            r"with other values of latents\.shape, view\.image_size, view\.zoom; give the values",
        ),
        (
            ("vae.dtype=bfloat16", "text.dtype=bfloat16"),
            ("float16", "bfloat16"),
            r"with other values of latents\.computed, text\.computed; give the values",
        ),
        (("cascade=RELAY",), ("float16", "bfloat16"), None),  # the same encoders, carried over
        (("cascade=VAE",), (None, "float32"), r"config\.cascade = .* no t5; give the cascade that"),
        (("schedule.blur=none",), ("float16", None), None),
    ],
)
def test_what_a_feature_cache_does_not_suit(fields, stored, line):
    fields = [
        field.replace("RELAY", str(tiny_runs.trained("base").workdir / "cascade"))
        for field in fields
    ]
    fields = [field.replace("VAE", str(tiny_runs.trained("vae").workdir)) for field in fields]
    cfg = config("relay", "data.random_crop=False", *fields, f"data.cache={cache_of(*stored)}")
    directory, description = frozen_description(cfg)
    if line is None:
        assert feature_cache.open_feature_cache(cfg, directory, description, records()) is not None
        return
    with pytest.raises(InputError, match=line):
        feature_cache.open_feature_cache(cfg, directory, description, records())


def test_a_base_s_feature_cache_has_nothing_for_a_relay(tmp_path):
    base = config("base", "data.random_crop=False")
    precomputing.run(base, tmp_path / "out", latents="float16", text=None, batch=2)
    cfg = config("relay", "data.random_crop=False", f"data.cache={tmp_path / 'out'}")
    with pytest.raises(InputError, match=r"with other values of latents\.low; give the values"):
        feature_cache.open_feature_cache(cfg, *frozen_description(cfg), records())


def rewritten(path, change) -> None:
    with RecordWriter(path, shards=3) as writer:
        for i, record in enumerate(sorted_by_row()):
            writer.write({**record, **change(i, record)})


@functools.cache
def sorted_by_row() -> list[dict]:
    """Return the records in the order in which they were written."""
    ours = records()
    starts = np.cumsum([0, *ours.lengths])
    return [ours[starts[i % 3] + i // 3] for i in range(len(ours))]


def test_the_feature_cache_of_another_dataset_is_refused(tmp_path):
    whole = cache_of("float16", "bfloat16")
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
    assert len(open_cache(cache_of("float32", None), open_records(tmp_path / "said"))) == 20
    with pytest.raises(
        InputError, match=r"holds no latents or text features: it has no encoded\.json"
    ):
        open_cache(data(), records())


def test_a_damaged_feature_cache_is_one_line(tmp_path):
    shutil.copytree(cache_of("float16", "bfloat16"), tmp_path / "c")
    (tmp_path / "c" / "encoded.json").write_text("{")
    with pytest.raises(InputError, match=r"encoded\.json is damaged .*; encode the records again"):
        open_cache(tmp_path / "c", records())
    (tmp_path / "c" / "encoded.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="has format 2, not 1"):
        open_cache(tmp_path / "c", records())
    shutil.copy(cache_of("float32", "bfloat16") / "encoded.json", tmp_path / "c")
    with pytest.raises(
        InputError, match=r"record 0 of .*encoded-train.array_record-00000-of-00003 is damaged"
    ):
        open_cache(tmp_path / "c", records())[0]
