"""`cv3jax sample --prompts`: the pictures of a whole file, on many devices, by many processes, over
many interruptions.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax

from cv3jax import checkpoint, sample_jobs, stopping
from cv3jax.cascade import check_trained, load, relay_passes
from cv3jax.sample_batches import batch_width, choose_mesh, draw
from cv3jax.sample_inputs import LAST_SEED, read_prompts
from cv3jax.sample_jobs import FORMAT, INDEX, PLAN, Jobs, Part
from data_pipeline.io.errors import InputError

ENDS = "ends after this batch; the same command goes on"


def sample_many(
    source: Path,
    prompts_file: Path,
    out: Path,
    *,
    num: int,
    seed: int,
    size: int | None,
    base: dict,
    relay: dict,
    batch: int,
    mesh: str | None,
    attention: str,
    part: Part,
) -> dict:
    """Make this part of the pictures of `prompts_file` in `out` with the checkpoint `source`, but
    those that are there. Returns figures.

    base and relay: {"steps", "guidance"} that replace the checkpoint's. SIGTERM ends it after a
    batch, without an error.

    Raises:
        InputError: the file, the checkpoint or the mesh does not do, or `out` holds what another
            plan made.
        StoppedError: Ctrl-C came; the batch that was being made is saved.
        OSError: something could not be written; the same command goes on.
    """
    prompts, found = read_prompts(prompts_file, num)
    jobs = Jobs(prompts, num, seed)
    if seed + len(jobs) - 1 > LAST_SEED:
        raise InputError(
            f"--seed {seed}: {len(jobs):,} pictures count up past {LAST_SEED}; give a smaller one"
        )
    _, description = checkpoint.read_cascade(source)
    require(source, description, "base")
    passes = relay_passes(description, size)
    stages = {"base": base, "relay": relay} if passes else {"base": base}
    check_trained(description, **stages)
    side = description["stages"]["base"]["image_size"] << passes
    parts = ("vae", "t5", *stages)
    plan = {
        "format": FORMAT,
        "prompts": {"lines": len(prompts), "sha256": found},
        "num": num,
        "seed": seed,
        "size": side,
        "checkpoint": sample_jobs.digest(source, parts),
    }
    for name, settings in stages.items():
        plan[name] = {
            key: settings.get(key, description["stages"][name][key])
            for key in ("steps", "guidance")
        }
    sample_jobs.check(out, plan, jobs)
    share = -(-len(jobs) // part.count)
    devices = choose_mesh(mesh, share)
    width = batch_width(batch, devices, share)
    with sample_jobs.holding(out, part) as place:
        sample_jobs.check(out, plan, jobs)  # again, for one that began meanwhile
        todo = sample_jobs.missing(
            jobs, [i for i in range(len(jobs)) if i // width % part.count == part.index], out, side
        )
        made = 0
        if todo:
            cascade = load(source, parts, devices, attention)
            sample_jobs.write(
                place, out / PLAN, iter([json.dumps(plan, indent=2, sort_keys=True) + "\n"])
            )
            with stopping.noticing(ends=ENDS) as noticed:
                options = {"size": side, "base": base, "relay": relay}
                made = sample_jobs.make(
                    jobs,
                    todo,
                    width,
                    lambda some: draw(cascade, some, width, **options),
                    out,
                    place,
                    noticed,
                )
                stop = noticed()
        figures = {
            "pictures": len(jobs),
            "part": list(part),
            "made": made,
            "left": len(todo) - made,
            "index": None,
        }
        if figures["left"]:
            said = (
                f"{figures['left']} of {len(jobs)} pictures are left; run the same command to"
                " continue"
            )
            if stop == signal.SIGINT:
                raise stopping.StoppedError(stop, said)
        elif lacking := sample_jobs.index(jobs, out, place, side):
            said = (
                f"part {part.index} of {part.count} is done; of {len(jobs)} pictures {lacking} are"
                " left to the others"
            )
        else:
            figures["index"] = str(out / INDEX)
            said = f"all {len(jobs)} pictures are in {out}, their prompts and seeds in {INDEX}"
    print(f"{made} pictures made; {said}", file=sys.stderr)
    print(json.dumps(figures))
    return figures


def require(source: Path, description: dict, first: str) -> None:
    """Raise InputError unless the checkpoint has what sampling takes, beginning with the stage
    `first`.
    """
    stages = description["stages"]
    has = [name for name in ("vae", "t5") if name in description] + sorted(stages)
    if needed := [
        name
        for name, there in (
            (f"{first} stage", first in stages),
            *((n, n in has) for n in ("t5", "vae")),
        )
        if not there
    ]:
        raise InputError(
            f"--checkpoint {source} has no {needed[0]} to start from, only {', '.join(has)}"
        )


def which_part(process_id: int | None = None, num_processes: int | None = None) -> Part:
    """Which part is this process's: as given, else as Slurm's step or JAX_PROCESS_ID and
    JAX_NUM_PROCESSES say, else as JAX knows.

    Processes that sample do not talk to each other, so nobody coordinates them.

    Raises:
        InputError: one of the two numbers is missing, or they make no sense.
    """
    names, values = ("--process_id", "--num_processes"), (process_id, num_processes)
    if values == (None, None):
        names = ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
        # not in a script outside srun
        if "SLURM_STEP_NUM_TASKS" in os.environ and not any(name in os.environ for name in names):
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
            # more than one a node: a GPU each
            if os.environ.get("SLURM_STEP_NUM_NODES") != os.environ["SLURM_STEP_NUM_TASKS"]:
                jax.config.update(
                    "jax_cuda_visible_devices", os.environ.get("SLURM_LOCALID", "all")
                )
        values = tuple(os.environ.get(name) for name in names)
        if values == (None, None):
            return Part(jax.process_index(), jax.process_count())
    try:
        part = Part(*map(int, values))
    except (TypeError, ValueError):
        part = Part(-1, 0)
    if not 0 <= part.index < part.count:
        said = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        raise InputError(f"{said}: give both, the first from 0 to one less than the second")
    return part
