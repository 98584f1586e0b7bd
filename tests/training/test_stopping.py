"""Test what a run does after SIGTERM: one save, its machine's own disk first, and nothing else."""

import dataclasses
import signal

import numpy as np
import pytest
from faults import curve, same
from toy_runs import CADENCE, toy_work

from cv3jax.checkpoints import local, runs
from cv3jax.training import loop
from cv3jax.training.local_saves import LocalSaves
from cv3jax.training.train_settings import Local
from data_pipeline.io.errors import StoppedError

STOP, STEPS = 4, 6
# everything is due at the step of the signal, but for a local checkpoint
DUE = dataclasses.replace(CADENCE, steps=STEPS, save=STOP, preview=STOP, export=STOP, keep_every=2)


class Watched:
    """A sitting of a toy run, and what it did, in order."""

    def __init__(self, workdir, cadence, monkeypatch, signals=()):
        work, state = toy_work()
        self.done, self.workdir, self.cadence = [], workdir, cadence
        save, near, step = runs.save, LocalSaves.save, work.step

        def stepped(state, batch):
            number = int(state.step) + 1
            self.done.append(f"step {number}")
            if number in signals:
                signal.raise_signal(signal.SIGTERM)
            return step(state, batch)

        def saved(manager, number, *rest):
            self.done.append(f"save {number}")
            self.on_disk = self.complete()
            save(manager, number, *rest)

        def saved_near(own, number, *rest):
            self.done.append(f"local {number}")
            near(own, number, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(loop.runs, "save", saved)
            patch.setattr(LocalSaves, "save", saved_near)
            work = dataclasses.replace(
                work,
                step=stepped,
                preview=self.shown("preview"),
                evaluate=self.shown("evaluate"),
                export=lambda ema: self.done.append("export"),
            )
            with loop.jax.transfer_guard("allow"):
                self.state = loop.train_loop(work, workdir, state, cadence, {})[0]

    def shown(self, what):
        def show(ema, step):
            self.done.append(f"{what} {step}")
            return np.zeros((8, 8, 3), np.uint8)

        return show

    def complete(self):
        """Return the steps of whole checkpoints on the machine's own disk."""
        places = (self.cadence.local.folder or self.workdir).glob("cv3jax-*/[0-9]*")
        return sorted(int(x.name.partition("-")[0]) for x in places if local.intact(x))


def stopped(workdir, cadence, monkeypatch):
    """Return what a sitting did that a signal stopped, and the local checkpoints at its save."""
    watched = Watched.__new__(Watched)
    with pytest.raises(StoppedError, match=f"stopped after step {STOP}, saved in") as caught:
        watched.__init__(workdir, cadence, monkeypatch, signals={STOP})
    assert caught.value.signal == signal.SIGTERM
    return watched


def test_a_signal_s_grace_is_for_one_save_and_the_next_start_does_the_rest(tmp_path, monkeypatch):
    cadence = dataclasses.replace(DUE, local=Local(3, tmp_path / "disk"))
    first = stopped(tmp_path / "w", cadence, monkeypatch)
    after = first.done[first.done.index(f"step {STOP}") :]
    assert after == [f"step {STOP}", f"local {STOP}", f"save {STOP}"]
    assert STOP in first.on_disk  # whole, before the workdir's begins
    assert runs.steps(tmp_path / "w" / "checkpoints") == [2, STOP]
    again = Watched(tmp_path / "w", cadence, monkeypatch)
    assert again.done[:3] == [f"evaluate {STOP}", f"preview {STOP}", f"step {STOP + 1}"]
    whole = Watched(tmp_path / "whole", DUE, monkeypatch)
    same(again.state, whole.state)
    assert curve(tmp_path / "w") == curve(tmp_path / "whole")


def test_where_the_workdir_cannot_be_written_in_time_the_disk_has_the_step(tmp_path, monkeypatch):
    """The process ends during the workdir's save, as where a bucket is slower than the grace."""

    class Ended(Exception):
        pass

    def ended(*_):
        raise Ended

    cadence = dataclasses.replace(DUE, save=0, keep_every=0, local=Local(3, tmp_path / "disk"))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", ended)
        with pytest.raises(Ended):
            Watched(tmp_path / "w", cadence, monkeypatch, signals={STOP})
    again = Watched(tmp_path / "w", cadence, monkeypatch)
    assert again.done[:3] == [f"evaluate {STOP}", f"preview {STOP}", f"step {STOP + 1}"]


def test_without_a_disk_of_its_own_a_run_saves_once(tmp_path, monkeypatch):
    first = stopped(tmp_path, dataclasses.replace(DUE, local=Local(0, tmp_path)), monkeypatch)
    assert first.done[-2:] == [f"step {STOP}", f"save {STOP}"]
