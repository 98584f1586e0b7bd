"""From a request's values to what is drawn: sizes, seeds and settings of each stage.

A plan is what the journal keeps of a job. It has all that its pictures depend on.
"""

import dataclasses
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cv3jax.cascade.limits import most_steps, untrained
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import FACTORS, Size
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.sampling.inputs import LAST_SEED
from cv3jax.serving.http.fields import written
from cv3jax.serving.orders import Choice, Order
from cv3jax.web.errors import ApiError, wrong
from data_pipeline.expansion.result import Expansion
from data_pipeline.io.arguments import nearest
from data_pipeline.loading.tokenizer import Tokenize

Chain = tuple[Size, ...]
GENERATION, EDIT = "generation", "edit"


@dataclasses.dataclass(frozen=True)
class Model:
    """The cascade that is served.

    name: by which clients name it. fingerprint: the hash of its parts. drawn_by: that of the parts
    that draw, by the names of the stages that do. created: seconds since the epoch. tile: side in
    pixels of the tiles in which larger pictures are drawn, or 0. loras: adapters that requests may
    name, as `png_record.LORA` without weights.
    """

    name: str
    description: CascadeDescription
    tokenize: Tokenize
    fingerprint: str
    drawn_by: Mapping[tuple[str, ...], str]
    created: int = 0
    tile: int = 0
    loras: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job draws: `n` pictures of one prompt, with seeds that count up from `seed`."""

    kind: str  # GENERATION or EDIT
    prompt: str
    n: int
    seed: int
    sizes: Chain  # of the engine: from the base's picture, or the padded given one, to the last
    stages: dict[str, Choice]  # of each stage that draws
    fingerprint: str  # of the model
    output_format: str = "png"
    compression: int | None = None
    response_format: str = "b64_json"
    partial_images: int = 0
    previews: bool = False  # whether each step shows what it predicts
    expansion: Expansion | None = None
    identifier: str | None = None  # of the client's user
    inner: Size | None = None  # of a given picture without what it was padded with
    colour_fix: str = "wavelet"
    # adapters as `png_record.LORA` has them, each with its name
    loras: tuple[Mapping[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The text that is drawn."""
        return self.prompt if self.expansion is None else self.expansion.text

    @property
    def size(self) -> Size:
        """The size of the pictures that the client gets."""
        last = self.sizes[-1]
        if self.inner is None:
            return last
        return self.inner.times(last.height // self.sizes[0].height)

    @property
    def passes(self) -> int:
        """The number of relay passes."""
        return len(self.sizes) - 1

    def orders(self, job: str, image: np.ndarray | None = None) -> list[Order]:
        """Return the order of each picture of a job; `image` is the padded picture of an edit."""
        still = Choice(1, 1.0)  # of a stage that does not draw
        base, relay = (self.stages.get(name, still) for name in ("base", "relay"))
        return [
            Order(
                f"{job}.{number}",
                self.text,
                self.seed + number,
                self.sizes,
                base,
                relay,
                image,
                self.previews,
                tuple((one["name"], one["weight"]) for one in self.loras),
            )
            for number in range(self.n)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        value["stages"] = {name: dataclasses.asdict(one) for name, one in self.stages.items()}
        value["expansion"] = None if self.expansion is None else self.expansion.to_json()
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Plan":
        """Return the plan that `to_json` wrote."""
        expansion, inner = value["expansion"], value["inner"]
        value = {**value, "loras": tuple(value.get("loras", ()))}  # earlier journals have none
        return cls(
            **{
                **value,
                "sizes": tuple(Size(*sides) for sides in value["sizes"]),
                "stages": {name: Choice(**one) for name, one in value["stages"].items()},
                "expansion": None if expansion is None else Expansion.from_json(expansion),
                "inner": None if inner is None else Size(*inner),
            }
        )


def plan_generation(
    values: Mapping[str, Any], model: Model, chains: list[Chain], *, previews: bool = False
) -> Plan:
    """Return what a request to draw asks for, of the compiled sizes `chains`.

    Raises ApiError on a size that was not compiled, and on settings that a stage cannot have.
    """
    _check_model(values, model)
    size = values["size"]
    found = [chain for chain in chains if size in (None, chain[-1])]
    if not found:
        listed = ", ".join(dict.fromkeys(written(chain[-1]) for chain in chains))
        raise wrong("size", f"size {written(size)}: this server draws {listed} (width first)")
    stages = ("base", "relay") if len(found[0]) > 1 else ("base",)
    return _plan(GENERATION, values, model, found[0], stages, previews)


def plan_edit(
    values: Mapping[str, Any], model: Model, chains: list[Chain], given: Size, previews: bool
) -> Plan:
    """Return what a request to enlarge a picture of the size `given` asks for.

    The picture is padded to the smallest compiled size that holds it. Raises ApiError on a picture
    or a size for which nothing was compiled, and on settings that the relay cannot have.
    """
    _check_model(values, model)
    if "relay" not in model.description.stages or not edit_chains(chains):
        raise ApiError(
            400, "this checkpoint has no relay, which enlarges pictures", code="no_relay"
        )
    factor = _factor(values["size"], given)
    possible = [chain for chain in edit_chains(chains) if len(chain) - 1 == factor.bit_length() - 1]
    found = [c for c in possible if c[0].height >= given.height and c[0].width >= given.width]
    if not found:
        most = ", ".join(written(chain[0]) for chain in possible) or "none"
        raise wrong(
            "image",
            f"image of {written(given)}: to enlarge {factor} times this server takes pictures that"
            f" fit into {most} (width first)",
        )
    chain = min(found, key=lambda one: one[0].height * one[0].width)
    made = _plan(EDIT, values, model, chain, ("relay",), previews)
    return dataclasses.replace(made, inner=given, colour_fix=values["colour_fix"])


def edit_chains(chains: Iterable[Chain]) -> list[Chain]:
    """Return the sizes from each picture that the compiled relays can enlarge to each result."""
    found = {
        chain[start:end]
        for chain in chains
        for start in range(len(chain))
        for end in range(start + 2, len(chain) + 1)
    }
    return sorted(found, key=lambda chain: (chain[0].height * chain[0].width, len(chain)))


def _factor(size: Size | None, given: Size) -> int:
    """Return how many times a picture is enlarged; twice for the size "auto"."""
    if size is None:
        return 2
    factor = max(size.height // given.height, 1)
    if factor not in FACTORS or given.times(factor) != size:
        listed = ", ".join(written(given.times(one)) for one in FACTORS)
        raise wrong(
            "size",
            f"size {written(size)}: a picture of {written(given)} becomes {listed} (width first)",
        )
    return factor


def _plan(
    kind: str,
    values: Mapping[str, Any],
    model: Model,
    chain: Chain,
    stages: tuple[str, ...],
    previews: bool,
) -> Plan:
    check_tokens(values["prompt"], model)
    n, partial = values["n"], values.get("partial_images", 0)
    return Plan(
        kind,
        values["prompt"],
        n,
        secrets.randbelow(LAST_SEED + 2 - n) if values["seed"] is None else values["seed"],
        chain,
        {name: _choice(name, values, model) for name in stages},
        model.fingerprint,
        values["output_format"],
        values["output_compression"],
        values["response_format"],
        partial,
        previews or partial > 0,
        identifier=values["safety_identifier"] or values["user"],
        loras=_loras(values["loras"], model, stages),
    )


def _loras(
    asked: Iterable[tuple[str, float]], model: Model, stages: tuple[str, ...]
) -> tuple[Mapping[str, Any], ...]:
    """Return the adapters of a request. Raises ApiError on those that the server does not have."""
    made: list[Mapping[str, Any]] = []
    for name, weight in asked:
        if name not in model.loras:
            close = nearest(name, model.loras)
            listed = ", ".join(model.loras) or "none; cv3jax serve --lora-dir gives some"
            listed = f"{close}, which is the nearest of {listed}" if close else listed
            raise wrong("loras", f"loras {name[:60]!r}: this server has {listed}")
        if (stage := model.loras[name]["stage"]) not in stages:
            raise wrong("loras", f"loras {name!r} is for the {stage}, which does not draw this")
        own = (stage, model.loras[name]["sha256"])
        if weight and (same := [one for one in made if (one["stage"], one["sha256"]) == own]):
            raise wrong(
                "loras",
                f"loras {name!r} and {same[0]['name']!r} are the same adapter; give one of them,"
                " with the sum of the weights",
            )
        if weight:  # one of weight 0 changes nothing
            made.append({"name": name, **model.loras[name], "weight": weight})
    return tuple(made)


def _choice(name: str, values: Mapping[str, Any], model: Model) -> Choice:
    """Return how a stage samples. Raises ApiError on what it was not trained for."""
    at, stage = ("base", "relay").index(name), model.description.stages[name]
    asked = {field: values[field][at] for field in ("steps", "guidance", "eta")}
    strength = values.get("strength", 1.0) if name == "relay" else 1.0
    chosen = SamplerSettings(**asked, strength=strength).of(stage)
    if problem := untrained(name, stage, chosen.steps, chosen.guidance, strength):
        blamed = next((p for p in ("strength", "steps", "guidance") if problem.startswith(p)), None)
        raise wrong(blamed or "steps", problem)
    if chosen.steps > (most := most_steps(stage)):
        raise wrong(
            "steps",
            f"{chosen.steps} steps for the {name} stage, which starts at t = {most}: give 1..{most}"
            " steps",
        )
    return Choice(chosen.steps, float(chosen.guidance), float(chosen.eta), strength)


def _check_model(values: Mapping[str, Any], model: Model) -> None:
    if values["model"] not in (None, model.name):
        raise ApiError(
            404,
            f"model {values['model'][:60]!r} is not served here; leave it out or give"
            f" {model.name!r}",
            code="model_not_found",
            param="model",
        )


def check_tokens(text: str, model: Model) -> int:
    """Return the number of tokens of a text. Raises ApiError on more than the encoder reads."""
    count = model.tokenize.count(text)
    if count > model.tokenize.length:
        raise ApiError(
            400,
            f"prompt: it takes {count} tokens, and the text encoder reads {model.tokenize.length}"
            " of them; shorten it, so that none of it is left out",
            code="prompt_too_long",
            param="prompt",
        )
    return count
