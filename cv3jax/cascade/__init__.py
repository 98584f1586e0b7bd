"""A cascade in memory: its parts, its jitted stage samplers, and the pipeline of them."""
