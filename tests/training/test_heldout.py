"""Test the held-out loss: what the network is shown, and what is made of its answers.

The real programs run with hollow networks (hollow_networks.py), which record their inputs.
"""

import hollow_networks as hn
import jax
import numpy as np
import pytest
import tiny_runs
from random_draws import normal, unlike
from states import assert_equal, leaves, untimed

from cv3jax.cascade.parts import build_model
from cv3jax.distributed.batches import placer
from cv3jax.evaluation.scorers import Scorer
from cv3jax.training import run as training
from cv3jax.training.heldout import Batches, Chosen, check_apart, level_figures, open_held_out
from cv3jax.training.heldout_losses import (
    LEVELS,
    NUMBER,
    held_out_program,
    levels,
    stage_losses,
)
from cv3jax.training.inputs import data_content
from cv3jax.training.metrics import read_lines
from cv3jax.training.programs import diffusion_programs
from cv3jax.training.stage import mesh_plan
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import RecordWriter
from data_pipeline.scenes import dataset

ROWS = 24
FIELDS = ("batch.size=16", "batch.per_device=2", "objective.weighting=v")
RECIPES = {
    "base": ("scenes_base", *FIELDS),
    "relay": ("scenes_relay", *FIELDS, "schedule.start=40", "objective.offset_noise=0.5"),
}


def test_levels_are_the_middles_of_equal_parts():
    assert levels(1000) == (50, 150, 250, 350, 450, 550, 650, 750, 850, 950)
    assert levels(40) == (2, 6, 10, 14, 18, 22, 26, 30, 34, 38)
    assert levels(3) == (1, 2, 3)
    assert levels(1) == (1,)


def test_figures_are_means_by_level_and_of_all():
    losses = np.array([[1.0, 2.0, 9.0], [3.0, 6.0, 9.0]])
    assert level_figures(losses, (50, 7, 50)) == {
        "heldout/loss": 3.0,
        "heldout/loss_t007": 4.0,
        "heldout/loss_t050": 2.0,
    }


def rows(order=range(ROWS)) -> dict:
    """Return rows of the loader's batch, each with its number."""
    batch = {name: np.asarray(x)[list(order)] for name, x in hn.loader_batch().items()}
    return {**batch, NUMBER: np.array(order, np.int32)}


def losses_of(stage: str, plan, batch, *, place=lambda batch: batch) -> np.ndarray:
    """Return the losses [B, levels] of hollow networks, whose UNet says 0.25 of everything."""
    settings = hn.settings(*RECIPES[stage])
    with pytest.MonkeyPatch.context() as patch:
        hn.hollow(patch)
        programs = diffusion_programs(settings, plan(settings), hn.VAE, hn.TEXT)
    program = held_out_program(settings, programs, stage_losses(settings, programs))
    params = {"says": jax.numpy.float32(0.25)}
    return np.asarray(program(params, hn.frozen(logvar=-60.0), {}, place(batch)))


@pytest.mark.parametrize("stage", RECIPES)
def test_the_loss_is_that_of_the_objective_at_fixed_levels_and_noise(stage):
    hn.forget()
    batch = rows()
    losses = losses_of(stage, hn.plan_of, batch)
    asked = hn.seen("unet")
    t, x = hn.unscaled(asked)
    at = levels(40 if stage == "relay" else 1000)
    row = np.rint(asked["cond"]["text"][:, 0, 0]).astype(int) - 1  # no text is dropped
    assert sorted(zip(t, row, strict=True)) == [(k, r) for k in at for r in range(ROWS)]
    x0 = hn.SCALE * (batch["image"][:, :1, :1].mean(-1, keepdims=True) / 127.5 - 1)
    x0 = np.repeat(x0, hn.Z, -1)[row]
    sigma = hn.sigma_at(t)  # of pictures of one colour a relay's mean is x0 at any blur
    noise = (x - x0) / sigma
    if stage == "base":
        normal(noise)
    else:  # the offset of each picture is 0.5 of a normal number, beside its own noise
        assert 0.4 < noise.mean((1, 2, 3)).std() < 0.65
    unlike(noise[:, 0, 0, 0], noise[:, 1, 1, 1])
    # v: x0 = x / (1 + σ²) - σ / √(1 + σ²) · 0.25, weighted by 1 + 1/σ²
    error = x / (1 + sigma**2) - sigma / np.sqrt(1 + sigma**2) * 0.25 - x0
    wanted = ((1 + 1 / sigma**2) * error**2).mean((1, 2, 3))
    found = losses[row, [at.index(one) for one in t]]
    np.testing.assert_allclose(found, wanted, rtol=2e-3)


def test_a_masked_loss_is_masked_here_too(monkeypatch):
    plain = losses_of("base", hn.plan_of, rows())
    monkeypatch.setitem(RECIPES, "base", (*RECIPES["base"], "objective.masked=True"))
    mask = np.full((ROWS, hn.SIDE, hn.SIDE), 51, np.uint8)  # a fifth
    masked = losses_of("base", hn.plan_of, {**rows(), "mask": mask})
    np.testing.assert_allclose(masked, 0.2 * plain, rtol=1e-5)


def test_noise_is_that_of_the_record_wherever_its_row_is_and_whenever():
    one, again = losses_of("base", hn.plan_of, rows()), losses_of("base", hn.plan_of, rows())
    np.testing.assert_array_equal(one, again)
    order = np.random.default_rng(0).permutation(ROWS)
    np.testing.assert_array_equal(losses_of("base", hn.plan_of, rows(order)), one[order])
    assert len(set(one[:, 3])) == ROWS
    assert one.shape == (ROWS, LEVELS)


@pytest.mark.parametrize("stage", RECIPES)
def test_eight_devices_have_the_losses_of_one(stage):
    def plan(settings):
        return mesh_plan(settings)

    mesh = plan(hn.settings(*RECIPES[stage])).mesh
    assert mesh.size == 8
    eight = losses_of(stage, plan, rows(), place=placer(mesh, ROWS))
    np.testing.assert_allclose(eight, losses_of(stage, hn.plan_of, rows()), rtol=1e-6)


def held_out(folder, count: int, *fields: str):
    """Return (settings, records) of a held-out dataset of pictures of one value each."""
    with RecordWriter(folder, shards=2) as writer:
        for record in hn.records(count):
            writer.write(record)
    given = (*FIELDS, "train.eval_every=2", f"train.eval_data={folder}", *fields)
    settings = hn.settings("scenes_base", *given)
    return settings, open_held_out(settings)


def test_records_are_spread_over_the_dataset_and_the_same_on_any_mesh(tmp_path):
    settings, chosen = held_out(tmp_path / "d", 20, "train.eval_records=7")
    captions = [record["caption"] for record in chosen]
    assert len(captions) == 7
    # of both shards, which have every other picture
    assert captions == ["0", "4", "10", "16", "3", "9", "15"]

    def read(mesh):
        batches = Batches(settings, chosen, hn.tokens, mesh)
        assert batches.count == 7
        return batches.values(lambda batch: batch)

    eight, one = read(mesh_plan(settings).mesh), read(hn.plan_of(settings).mesh)
    assert eight["image"].shape == (7, hn.SIDE, hn.SIDE, 3)
    assert [str(int(x)) for x in eight["image"][:, 0, 0, 0]] == captions
    np.testing.assert_array_equal(eight["tokens"], hn.tokens(captions))
    assert list(eight[NUMBER]) == list(range(7))
    jax.tree.map(np.testing.assert_array_equal, eight, one)


def test_all_records_are_taken_where_there_are_fewer(tmp_path):
    _, chosen = held_out(tmp_path / "d", 5, "train.eval_records=50")
    assert chosen.indices == (0, 1, 2, 3, 4)
    assert isinstance(chosen, Chosen)
    assert chosen.name == str(tmp_path / "d")


def test_records_that_are_trained_on_or_missing_are_refused(tmp_path):
    held_out(tmp_path / "d", 5)
    held_out(tmp_path / "other", 6)
    given = hn.settings(
        "scenes_base", f"data.path={tmp_path / 'd'}", f"train.eval_data={tmp_path / 'd'}"
    )
    inputs = {"data.path": data_content(given.data)}
    with pytest.raises(InputError, match=r"eval_data = .*/d has the records of config.data.path"):
        check_apart(given, inputs)
    check_apart(hn.settings("scenes_base", f"train.eval_data={tmp_path / 'other'}"), inputs)
    check_apart(hn.settings("scenes_base"), inputs)
    given = ("train.eval_every=2", f"train.eval_data={tmp_path / 'none'}")
    missing = hn.settings("scenes_base", *given)
    for refuse in (lambda: check_apart(missing, inputs), lambda: open_held_out(missing)):
        with pytest.raises(InputError, match=r"config.train.eval_data: .*none"):
            refuse()
    assert open_held_out(hn.settings("scenes_base")) is None


def test_the_hollow_autoencoder_is_of_the_recipe_s_kind():
    assert build_model(hn.HollowVae, hn.VAE.model).factor == hn.FACTOR


def shade(names, weights, reference) -> list[Scorer]:
    """Open a metric that is the mean value of the pictures."""
    return [Scorer(names[0], "lower", lambda images, prompts: {"shade": images.mean()})]


def test_an_evaluated_run_is_the_run_that_is_not_evaluated(tmp_path):
    dataset.build(tmp_path / "held_out", dataset.SceneSettings(10, 0, "heldout", size=64))
    whole, place = tiny_runs.trained("vae").workdir, tmp_path / "run"
    fields = (
        *tiny_runs.MESH["vae"],
        "train.eval_every=3",
        f"train.eval_data={tmp_path / 'held_out'}",
        "train.eval_records=5",
        "train.eval_metrics=shade",
        "train.best=heldout/psnr",
    )
    with tiny_runs.split_small():
        figures = training.run(tiny_runs.config("vae", *fields), place, scorers=shade)
    assert_equal(leaves(place, tiny_runs.STEPS), leaves(whole, tiny_runs.STEPS))
    ours, theirs = (read_lines(folder / "metrics.jsonl") for folder in (place, whole))
    evaluated = [line for line in ours if "heldout/loss" in line]
    assert untimed([line for line in ours if line not in evaluated]) == untimed(theirs)
    assert [line["step"] for line in evaluated] == [3, 6]
    assert evaluated[1]["heldout/psnr"] > evaluated[0]["heldout/psnr"]
    assert evaluated[0]["heldout/loss"] != evaluated[1]["heldout/loss"]
    assert all(0 < line["pictures/shade"] < 255 for line in evaluated)
    best = {"step": 6, "metric": "heldout/psnr", "value": evaluated[1]["heldout/psnr"]}
    assert figures["best"] == best
    assert figures["seconds_evaluation"] > 0
    events = b"".join(path.read_bytes() for path in (place / "tensorboard").iterdir())
    assert b"heldout/psnr" in events
    assert b"pictures/shade" in events
