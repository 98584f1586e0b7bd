"""A cascade in memory: its parts, its jitted stage samplers, and the pipeline that joins them."""

# how the low frequencies of an enlarged picture become those of the picture itself
COLOUR_FIXES = ("wavelet", "adain", "none")
