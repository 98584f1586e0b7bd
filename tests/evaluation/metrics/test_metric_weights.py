"""Test that missing, damaged and foreign weights end in one line, and run no code."""

import os
import pickle

import numpy as np
import pytest
import safetensors.numpy

pytest.importorskip("torch")
pytest.importorskip("ftfy")

import metric_folders
import metric_weights as small

from cv3jax.evaluation.metrics import aesthetic, clip, hps, image_reward
from cv3jax.evaluation.metrics.registry import METRICS, open_metric
from cv3jax.evaluation.metrics.weight_files import find_all
from data_pipeline.io.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return metric_folders.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folder(written, tmp_path):
    """Return a directory of links, of which a test may replace some."""
    for path in written.rglob("*"):
        if path.is_file():
            place = tmp_path / path.relative_to(written)
            place.parent.mkdir(exist_ok=True)
            place.hardlink_to(path)
    return tmp_path


def replaced(path):
    """Remove a link, so that what is written here changes no other test's file."""
    path.unlink()
    return path


def refused(call, *words):
    with pytest.raises(InputError) as said:
        call()
    assert "\n" not in str(said.value)
    for each in words:
        assert each in str(said.value), str(said.value)


def test_an_unknown_metric_names_the_known_ones():
    refused(lambda: open_metric("ais", None), "there is no metric 'ais'", "aes, hps, hps21")


@pytest.mark.parametrize("name", [name for name, spec in METRICS.items() if spec.needs])
def test_missing_files_are_all_named_with_their_places_and_sources(name, tmp_path):
    needs = METRICS[name].needs
    need = needs[0]
    refused(lambda: open_metric(name, None), "--weights", need.path)
    refused(lambda: open_metric(name, tmp_path / "x"), "there is no such directory")
    everything = [word for each in needs for word in (each.path, each.source)]
    refused(lambda: open_metric(name, tmp_path), str(tmp_path), *everything)
    (tmp_path / need.path).parent.mkdir()
    (tmp_path / need.path).touch()
    if others := needs[1:]:
        with pytest.raises(InputError) as said:
            open_metric(name, tmp_path)
        assert need.source not in str(said.value)
        assert others[-1].source in str(said.value)


def test_a_clip_b_32_for_l_14_names_both_widths(tmp_path):
    path = tmp_path / clip.MODEL.path
    path.parent.mkdir()
    b_32 = {
        "vision_model.embeddings.patch_embedding.weight": np.zeros((768, 3, 32, 32), np.float16),
        "visual_projection.weight": np.zeros((512, 768), np.float16),
    }
    safetensors.numpy.save_file(b_32, str(path))
    metric_folders.save(tmp_path / aesthetic.HEAD.path, small.head(0, 768))
    words = ("patches of 32 pixels", "embeddings of 512", "ViT-L/14 with 14, 1024 and 768")
    refused(lambda: open_metric("aes", tmp_path), *words)


def test_a_head_of_another_width_names_both(folder):
    metric_folders.save(replaced(folder / aesthetic.HEAD.path), small.head(0, 512))
    refused(lambda: metric_folders.opened("aes", folder), "embeddings of 512", "ViT-L/14 has 48")


def test_another_hps_is_refused(folder):
    words = small.write_bpe(folder / "other")
    path = folder / hps.VERSIONS["hps"][1].path
    v1 = small.open_clip(0, small.CLIP_L, words)  # as HPS v1, which is a ViT-L/14
    metric_folders.save(replaced(path), v1, "state_dict")
    refused(
        lambda: metric_folders.opened("hps", folder), "embeddings of 48", "ViT-H/14 with 14, 160"
    )
    both = (folder / hps.VERSIONS["hps21"][1].path).read_bytes()
    replaced(path).write_bytes(both)
    for name in hps.VERSIONS:
        refused(lambda name=name: metric_folders.opened(name, folder), "are the same file", "v2.1")
    assert METRICS["hps"].needs != METRICS["hps21"].needs


def test_the_protocol_tells_the_versions_of_hps(folder):
    one, other = (metric_folders.opened(name, folder).protocol for name in ("hps", "hps21"))
    assert (one["version"], other["version"]) == ("v2.0", "v2.1")
    assert one["weights"] != other["weights"]
    assert {"torch", "transformers", "pillow", "ftfy"} == one["versions"].keys()


def test_another_image_reward_is_refused(folder):
    path = folder / image_reward.MODEL.path
    tensors = small.image_reward(0, 9)
    wide = {"blip.visual_encoder.cls_token": np.zeros((1, 1, 768))}
    metric_folders.save(replaced(path), tensors | wide)
    refused(lambda: metric_folders.opened("imagereward", folder), "BLIP of width 768", "has 48")
    metric_folders.save(path, tensors | {"oops": np.zeros(2)})
    refused(lambda: metric_folders.opened("imagereward", folder), "oops is unexpected")
    metric_folders.save(path, {"a": np.zeros(2)})
    refused(lambda: metric_folders.opened("imagereward", folder), "is not ImageReward")


def test_tensors_that_are_missing_are_named(folder):
    words = small.write_bpe(folder / "other")
    tensors = small.open_clip(0, small.CLIP_H, words)
    del tensors["visual.ln_post.bias"]
    metric_folders.save(replaced(folder / hps.VERSIONS["hps"][1].path), tensors, "state_dict")
    refused(lambda: metric_folders.opened("hps", folder), "post_layernorm.bias is missing")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused(folder, value):
    tensors = small.head(1, 48)
    tensors["layers.4.bias"][7] = value
    metric_folders.save(replaced(folder / aesthetic.HEAD.path), tensors)
    refused(lambda: metric_folders.opened("aes", folder), "layers.4.bias", "NaN or infinite")


def test_code_in_a_file_is_not_run(folder, tmp_path):
    import torch

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = replaced(folder / aesthetic.HEAD.path)
    torch.save({"layers.0.weight": Bomb()}, path)
    refused(lambda: metric_folders.opened("aes", folder), "nothing of it was run")
    path.write_bytes(pickle.dumps(Bomb()))
    refused(lambda: metric_folders.opened("aes", folder), str(path))
    assert not (tmp_path / "ran").exists()


def test_what_is_no_regular_file_is_refused(folder):
    path = replaced(folder / aesthetic.HEAD.path)
    os.mkfifo(path)
    refused(lambda: metric_folders.opened("aes", folder), str(path), "a pipe")
    path.unlink()
    path.mkdir()
    refused(lambda: metric_folders.opened("aes", folder), str(path), "a directory")


def test_a_sha256sums_is_compared(folder):
    need = aesthetic.HEAD
    (digest,) = (each.sha256 for each in find_all("aes", folder, (need,)).values())
    (folder / "SHA256SUMS").write_text(f"{digest}  {need.path}\n")
    assert find_all("aes", folder, (need,))[need.path].listed == str(folder / "SHA256SUMS")
    (folder / "SHA256SUMS").write_text(f"{'1' * 64}  {need.path}\n")
    refused(lambda: find_all("aes", folder, (need,)), digest, "1" * 64, "SHA256SUMS")


@pytest.mark.parametrize(
    ("name", "text"),
    [("vocab.json", "[]"), ("vocab.json", '{"a": 0}'), ("merges.txt", "a b c\n")],
)
def test_a_damaged_tokenizer_is_refused(folder, name, text):
    replaced(folder / clip.FOLDER / name).write_text(text)
    refused(lambda: metric_folders.opened("clip", folder), "has no tokenizer of ViT-L/14")


def test_a_damaged_vocabulary_of_bert_is_refused(folder):
    path = folder / image_reward.VOCABULARY.path
    text = path.read_text()
    sizes = image_reward.Sizes(vocabulary=len(text.splitlines()) + 2, **small.BLIP)
    replaced(path).write_text(text.replace("moon\n", "dog\n"))
    found = find_all("imagereward", folder, METRICS["imagereward"].needs)
    refused(lambda: image_reward.open_image_reward(found, sizes), "vocabulary of BERT", "different")
