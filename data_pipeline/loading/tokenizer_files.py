"""A tokenizer's folder: reading it, and what `transformers` is needed for.

Folders of `train_tokenizer` are read by `tokenizers` alone. A released T5 needs `transformers`,
whose import takes half a second.
"""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenizers import Tokenizer

from data_pipeline.io.bounded_json import SETTINGS, ParseError, load_json, parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer_checks import (
    check_config,
    check_files,
    refusing,
    wrong_tokenizer,
)

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
# tokenizer classes in folders of train_tokenizer, with new and old versions of transformers
_WRITTEN = ("TokenizersBackend", "PreTrainedTokenizerFast")
# and all that it writes into tokenizer_config.json
_OWN = {"backend": "tokenizers", "pad_token": PAD, "eos_token": EOS, "unk_token": UNK}
_OWN_KEYS = {*_OWN, "model_max_length", "tokenizer_class"}
# files with which transformers would change what tokenizer.json says
_MORE = ("added_tokens.json", "special_tokens_map.json")


@dataclasses.dataclass(frozen=True)
class Words:
    """A tokenizer as it was read: what encodes, the ids of its control tokens, and its length.

    spelled: the control tokens as text.
    """

    backend: Tokenizer
    pad: int | None
    eos: int | None
    unk: int | None
    length: int
    spelled: frozenset[str]


def read_folder(folder: Path) -> Words:
    """Return the tokenizer of a folder. No code of it is run, and nothing is downloaded.

    Raises InputError where there is none, or it has what it may not.
    """
    if not folder.is_dir():
        raise InputError(
            f"no tokenizer at {folder}: there is no such directory; give the folder of a T5"
            " tokenizer"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise InputError(
            f"{folder} is not a tokenizer: it has neither tokenizer.json nor spiece.model; give the"
            " folder of a T5 tokenizer"
        )
    try:
        config = load_json(folder / "tokenizer_config.json", SETTINGS)
    except (OSError, ParseError) as e:
        raise InputError(
            f"{folder} has no readable tokenizer_config.json ({e}); get it again"
        ) from e
    if not isinstance(config, dict):
        raise InputError(f"{folder}/tokenizer_config.json is not a JSON object; get it again")
    if problem := check_config(config):
        raise InputError(f"{folder}/tokenizer_config.json: {problem}; get it again")
    check_files(folder)
    return (_own if _is_own(folder, config) else _foreign)(folder, config)


def _is_own(folder: Path, config: dict[str, Any]) -> bool:
    """Return whether a folder has what `train_tokenizer` writes and nothing else."""
    return (
        config.keys() == _OWN_KEYS
        and config.items() >= _OWN.items()
        and config["tokenizer_class"] in _WRITTEN
        and type(config["model_max_length"]) is int
        and (folder / "tokenizer.json").is_file()
        and not any((folder / name).exists() for name in _MORE)
    )


def _own(folder: Path, config: dict[str, Any]) -> Words:
    with refusing(f"{folder} is not a tokenizer that can be loaded"):
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    ids = (backend.token_to_id(name) for name in (PAD, EOS, UNK))
    added = (token.content for token in backend.get_added_tokens_decoder().values())
    return _words(backend, *ids, config["model_max_length"], added)


def _foreign(folder: Path, config: dict[str, Any]) -> Words:
    transformers = import_transformers()
    # AutoTokenizer would return this class too, but imports PyTorch first where that is installed
    file = folder / "tokenizer.json"
    ours = config.get("tokenizer_class") in _WRITTEN and file.is_file()
    kind = transformers.PreTrainedTokenizerFast if ours else transformers.AutoTokenizer
    with refusing(f"{folder} is not a tokenizer that can be loaded"):
        tokenizer = kind.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        # of spiece.model alone, transformers makes what tokenizer.json would hold
        made = {} if file.is_file() else parse_json(tokenizer.backend_tokenizer.to_str())
    if problem := wrong_tokenizer(made):
        raise InputError(f"{folder}: {problem}; give a T5 tokenizer")
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    added = map(str, tokenizer.added_tokens_decoder.values())
    spelled = {*tokenizer.all_special_tokens, *added}
    return _words(tokenizer.backend_tokenizer, *ids, tokenizer.model_max_length, spelled)


def _words(
    backend: Tokenizer,
    pad: int | None,
    eos: int | None,
    unk: int | None,
    length: int,
    spelled: Iterable[str],
) -> Words:
    backend.encode_special_tokens = True  # what spells a control token is text
    return Words(backend, pad, eos, unk, length, frozenset({PAD, EOS, UNK, *spelled}))


def import_transformers() -> ModuleType:
    """Import transformers without its warning that PyTorch is missing, which is intended here.

    The import takes half a second, so it happens on first use.
    """
    logging.getLogger("transformers").addFilter(_not_about_torch)
    import transformers

    return transformers


def _not_about_torch(record: logging.LogRecord) -> bool:
    return "PyTorch was not found" not in record.getMessage()
