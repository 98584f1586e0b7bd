"""Write folders of tiny random pipelines, of the classes that the released baselines have."""

import json
from pathlib import Path

LENGTH = 77  # tokens
WIDTH = 8  # channels of a text encoder


def write_tokenizer(out: Path) -> None:
    """Write a CLIP tokenizer that knows letters alone."""
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 324))]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    out.mkdir(parents=True)
    (out / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (out / "merges.txt").write_text("#version: 0.2\n")
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    told |= {"bos_token": words[-2], "eos_token": words[-1], "pad_token": words[-1]}
    (out / "tokenizer_config.json").write_text(json.dumps({**told, "unk_token": words[-1]}))


def _text(out: Path, kind: str):
    """Return (a text encoder, its tokenizer)."""
    import transformers

    if not out.exists():
        write_tokenizer(out)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(out)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return getattr(transformers, kind)(config).eval(), tokenizer


def _unet(guided: bool):
    """Return the UNet of SDXL; `guided`: with an embedding of the guidance, as LCM's has."""
    import diffusers

    return diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
        norm_num_groups=1,
        time_cond_proj_dim=8 if guided else None,
    ).eval()


def write_sdxl(out: Path, seed: int = 0) -> Path:
    """Write a StableDiffusionXLPipeline whose pictures have twice the side of its latents."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    first, tokenizer = _text(out / "tokenizer", "CLIPTextModel")
    second, _ = _text(out / "tokenizer", "CLIPTextModelWithProjection")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=32,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    diffusers.StableDiffusionXLPipeline(
        vae.eval(), first, second, tokenizer, tokenizer, _unet(False), scheduler
    ).save_pretrained(out)
    return out


def write_lcm_unet(out: Path, seed: int = 1) -> Path:
    """Write the UNet of LCM-SDXL: config.json and the weights, as the hub has them."""
    import torch

    torch.manual_seed(seed)
    _unet(True).save_pretrained(out)
    return out


def write_stable_cascade(out: Path, seed: int = 2) -> Path:
    """Write `prior` and `decoder` of Stable Cascade."""
    import diffusers
    import torch
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

    torch.manual_seed(seed)
    shared = {"conditioning_dim": 8, "clip_text_pooled_in_channels": WIDTH}
    prior = diffusers.StableCascadeUNet(
        **shared,
        block_out_channels=(8, 8),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_image_in_channels=8,
        clip_text_in_channels=WIDTH,
    )
    plain = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    decoder = diffusers.StableCascadeUNet(
        **shared,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        num_attention_heads=(-1, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(plain, (*plain, "SDCascadeAttnBlock")),
        switch_level=None,
        dropout=(0.1, 0.1),
        effnet_in_channels=16,
    )
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8, levels=2)
    text, tokenizer = _text(out / "prior" / "tokenizer", "CLIPTextModelWithProjection")
    scheduler = diffusers.DDPMWuerstchenScheduler()
    diffusers.StableCascadePriorPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        prior=prior.eval(),
        scheduler=scheduler,
        resolution_multiple=42.67,
    ).save_pretrained(out / "prior")
    diffusers.StableCascadeDecoderPipeline(
        decoder=decoder.eval(),
        tokenizer=tokenizer,
        text_encoder=text,
        scheduler=scheduler,
        vqgan=vqgan.eval(),
        latent_dim_scale=10.67,
    ).save_pretrained(out / "decoder")
    index = json.loads((out / "decoder" / "model_index.json").read_text())
    index["vqgan"] = ["wuerstchen", "PaellaVQModel"]  # as the hub's folder has it
    (out / "decoder" / "model_index.json").write_text(json.dumps(index))
    return out
