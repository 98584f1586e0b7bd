"""Released weights in, trained weights out. The torch layout (NCHW, [out, in]) ends here."""

SCALE = 0.13025  # latent scale of SDXL
TARGETS = ("sat", "diffusers", "safetensors")
WEIGHTS = ("ema", "params")
TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
BESIDE = ("SHA256SUMS", "config.json", *TOKENIZER_FILES)  # what is read beside a file of weights
