"""Test `cv3jax finetune` with its workdir in a bucket: stopped, and resumed on another machine."""

import shutil
import signal

import numpy as np
import pytest
import tiny_runs
from object_servers import BUCKET, environment, serving
from picture_folders import put
from test_finetune_runs import STEPS, STOP, command

from cv3jax.checkpoints import runs
from cv3jax.commands import finetune
from cv3jax.lora.stage import LoraStage
from data_pipeline.io.errors import StoppedError
from data_pipeline.io.objects.places import place_of

ADDRESS = f"s3://{BUCKET}/w"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Serve an empty bucket, and keep what belongs to it in a directory of the test."""
    with serving("s3") as port:
        for name, value in environment("s3", port).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "stores"))
        yield


def test_a_stopped_run_goes_on_on_another_machine(bucket, tmp_path, monkeypatch, capsys):
    for i in range(6):
        put(tmp_path / "in" / "3_red_kite" / f"{i}.png", i)
    argv = command(tmp_path, "train.preview_every=0")  # which may train the base
    argv = [ADDRESS if one == str(tmp_path / "w") else one for one in argv]
    assert ADDRESS in argv
    step_of, work = LoraStage.step, place_of(ADDRESS) / "work"

    def step(self, state, batch):
        if int(np.asarray(state.step)) + 1 == STOP:
            signal.raise_signal(signal.SIGINT)
        return step_of(self, state, batch)

    with tiny_runs.devices(1):
        with monkeypatch.context() as patch:
            patch.setattr(LoraStage, "step", step)
            with pytest.raises(StoppedError):
                finetune.main(argv)
        assert (work / "lora" / "adapter.safetensors").is_file()
        shutil.rmtree(place_of(ADDRESS))  # another machine
        finetune.main(argv)
    assert runs.steps(work / "checkpoints")[-1] == STEPS
    out, err = capsys.readouterr()
    assert f"adapter in {ADDRESS}/lora/adapter.safetensors" in out + err
    assert err.count("read the pictures: 100%") == 1  # the second machine has the records
    assert f"--lora {ADDRESS} --prompt" in err
