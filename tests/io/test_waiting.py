"""Test that holders of the same lock take turns, and that the last one removes its file."""

import threading
import time

from data_pipeline.io import locks


def test_blocks_come_one_after_another(tmp_path):
    path, inside, most, done = tmp_path / "lock", [], [], []

    def enter():
        for _ in range(5):
            with locks.wait(path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()
        done.append(1)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 4
    assert most == [1] * 20
    assert not path.exists()
