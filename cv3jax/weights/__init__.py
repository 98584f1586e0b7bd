"""Released weights in, trained weights out. The torch layout (NCHW, [out, in]) ends here."""

SCALE = 0.13025  # of SDXL's latents
TARGETS = ("sat", "diffusers", "safetensors")
WEIGHTS = ("ema", "params")
