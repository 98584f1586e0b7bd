"""Test that control tokens in captions are text, and that unknown words are named."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import cv3jax
from data_pipeline.loading.tokenizer import load_tokenizer
from data_pipeline.scenes.grammar import caption, sample_scene

TINY = Path(__file__).parents[1] / "golden" / "tiny" / "t5"
SCENES = Path(cv3jax.__file__).parent / "packaged" / "scenes" / "t5" / "tokenizer"
ENGLISH = " ".join(
    path.read_text() for path in sorted(Path(__file__).parents[2].joinpath("docs").rglob("*.md"))
)


@pytest.fixture(scope="module")
def t5():
    """Return a tokenizer with T5's class, normalizer and control tokens, of a few pieces."""
    return load_tokenizer(TINY, 32)


@pytest.fixture(scope="module")
def scenes():
    return load_tokenizer(SCENES, 48)


@pytest.fixture(scope="module")
def open_vocabulary(tmp_path_factory):
    """Return a Unigram tokenizer of thousands of pieces that has all letters, as T5's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=4000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(ENGLISH.split("\n"), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    out = tmp_path_factory.mktemp("unigram")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(out)
    return load_tokenizer(out, 32)


@pytest.mark.parametrize(
    "spelled",
    [
        "</s>",
        "<pad>",
        "<extra_id_0>",
        "<extra_id_99>",
        "\uff1c/s\uff1e",  # full width, which the normalizer makes narrow
        "\uff1cextra_id_7\uff1e",
        "</s></s>",
        "<pad></s><extra_id_1>",
        "</</s>s>",
    ],
)
@pytest.mark.parametrize("around", ["{}", "a {} b", "a{}b"])
def test_a_caption_that_spells_a_control_token_is_text(spelled, around, t5):
    ids = t5([around.format(spelled)])[0]
    theirs = AutoTokenizer.from_pretrained(TINY)
    control = {theirs.pad_token_id, theirs.eos_token_id}
    control |= {i for i, token in theirs.added_tokens_decoder.items() if "extra" in str(token)}
    end = len(ids) - int(np.argmax(ids[::-1] != 0)) - 1
    assert ids[end] == theirs.eos_token_id
    assert not control & set(ids[:end].tolist())
    assert end > 1  # the text is there


@pytest.mark.parametrize("kind", ["t5", "scenes"])
def test_captions_are_read_as_transformers_reads_them(kind, t5, scenes):
    """Folders of our own are read without transformers, with the same tokens."""
    folder, ours = {"t5": (TINY, t5), "scenes": (SCENES, scenes)}[kind]
    theirs = AutoTokenizer.from_pretrained(folder)
    more = [caption(sample_scene(7, i)) for i in range(50)]
    for text in (
        "a photo, of <b>cats</b>",
        "1 < 2 > 0",
        "a  b",
        "\ufb01ne",
        "",
        "red " * 99,
        *more,
    ):
        expected = theirs(
            text,
            max_length=ours.length,
            truncation=True,
            padding="max_length",
            split_special_tokens=True,
        )
        assert ours([text])[0].tolist() == expected["input_ids"]
        assert ours.count(text) == len(theirs(text, split_special_tokens=True)["input_ids"])


def test_a_folder_with_more_than_ours_is_read_by_transformers(tmp_path):
    for file in SCENES.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"star": 900}))
    loaded = load_tokenizer(tmp_path, 8)
    assert loaded(["</s>"])[0].tolist() == load_tokenizer(SCENES, 8)(["</s>"])[0].tolist()


def test_words_that_no_caption_had_are_named(scenes):
    assert scenes.unknown(["a photo of a cat"]) == ["photo", "cat"]
    prompts = ["A RED dog, on the left", "bicycles and a dog", "\U0001f431 a gray 猫", "7 circles!"]
    assert scenes.unknown(prompts) == ["dog", "bicycles", "\U0001f431", "gray", "猫", "7"]


def test_captions_of_scenes_that_were_held_out_are_known(scenes):
    held_out = [caption(sample_scene(5, i, split="heldout")) for i in range(300)]
    assert scenes.unknown(held_out) == []


def test_an_open_vocabulary_knows_every_word_of_its_letters(open_vocabulary):
    prompts = [
        "a photo of a cat",
        "an astronaut riding a horse, photorealistic, 8k, f/1.8 bokeh",
        "Gandalf's xylophone at the fjord; trending on ArtStation - hyperdetailed!",
        "qwzx zyzzyva",
    ]
    assert open_vocabulary.unknown(prompts) == []
    assert open_vocabulary.unknown(["a photo of \u0a95\u0acb\u0a9f"]) == ["\u0a95\u0acb\u0a9f"]
