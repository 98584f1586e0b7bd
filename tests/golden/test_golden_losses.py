"""Test losses and gradients against the released ones, and a training step from the pixels on."""

import jax
import numpy as np
from golden import ROOT, WIDER, reads
from golden_models import (
    denoiser,
    differentiable_network,
    encode,
    gradient_norms,
    text_features,
    unet,
)

from cv3jax.diffusion.losses import Objective, denoising_loss
from cv3jax.diffusion.pixels import down2, up2
from cv3jax.diffusion.schedule import make_schedule
from cv3jax.models.embeddings import guidance_embedding, size_embedding
from data_pipeline.loading.tokenizer import load_tokenizer

OFFSET = 0.05
RELAY_START = 500
SHARED = ("loss.x", "loss.lr", "loss.context", "loss.sizes6", "loss.y")


def check_loss(g, case, blur, w=None):
    """Check the loss of each sample, all gradients' norms, and two whole gradients."""
    schedule = make_schedule(blur, RELAY_START)
    denoise = denoiser(g.preset, differentiable_network)
    noise = g.nhwc(f"loss.{case}.noise")
    if g.has(f"loss.{case}.offset_randn"):
        noise = noise + OFFSET * g[f"loss.{case}.offset_randn"][:, None, None, None]
    g.check("loss.y", size_embedding(g["loss.sizes6"]))
    batch = {
        "x0": g.nhwc("loss.x"),
        "low": g.nhwc("loss.lr"),
        "cond": {"text": g["loss.context"], "vector": g["loss.y"]}
        | ({} if w is None else {"w": w}),
    }
    objective = Objective("eps", norm="l1" if case.endswith("l1") else "l2")
    t = g[f"loss.{case}.idx"] + 1

    def loss(params):
        losses = denoising_loss(objective, denoise, schedule, params, batch, t, noise)
        return losses.mean(), losses

    gradients, losses = jax.grad(loss, has_aux=True)(unet(g.preset)[1])
    tensors, norms = gradient_norms(g.preset, gradients)
    g.check(f"loss.{case}.loss", losses)
    g.check(f"loss.{case}.grad_norms", norms)
    for name in ("out.2.weight", "input_blocks.0.0.bias"):
        g.check(f"loss.{case}.grad.{name}", tensors[name])


def check_discarded(g, key, index):
    """Check that the second index of the released relay loss differs from `index`.

    The released code draws it and drops it; the losses compared here depend on `index`.
    """
    assert g[key].shape == g[index].shape
    assert not np.array_equal(g[key], g[index])


@reads("loss.{}.*", *SHARED, case=("std_l2", "std_l1", "std_offset"), slow=WIDER)
def test_base_loss(g, case):
    check_loss(g, case, "none")  # and `low` changes nothing


@reads("loss.{}.*", *SHARED, case=("relay_linear", "relay_linear_offset", "relay_exp"), slow=WIDER)
def test_relay_loss(g, case):
    check_loss(g, case, "exp" if case == "relay_exp" else "linear")
    check_discarded(g, f"loss.{case}.discarded_randint", f"loss.{case}.idx")


@reads("loss.std_scale.*", "loss.scale_emb", *SHARED, slow=WIDER)
def test_base_loss_with_w(g):
    g.check("loss.scale_emb", guidance_embedding(np.full(4, 7.5), 512))
    check_loss(g, "std_scale", "none", g["loss.scale_emb"])


@reads("loss.relay_scale.*", "loss.scale_emb", *SHARED, slow=WIDER)
def test_relay_loss_with_w(g):
    check_loss(g, "relay_scale", "linear", g["loss.scale_emb"])
    check_discarded(g, "loss.relay_scale.discarded_randint", "loss.relay_scale.idx")


@reads("train.*", slow=WIDER)
def test_training_step_from_pixels(g):
    """The released shared_step is that of a relay stage with offset noise 0.05.

    The prompts are 1 and 2; original and target size are the image's.
    """
    image = g.nhwc("train.image")
    low = encode(g.preset, up2(down2(image)), g.nhwc("train.noise_lr_encode"))
    x0 = encode(g.preset, image, g.nhwc("train.noise_encode"))
    g.check_nhwc("train.lr_latent", low)
    side = image.shape[1]
    sizes = np.tile([side, side, *g["train.crop"], side, side], (2, 1))
    tokens = load_tokenizer(ROOT / g.preset / "t5", 225)(g.meta["prompts"][1:3])
    cond = {"text": text_features(g.preset, tokens), "vector": size_embedding(sizes)}
    noise = g.nhwc("train.noise") + OFFSET * g["train.offset_randn"][:, None, None, None]
    schedule = make_schedule("linear", RELAY_START)
    losses = denoising_loss(
        Objective("eps"),
        denoiser(g.preset),
        schedule,
        unet(g.preset)[1],
        {"x0": x0, "low": low, "cond": cond},
        g["train.idx"] + 1,
        noise,
    )
    g.check("train.loss_mean", losses.mean())
    check_discarded(g, "train.discarded_randint", "train.idx")
