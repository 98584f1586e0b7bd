"""Test that an adapter's recipe reaches its step: fields, and what is drawn."""

import contextlib

import jax
import jax.numpy as jnp
import lora_runs
import numpy as np
import pytest
from states import named_leaves

from cv3jax import recipes
from cv3jax.lora import programs
from cv3jax.lora.parsing import parse_lora
from cv3jax.models import adapters


def recipe(*fields: str):
    return parse_lora(recipes.load("lora_base:tiny", [f"--config.{field}" for field in fields]))


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ((), 1.0),
        (("lora.rank=4", "lora.alpha=2.0"), 0.5),
        (("lora.rank=4", "lora.alpha=2.0", "lora.rslora=True"), 1.0),
        (("lora.rank=9", "lora.alpha=2.0", "lora.rslora=True"), 2 / 3),
    ],
)
def test_the_scale_is_alpha_over_the_rank_or_its_root(fields, scale):
    assert recipe(*fields).scale == pytest.approx(scale)
    shapes = {"conv_in": {"kernel": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32)}}
    made = programs.constants_of(recipe(*fields, "lora.targets=all"), shapes)
    assert made["conv_in"][adapters.SCALE] == np.float32(scale)


@pytest.mark.parametrize(
    ("targets", "there"),
    [
        ("convolutions", {"conv_in"}),
        ("attention", {"a_transformer/blocks/self_attention/q"}),
        ("conv*,*/q", {"conv_in", "a_transformer/blocks/self_attention/q"}),
        ("all", {"conv_in", "a_transformer/blocks/self_attention/q", "time_in"}),
    ],
)
@pytest.mark.parametrize("dora", [False, True])
def test_fresh_adapters_have_the_recipe_s_layers_rank_and_magnitudes(targets, there, dora):
    base = {
        "conv_in": {"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(8)},
        "time_in": {"kernel": jnp.ones((4, 8))},
        "a_transformer": {"blocks": {"self_attention": {"q": {"kernel": jnp.ones((2, 4, 8))}}}},
    }
    chosen = recipe(f"lora.targets={targets}", "lora.rank=3", f"lora.dora={dora}")
    made = named_leaves(programs.fresh(chosen, base, jax.random.key(0)))
    assert {name.rpartition("/")[0] for name in made} == there
    leaves = {name.rpartition("/")[2] for name in made}
    assert leaves == {adapters.DOWN, adapters.UP} | ({adapters.MAGNITUDE} if dora else set())
    ranks = {x.shape[-1] for name, x in made.items() if name.endswith(adapters.DOWN)}
    assert ranks == {3}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Return (stage, a function that runs a step), with a loss that shows what dropout is given.

    The metrics are the dropout's rate, and means of draws by its keys and by those of the noise.
    """
    given: list[adapters.Dropout] = []

    @contextlib.contextmanager
    def adapting(dropout=None):
        given.append(dropout)
        yield

    def hollow(stage, network, layout):
        def loss(params, frozen, batch, keys):
            def mean(keys):
                return jax.vmap(lambda key: jax.random.normal(key))(keys).mean()

            dropout = given[-1]
            metrics = {"own": mean(dropout.keys), "noise": mean(keys)}
            metrics["rate"] = jnp.float32(dropout.rate)
            return sum(
                jnp.sum(x) for x in jax.tree.leaves(params) if x.dtype != jnp.uint32
            ), metrics

        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "stage_loss", hollow)
        patch.setattr(adapters, "adapting", adapting)
        stage = lora_runs.alone(tmp_path_factory.mktemp("watched"))
        stage.compile()
    batch = stage.place(next(stage.data))

    def step(state):
        state, metrics = stage.step(state, batch)
        return state, {name: float(x) for name, x in metrics.items()}

    return stage, step


def test_dropout_has_the_recipe_s_rate_and_keys_of_its_own_at_each_step(watched):
    stage, step = watched
    state, first = step(stage.create())
    _, second = step(state)
    assert first["rate"] == 0.25
    assert len({first["own"], first["noise"], second["own"], second["noise"]}) == 4
    assert step(stage.create())[1]["own"] == first["own"]


def test_the_seed_decides_the_fresh_adapters(watched, tmp_path):
    stage, _ = watched
    ours = named_leaves(stage.create().params)
    other = lora_runs.alone(tmp_path, "seed=1")
    theirs = named_leaves(other.create().params)
    down = [name for name in ours if name.endswith(adapters.DOWN)]
    assert len(down) > 4
    for name in down:
        assert not np.array_equal(ours[name], theirs[name])
    base = named_leaves(stage._aside["base"])
    for name, x in named_leaves(other._aside["base"]).items():
        np.testing.assert_array_equal(x, base[name])
