"""Which prompts of a run are expanded, and for an ablation each with and without."""

from typing import NamedTuple

from cv3jax.sampling.inputs import Prompt
from cv3jax.sampling.jobs import slug
from data_pipeline.expansion.settings import ExpandSettings
from data_pipeline.expansion.template import Template


class Expanding(NamedTuple):
    """How prompts are expanded. `ablation`: each is drawn with and without."""

    settings: ExpandSettings
    template: Template
    ablation: bool = False

    def marked(self, prompts: list[Prompt], num: int, seed: int | None) -> list[Prompt]:
        """Return the prompts, those marked that are to be expanded.

        For an ablation each prompt comes twice, as it is and marked, with the same seeds: its own,
        or those that count up from `seed` through the list, `num` each; None: its own alone.
        """
        if not self.ablation:
            return [prompt._replace(expand=True) for prompt in prompts]
        pairs = []
        for number, prompt in enumerate(prompts):
            if prompt.seed is None and seed is not None:
                prompt = prompt._replace(seed=seed + number * num)
            name = (prompt.name or slug(prompt.text))[:88]
            pairs += [prompt, prompt._replace(name=f"{name}_expanded", expand=True)]
        return pairs
