"""`cv3jax convert`: import released weights, export trained weights."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv3jax.checkpoints.description import (
    CascadeDescription,
    Distilled,
    StageDescription,
    TextDescription,
    VaeDescription,
)
from cv3jax.checkpoints.description_checks import misfit
from cv3jax.checkpoints.writing import checkpoint_path
from cv3jax.weights import SCALE
from cv3jax.weights.digests import compare_all
from cv3jax.weights.exporting import export, open_source
from cv3jax.weights.importing import (
    Part,
    import_t5,
    import_unet,
    import_vae,
    write,
)
from cv3jax.weights.release_yaml import Official, read_official
from data_pipeline.io.arguments import pair
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.places import public
from data_pipeline.io.progress import say, waiting
from data_pipeline.loading.tokenizer import load_tokenizer

# a stage's settings, which its weights do not show
SETTINGS = ("image_size", "steps", "start", "guidance", "prediction")


def convert_out(args: argparse.Namespace) -> dict:
    """Export, and print what was written."""
    source = open_source(
        args.checkpoint, args.weights or "ema", args.parts.split(",") if args.parts else None
    )
    with waiting(f"writing {public(args.out)}"):
        lines = export(source, args.to, args.out)
    for line in lines:
        say(line)
    return {"written": lines}


def convert_in(args: argparse.Namespace) -> dict:
    """Import, and print what was recognised and which settings it got."""
    checkpoint_path(args.out, "--out")
    sources = {name: getattr(args, name) for name in ("base", "relay", "unet", "vae", "t5")}
    sources = {name: path for name, path in sources.items() if path}
    compared = compare_all(sources, args.tokenizer, args.sha256)
    for line in compared:
        say(line)
    official = [read_official(path) for path in args.config]
    for one in official:
        for flaw in one.flaws:
            say(f"{one.path.name}: {flaw}")
    unets, dtype = stages_of(args, official), args.dtype or "float32"
    parts: dict[str, Part] = {}
    for name, (flag, path) in unets.items():
        own = next((one for one in official if one.kind == name), None)
        parts[name] = say_part(
            name,
            import_unet(path, flag, head_channels=args.head_channels, official=own, dtype=dtype),
        )
    if args.vae:
        parts["vae"] = say_part("vae", import_vae(args.vae, "--vae"))
    if args.t5:
        parts["t5"] = say_part("t5", import_t5(args.t5, "--t5", dtype=dtype))
    description, words = describe(args, parts, official)
    for line in words:
        say(line)
    tokenizer = None
    if args.t5:
        tokenizer = args.tokenizer or (args.t5 if args.t5.is_dir() else args.t5.parent)
        # it raises on a tokenizer that does not fit
        load_tokenizer(tokenizer, description.t5.length, description.t5.model["vocab"])
    values = write(args.out, parts, description, tokenizer)
    for line in [*values, *next_step(public(args.out), parts)]:
        say(line)
    recognised = {name: part.words for name, part in parts.items()}
    return {"recognised": recognised, "settings": words, "sha256": compared, "values": values}


def next_step(out: str, parts: Mapping[str, Part]) -> list[str]:
    """Return what to do with a checkpoint of encoders alone, as lines; [] with a UNet."""
    if parts.keys() >= {"vae", "t5"} and len(parts) == 2:
        return [
            f"{out} has the encoders of a stage; train one on them: cv3jax train --config=base_256"
            f" --workdir WORKDIR --config.data.path=DATA --config.cascade={shlex.quote(out)}"
        ]
    if not parts.keys() - {"vae", "t5"}:
        (missing,) = {"vae", "t5"} - parts.keys()
        return [f"{out} has no {missing}: to train a stage, give --vae and --t5 in one command"]
    return []


def stages_of(args: argparse.Namespace, official: list[Official]) -> dict[str, tuple[str, Path]]:
    """Return {stage: (flag, file)} of the UNets.

    Raises InputError where flags or configurations contradict each other.
    """
    kinds = [one.kind for one in official]
    if len(set(kinds)) < len(kinds):
        raise InputError(
            f"--config was given {kinds.count(kinds[0])} times for the {kinds[0]} stage; give one"
            " per stage"
        )
    unets = {
        name: (f"--{name}", getattr(args, name))
        for name in ("base", "relay")
        if getattr(args, name)
    }
    if args.unet:
        if unets or len(official) > 1:
            raise InputError(
                "--unet is for one UNet alone; give --base and --relay for two, each with its"
                " --config"
            )
        kind = kinds[0] if kinds else "relay" if args.relay_start else "base"
        unets = {kind: ("--unet", args.unet)}
    if args.relay_start is not None and "relay" not in unets:
        raise InputError(
            f"--relay-start {args.relay_start}: there is no relay to convert; give --relay or"
            " --unet, or leave --relay-start out"
        )
    if unused := [one for one in official if unets and one.kind not in unets]:
        raise InputError(
            f"--config {unused[0].path} describes a {unused[0].kind}, but --{unused[0].kind} is not"
            " given; give it, or leave this --config out"
        )
    return unets


def describe(
    args: argparse.Namespace, parts: dict[str, Part], official: list[Official]
) -> tuple[CascadeDescription, list[str]]:
    """Return (the description for cascade.json, a line per part on its settings).

    The settings are those that no tensor shows; a line says where each is from.
    """
    steps, guidance = (
        pair(args.steps, "steps", int, 1, 1000),
        pair(args.guidance, "guidance", float, 0.0, 100.0),
    )
    by_kind = {one.kind: one for one in official}
    vae = text = None
    stages: dict[str, StageDescription] = {}
    words = []
    if "vae" in parts:
        saved = parts["vae"].more.get("scale")
        scales = {one.scale for one in official if one.scale} | ({saved} if saved else set())
        if len(scales) > 1:
            raise InputError(
                "the configurations have different latent scales:"
                f" {', '.join(map(str, sorted(scales)))}; give the right one as --latent-scale"
            )
        file = "its config.json" if saved else "--config"
        scale, why = choose(
            args.latent_scale, saved or next(iter(scales), None), SCALE, file, "--latent-scale"
        )
        if not 0 < scale < 100:
            raise InputError(f"--latent-scale {scale}: must be between 0 and 100")
        vae = VaeDescription(parts["vae"].model, scale)
        words.append(f"vae: latents times {scale} ({why})")
    if "t5" in parts:
        said = next((one.length for one in official if one.length), None)
        length, why = choose(args.text_length, said, 225, "--config", "--text-length")
        text = TextDescription(parts["t5"].model, length)
        words.append(f"t5: {length} tokens ({why})")
    factor = 2 ** (len(parts["vae"].model["channel_mult"]) - 1) if "vae" in parts else 8
    for name in (name for name in ("base", "relay") if name in parts):
        side = 2 * stages["base"].image_size if "base" in stages else 512 * (1 + (name == "relay"))
        given = steps[name == "relay"] | guidance[name == "relay"]
        stage, line = describe_stage(
            args, name, parts[name], by_kind.get(name), given, side, factor
        )
        stages[name] = stage
        words.append(line)
        if "t5" in parts and parts["t5"].model["channels"] != stage.text_width:
            raise InputError(
                f"the {name} reads text features of width {stage.text_width}, but --t5 makes"
                f" features of width {parts['t5'].model['channels']}; give the text encoder that"
                " belongs to it"
            )
        if "vae" in parts and parts["vae"].model["z_channels"] != parts[name].model["out_channels"]:
            z = parts["vae"].model["z_channels"]
            raise InputError(
                f"the {name} has latents of {parts[name].model['out_channels']} channels, but --vae"
                f" has {z}; give the autoencoder that belongs to it"
            )
    sizes = {name: stage.image_size for name, stage in stages.items()}
    if len(sizes) == 2 and sizes["relay"] != 2 * sizes["base"]:
        raise InputError(
            f"the relay makes {sizes['relay']} pixels per side from the base's {sizes['base']}, but"
            " a relay doubles the side; give --image-size"
        )
    description = CascadeDescription(vae, text, stages)
    if problem := misfit(description.to_json()):
        raise InputError(f"these weights make no cascade that can be read: {problem}")
    return description, words


def describe_stage(
    args: argparse.Namespace,
    name: str,
    part: Part,
    official: Official | None,
    given: dict,
    side: int,
    factor: int,
) -> tuple[StageDescription, str]:
    """Return (a stage's entry in cascade.json, the line on its settings).

    given: steps and guidance of flags. side: the default image size.
    """
    relay, distilled = name == "relay", bool(part.model["w_dim"])
    file = official.path.name if official else ""
    flags = {
        "image_size": args.image_size and args.image_size * (1 + relay),
        "steps": given.get("steps"),
        "start": args.relay_start if relay else None,
        "guidance": given.get("guidance"),
        "prediction": args.prediction,
    }
    defaults = {
        "image_size": side,
        "steps": (1 if relay else 4) if distilled else 12 if relay else 50,
        "start": 500 if relay else 1000,
        "guidance": 7.5,
        "prediction": "eps",
    }
    values, reasons = {}, []
    for field in SETTINGS:
        said = getattr(official, field) if official else None
        flag = "--relay-start" if field == "start" else f"--{field.replace('_', '-')}"
        values[field], why = choose(flags[field], said, defaults[field], file, flag)
        if relay or field != "start":
            label = "w" if field == "guidance" and distilled else field.replace("_", " ")
            reasons.append(f"{label} {values[field]} ({why})")
    if not 1 <= values["start"] <= 1000 or values["steps"] > values["start"]:
        raise InputError(
            f"the {name} has {values['steps']} steps from t = {values['start']}: both must be"
            " 1..1000, and there cannot be more steps than t"
        )
    if (
        values["image_size"] % (multiple := factor * 2 ** (len(part.model["channel_mult"]) - 1))
        or values["image_size"] < multiple
    ):
        raise InputError(
            f"--image-size: the {name}'s pictures have {values['image_size']} pixels per side; give"
            f" a multiple of {multiple}"
        )
    if relay and distilled and args.relay_start is None and not official:
        reasons.append(
            "it is distilled, and the released 1-step relay starts at 200: give --relay-start 200"
        )
    stage = StageDescription(
        kind=name,
        model=part.model,
        text_width=part.more["text_width"],
        factor=factor,
        eta=0.0,
        form="released",
        blur="linear" if relay else "none",
        # its files show the steps it was distilled to, but not the range of w
        distilled=Distilled(values["steps"], None) if distilled else None,
        **values,
    )
    return stage, f"{name}: {', '.join(reasons)}"


def choose(given: Any, said: Any, default: Any, file: str, flag: str) -> tuple[Any, str]:
    """Return (the value of the flag, else of the file, else the default; which of them it is)."""
    return (
        (given, flag)
        if given is not None
        else (said, file)
        if said is not None
        else (default, "default")
    )


def say_part(name: str, part: Part) -> Part:
    """Say what was recognised. Returns the part."""
    say(f"{name}: {'; '.join(part.words)}")
    return part
