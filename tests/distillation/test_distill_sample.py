"""Test sampling with distilled stages, alone and together with undistilled ones.

Distilled stages are guidance-conditioned. They are refused for settings that they were not trained
for.
"""

import functools
import shutil
from pathlib import Path

import described
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from cv3jax import cli
from cv3jax.cascade import pipeline
from cv3jax.cascade.limits import untrained
from cv3jax.cascade.parts import build_model
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import Distilled
from cv3jax.commands import sample
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma
from cv3jax.models.unet import UNet
from cv3jax.sampling import few, resumable
from data_pipeline.io.errors import InputError

PROMPTS = [
    "a large red circle in the center, white background",
    "a small blue ring on the left, black background",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return cascades by their distilled stages, which take one step with w in 1..4."""
    base, both = (tiny_runs.distilled(stage).workdir / "cascade" for stage in ("base", "relay"))
    relay = tmp_path_factory.mktemp("mixed") / "cascade"
    description = cascades.read_cascade(tiny_runs.trained("relay").workdir)[1]
    shutil.copytree(tiny_runs.trained("relay").workdir / "cascade", relay)
    shutil.rmtree(relay / "relay")
    shutil.copytree(both / "relay", relay / "relay")
    distilled = cascades.read_cascade(both)[1].stages["relay"]
    cascades.write_cascade(relay, description.with_stage("relay", distilled))
    picture = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(
        picture
    )
    return {"base": base, "relay": relay, "both": both, "picture": picture}


@pytest.fixture(scope="module", autouse=True)
def _one_device_and_loaded_once():
    """Use one device, and load each cascade once so that it compiles once."""
    once = functools.cache(pipeline.load)
    with pytest.MonkeyPatch.context() as patch:
        for module in (few, resumable):
            patch.setattr(module, "choose_mesh", lambda text, count: None)
            patch.setattr(
                module,
                "load",
                lambda path, parts=(), mesh=None, attention="auto": once(
                    path, mesh=mesh, attention=attention
                ),
            )
        yield


def pictures(place: Path, out: Path, *flags: str) -> list[np.ndarray]:
    """Return the pictures of both prompts by the command."""
    given = (
        [flag for prompt in PROMPTS for flag in ("--prompt", prompt)]
        if "--prompts" not in flags
        else []
    )
    sample.main(["--checkpoint", str(place), "--out", str(out), *given, *flags])
    return [np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))]


@pytest.mark.parametrize("name", ["base", "relay", "both"])
def test_distilled_stages_sample_alone_and_beside_undistilled_ones(name, places, tmp_path):
    stages = cascades.read_cascade(places[name])[1].stages
    assert {each for each, stage in stages.items() if stage.distilled} == (
        {"base", "relay"} if name == "both" else {name}
    )
    default = pictures(places[name], tmp_path / "a")
    assert [picture.shape for picture in default] == [(64, 64, 3)] * 2
    strong = pictures(places[name], tmp_path / "b", "--guidance", "4")
    assert not np.array_equal(default, strong)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    many = pictures(
        places[name], tmp_path / "c", "--prompts", str(tmp_path / "prompts.txt"), "--guidance", "4"
    )
    np.testing.assert_array_equal(many[0], strong[0])  # the second has another seed there
    # an undistilled stage takes any steps
    free = {"base": "1,3", "relay": "3,1", "both": "1"}[name]
    assert len(pictures(places[name], tmp_path / "d", "--steps", free)) == 2


def test_the_model_is_conditioned_on_w(places):
    """One step to the end lands on x̂0, which is the model's output at the first point.

    Each image may have its own w.
    """
    loaded = pipeline.load(places["base"])
    stage = loaded.description.stages["base"]
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    text, noise, grid = loaded.text(PROMPTS), loaded.noise(keys, stage.image_size), base_grid(1)
    model = build_model(UNet, stage.model)
    denoise = make_denoiser(
        lambda p, x, i, c: model.apply({"params": p}, x, i, c),
        jnp.asarray(ddpm_sigma()),
        stage.prediction,
    )

    @jax.jit
    def alone(params, w):
        cond = make_cond(text, picture_sizes(2, stage.image_size, stage.image_size), w, model.w_dim)
        return denoise(params, sampler.start(grid, noise), jnp.full(2, grid.t[0]), cond)

    def drawn(w):
        settings = SamplerSettings(guidance=w)
        return np.asarray(loaded.stage("base", text, keys, noise, settings=settings))

    for w in (1.0, 2.5, 4.0):
        np.testing.assert_allclose(
            drawn(w), alone(loaded.params["base"], jnp.full(2, w)), rtol=1e-4, atol=1e-5
        )
    assert np.abs(drawn(1.0) - drawn(4.0)).max() > 1e-3
    np.testing.assert_allclose(
        drawn(np.array([1.0, 4.0])), [drawn(1.0)[0], drawn(4.0)[1]], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(InputError, match=r"guidance \[1. 5.\] for the base stage"):
        drawn(np.array([1.0, 5.0]))


STEPS = (
    "{n} steps for the {name} stage: this stage was distilled to 1 and works with no other number;"
    " give 1"
)
GUIDANCE = (
    "guidance {n} for the {name} stage: this stage was distilled for guidance 1..4; give a value"
    " in that range"
)
REFUSED = [
    ("both", ("--steps", "2"), STEPS.format(n=2, name="base")),
    ("both", ("--steps", "1,4"), STEPS.format(n=4, name="relay")),
    ("both", ("--guidance", "5"), GUIDANCE.format(n=5.0, name="base")),
    ("both", ("--guidance", "2,0.5"), GUIDANCE.format(n=0.5, name="relay")),
    ("base", ("--steps", "4,4"), STEPS.format(n=4, name="base")),
    ("base", ("--guidance", "0.5,2"), GUIDANCE.format(n=0.5, name="base")),
    ("relay", ("--steps", "4"), STEPS.format(n=4, name="relay")),
    ("relay", ("--guidance", "7.5"), GUIDANCE.format(n=7.5, name="relay")),
]
MODES = ("prompt", "prompts", "image")


@pytest.mark.parametrize(
    ("mode", "name", "flags", "said"),
    [(mode, *row) for row in REFUSED for mode in MODES if mode != "image" or "relay" in row[2]],
)
def test_what_a_stage_was_not_trained_for_is_refused_before_anything_is_drawn(
    mode, name, flags, said, places, tmp_path, monkeypatch, capsys
):
    (tmp_path / "p.txt").write_text(PROMPTS[0])
    given = {
        "prompt": ["--prompt", PROMPTS[0]],
        "prompts": ["--prompts", str(tmp_path / "p.txt")],
        "image": ["--prompt", PROMPTS[0], "--image", str(places["picture"])],
    }[mode]
    for module in (few, resumable):
        monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(SystemExit) as ended:
        cli.run_command(
            sample.main,
            ["--checkpoint", str(places[name]), "--out", str(tmp_path / "out"), *given, *flags],
        )
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"cv3jax: {said}\n"
    assert not (tmp_path / "out").exists()


def test_a_picture_to_enlarge_asks_nothing_of_the_base(places, tmp_path):
    for name, steps, guidance in (("base", "7,2", "9,1.5"), ("both", "7,1", "0,2")):
        made = pictures(
            places[name],
            tmp_path / name,
            "--image",
            str(places["picture"]),
            "--steps",
            steps,
            "--guidance",
            guidance,
        )
        assert [picture.shape for picture in made] == [(64, 64, 3)] * 2


def test_untrained_is_of_distilled_stages_alone():
    assert untrained("base", described.stage(steps=50), 7, 100.0) is None
    stage = described.stage(distilled=Distilled(4, None))
    assert untrained("base", stage, 4, 100.0) is None
    assert "distilled to 4" in untrained("base", stage, 8, 1.0)
    stage = described.stage(distilled=Distilled(4, (1.0, 4.0)))
    assert untrained("base", stage, 4, np.array([1.0, 4.0])) is None
    assert "distilled for guidance 1..4" in untrained("base", stage, 4, np.array([1.0, 4.5]))


def test_pictures_of_the_base_s_size_ask_nothing_of_the_relay(places, tmp_path):
    made = pictures(
        places["both"], tmp_path / "small", "--size", "32", "--steps", "1,7", "--guidance", "2,9"
    )
    assert [picture.shape for picture in made] == [(32, 32, 3)] * 2
