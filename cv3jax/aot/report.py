"""Write the figures of `cv3jax compile` as a page of text."""


def text(f: dict) -> str:
    """Return the report of figures, which are those of `aot.run.run` with "config" added."""
    mesh = (
        " × ".join(f"{axis} {size}" for axis, size in f["mesh"].items() if size > 1) or "one chip"
    )
    batches = "1 microbatch" if f["microbatches"] == 1 else f"{f['microbatches']} microbatches"
    again = (
        f", {f['recomputed_flops_per_step'] / f['flops_per_step']:.0%} of it recomputed"
        if f["recomputed_flops_per_step"]
        else ""
    )
    rows = [
        (
            f"{f['config']}, {f['step']}",
            (
                f"{f['topology']}: {f['chips']} × {f['chip']}, {mesh}; {f['images']:,} images"
                f"{drawn(f)} in {batches}"
            ),
        ),
        ("parameters", f"{f['parameters']:,}"),
        ("memory per chip", memory(f)),
        (
            "FLOPs",
            f"{si(f['flops_per_step'])}FLOP per step, {si(f['flops_per_image'])}FLOP per"
            f" image{again}",
        ),
    ]
    if f["collectives"] is not None:
        rows += moved(f)
        rows += [
            (
                "memory traffic",
                (
                    f"{si(f['memory_traffic_bytes_per_chip'])}B per chip and step,"
                    f" {f['arithmetic_intensity']:.0f} FLOP per byte"
                ),
            ),
            (
                "roofline",
                ", ".join(
                    f"{name} {seconds * 1e3:,.1f} ms"
                    for name, seconds in f["roofline_seconds"].items()
                ),
            ),
            ("bound on MFU", f"{f['mfu_bound']:.0%}"),
        ]
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in f["seconds"].items())
    host = f"at most {f['host_peak_bytes'] / 1e9:.1f} GB of this machine's memory"
    rows.append(("compiled in", f"{f['compile_seconds']:.0f} s ({phases}), {host}"))
    if "estimate" in f:
        rows.append(("estimate", estimate(f["estimate"])))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


def drawn(f: dict) -> str:
    """Return of what size the pictures are, and in what tiles, where the flags say so."""
    size = " of {}×{}".format(*f["size"]) if "size" in f else ""
    return size + (f" in tiles of {f['tile']} pixels" if "tile" in f else "")


def memory(f: dict) -> str:
    """Return the line on memory: what a chip holds while the program runs, and whether it fits."""
    peak, beside, usable, capacity = (
        gb(f[name])
        for name in (
            "peak_bytes_per_chip",
            "beside_bytes_per_chip",
            "usable_bytes",
            "capacity_bytes",
        )
    )
    if usable != capacity:
        share = f"{f['usable_bytes'] / f['capacity_bytes']:.0%}"
        usable = f"{usable} ({share} of {capacity}, which JAX takes)"
    of = f"of {usable}: {'fits' if f['fits'] else 'DOES NOT FIT'}"
    if f["beside_bytes_per_chip"]:
        parts = ", ".join(f"{name} {gb(size)}" for name, size in f.get("beside", {}).items())
        shown = f" ({parts})" if parts else ""
        of = f"+ {beside} held beside it{shown} = {gb(f['total_bytes_per_chip'])} {of}"
    if f["output_bytes_per_chip"] is None:
        arguments = gb(f["argument_bytes_per_chip"])
        return f"the compiler ran out of memory: it needs {peak} ({arguments} of it arguments) {of}"
    parts = [
        gb(f[f"{name}_bytes_per_chip"])
        for name in ("argument", "output", "aliased", "temporary", "code")
    ]
    words = "arguments {} + outputs {} - aliased {} + temporaries {} + code {}".format(*parts)
    host = f["host_memory_bytes_per_chip"]
    return f"{words} = {peak} {of}" + (f"; {gb(host)} of the host's memory" if host else "")


def moved(f: dict) -> list[tuple[str, str]]:
    """Return (name, text) for each kind of collective, in bytes on the wire per chip."""
    rows = []
    for kind, row in f["collectives"].items():
        types = ", ".join(f"{name} {gb(size)}" for name, size in row["wire_bytes_by_type"].items())
        ours = f", of parameters {gb(row['parameter_wire_bytes'])}" if kind == "all-gather" else ""
        rows.append(
            (
                kind,
                (
                    f"{row['count']:,} ×, {gb(row['wire_bytes'])} on the wire per chip"
                    f" ({types}{ours})"
                ),
            )
        )
    if not rows:
        rows.append(("collectives", "none"))
    if f["fsdp"] and f["fsdp"]["ratio"] is not None:
        least = f["fsdp"]["minimum_gather_bytes"] + f["fsdp"]["minimum_reduce_bytes"]
        reduced = ", each gradient reduced once in f32" if f["fsdp"]["minimum_reduce_bytes"] else ""
        rows.append(
            (
                "over FSDP's minimum",
                (
                    f"{f['fsdp']['ratio']:.2f} × {gb(least)} (each parameter gathered"
                    f" {f['fsdp']['gathers']} × per microbatch in bf16{reduced}); gathers of"
                    f" activations {gb(f['fsdp']['activation_gather_bytes'])}"
                ),
            )
        )
    return rows


def estimate(e: dict) -> str:
    """Return the line on the chip-hours of a whole run."""
    roof = (
        ""
        if e["chip_hours_at_roofline"] is None
        else f"{e['chip_hours_at_roofline']:,.0f} chip-hours at the roofline, "
    )
    return (
        f"{e['steps']:,} steps: {roof}{e['chip_hours_at_mfu']:,.0f} at {e['mfu']:.0%} MFU"
        f" ({e['days_at_mfu']:,.1f} days); estimated for the steps alone, not measured"
    )


def gb(size: float) -> str:
    """Return bytes in decimal units (GB, MB), in which memory and links are sold."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 or not size else f"{size / 1e6:.2f} MB"


def si(value: float) -> str:
    """Return a number with its SI prefix: 1.23e15 gives `1.23 P`."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "
