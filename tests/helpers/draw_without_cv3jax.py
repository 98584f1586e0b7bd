"""Draw with folders of `cv3jax convert --to diffusers`, in a process that has no cv3jax.

    python -I draw_without_cv3jax.py JOBS.json OUT

JOBS is a list of {name, folder, call ("__call__" or "upscale"), arguments, noise, image}; noise is
an .npz, image an .npy. OUT.npz gets NAME.images and NAME.enlarged, uint8; OUT.json gets the line of
each job's ValueError, and that of importing cv3jax.
"""

import importlib
import json
import sys

import numpy as np

BLOCKED = ("cv3jax", "data_pipeline", "jax", "jaxlib", "flax")


def load(folder):
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True, low_cpu_mem_usage=False
    )


def draw(pipe, job):
    arguments = dict(job["arguments"])
    if job.get("noise"):
        with np.load(job["noise"]) as file:
            arguments["noise"] = dict(file)
    if job.get("image"):
        arguments["image"] = np.load(job["image"])
    return getattr(pipe, job["call"])(**arguments)


def main(jobs, out):
    for name in BLOCKED:
        assert name not in sys.modules
        sys.modules[name] = None  # importing it is a ModuleNotFoundError
    pipes, arrays, errors = {}, {}, {}
    try:
        importlib.import_module("cv3jax")
    except ModuleNotFoundError as e:
        errors["cv3jax"] = str(e)
    for job in jobs:
        if job["folder"] not in pipes:
            pipes[job["folder"]] = load(job["folder"])
        try:
            made = draw(pipes[job["folder"]], job)
        except ValueError as e:
            errors[job["name"]] = str(e)
            continue
        for field in ("images", "enlarged"):
            if (pictures := getattr(made, field)) is not None:
                arrays[f"{job['name']}.{field}"] = np.stack([np.asarray(one) for one in pictures])
    np.savez(f"{out}.npz", **arrays)
    with open(f"{out}.json", "w") as file:
        json.dump(errors, file)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file), sys.argv[2])
