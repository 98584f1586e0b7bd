"""Captions → token ids: load any T5 tokenizer, or train a small one of the same kind."""

import dataclasses
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from data_pipeline.io.errors import InputError, first_line

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
_CONFIG_CHARACTERS = 2**20
_WRITTEN = ("TokenizersBackend", "PreTrainedTokenizerFast")  # by train_tokenizer, old and new
_BLANK = "▁"  # how pieces have the blank before a word
_LOOKED_AT = 64  # characters of one that are looked at
_FALLEN = 1.5  # letters a piece, of a word that no caption had
MAX_PROMPT = 8192  # characters; what is beyond could not fit into the tokens a model reads


def train_tokenizer(
    captions: Iterable[str], out_dir: str | Path, vocab_size: int, max_length: int
) -> None:
    """Trains a word-piece vocabulary on captions and saves it as a `transformers` folder: NFKC,
    lower case, EOS appended.

    The same captions give the same file, byte for byte, in whatever order they come. BPE and not
    T5's Unigram: the Unigram trainer of `tokenizers` runs EM over hash maps, and its vocabulary
    differs from run to run, even on one thread.

    Args:
        captions: what the vocabulary should be good at. Characters that are not in them become UNK.
        vocab_size: at most; small sets of captions have fewer merges to learn.
        max_length: kept in the folder as the default length.

    Raises:
        InputError: no captions, or a vocabulary too small for their characters.
    """
    captions = [c for c in captions if c.strip()]
    if not captions:
        raise InputError("no captions to train a tokenizer on: every caption is empty")
    if max_length < 2:
        raise InputError(
            f"max_length = {max_length}: at least 2, one of them is the end of the caption"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    # Commas and the like stand alone, so that "red," does not become a second word for red.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, EOS, UNK], show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    if tokenizer.get_vocab_size() > vocab_size:
        characters = len(
            {c for caption in captions for c in tokenizer.normalizer.normalize_str(caption)}
        )
        raise InputError(
            f"vocab_size = {vocab_size}: too small for captions of {characters} different"
            " characters"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, 1)]
    )
    _import_transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=max_length,
    ).save_pretrained(str(out_dir))


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """prompts (N strings) → int32 [N, L], filled up with the padding id; longer prompts keep their
    end token.
    """

    tokenizer: Any
    length: int
    controls: re.Pattern  # the control tokens, as they are spelled

    def __call__(self, prompts: list[str]) -> np.ndarray:
        encoded = self.tokenizer(
            [self._as_text(_readable(p)) for p in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=True,
        )
        return np.array(encoded["input_ids"], np.int32).reshape(len(prompts), self.length)

    def unknown(self, prompts: Iterable[str]) -> list[str]:
        """The words of prompts that the tokenizer's captions did not have, in their order.

        These are words with characters that it has no token for; and, of one that `train_tokenizer`
        made, which has every frequent word of its captions whole, words that fall into single
        letters and pairs. A released T5's has pieces for any word.
        """
        words = dict.fromkeys(word for prompt in prompts for word in _words(_readable(prompt)))
        return [word for word in words if self._is_unknown(word[:_LOOKED_AT])]

    def _is_unknown(self, word: str) -> bool:
        backend = self.tokenizer.backend_tokenizer
        encoded = backend.encode(word, add_special_tokens=False)
        if self.tokenizer.unk_token_id in encoded.ids:
            return True
        letters = [len(piece.lstrip(_BLANK)) for piece in encoded.tokens if piece != _BLANK]
        fallen = len(letters) > 1 and sum(letters) <= _FALLEN * len(letters)
        return fallen and isinstance(backend.model, models.BPE)

    def _as_text(self, prompt: str) -> str:
        """The prompt, with a blank in what the tokenizer would read as a control token.

        T5's model finds these in its vocabulary like any word, and its normalizer makes one of
        full-width letters too. Other prompts stay as they are.
        """
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        plain = normalizer.normalize_str(prompt) if normalizer else prompt
        if not self.controls.search(plain):
            return prompt
        return self.controls.sub(lambda found: f"{found[0][0]} {found[0][1:]}", plain)


def load_tokenizer(
    folder: str | Path, max_length: int | None = None, vocab: int | None = None
) -> Tokenize:
    """Loads a tokenizer folder: one of `train_tokenizer`, or of a released T5 (tokenizer.json, or
    spiece.model alone).

    Nothing is downloaded and no code of the folder is run. A prompt that spells "</s>" or
    "<extra_id_0>" is text.

    Args:
        folder: with tokenizer_config.json.
        max_length: L; None: the length in the folder's configuration.
        vocab: how many tokens the encoder knows, where that is to be held against the tokenizer's.

    Raises:
        InputError: no such folder, or not a tokenizer with padding and end tokens, or one with ids
            that the encoder does not know.
    """
    tokenizer = _load(Path(folder))
    if vocab is not None and (most := max(tokenizer.get_vocab().values()) + 1) > vocab:
        raise InputError(
            f"{folder}: its tokenizer has {most} tokens, the text encoder {vocab}; they do not"
            " belong together"
        )
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise InputError(
            f"{folder}: the tokenizer has no padding or no end-of-sequence token, as T5's has"
        )
    length = max_length if max_length is not None else tokenizer.model_max_length
    if not 2 <= length <= 4096:
        raise InputError(f"max_length = {length} for {folder}: give a length in 2..4096")
    return Tokenize(tokenizer, length, _controls(tokenizer))


def _words(text: str) -> Iterator[str]:
    """Runs of letters and digits with their marks, and signs by themselves, as emoji are."""
    word = ""
    for char in f"{text} ":
        kind = unicodedata.category(char)[0]
        if char.isalnum() or (word and kind == "M"):
            word += char
            continue
        if word:
            yield word
        word = ""
        if kind == "S" and not char.isascii():
            yield char


def _readable(prompt: str) -> str:
    """Half a surrogate pair, as a terminal's stray byte becomes in argv, is text that Rust cannot
    hold: "?" instead.
    """
    return prompt[:MAX_PROMPT].encode(errors="replace").decode()


def _controls(tokenizer: Any) -> re.Pattern:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    names = {PAD, EOS, UNK, *tokenizer.all_special_tokens, *added}
    longest = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)))


def _load(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"no tokenizer at {folder}: no such directory")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise InputError(
            f"{folder} is not a tokenizer: it has neither tokenizer.json nor spiece.model"
        )
    try:
        with (folder / "tokenizer_config.json").open() as file:
            config = json.loads(file.read(_CONFIG_CHARACTERS))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{folder} has no readable tokenizer_config.json: {e}") from e
    if not isinstance(config, dict):
        raise InputError(f"{folder}/tokenizer_config.json is not a JSON object")
    transformers = _import_transformers()
    # what AutoTokenizer makes of them too, after it has imported PyTorch where that is installed
    ours = config.get("tokenizer_class") in _WRITTEN and (folder / "tokenizer.json").is_file()
    kind = transformers.PreTrainedTokenizerFast if ours else transformers.AutoTokenizer
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    # transformers raises whatever its parsers do, even bare Exceptions from the Rust side; all of
    # it is about this folder
    except Exception as e:
        raise InputError(
            f"{folder} is not a tokenizer that transformers can load: {_explain(e)}"
        ) from e


def _explain(e: Exception) -> str:
    line = first_line(e)
    # what transformers tries last, when sentencepiece and protobuf could not read spiece.model
    if "tiktoken" in line:
        line = (
            "spiece.model is damaged, or sentencepiece and protobuf do not fit together"
            " (sentencepiece 0.2.0 and 0.2.1 do)"
        )
    return line


def _import_transformers() -> ModuleType:
    """On first use, because it takes seconds; and without its warning that PyTorch is missing, as
    is intended here.
    """
    logging.getLogger("transformers").addFilter(_not_about_torch)
    import transformers

    return transformers


def _not_about_torch(record: logging.LogRecord) -> bool:
    return "PyTorch was not found" not in record.getMessage()
