"""Test that `cv3jax distill` refuses unsuitable input in one line before it writes anything."""

import dataclasses
import shutil

import pytest
import tiny_runs
from described import distilled_to
from tiny_runs import rounds

from cv3jax import cli
from cv3jax.checkpoints import cascades
from cv3jax.commands import distill, train
from cv3jax.distillation import build as building
from data_pipeline.io.errors import InputError


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make cascades that lack parts or have other sizes than the rows below need."""
    at = tmp_path_factory.mktemp("refused")
    directory, description = cascades.read_cascade(tiny_runs.trained("relay").workdir)
    changed = {
        "bare": dataclasses.replace(description, stages={}),
        "no_t5": dataclasses.replace(description, t5=None),
    }
    base, vae = description.stages["base"], description.vae
    for name, channels, scale in (("wide", 32, 1.0), ("other_vae", 16, 2.0)):
        model = {**base.model, "w_dim": 512, "channels": channels}
        changed[name] = dataclasses.replace(
            description,
            vae=dataclasses.replace(vae, scale=scale * vae.scale),
            stages={"base": dataclasses.replace(base, **distilled_to(2, model=model))},
        )
    for name, other in changed.items():
        (at / name).mkdir()
        cascades.write_cascade(at / name, other)
    return {
        "at": at,
        "whole": directory,
        "base": tiny_runs.trained("base").workdir,
        "vae": tiny_runs.trained("vae").workdir,
    }


@pytest.mark.parametrize(
    ("stage", "fields", "said"),
    [
        (
            "base",
            ("objective.text_drop=0.1",),
            "config.objective.text_drop = 0.1: must be 0",
        ),
        ("relay", ("cascade={base}",), "{base} has no relay to distil, only base"),
        ("base", ("cascade={at}/bare",), "{at}/bare has no base to distil, only a vae"),
        (
            "base",
            ("cascade={vae}",),
            "config.cascade = {vae} has no t5, and a student reads the text features of its"
            " teacher",
        ),
        ("base", ("cascade={at}/nowhere",), "{at}/nowhere"),
        ("base", ("init_from={at}/bare",), "{at}/bare has no base to distil, only a vae"),
        ("base", ("distill.student={at}/nowhere",), "{at}/nowhere"),
        ("relay", ("distill.student={base}",), "{base} has no relay to continue from, only base"),
        (
            "base",
            ("distill.student={whole}",),
            "config.distill.student = {whole} is not guidance-conditioned, so it cannot be a"
            " student",
        ),
        (
            "base",
            ("distill.student={at}/wide",),
            "config.model.channels = 16, but config.distill.student = {at}/wide has 32",
        ),
        (
            "base",
            ("distill.student={at}/other_vae",),
            "{at}/other_vae was trained on latents of another autoencoder: its latent scale is",
        ),
        (
            "base",
            ("model.channels=32",),
            (
                "config.model.channels = 32, but the teacher has 16, and a student needs the sizes"
                " of its teacher; give 16"
            ),
        ),
        ("base", ("model.depth=(2,)",), "config.model.depth = (2,), but the teacher has [0]"),
        (
            "base",
            ("data.image_size=64",),
            "config.data gives pictures of 64 pixels per side, but the teacher makes"
            " pictures of 32; give that size",
        ),
        (
            "relay",
            ("schedule.start=30",),
            "was trained from T_r = 40, and config.schedule.start = 30 is outside of what it was"
            " trained for",
        ),
        ("base", ("stage=vae",), "config.stage = vae: must be one of base, relay"),
    ],
)
def test_the_command_refuses_in_one_line(stage, fields, said, places, tmp_path, capsys):
    given = (f"data.path={tiny_runs.scenes()}", f"cascade={places['whole']}", *tiny_runs.SMALLEST)
    argv = tiny_runs.arguments(
        f"scenes_distill_{stage}:tiny",
        tmp_path / "w",
        *given,
        *(field.format(**places) for field in fields),
    )
    refused(argv, capsys, said.format(**places))
    assert not list((tmp_path / "w").glob("*"))


def refused(argv: list[str], capsys, said: str) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "round_step", lambda *_: pytest.fail("accepted"))
        with pytest.raises(SystemExit) as ended:
            cli.run_command(distill.main, argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2, lines
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_another_command_s_recipe_has_no_rounds(tmp_path, capsys):
    said = (
        "--config: the recipe has no section distill; give a distillation recipe, such as"
        " distill_base"
    )
    refused(tiny_runs.argv("base", tmp_path / "w"), capsys, said)


def test_a_distillation_s_recipe_is_not_trained(tmp_path):
    with pytest.raises(
        InputError, match="this is a distillation recipe; run it with cv3jax distill"
    ):
        train.main(["--config=scenes_distill_base:tiny", "--workdir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            f"distill.rounds={rounds({4: 9, 2: 3, 1: 3})}",
            "1_4_steps was made with other values of distill.rounds",
        ),
        ("distill.target=x0", "1_4_steps was made with other values of distill.target"),
        ("seed=5", "1_4_steps was made with other values of seed"),
        ("optim.warmup=1", "1_4_steps was made with other values of optim.warmup"),
        ("data.random_crop=False", "1_4_steps was made with other values of data.random_crop"),
    ],
)
def test_a_finished_round_is_of_one_recipe(change, said, capsys):
    workdir = tiny_runs.distilled("base").workdir
    stamps = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    refused(tiny_runs.distill_argv("base", workdir, change), capsys, said)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == stamps


@pytest.mark.slow
def test_a_round_that_is_lost_is_not_made_up(tmp_path, capsys):
    workdir = tmp_path / "w"
    for name in ("1_4_steps", "3_1_steps"):
        (workdir / "rounds" / name).mkdir(parents=True)
        shutil.copy(
            tiny_runs.distilled("base").workdir / "rounds" / name / "figures.json",
            workdir / "rounds" / name,
        )
    refused(
        tiny_runs.distill_argv("base", workdir),
        capsys,
        f"{workdir}: round 2 is missing, but a later round is there; give a new --workdir",
    )


def test_a_workdir_that_is_a_file(tmp_path, capsys):
    (tmp_path / "w").touch()
    refused(tiny_runs.distill_argv("base", tmp_path / "w"), capsys, f"--workdir {tmp_path}/w")
