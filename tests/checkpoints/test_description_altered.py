"""Test that every wrong alteration of a description is refused in one line, before any work."""

import json
import time

import altered_descriptions as altered
import pytest

from cv3jax import cli
from cv3jax.checkpoints import cascades
from cv3jax.commands import sample
from data_pipeline.io.errors import InputError

CASES = altered.cases()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return altered.copied(tmp_path_factory.mktemp("altered") / "scenes")


def test_every_wrong_alteration_is_one_line(directory):
    accepted, odd = [], []
    began = time.process_time()
    for name, (path, text) in CASES.items():
        (directory / cascades.CASCADE).write_text(altered.altered(path, text))
        try:
            cascades.read_cascade(directory)
        except InputError as e:
            said = str(e)
            if len(said.splitlines()) != 1 or len(said) > 500 + len(str(directory)):
                odd.append((name, said))
        except Exception as e:
            odd.append((name, f"{type(e).__name__}: {e}"))
        else:
            accepted.append(name)
    assert accepted == []
    assert odd == []
    assert len(CASES) > 1000
    assert time.process_time() - began < 60


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("stages", "relay", "start"), "500"),
        (("stages", "base", "prediction"), '"eps"'),
        (("stages", "base", "form"), '"paper"'),
        (("stages", "base", "eta"), "1"),
        (("stages", "base", "guidance"), "3"),
        (("stages", "base", "image_size"), "80"),
        (("stages", "base", "blur"), "null"),
        (("stages", "base", "distilled", "w"), "null"),
        (("stages", "base", "model", "remat"), '"full"'),
        (("stages", "base", "model", "head_dim"), "16"),
        (("stages", "base", "model", "groups"), "32"),
        (("t5", "model", "dtype"), '"bfloat16"'),
        (("t5", "model", "epsilon"), "1e-5"),
        (("t5", "length"), "77"),
        (("vae", "scale"), "0.13025"),
        (("vae", "preview"), json.dumps([[0.5, -1, 0]] * 9)),
        (("vae", "preview"), "null"),
    ],
)
def test_what_fits_the_arrays_is_accepted(directory, path, text):
    (directory / cascades.CASCADE).write_text(altered.altered(path, text))
    description = cascades.read_cascade(directory)[1]
    assert description.parts == ("vae", "t5", "base", "relay")


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (
            ("stages", "base", "model", "channels"),
            "32",
            "channels of base is 32, but its stored arrays have 64; restore both",
        ),
        (
            ("stages", "base", "model", "depth"),
            "[1]",
            "depth of base is [1], but must be as long as channel_mult, 2 numbers",
        ),
        (
            ("stages", "base", "model", "dtype"),
            '"os.system"',
            "dtype of the model of base is 'os.system', but must be one of float32, bfloat16",
        ),
        (
            ("stages", "base", "model", "parent"),
            "1",
            "the model of base has an unknown field 'parent'; it may have channels, channel_mult,"
            " res_blocks, depth, mid_depth, head_dim, out_channels, w_dim, groups, remat, dtype",
        ),
        (
            ("stages", "relay", "image_size"),
            "33",
            "image_size of relay is 33, but must be a multiple of 16",
        ),
        (("vae", "scale"), "NaN", "NaN is no number"),
        (("vae", "scale"), "-1e300", "scale of vae is -1e+300, but must be 1e-06..1e+06"),
    ],
)
def test_a_command_refuses_a_description_with_exit_2(directory, capsys, path, text, said):
    (directory / cascades.CASCADE).write_text(altered.altered(path, text))
    out = directory.parent / "out"
    args = ["--checkpoint", str(directory), "--prompt", "a", "--out", str(out)]
    with pytest.raises(SystemExit) as e:
        cli.run_command(sample.main, args)
    assert e.value.code == 2
    assert capsys.readouterr().err == (
        f"cv3jax: {directory / cascades.CASCADE} is damaged: {said}\n"
    )
    assert not out.exists()
