"""Test the progress that a run shows."""

from cv3jax.training.metrics import MetricsLog


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
