"""Test what a cascade is loaded from, and where it is saved and uploaded to, without a network."""

import sys
import types

import numpy as np
import pytest

import cv3jax
from cv3jax.api import hub, loading


class RefusedError(Exception):
    """What huggingface_hub raises where the Hub refuses."""


@pytest.fixture
def fake(monkeypatch):
    """Replace huggingface_hub, and return it with the calls that it got."""
    calls = []

    class HfApi:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repository, **options):
            calls.append(("create", repository, options))

        def upload_folder(self, *, repo_id, folder_path):
            files = sorted(p.relative_to(folder_path) for p in folder_path.rglob("*"))
            card = (folder_path / "README.md").read_text()
            calls.append(("upload", repo_id, {str(file) for file in files}, card))

    module = types.ModuleType("huggingface_hub")
    module.HfApi, module.calls = HfApi, calls
    module.errors = types.ModuleType("huggingface_hub.errors")
    module.errors.HfHubHTTPError = module.errors.LocalEntryNotFoundError = RefusedError
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", module.errors)
    return module


def test_a_hub_s_name_is_downloaded(fake, tmp_path):
    fake.snapshot_download = lambda name: fake.calls.append(name) or str(tmp_path)
    assert loading.find("someone/stars") == tmp_path
    assert fake.calls == ["someone/stars"]


@pytest.mark.parametrize("error", [RefusedError("401\nlines"), OSError("no route"), RefusedError()])
def test_a_download_that_fails_is_said_in_one_line(fake, error):
    def fail(name):
        raise error

    fake.snapshot_download = fail
    with pytest.raises(
        ValueError, match=r"^someone/stars: there is no such directory, and the"
    ) as e:
        cv3jax.Cascade.load("someone/stars")
    assert "\n" not in str(e.value)
    assert (str(error).split("\n")[0] or "RefusedError") in str(e.value)


def test_without_huggingface_hub_it_is_said(monkeypatch, pipe):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install .cv3jax\[hub\].$"):
        cv3jax.Cascade.load("someone/stars")
    with pytest.raises(ValueError, match=r"pip install .cv3jax\[hub\].$"):
        pipe.push_to_hub("someone/stars")


FORMS = "give the name of an installed cascade .scenes, scenes_teacher., the path"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("", f"^source '': {FORMS}"),
        (" ", f"^source ' ': {FORMS}"),
        (
            "scens",
            r"^scens: there is no such cascade; did you mean scenes\? Otherwise give",
        ),
        ("no_such_cascade", f"^no_such_cascade: there is no such cascade; {FORMS}"),
        ("a/b/c", "^a/b/c: there is no such cascade; give"),
        ("/no/such", f"^/no/such: there is no such cascade; {FORMS}"),
        (None, "^source None: give a name, or the path of a directory"),
        (".", r"^\. is not a checkpoint: .*; give a run's workdir, or"),
    ],
)
def test_what_is_no_cascade_is_said_in_one_line(source, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=line) as raised:
        cv3jax.Cascade.load(source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [(), ("scenes",), ("scenes", None, "float32")])
def test_the_class_itself_points_to_load(given):
    for options in ({}, {"mesh": "data=2"}):
        with pytest.raises(TypeError, match=r'^Cascade: call Cascade\.load\("scenes"\)'):
            cv3jax.Cascade(*given, **options)


def test_a_directory_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "stars").mkdir(parents=True)
    assert loading.find("someone/stars") == "someone/stars"


def test_a_saved_cascade_draws_the_same(pipe, tmp_path):
    saved = pipe.save(tmp_path / "stars")
    assert saved == tmp_path / "stars"
    again = cv3jax.Cascade.load(saved)
    assert again.description == pipe.description
    assert np.array_equal(again("a red star", seed=3)[0], pipe("a red star", seed=3)[0])
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: cv3jax\n")
    assert "# stars\n" in card
    assert "| base | 32×32 | 4 | 7.5 | eps | to 4 |" in card
    assert "| relay | 64×64 | 1 | 7.5 | eps | to 1 |" in card
    with pytest.raises(ValueError, match="exists"):
        pipe.save(saved)


def test_push_to_hub_uploads_the_cascade_with_its_card(fake, pipe):
    address = pipe.push_to_hub("someone/stars", token="secret")
    assert address == "https://huggingface.co/someone/stars"
    token, create, (what, name, files, card) = fake.calls
    assert token == ("token", "secret")
    assert create == ("create", "someone/stars", {"private": True, "exist_ok": True})
    assert (what, name) == ("upload", "someone/stars")
    assert {"README.md", "cascade.json", "base", "relay", "vae", "t5"} <= files
    assert "# stars" in card


@pytest.mark.parametrize("error", [RefusedError, RuntimeError])  # of the Hub, of its network
def test_what_the_hub_refuses_is_said_in_one_line(fake, pipe, monkeypatch, error):
    def refuse(*_, **__):
        raise error("403: not yours\nmore")

    monkeypatch.setattr(fake.HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"^someone/stars: the Hugging Face Hub refuses: 403: not"):
        pipe.push_to_hub("someone/stars")
    for other in ("stars", None):
        with pytest.raises(ValueError, match=rf"^repository '{other}': give owner/name$"):
            pipe.push_to_hub(other)


def test_the_card_names_what_it_describes(pipe):
    card = hub.card(pipe.description, "stars")
    assert 'cv3jax.Cascade.load("stars")' in card
    assert cv3jax.__version__ in card
