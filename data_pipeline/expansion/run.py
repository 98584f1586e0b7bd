"""Expanding many prompts: what is kept already, the questions, the checks, and what fails."""

import asyncio
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Failure
from data_pipeline.expansion.checks import missing
from data_pipeline.expansion.model import Model
from data_pipeline.expansion.result import Expansion
from data_pipeline.expansion.settings import FLAGS, ExpandSettings
from data_pipeline.expansion.store import Store, key_of
from data_pipeline.expansion.template import Template
from data_pipeline.io import progress
from data_pipeline.io.errors import FailedRunError, InputError
from data_pipeline.loading.tokenizer import Tokenize

CORRECTIONS = 1  # how often a rejected answer is sent back with what is wrong with it
HOPELESS = 8  # the run ends after this many prompts in a row without an answer
_MACHINE = {answers.TIMEOUT, answers.SERVER, answers.LIMITED}  # failures that say nothing of input
_SILENT = {*_MACHINE, answers.UNREACHABLE}


class Expander:
    """Expands prompts for a cascade's tokenizer.

    Args:
        model: the model.
        template: what is asked.
        tokenize: the cascade's tokenizer; a text of more tokens than its length is rejected.
        stores: where expansions are looked up and kept, that of the run first. Only that one
            (`first_counts`) keeps which prompts are drawn as they are.
        fallback: give back the prompt where there is no usable expansion, instead of an error.
    """

    def __init__(
        self,
        model: Model,
        template: Template,
        tokenize: Tokenize,
        stores: Iterable[Store] = (),
        *,
        fallback: bool = False,
    ):
        """Keep the parts."""
        self.model, self.template, self.tokenize = model, template, tokenize
        self.stores, self.fallback = tuple(stores), fallback
        self.asked = 0  # prompts that the model was asked about
        self._in_a_row = 0  # prompts without an answer since the last one

    def kept(self, prompt: str) -> Expansion | None:
        """Return the expansion of a prompt that is kept and still usable, or None."""
        key = self._key(prompt)
        for place, store in enumerate(self.stores):
            if (found := store.get(key)) is None:
                continue
            # another cascade's tokenizer may have counted, and what a run drew once it draws again
            tokens = self.tokenize.count(found.text)
            if not store.first_counts and self._problem(prompt, found.text, tokens):
                continue
            found = dataclasses.replace(found, tokens=tokens)
            return self._keep(found, self.stores[:place])
        return None

    def expand(self, prompts: Iterable[str]) -> dict[str, Expansion]:
        """Return the expansion of each prompt; each is asked for once.

        Raises:
            InputError: the server, the model or an expansion is not usable; the message says why.
            FailedRunError, StoppedByServerError: the server does not answer or asks for payment.
        """
        found: dict[str, Expansion] = {}
        wanted, todo = dict.fromkeys(prompts), []
        for prompt in wanted:
            if (kept := self.kept(prompt)) is not None:
                found[prompt] = kept
            else:
                todo.append(prompt)
        if todo:
            with progress.bar(len(todo), "expand", "prompt") as bar:
                found |= asyncio.run(self._ask_all(todo, bar))
        # only now, because a later error may show that the server is gone
        for prompt in todo:
            if found[prompt].fallback:
                runs = [store for store in self.stores if store.first_counts]
                found[prompt] = self._keep(found[prompt], runs)
        return {prompt: found[prompt] for prompt in wanted}

    async def expand_one(self, prompt: str) -> Expansion:
        """Return the expansion of one prompt; the caller has entered the model.

        Raises as `expand` does. Where the model gave no usable text, the error has a note with the
        reason alone, in which nothing is of the prompt.
        """
        if (kept := self.kept(prompt)) is not None:
            return kept
        made = await self._expand(prompt)
        # a thread waits for the disk, and other prompts do not
        return made if made.fallback else await asyncio.to_thread(self._keep, made, self.stores)

    async def _ask_all(self, prompts: list[str], bar: tqdm) -> dict[str, Expansion]:
        found: dict[str, Expansion] = {}
        queue = iter(prompts)

        async def work() -> None:
            for prompt in queue:
                made = await self._expand(prompt)
                found[prompt] = made if made.fallback else self._keep(made, self.stores)
                bar.update()

        async with self.model:
            tasks = [
                asyncio.create_task(work()) for _ in range(min(self.model.at_once, len(prompts)))
            ]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def _expand(self, prompt: str) -> Expansion:
        """Ask about one prompt until its text is usable or rejected for good."""
        self.asked += 1
        chat = self.template.messages(prompt)
        for attempt in range(CORRECTIONS + 1):
            outcome = await self.model.answer(chat)
            if isinstance(outcome, Failure):
                return self._failed(prompt, outcome)
            self._in_a_row = 0
            tokens = self.tokenize.count(outcome.text)
            if not (problem := self._problem(prompt, outcome.text, tokens)):
                return self._made(prompt, outcome.text, tokens)
            if attempt < CORRECTIONS:
                chat = [*chat, *self.template.correct(outcome.text, problem)]
        return self._failed(prompt, Failure("rejected", f"the text {problem}"))

    def _problem(self, prompt: str, text: str, tokens: int) -> str:
        """Return what is wrong with a text, as "lacks …"; empty: nothing."""
        if tokens > self.tokenize.length:
            return (
                f"takes {tokens} tokens, and the text encoder reads {self.tokenize.length} of them"
            )
        if lacking := missing(prompt, text):
            return f"lacks {answers.one_line(', '.join(lacking))} of the prompt"
        return ""

    def _failed(self, prompt: str, why: Failure) -> Expansion:
        said = f"{why.reason}{f': {why.detail}' if why.detail else ''}"
        self._in_a_row = self._in_a_row + 1 if why.reason in _SILENT else 0
        lost = self._in_a_row >= HOPELESS
        if self.fallback and not lost:
            return self._made(prompt, prompt, self.tokenize.count(prompt), said)
        error = FailedRunError if why.reason in _MACHINE else InputError
        right = "--expand-fallback draws such a prompt as it is"
        if lost:
            right = f"the last {HOPELESS} prompts had no answer; run the command again later"
        if why.reason == answers.UNREACHABLE:
            right = (
                f"check that the server runs and that {self.model.where} is its address; {right}"
            )
        raised = error(
            f"--expand: no expansion of {prompt[:60]!r} by {self.model.name} ({said}); {right}"
        )
        raised.add_note(why.reason)
        raise raised

    def _made(self, prompt: str, text: str, tokens: int, fallback: str = "") -> Expansion:
        return Expansion(prompt, text, self.model.name, self.template.sha256, tokens, fallback)

    def _keep(self, expansion: Expansion, stores: Iterable[Store]) -> Expansion:
        """Keep an expansion in these stores. Returns the one that counts."""
        for store in stores:
            expansion = store.put(self._key(expansion.prompt), expansion)
        return expansion

    def _key(self, prompt: str) -> str:
        return key_of(prompt, self.model.name, self.template.sha256, self.tokenize.length)


def make_model(settings: ExpandSettings, template: Template) -> Model:
    """Return the model that the settings name; nothing is sent or loaded yet.

    Raises:
        InputError: as `ExpandSettings.check` does.
    """
    if settings.served:
        from data_pipeline.chat.endpoint import Endpoint
        from data_pipeline.expansion.served import ServedModel

        endpoint = Endpoint(
            settings.where,
            key=settings.key,
            timeout=settings.timeout,
            connections=settings.at_once,
            flags=FLAGS,
        )
        return ServedModel(
            endpoint,
            settings.model or "",
            template.settings,
            at_once=settings.at_once,
            retries=settings.retries,
            backoff=settings.backoff,
        )
    from data_pipeline.expansion.local import LocalModel

    return LocalModel(Path(settings.where), settings.model, template.settings)
