"""A cascade in memory: its parts, its jitted stage samplers, and the pipeline that joins them."""
