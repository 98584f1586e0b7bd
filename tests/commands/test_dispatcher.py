"""Test the dispatcher of commands and the flag that it adds for XLA on CPUs."""

import os
import pwd
import subprocess
import sys

import pytest
import subprocesses

from cv3jax import __version__, cli
from cv3jax.distributed import backend
from cv3jax.distributed.backend import quiet_libraries, tune_cpu


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ([], 2, "usage: cv3jax <command>"),
        (["--help"], 0, "usage: cv3jax <command>"),
        (["--version"], 0, "cv3jax 0"),
        (["trian"], 2, "cv3jax: unknown command 'trian'; did you mean train? See cv3jax --help\n"),
        (["zzz"], 2, "cv3jax: unknown command 'zzz'; see cv3jax --help\n"),
        (["data", "pakc"], 2, "cv3jax: unknown command data 'pakc'; did you mean data pack? See"),
        (["data", "zzz"], 2, "cv3jax: unknown command data 'zzz'; give one of pack, "),
        (["data", "--help"], 0, "usage: cv3jax data <command>"),
        (["data", "encode", "--help"], 0, "usage: cv3jax data encode"),
    ],
    ids=str,
)
def test_the_dispatcher(argv, code, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cv3jax", *argv])
    if argv == ["data", "--help"]:
        cli.main()
    else:
        with pytest.raises(SystemExit) as e:
            cli.main()
        assert e.value.code == code
    out, err = capsys.readouterr()
    assert (out + err).startswith(said)
    assert bool(err) == (code == 2 and bool(argv))


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "cv3jax", "--version"],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"cv3jax {__version__}\n"), done.stderr


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


def _no_entry(_):
    raise KeyError("uid not found")


@pytest.mark.parametrize("home", [None, "/proc", "{at}/file", "/proc/none/below"], ids=str)
def test_without_a_home_it_is_said_that_nothing_is_kept(home, monkeypatch, capsys, tmp_path):
    """In a container a user may have no entry, and a home may be read-only or missing."""
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setattr(pwd, "getpwuid", _no_entry)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if home:
        monkeypatch.setenv("HOME", home.format(at=tmp_path))
    kept = []
    monkeypatch.setattr(backend, "_default", lambda *given, **_: kept.append(given))
    cli.run_command(lambda _: print("done"))
    out = capsys.readouterr()
    assert out.out == "done\n"
    assert out.err.startswith("cv3jax: there is no home directory for the compilation cache")
    assert "jax_compilation_cache_dir" not in dict(kept)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    cli.run_command(lambda _: None)
    assert capsys.readouterr().err == ""
    assert os.listdir(tmp_path) == ["file"]


def test_xlas_log_is_shown_where_it_is_asked_for_alone(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    quiet_libraries()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"  # all but what ends the process
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    quiet_libraries()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
