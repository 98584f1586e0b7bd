"""Released weights in, trained weights out. The torch layout (NCHW, [out, in]) ends here."""

SCALE = 0.13025  # latent scale of SDXL
TARGETS = ("sat", "diffusers", "safetensors")
WEIGHTS = ("ema", "params")
