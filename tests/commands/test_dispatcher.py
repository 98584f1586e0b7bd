"""What every command starts with: the dispatcher, and the flag that is added for XLA on CPUs."""

import os
import subprocess
import sys

import pytest
import subprocesses

from cv3jax import cli
from cv3jax.distributed.backend import tune_cpu


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
        [sys.executable, "-c", code], env=subprocesses.environment(), capture_output=True, text=True
    )
    assert done.stdout == "64.0\n", done.stderr[-500:]
