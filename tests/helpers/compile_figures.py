"""List the figures that `cv3jax compile` always has, and make up those of a step."""

FIELDS = {
    "fits",
    "peak_bytes_per_chip",
    "argument_bytes_per_chip",
    "temporary_bytes_per_chip",
    "capacity_bytes",
    "usable_bytes",
    "beside_bytes_per_chip",
    "total_bytes_per_chip",
    "flops_per_step",
    "flops_per_image",
    "collectives",
    "roofline_seconds",
    "mfu_bound",
    "compile_seconds",
    "host_peak_bytes",
}


def fake_figures(**changes) -> dict:
    """Return figures as `run` would."""
    figures = {
        "step": "train",
        "topology": "v5e:16x16",
        "parameters": 10,
        "chips": 256,
        "chip": "TPU v5e",
        "mesh": {"data": 16, "fsdp": 16},
        "images": 2048,
        "microbatches": 1,
        "capacity_bytes": int(16e9),
        "usable_bytes": int(16e9),
        "beside_bytes_per_chip": 10**9,
        "total_bytes_per_chip": 13 * 10**9,
        "fits": True,
        "flops_per_step": 4 * 10**15,
        "flops_per_image": 2e12,
        "recomputed_flops_per_step": 10**15,
        "model_flops_per_step": 3 * 10**15,
        "compile_seconds": 3.0,
        "seconds": {"compiling": 3.0},
        "host_peak_bytes": 10**9,
        "memory_traffic_bytes_per_chip": 10**11,
        "arithmetic_intensity": 156.0,
        "mfu_bound": 0.6,
        "roofline_seconds": {"compute": 0.1, "memory": 0.12, "interconnect": 0.02},
        "collectives": {
            "all-gather": {
                "count": 30,
                "payload_bytes": 2**30,
                "wire_bytes": 1e9,
                "wire_bytes_by_type": {"bf16": 1e9},
                "parameter_wire_bytes": 9e8,
            }
        },
        "fsdp": {
            "gathers": 3,
            "minimum_gather_bytes": 8e8,
            "minimum_reduce_bytes": 1e8,
            "actual_bytes": 1e9,
            "ratio": 1.11,
            "activation_gather_bytes": 1e8,
        },
        "host_memory_bytes_per_chip": 0,
        "peak_bytes_per_chip": 12 * 10**9,
        **{
            f"{name}_bytes_per_chip": 3 * 10**9
            for name in ("argument", "output", "aliased", "temporary", "code")
        },
    }
    return {**figures, **changes}
