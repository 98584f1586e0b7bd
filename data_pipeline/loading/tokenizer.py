"""Tokenizing captions: loading any T5 tokenizer, or training a small one of the same kind."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

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

from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer_checks import refusing
from data_pipeline.loading.tokenizer_files import (
    EOS,
    PAD,
    UNK,
    Words,
    import_transformers,
    read_folder,
)

_UNREADABLE = "the tokenizer fails on a prompt; get its folder again"
_BLANK = "▁"  # the blank before a word in a piece
_LOOKED_AT = 64  # the characters of a word that are checked
_FALLEN = 1.5  # the most letters per piece in a word that no caption had
MAX_PROMPT = 8192  # characters; more would not fit into the tokens that a model reads


def train_tokenizer(
    captions: Iterable[str], out_dir: str | Path, vocab_size: int, max_length: int
) -> None:
    """Train a word-piece vocabulary on captions and save it as a `transformers` folder.

    Text is normalized by NFKC and lower case, and EOS is appended.

    The same captions give the same file, byte for byte, in any order. The model is BPE and not T5's
    Unigram: the Unigram trainer of `tokenizers` runs EM over hash maps, and its vocabulary differs
    from run to run, even on one thread.

    Args:
        captions: texts of the kind that the vocabulary is for. Characters that they lack become
            UNK.
        out_dir: the folder to write.
        vocab_size: the largest size; few captions give fewer merges.
        max_length: the default length, which the folder stores.

    Raises:
        InputError: there are no captions, or the vocabulary is too small for their characters.
    """
    captions = [c for c in captions if c.strip()]
    if not captions:
        raise InputError(
            "no captions to train a tokenizer on: every caption is empty; give records with"
            " captions"
        )
    if max_length < 2:
        raise InputError(
            f"max_length = {max_length}: give at least 2, because the end of the caption takes one"
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
    # Punctuation is separated, so that "red," does not become a second word for red.
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
            " characters; give a larger one"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, 1)]
    )
    import_transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=max_length,
    ).save_pretrained(str(out_dir))


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Prompts (N strings) → int32 [N, L], padded. Longer prompts keep their end token."""

    words: Words
    length: int
    controls: re.Pattern  # matches the control tokens as they are spelled

    def __call__(self, prompts: list[str]) -> np.ndarray:
        """Return the tokens of the prompts."""
        with refusing(_UNREADABLE):
            texts = [self._as_text(_readable(prompt)) for prompt in prompts]
            encoded = self.words.backend.encode_batch(texts)
        tokens = np.full((len(prompts), self.length), self.words.pad, np.int32)
        for row, one in zip(tokens, encoded, strict=True):
            ids = one.ids
            if len(ids) > self.length:
                end = ids[-1:] if ids[-1] == self.words.eos else []
                ids = ids[: self.length - len(end)] + end
            row[: len(ids)] = ids
        return tokens

    def count(self, prompt: str) -> int:
        """Return the number of tokens of a whole prompt, its end token included."""
        with refusing(_UNREADABLE):
            return len(self.words.backend.encode(self._as_text(_readable(prompt))).ids)

    def unknown(self, prompts: Iterable[str]) -> list[str]:
        """Return the words of prompts that the tokenizer's captions did not contain, in order.

        These are words with characters without a token. For a tokenizer of `train_tokenizer`, which
        has a token for every frequent word of its captions, they are also words that are split into
        single letters and pairs. A released T5 tokenizer has pieces for any word.
        """
        words = dict.fromkeys(word for prompt in prompts for word in _words(_readable(prompt)))
        return [word for word in words if self._is_unknown(word[:_LOOKED_AT])]

    def _is_unknown(self, word: str) -> bool:
        backend = self.words.backend
        encoded = backend.encode(word, add_special_tokens=False)
        if self.words.unk in encoded.ids:
            return True
        letters = [len(piece.lstrip(_BLANK)) for piece in encoded.tokens if piece != _BLANK]
        fallen = len(letters) > 1 and sum(letters) <= _FALLEN * len(letters)
        return fallen and isinstance(backend.model, models.BPE)

    def _as_text(self, prompt: str) -> str:
        """Return the prompt with a blank in what the tokenizer would read as a control token.

        T5's model finds these in its vocabulary like any word, and its normalizer also makes them
        from full-width letters. Other prompts do not change.
        """
        normalizer = self.words.backend.normalizer
        plain = normalizer.normalize_str(prompt) if normalizer else prompt
        if not self.controls.search(plain):
            return prompt
        return self.controls.sub(lambda found: f"{found[0][0]} {found[0][1:]}", plain)


def load_tokenizer(
    folder: str | Path, max_length: int | None = None, vocab: int | None = None
) -> Tokenize:
    """Load a tokenizer folder of `train_tokenizer` or of a released T5.

    A released one has tokenizer.json, or spiece.model alone. Nothing is downloaded, and no code of
    the folder is run. A prompt that contains "</s>" or "<extra_id_0>" is read as text.

    Args:
        folder: the folder, with tokenizer_config.json.
        max_length: L; None: the length in the folder's configuration.
        vocab: the number of tokens that the encoder knows, to be compared with the tokenizer's;
            None: not compared.

    Raises:
        InputError: there is no such folder, it is not a tokenizer with padding and end tokens, or
            it has ids that the encoder does not know.
    """
    words = read_folder(Path(folder))
    if vocab is not None and (most := max(words.backend.get_vocab().values()) + 1) > vocab:
        raise InputError(
            f"{folder}: the tokenizer has {most} tokens, but the text encoder has {vocab}; give the"
            " tokenizer that belongs to the encoder"
        )
    if words.pad is None or words.eos is None:
        raise InputError(
            f"{folder}: the tokenizer lacks a padding or an end-of-sequence token; give a T5"
            " tokenizer, which has both"
        )
    length = max_length if max_length is not None else words.length
    if not 2 <= length <= 4096:
        raise InputError(f"max_length = {length} for {folder}: give a length in 2..4096")
    return Tokenize(words, length, _controls(words.spelled))


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text: runs of letters and digits with their marks, and single symbols.

    Emoji are such symbols.
    """
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
    """Return the start of a prompt with "?" in place of half a surrogate pair.

    A terminal's stray byte becomes half a pair in argv, which Rust strings cannot hold.
    """
    return prompt[:MAX_PROMPT].encode(errors="replace").decode()


def _controls(names: Iterable[str]) -> re.Pattern:
    longest = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)))
