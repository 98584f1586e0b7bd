"""Test that bad fields of a recipe end in one line and exit code 2.

The line names the field and what would be right. Nothing is written and there is no traceback.
"""

import pytest
import tiny_runs
from bad_input import damaged_places, files, refused


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make the directories and files that the rows below name."""
    return damaged_places(tmp_path_factory.mktemp("bad"))


# stage, what is wrong with it (fields), what the line says
# a field that the settings themselves refuse has one row here, the others are in
# tests/training/test_settings.py
FIELDS = [
    ("vae", ["optim.lr=-1.0"], "config.optim.lr = -1.0"),
    ("vae", ["optim.lrr=1"], "no field 'optim.lrr'; the nearest one is 'optim.lr'"),
    ("vae", ["data.path="], "data.path is not set"),
    ("vae", ["data.path={at}/none"], "no such directory"),
    ("vae", ["data.path={at}/empty"], "not a record dataset"),
    ("vae", ["data.path={at}/file"], "no such directory"),
    ("vae", ["data.path={at}/torn"], "shard"),
    ("vae", ["data.path={at}/lost"], "is missing; restore the file"),
    ("vae", ["data.path={at}/swapped"], "does not describe an array_record split"),
    ("vae", ["batch.size=12"], "give a multiple of 8"),
    ("vae", ["batch.size=24", "batch.per_device=2"], "config.batch.per_device = 2"),
    ("vae", ["mesh.data=3"], "config.mesh"),
    (
        "vae",
        ["mesh.tensor=-1"],
        "config.mesh: the mesh data=-1,fsdp=-1,tensor=-1,context=1 is not possible; give positive",
    ),
    ("vae", ["mesh.data=16", "mesh.fsdp=1"], "there are 8"),
    ("vae", ["data.image_size=36"], "not a multiple of the autoencoder's factor 8"),
    ("vae", ["model.groups=3"], "groups"),
    ("vae", ["objective.perceptual={at}/none.npz"], "none.npz"),
    ("vae", ["init_from={at}/empty"], "is not a checkpoint"),
    (
        "vae",
        ["init_from={at}/bare"],
        "has no part vae; it has no part. Give the workdir of a run that trained one, or leave"
        " config.init_from out",
    ),
    ("base", ["cascade="], "config.cascade is not set"),
    ("base", ["cascade={at}/none"], "is not a checkpoint"),
    ("base", ["cascade={at}/bare"], "has no vae"),
    ("base", ["cascade={at}/damaged"], "is damaged"),
    ("base", ["cascade={at}/foreign"], "not a cascade description"),
    ("base", ["cascade={at}/format"], "not a cascade description"),
    ("base", ["cascade={at}/hollow"], "hollow/vae does not exist"),
    ("base", ["cascade={at}/vae_flipped"], "vae_flipped/vae is damaged: "),
    ("base", ["text.random=False"], "has no t5"),
    ("base", ["data.image_size=40"], "not a multiple of 16"),
    (
        "base",
        ["data.zoom=(1.25, 1.25)"],
        "config.data.image_size × the smallest zoom = 40 is not a multiple of 16",
    ),
    ("base", ["model.head_dim=7"], "head_dim"),
    ("base", ["model.groups=5"], "groups"),
    ("base", ["model.depth=(0,)"], "depth"),
    (
        "base",
        ["mesh.data=1", "mesh.fsdp=2", "mesh.tensor=2", "mesh.context=2"],
        "config.mesh: tensor and context are both above 1",
    ),
    (
        "base",
        ["mesh.data=1", "mesh.fsdp=4", "mesh.context=2"],
        "config.mesh: context=2: latents of 4 rows have 2 at the UNet's lowest",
    ),
    (
        "base",
        ["mesh.data=1", "mesh.fsdp=4", "mesh.context=2", "data.image_size=80"],
        "latents of 10 rows have 5 at the UNet's lowest",
    ),
    (
        "base",
        ["attention=splash"],
        "config.attention: attention 'splash' does not run on cpu devices",
    ),
    ("relay", ["data.image_size=20"], "not a multiple of 8"),
    (
        "relay",
        ["init_from={vae}"],
        "has no part base; it has vae. Give the workdir of a run that trained one, or leave"
        " config.init_from out",
    ),
    (
        "relay",
        ["model.channels=32", "init_from={base}"],
        "differs from config.model: channels is 16 in the checkpoint and 32 in the recipe; give"
        " --config.model.channels=16",
    ),
    ("relay", ["init_from={at}/halved"], "channels of base is 32, but its stored arrays have 16"),
    (
        "relay",
        ["model.channels=32", "model.mid_depth=0"],
        "channels is 16 in the checkpoint and 32 in the recipe, mid_depth is 1 in the checkpoint"
        " and 0 in the recipe; give --config.model.channels=16 --config.model.mid_depth=1",
    ),
    (
        "relay",
        ["init_from=scenes"],
        "the checkpoint is distilled, so give the base that it was distilled from",
    ),
    ("relay", ["sample.steps=300"], "config.sample.steps = 300: must be 1..40"),
]


@pytest.mark.parametrize(
    ("stage", "fields", "contains"),
    FIELDS,
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_bad_field(stage, fields, contains, places, tmp_path, capsys):
    given = {
        "vae": [],
        "base": ["cascade={vae}"],
        "relay": ["cascade={base}", "init_from={base}", *tiny_runs.SMALLEST],
    }[stage]
    overrides = [
        f"--config.{field}".format(**places) for field in ("data.path={scenes}", *given, *fields)
    ]
    before = files(places["at"])
    refused(
        "train",
        [f"--config=scenes_{stage}:tiny", "--workdir", str(tmp_path / "w"), *overrides],
        capsys,
        contains,
    )
    assert list(tmp_path.iterdir()) == []
    assert files(places["at"]) == before
