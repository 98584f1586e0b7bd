"""Test what `cv3jax sample --from-png` takes from a record beside what the flags say."""

from types import SimpleNamespace

import pytest

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.commands import from_png, sample
from cv3jax.sampling.expanding import Expanding
from cv3jax.sampling.inputs import LAST_SEED
from cv3jax.sampling.png_record import stage_of
from data_pipeline.expansion.result import Expansion
from data_pipeline.expansion.settings import ExpandSettings
from data_pipeline.expansion.template import load_template


def test_a_recorded_expansion_counts_unless_the_prompt_is_expanded_anew():
    expansion = Expansion("a star", "a star of six points", "small", "ab" * 32, 9)
    drawing = SimpleNamespace(expansion=expansion)
    assert from_png.known(drawing, None) == {"expansions": {0: expansion}}
    anew = Expanding(ExpandSettings("m.gguf"), load_template(), ablation=True)
    assert from_png.known(drawing, anew) == {}
    assert from_png.known(SimpleNamespace(expansion=None), None) == from_png.known(None, None) == {}


def test_the_last_seed_that_the_api_draws_is_drawn_by_the_command(tmp_path):
    argv = ["--checkpoint", "scenes", "--prompt", "a star", "--out", str(tmp_path / "b")]
    args = sample.parser().parse_args([*argv, "--seed", str(LAST_SEED), "--batch", "1"])
    sample.check_flags(args)  # it raises on what cannot be
    assert args.seed == LAST_SEED


@pytest.mark.parametrize(
    "wrong",
    [{"form": "x"}, {"form": []}, {"eta": 5}, {"eta": -0.1}, {"strength": 0.0}, {"strength": "1"}],
)
def test_a_record_of_a_sampler_that_is_none_is_refused(wrong):
    stage = {"steps": 4, "guidance": 7.5, "eta": 1.0, "form": "paper"}
    assert stage_of(stage) == stage
    with pytest.raises(ValueError, match=r"^(stage|strength)$"):
        stage_of({**stage, **wrong})


def test_a_recorded_strength_draws_again_from_where_the_relay_began():
    stage = {"steps": 10, "guidance": 1.5, "eta": 0.0, "form": "paper", "strength": 0.5}
    assert stage_of(stage) == stage
    drawing = SimpleNamespace(stages={"relay": stage})
    assert from_png.settings(drawing, "relay", SamplerSettings()) == SamplerSettings(**stage)
    given = SamplerSettings(steps=4, strength=0.25)
    wanted = SamplerSettings(**{**stage, "steps": 4, "strength": 0.25})
    assert from_png.settings(drawing, "relay", given) == wanted


def test_settings_say_what_is_not_the_stage_s_own():
    relay = cascades.read_cascade("scenes_teacher")[1].stages["relay"]
    same = SamplerSettings(steps=4, guidance=9.0, eta=0.0, form="released")
    assert SamplerSettings().unusual(relay) == same.unusual(relay) == {}
    other = SamplerSettings(eta=1.0, form="paper", strength=0.5)
    assert other.unusual(relay) == {"eta": 1.0, "form": "paper", "strength": 0.5}
