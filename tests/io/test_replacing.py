"""A file appears whole or not at all."""

import errno
import os

import pytest

from data_pipeline.io.files import replacing


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("name", [None, ".new"])
def test_a_file_has_its_name_when_it_is_whole(tmp_path, name, durable):
    path, place = tmp_path / "a.txt", tmp_path / (name or "a.txt.tmp")
    path.write_text("old")
    with replacing(path, name and place, durable=durable) as temporary:
        assert temporary == place
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def stop_half_way():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_without_a_name_gets_that_of_the_place(tmp_path):
    with pytest.raises(OSError, match=r"a\.txt\.tmp") as caught, replacing(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
