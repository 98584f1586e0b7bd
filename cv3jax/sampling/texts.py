"""Prompts that a language model writes out before they are drawn.

A run over a file of prompts keeps its expansions in `expansions/` of its directory, one small file
each. All its processes and all its continuations draw the same texts, also where the model would
answer otherwise by now, and nothing is asked twice.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cv3jax.sampling.expanding import Expanding
from cv3jax.sampling.jobs import Jobs
from data_pipeline.expansion.result import Expansion
from data_pipeline.expansion.run import Expander, make_model
from data_pipeline.expansion.store import Store
from data_pipeline.io.errors import counted
from data_pipeline.io.progress import say
from data_pipeline.loading.tokenizer import Tokenize

FOLDER = "expansions"
SHOWN = 8  # expansions that are printed


class Texts:
    """The texts of a run's prompts.

    tokenize: the cascade's tokenizer, which counts tokens. run: the directory of a run over a file
    of prompts, or None.
    """

    def __init__(self, expanding: Expanding, tokenize: Tokenize, run: Path | None):
        """Make the model and the stores; nothing is asked yet."""
        self._expanding = expanding
        settings, template = expanding.settings, expanding.template
        stores = [Store(run / FOLDER, first_counts=True)] if run else []
        stores += [Store(settings.cache)] if settings.cache else []
        self._expander = Expander(
            make_model(settings, template),
            template,
            tokenize,
            stores,
            fallback=settings.fallback,
        )

    def plan(self) -> dict[str, Any]:
        """Return what decides a run's texts, for its plan."""
        return {
            "model": self._expander.model.name,
            "template_sha256": self._expanding.template.sha256,
            "fallback": self._expanding.settings.fallback,
            "ablation": self._expanding.ablation,
        }

    def expand(self, jobs: Jobs, rows: Iterable[int]) -> Jobs:
        """Return the jobs with expansions for the pictures `rows`; says on stderr what was done.

        Raises:
            InputError: an expansion is not usable, or the model is not.
            FailedRunError, StoppedByServerError: the server does not answer.
        """
        wanted = {number for row in rows if jobs.prompts[number := row // jobs.num].expand}
        found = self._expander.expand(jobs.prompts[number].text for number in sorted(wanted))
        say_expanded(list(found.values()), self._expander)
        return jobs.expanded({number: found[jobs.prompts[number].text] for number in wanted})

    def kept(self, jobs: Jobs) -> Jobs:
        """Return the jobs with all expansions that are kept."""
        found = {
            number: kept
            for number, prompt in enumerate(jobs.prompts)
            if prompt.expand and (kept := self._expander.kept(prompt.text)) is not None
        }
        return jobs.expanded(found)


def say_expanded(expansions: list[Expansion], expander: Expander) -> None:
    """Print how many prompts were expanded, the first texts, and each that is drawn as it is."""
    if not expansions:
        return
    plain = [each for each in expansions if each.fallback]
    made = len(expansions) - len(plain)
    kept = len(expansions) - expander.asked
    count = f"{counted(made, 'prompt')} expanded by {expander.model.name}"
    lines = [f"{count}{f', {kept:,} of them kept from before' if kept else ''}"] if made else []
    if made <= SHOWN:
        lines += [f"{e.prompt[:60]!r} is drawn as {e.text!r}" for e in expansions if not e.fallback]
    lines += [f"{e.prompt[:60]!r} is drawn as it is ({e.fallback})" for e in plain[:SHOWN]]
    if len(plain) > SHOWN:
        lines.append(f"and so are {counted(len(plain) - SHOWN, 'more prompt')}")
    for line in lines:
        say(f"cv3jax: {line}")
