"""Test the progress that a run shows, and what TensorBoard gets."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cv3jax.training.metrics import MetricsLog, read_lines


def test_the_eta_leaves_out_what_went_into_compiling(tmp_path):
    now = 0.0
    log = MetricsLog(tmp_path, name="base", start=2, steps=6)
    log._bar._time = lambda: now
    log._bar.start_t = log._bar.last_print_t = now
    now = 600.0
    log.begin()
    for _ in range(2):
        now += 1.0
        log.advance()
    shown = log._bar.format_dict
    log.close()
    assert (shown["n"], shown["total"], shown["elapsed"]) == (4, 6, 2.0)


def events(folder):
    """Return the events of all files, in the order in which TensorBoard reads them."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:  # TFRecords: length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_tensorboard_has_the_figures_and_a_resumed_run_writes_no_step_twice(tmp_path):
    for start, steps in ((0, (2, 4, 6)), (4, (6, 8))):  # killed after 6, resumed from 4
        log = MetricsLog(tmp_path, name="base", start=start, steps=8)
        for step in steps:
            log.write(step, {"mfu": step / 10 + start, "lr/mid_*": 0.5, "evaluation": "a text"})
        log.close()
    shown = {}
    for event in events(tmp_path / "tensorboard"):
        if event.session_log.status == SessionLog.START:  # forget what follows
            shown = {at: value for at, value in shown.items() if at[0] < event.step}
        for value in event.summary.value:
            at = (event.step, value.tag)
            assert at not in shown
            shown[at] = value.simple_value
    mfu = {step: value for (step, name), value in shown.items() if name.endswith("mfu")}
    assert mfu == pytest.approx({2: 0.2, 4: 0.4, 6: 4.6, 8: 4.8})
    assert len(shown) == 8
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert {line["step"]: line["mfu"] for line in lines} == pytest.approx(mfu)
