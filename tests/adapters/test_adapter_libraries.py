"""Test adapters with the libraries themselves: ours compute the same there, theirs here.

diffusers and PEFT load our files onto our UNet, and train adapters of their own.
"""

import adapted_torch
import adapters
import pytest

from cv3jax.adapters import formats
from cv3jax.adapters.naming import of_diffusers

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
loaders = pytest.importorskip("diffusers.loaders")
KINDS = {"plain": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}


@pytest.fixture(scope="module")
def params():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, several wait for each other
    yield adapted_torch.params()
    torch.set_num_threads(threads)


def test_without_an_adapter_both_compute_the_same(params):
    ours = adapted_torch.our_output(params)
    theirs = adapted_torch.their_output(adapted_torch.torch_unet(params))
    assert adapted_torch.off(ours, theirs) < 1e-5
    changed = adapted_torch.our_output(params, adapters.adapter())
    assert adapted_torch.off(changed, theirs) > 0.1


def with_diffusers(unet, at):
    unet.load_lora_adapter(at, weight_name="a.safetensors", prefix="unet")
    return unet


def with_peft(unet, at):
    return peft.PeftModel.from_pretrained(unet, at / "peft").eval()


def with_kohya(unet, at):
    """Load as diffusers' pipelines of SDXL do."""
    mixin = loaders.StableDiffusionXLLoraLoaderMixin
    state, alphas, metadata = mixin.lora_state_dict(
        at / "a.safetensors", unet_config=unet.config, return_lora_metadata=True
    )
    mixin.load_lora_into_unet(state, network_alphas=alphas, unet=unet, metadata=metadata)
    return unet


WAYS = {"diffusers": with_diffusers, "peft": with_peft, "kohya": with_kohya}


# of kohya's files diffusers leaves DoRA's scales out, and of differing alphas those of attention
@pytest.mark.parametrize(
    ("way", "kind"),
    [*((way, kind) for way in list(WAYS)[:2] for kind in KINDS), ("kohya", "plain")],
)
def test_our_file_computes_the_same_there(way, kind, params, tmp_path):
    ours = adapters.adapter(**KINDS[kind])
    if way == "kohya":
        ours = adapters.with_alpha(ours, 2.0)
    place = tmp_path / ("peft" if way == "peft" else "a.safetensors")
    formats.write(place, ours, way)
    unet = WAYS[way](adapted_torch.torch_unet(params), tmp_path)
    theirs = adapted_torch.their_output(unet)
    assert adapted_torch.off(adapted_torch.our_output(params, ours), theirs) < 1e-4
    assert adapted_torch.off(adapted_torch.our_output(params), theirs) > 1e-2


TARGETS = ["to_q", "to_v", "ff.net.0.proj", "conv1", "time_emb_proj", "time_embedding.linear_1"]
CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 8},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"conv1": 2, "attn1.to_q": 6},
        "alpha_pattern": {"to_v": 1, "time_embedding.linear_1": 3},
    },
    "rslora": {"r": 4, "lora_alpha": 2, "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 3, "use_dora": True},
}


def trained(unet):
    """Train the adapter of a UNet for ten steps towards a picture of ones."""
    given = {name: torch.from_numpy(value) for name, value in adapted_torch.inputs().items()}
    own = [one for one in unet.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(own, lr=3e-2)
    for _ in range(10):
        loss = ((adapted_torch.call(unet, given) - 1) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return unet.eval()


def by_diffusers(unet, config, at):
    unet.add_adapter(config)
    trained(unet).save_lora_adapter(at)


def by_pipeline(unet, config, at):
    """Save as diffusers' training scripts do."""
    unet.add_adapter(config)
    layers = peft.get_peft_model_state_dict(trained(unet))
    loaders.StableDiffusionXLLoraLoaderMixin.save_lora_weights(
        at,
        unet_lora_layers=layers,
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )


def by_peft(unet, config, at):
    trained(peft.get_peft_model(unet, config)).save_pretrained(at)


MAKERS = {"diffusers": by_diffusers, "pipeline": by_pipeline, "peft": by_peft}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("maker", MAKERS)
def test_what_they_trained_computes_the_same_here(maker, kind, params, tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=TARGETS, **CONFIGS[kind])
    unet = adapted_torch.torch_unet(params)
    before = adapted_torch.their_output(unet)
    MAKERS[maker](unet, config, tmp_path / "theirs")
    after = adapted_torch.their_output(unet)
    read = adapted_torch.read(tmp_path / "theirs")
    if kind == "patterns":
        assert {layer.rank for layer in read.layers.values()} == {2, 4, 6}
        assert {layer.alpha for layer in read.layers.values()} == {1, 3, 8}
    theirs = of_diffusers(adapters.SIZES_OF)
    assert len(read.layers) == sum(name.endswith(tuple(TARGETS)) for name in theirs.values())
    assert adapted_torch.off(before, after) > 1e-2
    assert adapted_torch.off(adapted_torch.our_output(params, read), after) < 1e-4
