"""A language model of this machine: a folder that transformers reads, or a GGUF file.

Nothing is downloaded, and no code of the folder is run.
"""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Answer, Failure, Tokens
from data_pipeline.expansion import gguf_header
from data_pipeline.expansion.model import Chat
from data_pipeline.io import extras, safetensors_header
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.progress import waiting
from data_pipeline.io.regular_files import check_regular

_KNOWN = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed")
_GREEDY = 0.05  # below this temperature the likeliest token is taken
_WEIGHTS = (".bin", ".pt", ".pth", ".msgpack", ".h5", ".onnx")
_MAX_FILE = 2**26  # bytes of a file beside the weights
_ENDS = 2**20  # bytes of a file's beginning and of its end, by which it is known again


def check_local(path: Path, settings: dict[str, Any]) -> None:
    """Raise InputError on a path or settings that `LocalModel` cannot take. Imports nothing."""
    folder = path.is_dir() and (path / "config.json").is_file()
    gguf = path.is_file() and path.suffix.lower() == ".gguf"
    if not folder and not gguf:
        raise InputError(
            f"--expand {path}: give a server's address like http://localhost:8000/v1, a folder"
            " with a model that transformers reads, or a .gguf file"
        )
    _check_files(path)
    if unknown := sorted(set(settings) - set(_KNOWN)):
        raise InputError(
            f"--expand {path}: the template sets {unknown[0]!r}, which only servers know; a local"
            f" model knows {', '.join(_KNOWN)}"
        )
    for name, low, high in (("temperature", 0, 10), ("top_p", 0, 1), ("seed", 0, 2**63 - 1)):
        value = settings.get(name, 1)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not (low <= value <= high)
        ):
            raise InputError(
                f"--expand {path}: the template's {name} is {str(value)[:40]}; give {low} to {high}"
            )
    extras.check("--expand with a local model", "torch", extra="expand-local")
    if gguf:
        extras.check("--expand with a .gguf file", "gguf", "accelerate", extra="expand-local")


class LocalModel:
    """A model that runs in this process, one question after the other.

    Its `name` is the given one, or that of its file, with a hash of its files. settings: the
    template's; `max_tokens`, `temperature` and `top_p` as servers know them. The same question
    has the same answer.
    """

    at_once = 1

    def __init__(self, path: Path, name: str | None, settings: dict[str, Any]):
        """Check the path and the settings, and hash the files; nothing is loaded yet."""
        check_local(path, settings)
        self._path, self._settings, self._model = path, settings, None
        self.where = str(path)
        self.name = f"{name or path.resolve().name} ({_hash(path)[:12]})"

    async def __aenter__(self) -> "LocalModel":
        """Return the model."""
        return self

    async def __aexit__(self, kind, value, traceback) -> None:
        """Give its memory back."""
        self._model = self._tokenizer = None

    async def answer(self, chat: Chat) -> Answer | Failure:
        """Answer. Raises InputError where the files are no model or have no chat template."""
        return await asyncio.to_thread(self._answer, chat)

    def _answer(self, chat: Chat) -> Answer | Failure:
        self.load()
        import torch

        inputs = self._encode(chat)
        count = inputs["input_ids"].shape[1]
        settings = self._settings
        most = settings.get("max_completion_tokens", settings.get("max_tokens"))
        room = getattr(self._model.config, "max_position_embeddings", None) or count + most
        if count >= room:
            return Failure(answers.REJECTED, f"the chat has {count} tokens, the model reads {room}")
        warm = settings.get("temperature", 1.0) >= _GREEDY
        how = {"do_sample": warm, "temperature": None, "top_p": None, "top_k": None}
        if warm:
            how |= {"temperature": settings.get("temperature", 1.0)}
            how |= {"top_p": settings.get("top_p", 1.0), "top_k": 0}
        said = json.dumps([chat, settings.get("seed", 0)]).encode()
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(hashlib.sha256(said).digest()[:7]))
            made = self._model.generate(**inputs, max_new_tokens=min(most, room - count), **how)
        new = made[0, count:].tolist()
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.eos_token_id}
        finish = "stop" if new and new[-1] in ends else "length"
        text = self._tokenizer.decode(new, skip_special_tokens=True)
        return answers.judge(text, finish, Tokens(count, len(new)), last=True)

    def _encode(self, chat: Chat) -> Any:
        how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        try:
            try:
                return self._tokenizer.apply_chat_template(chat, **how)
            except Exception:
                # some models' templates refuse a system message
                if chat[0]["role"] != "system":
                    raise
                first = f"{chat[0]['content']}\n\n{chat[1]['content']}"
                return self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": first}, *chat[2:]], **how
                )
        # a template is a program of the model's; it may raise anything
        except Exception as e:
            raise InputError(
                f"--expand {self._path}: its chat template fails ({first_line(e)}); give a model"
                " that was trained to answer (-Instruct, -it)"
            ) from e

    def load(self) -> None:
        """Load the model, where it is not loaded yet. Raises InputError on files that are none."""
        if self._model is None:
            with waiting(f"loading {self._path}"):
                self._load()

    def _load(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        path, how = self._path, {"local_files_only": True, "trust_remote_code": False}
        if path.is_file():
            from transformers import modeling_gguf_pytorch_utils as reader

            reader.tqdm = lambda tensors, **_: tensors  # its bar has no switch
            how |= {"gguf_file": path.name}
            path = path.parent
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(path), **how)
            self._model = AutoModelForCausalLM.from_pretrained(
                str(path), dtype="auto", **how
            ).eval()
        # the readers of transformers may raise anything; every error here is about these files
        except Exception as e:
            raise InputError(
                f"--expand {self._path} is not a model that transformers can load: {first_line(e)}"
            ) from e


def _check_files(path: Path) -> None:
    """Raise InputError where a file would keep the libraries that read it from ending."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            if file.suffix.lower() == ".gguf":
                gguf_header.check_header(file)
            elif file.suffix == ".safetensors":
                safetensors_header.check_header(file)
            elif not file.is_dir():
                check_regular(file, None if file.suffix in _WEIGHTS else _MAX_FILE)
        except (OSError, ValueError) as e:
            said = getattr(e, "strerror", None) or e
            raise InputError(f"--expand {file}: {said}; get it again") from e


def _hash(path: Path) -> str:
    """Return a hash of a model's files by their names, sizes, beginnings and ends."""
    found = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            size = file.stat().st_size
            found.update(json.dumps([file.name, size]).encode())
            with file.open("rb") as opened:
                found.update(opened.read(_ENDS))
                opened.seek(max(0, size - _ENDS), os.SEEK_SET)
                found.update(opened.read(_ENDS))
    return found.hexdigest()
