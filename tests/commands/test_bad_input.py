"""Bad input of every kind ends in one line that names it and what would be right, exit 2, nothing
written and no traceback.
"""

import gc
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from cv3jax import cli
from cv3jax.distributed.backend import tune_cpu
from cv3jax.training import run as training
from data_pipeline.images.decode import encode_png

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The directories and files that the rows below call by name."""
    at = tmp_path_factory.mktemp("bad")
    (at / "empty").mkdir()
    (at / "file").write_text("not a directory")
    for name, text in (
        ("damaged", "{"),
        ("foreign", "[]"),
        ("format", '{"format": 99}'),
        ("bare", '{"format": 2, "stages": {}}'),
    ):
        (at / name).mkdir()
        (at / name / "cascade.json").write_text(text)
    shutil.copytree(tiny_runs.trained("vae").workdir / "cascade", at / "hollow")
    shutil.rmtree(at / "hollow" / "vae")
    shutil.copytree(tiny_runs.trained("base").workdir / "cascade", at / "halved")
    description = tiny_runs.read_json(at / "halved" / "cascade.json")
    description["stages"]["base"]["model"]["channels"] = 32
    (at / "halved" / "cascade.json").write_text(json.dumps(description))
    for name in ("torn", "lost", "flipped", "swapped"):
        shutil.copytree(tiny_runs.scenes(), at / name)
    first, second = sorted((at / "torn").glob("*array_record*"))[:2]
    first.write_bytes(b"torn")
    (at / "lost" / second.name).unlink()
    flip(
        (at / "flipped" / first.name).read_bytes().rindex(b"PNG") + 200, at / "flipped" / first.name
    )
    shutil.copy(at / "swapped" / "features.json", at / "swapped" / "dataset_info.json")
    for stage in ("vae", "base"):  # one byte of the weights
        shutil.copytree(tiny_runs.trained(stage).workdir / "cascade", at / f"{stage}_flipped")
        flip(
            1000,
            max(
                (at / f"{stage}_flipped" / stage).rglob("d/*"), key=lambda path: path.stat().st_size
            ),
        )
    for name in ("damaged_run", "other_run"):
        shutil.copytree(tiny_runs.trained("vae").workdir, at / name)
    flip(
        1000,
        max(
            (at / "damaged_run" / "checkpoints" / "6" / "state").rglob("*"),
            key=lambda path: path.stat().st_size,
        ),
    )
    for name, files in PICTURES.items():
        (at / name).mkdir()
        for file, content in files.items():
            (at / name / file).write_bytes(content)
    (at / "recipe.py").write_text("def get_config(variant=''):\n    return undefined\n")
    (at / "broken.py").write_text("def get_config(:\n")
    unknown = (
        "from cv3jax.configs import common\n\ndef get_config(_=''):\n   "
        " common.stage_config().lock().nope = 1\n"
    )
    (at / "unknown.py").write_text(unknown)
    (at / "half.py").write_text(
        "import ml_collections\n\ndef get_config(_=''):\n    return"
        " ml_collections.ConfigDict({'seed': 0})\n"
    )
    trained = {stage: tiny_runs.trained(stage).workdir for stage in ("vae", "base")}
    return {**trained, "at": at, "scenes": tiny_runs.scenes()}


def flip(at: int, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


PNG = encode_png(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8))
PICTURES = {  # folders of images and captions in which nothing can be used, but for what a row says
    "no_images": {"a.txt": b"a caption"},
    "no_captions": {"a.png": PNG},
    "not_an_image": {"a.png": b"GIF89a, or so it says", "a.txt": b"a caption"},
    "empty_image": {"a.png": b"", "a.txt": b"a caption"},
    "half_an_image": {"a.png": PNG[: len(PNG) // 2], "a.txt": b"a caption"},
    "flipped_image": {"a.png": PNG[:45] + bytes([PNG[45] ^ 255]) + PNG[46:], "a.txt": b"a caption"},
    "long_image": {"a.png": encode_png(np.zeros((8, 200, 3), np.uint8)), "a.txt": b"a caption"},
    "blank_caption": {"a.png": PNG, "a.txt": b" \n\t "},
    "binary_caption": {"a.png": PNG, "a.txt": b"\xff\xfe\x00caption"},
    "torn_metadata": {"a.png": PNG, "metadata.jsonl": b'{"file_name": "a.png", "capt'},
    "no_caption_field": {"a.png": PNG, "metadata.jsonl": b'{"file_name": "a.png"}\n'},
    "number_caption": {"a.png": PNG, "metadata.jsonl": b'{"file_name": "a.png", "caption": 7}\n'},
    "outside": {"metadata.jsonl": b'{"file_name": "../file", "caption": "a caption"}\n'},
    "torn_tar": {"a.tar": b"not a tar" * 100},
}


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below a directory, with time and size."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in directory.rglob("*")
        if path.is_file()
    }


def refused(command: str, argv: list[str], capsys, contains: str) -> None:
    """Run a command in this process: one line on stderr, exit 2."""
    main = importlib.import_module(cli.COMMANDS[command][0]).main
    # what a test before this one left behind, and complains when it is collected, complains now
    gc.collect()
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_loop", lambda *_, **__: pytest.fail("accepted"))
        with pytest.raises(SystemExit) as e:
            cli.run_command(main, argv)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    # but for a progress bar
    lines = [line for line in lines if line.strip() and not re.match(r"\w+:.*\[\d\d:\d\d", line)]
    assert e.value.code == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("cv3jax: ")
    assert contains.lower() in lines[0].lower()
    assert len(lines[0]) < 600


# stage, what is wrong with it (fields), what the line says
# a field that the settings themselves refuse has a row here, the others are in
# tests/training/test_settings.py
FIELDS = [
    ("vae", ["optim.lr=-1.0"], "config.optim.lr = -1.0"),
    ("vae", ["optim.lrr=1"], "no field 'lrr'; Did you mean \"lr\""),
    ("vae", ["nope=1"], "no field 'nope'"),
    ("vae", ["optim.lr=fast"], "optim.lr"),
    ("vae", ["train.steps=many"], "train.steps"),
    ("vae", ["data.path="], "data.path is not set"),
    ("vae", ["data.path={at}/none"], "no such directory"),
    ("vae", ["data.path={at}/empty"], "not a record dataset"),
    ("vae", ["data.path={at}/file"], "no such directory"),
    ("vae", ["data.path={at}/torn"], "shard"),
    ("vae", ["data.path={at}/lost"], "is missing; restore the file"),
    ("vae", ["data.path={at}/swapped"], "describes no array_record split"),
    ("vae", ["batch.size=12"], "take a multiple of 8"),
    ("vae", ["batch.size=0"], "config.batch.size = 0"),
    ("vae", ["batch.size=-8"], "config.batch.size = -8"),
    ("vae", ["batch.size=24", "batch.per_device=2"], "config.batch.per_device = 2"),
    ("vae", ["batch.per_device=0"], "config.batch.per_device = 0"),
    ("vae", ["mesh.data=3"], "config.mesh"),
    ("vae", ["mesh.tensor=-1"], "config.mesh"),
    ("vae", ["mesh.fsdp=0"], "config.mesh"),
    ("vae", ["mesh.data=16", "mesh.fsdp=1"], "there are 8"),
    ("vae", ["data.image_size=36"], "not a multiple of the autoencoder's factor 8"),
    ("vae", ["data.image_size=0"], "image_size = 0"),
    ("vae", ["data.image_size=-8"], "image_size = -8"),
    ("vae", ["model.groups=3"], "groups"),
    ("vae", ["optim.kind=sgdx"], "optimizer must be one of"),
    ("vae", ["optim.moments=float16"], "moments must be one of float32, bfloat16"),
    ("vae", ["optim.decay=steps"], "decay must be one of"),
    ("vae", ["objective.perceptual={at}/none.npz"], "none.npz"),
    ("vae", ["init_from={at}/empty"], "is no checkpoint"),
    ("vae", ["init_from={at}/bare"], "has no vae"),
    ("base", ["cascade="], "config.cascade is not set"),
    ("base", ["cascade={at}/none"], "is no checkpoint"),
    ("base", ["cascade={at}/bare"], "has no vae"),
    ("base", ["cascade={at}/damaged"], "is damaged"),
    ("base", ["cascade={at}/foreign"], "not a cascade description"),
    ("base", ["cascade={at}/format"], "not a cascade description"),
    ("base", ["cascade={at}/hollow"], "hollow/vae does not exist"),
    ("base", ["cascade={at}/vae_flipped"], "vae_flipped/vae is damaged: "),
    ("base", ["text.length=0"], "length"),
    ("base", ["text.random=False"], "has no t5"),
    ("base", ["data.image_size=40"], "not a multiple of 16"),
    (
        "base",
        ["data.zoom=(1.25, 1.25)"],
        "config.data.image_size times the least zoom = 40 is not a multiple of 16",
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
        ["attention=flash"],
        "config.attention: attention must be one of auto, xla, cudnn, splash, heads",
    ),
    (
        "base",
        ["attention=splash"],
        "config.attention: attention 'splash' does not run on cpu devices",
    ),
    ("base", ["schedule.blur=fog"], "blur must be one of"),
    ("base", ["objective.norm=l3"], "norm must be l1 or l2"),
    ("base", ["sample.steps=0"], "config.sample.steps = 0"),
    ("relay", ["schedule.start=0"], "start must be in 1..1000, not 0"),
    ("relay", ["schedule.start=1001"], "start must be in 1..1000, not 1001"),
    ("relay", ["data.image_size=24"], "not a multiple of 16"),
    ("relay", ["init_from={vae}"], "has no base"),
    ("relay", ["init_from={at}/halved"], "other sizes than config.model"),
    ("relay", ["init_from={at}/halved", "model.channels=32"], "does not hold the model"),
    ("relay", ["model.channels=32"], "other sizes than config.model"),
    ("relay", ["sample.steps=300"], "config.sample.steps = 300"),
]


@pytest.mark.parametrize(
    ("stage", "fields", "contains"),
    FIELDS,
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_bad_field(stage, fields, contains, places, tmp_path, capsys):
    given = {"vae": [], "base": ["cascade={vae}"], "relay": ["cascade={base}", "init_from={base}"]}[
        stage
    ]
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


# command, arguments, what the line says
COMMANDS = [
    (
        "train",
        "--config=scenes_vea --workdir {w}",
        "no recipe 'scenes_vea'; give a .py file or one of base_256",
    ),
    ("train", "--config=scenes_vae:small --workdir {w}", "unknown variant 'small'"),
    ("train", "--config={at}/none.py --workdir {w}", "there is no file"),
    ("train", "--config={at}/recipe.py --workdir {w}", "undefined"),
    ("train", "--config={at}/broken.py --workdir {w}", "broken.py"),
    ("train", "--config={at}/unknown.py --workdir {w}", 'unknown.py: Key "nope" does not exist'),
    ("train", "--config={at}/half.py --workdir {w}", "half.py"),
    ("train", "--config=scenes_vae:tiny --workdir {w} --lr 3", "unknown argument"),
    ("train", "--config=scenes_vae:tiny --workdir {w} extra", "unknown argument"),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/file --config.data.path={scenes}",
        "{at}/file",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/file/below --config.data.path={scenes}",
        "{at}/file",
    ),
    ("train", "--config=scenes_vae:tiny", "--workdir"),
    ("train", "--workdir {w}", "--config"),
    (
        "train",
        "--config=scenes_vae:tiny --workdir /proc/none/w --config.data.path={scenes}",
        "--workdir /proc/none/w: cannot be written",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {w} --resume_from=6 --config.data.path={scenes}",
        "checkpoints has none",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {w} --resume_from=last",
        "--resume_from: invalid int value: 'last'",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/other_run --config.data.path={scenes}",
        "holds a run with other values of",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/damaged_run --config.data.path={scenes}",
        "checkpoints/6 is damaged: state/",
    ),
    ("sample", "--checkpoint {at}/none --prompt x --out {w}", "is no checkpoint"),
    ("sample", "--checkpoint {at}/damaged --prompt x --out {w}", "is damaged"),
    ("sample", "--checkpoint {at}/bare --prompt x --out {w}", "has no vae"),
    ("sample", "--checkpoint {vae} --prompt x --out {w}", "has no base stage"),
    ("sample", "--checkpoint {at}/halved --prompt x --out {w}", "does not hold the model"),
    (
        "sample",
        "--checkpoint {at}/base_flipped --prompt x --out {w}",
        "base_flipped/base is damaged: ",
    ),
    ("sample", "--checkpoint {base} --prompt {long} --out {w}", "--prompt 'xxxxx"),
    ("sample", "--checkpoint {base} --out {w}", "--prompt"),
    ("sample", "--checkpoint {base} --prompt= --out {w}", "--prompt"),
    ("sample", "--checkpoint {base} --prompt {blank} --out {w}", "--prompt"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --steps 0", "--steps 0"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --steps 2,2,2", "--steps 2,2,2"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --steps few", "--steps few"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --guidance nan", "--guidance nan"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --guidance=-1", "--guidance -1"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size 33", "size 33"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size 64", "there is no relay stage"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size 0", "size 0"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size -32", "size -32"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size big", "--size"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --num 0", "--num 0"),
    (
        "sample",
        "--checkpoint {base} --prompt x --out {w} --attention splash",
        "'splash' does not run on cpu",
    ),
    ("sample", "--checkpoint {base} --prompt x --out {w} --num two", "--num"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --seed -1", "--seed -1"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --seed 4294967296", "--seed 4294967296"),
    ("sample", "--checkpoint {base} --prompt x --out {at}/file", "is a file"),
    ("sample", "--checkpoint {base} --prompt x --out {at}/file/below", "{at}/file"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --json {at}/empty", "{at}/empty"),
    ("sample", "--checkpoint {base} --prompt x", "--out"),
    ("quickstart", "--workdir {w} --seed -1", "--seed -1"),
    ("quickstart", "--workdir {at}/file", "{at}/file"),
    ("data", "inspect {at}/none", "no such directory"),
    ("data", "inspect {at}/torn", "shard"),
    ("data", "inspect {at}/lost", "is missing; restore the file"),
    ("data", "inspect {at}/flipped --num 64", "is damaged"),
    ("data", "pack --source {at}/none --out {w}", "no source"),
    *(
        ("data", f"pack --source {{at}}/{name} --out {{w}}", line)
        for name, line in (
            ("no_images", "no"),
            ("no_captions", "caption"),
            ("not_an_image", "undecodable"),
            ("empty_image", "undecodable"),
            ("half_an_image", "undecodable"),
            ("flipped_image", "undecodable"),
            ("long_image", "200x8 pixels"),
            ("blank_caption", "caption"),
            ("binary_caption", "text"),
            ("torn_metadata", "json"),
            ("no_caption_field", "caption"),
            ("number_caption", "caption"),
            ("outside", "outside"),
            ("torn_tar", "tar"),
        )
    ),
    ("data", "scenes --num 0 --out {w}", "num = 0"),
    ("data", "scenes --num 1 --size 4 --out {w}", "size = 4"),
    ("data", "scenes --num 1 --out {at}/file", "is a file"),
]


@pytest.mark.parametrize(
    ("command", "line", "contains"), COMMANDS, ids=lambda x: x.replace("{", "").replace("}", "")
)
def test_a_bad_argument(command, line, contains, places, tmp_path, capsys):
    words = {"{blank}": "  \t", "{long}": "x" * 5000}
    names = {**places, "w": tmp_path / "w", "blank": "{blank}", "long": "{long}"}
    argv = [words.get(word, word) for word in line.format(**names).split(" ")]
    before = files(places["at"])
    refused(command, argv, capsys, contains.format(**names))
    assert list(tmp_path.iterdir()) == []
    assert files(places["at"]) == before


@pytest.mark.parametrize(
    ("argv", "code"), [([], 2), (["trian"], 2), (["--help"], 0), (["--version"], 0)], ids=str
)
def test_the_dispatcher(argv, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cv3jax", *argv])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == code
    out = capsys.readouterr()
    if argv == ["trian"]:
        assert out.err == f"cv3jax: no command 'trian'; one of {', '.join(cli.COMMANDS)}\n"
    elif argv != ["--version"]:
        assert "usage: cv3jax <command>" in out.out


YNN = "--xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize(
    "given", ["", "--xla_cpu_enable_fast_math=false", f"{YNN}=LIBRARY_FUSION_TYPE_REDUCE"]
)
def test_the_cpu_flag_is_added_once_and_xla_takes_it(given, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", given)
    tune_cpu()
    tune_cpu()
    flags = os.environ["XLA_FLAGS"].split()
    assert sum(flag.startswith(YNN) for flag in flags) == 1
    assert set(given.split()) <= set(flags)
    # a flag unknown to XLA aborts
    code = "import jax; print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((4, 4)))))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=tiny_runs.environment(), capture_output=True, text=True
    )
    assert done.stdout == "64.0\n", done.stderr[-500:]
