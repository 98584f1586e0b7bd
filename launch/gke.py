r"""Print the JobSet that runs a command on GKE on the chips of `--topology`, for `kubectl apply`.

    python launch/gke.py --name=base-512 --image=IMAGE --topology=v5e:16x16 -- \
        cv3jax train --config=base_512 --workdir=/runs/base_512 | kubectl apply --filename=-

Topologies have the names of `cv3jax compile --topology`: a kind of TPU and the shape of a slice, or
a kind of GPU and machines × GPUs × 1. h100:4x8x1 and h100:4x1x8 are the same machines, each with
one process. What is printed is launch/jobset_tpu.yaml or launch/jobset_gpu.yaml with these values
filled in.
"""

import argparse
import itertools
import math
import posixpath
import re
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from cv3jax.aot.topology import parse
from cv3jax.cli import run_command
from cv3jax.distributed.chips import DOMAIN
from data_pipeline.io.errors import InputError

FOLDER = Path(__file__).parent
# GKE's names
TPUS = {"v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice"}
GPUS = {"a100": "nvidia-a100-80gb", "h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}
POD_NAME = 63  # characters
WRITTEN = ("--workdir", "--out")  # flags of what a command writes
LOCAL = ("--config.train.local_dir", "--config.data.cache_dir")  # and of each host's own disk
NONE, ADDRESSES = "none", ("gs://", "s3://")


class Topology(NamedTuple):
    """`hosts` of one slice, with `chips` each; `selector` has the labels of their nodes."""

    template: str
    resource: str
    hosts: int
    chips: int
    selector: dict[str, str]


def parse_topology(name: str) -> Topology:
    """Return the topology of a name such as v5e:16x16 or h100:4x8x1.

    Raises InputError for a name of another form, and for a slice that does not exist.
    """
    kind, sizes = parse(name)
    if kind in GPUS:
        if sizes[1] * sizes[2] > DOMAIN:
            raise InputError(
                f"--topology={name}: a machine has {DOMAIN} GPUs; give machines x GPUs x 1, as in"
                f" {kind}:4x8x1"
            )
        selector = {"cloud.google.com/gke-accelerator": GPUS[kind]}
        return Topology(
            "jobset_gpu.yaml", "nvidia.com/gpu", sizes[0], sizes[1] * sizes[2], selector
        )
    total = math.prod(sizes)
    chips = 1 if total == 1 else 4
    # GKE's order: 4x8x8, 2x2x1
    shape = "x".join(str(size) for size in sorted(sizes, key=lambda size: (size == 1, size)))
    selector = {
        "cloud.google.com/gke-tpu-accelerator": TPUS[kind],
        "cloud.google.com/gke-tpu-topology": shape,
    }
    return Topology("jobset_tpu.yaml", "google.com/tpu", total // chips, chips, selector)


def jobset(
    name: str,
    image: str,
    topology: Topology,
    slices: int,
    restarts: int,
    volume: str,
    spot: bool,
    command: list[str],
) -> dict:
    """Return the JobSet as a dict.

    Raises InputError for a name that Kubernetes would refuse, and for several slices of GPUs.
    """
    made = yaml.safe_load((FOLDER / topology.template).read_text())
    job = made["spec"]["replicatedJobs"][0]
    if slices > 1 and topology.resource != "google.com/tpu":
        raise InputError(
            f"--slices={slices}: only TPUs have slices; for GPUs, give the number of machines in"
            " --topology"
        )
    longest = f"{name}-{job['name']}-{slices - 1}-{topology.hosts - 1}-abcde"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(longest) > POD_NAME:
        most = POD_NAME - len(longest) + len(name)
        raise InputError(
            f"--name={name}: give at most {most} lower-case letters, digits and dashes, beginning"
            " with a letter"
        )
    made["metadata"]["name"] = name
    made["spec"]["failurePolicy"]["maxRestarts"] = restarts
    job["replicas"] = slices
    job["template"]["spec"].update(parallelism=topology.hosts, completions=topology.hosts)
    pod = job["template"]["spec"]["template"]["spec"]
    pod["nodeSelector"] = dict(topology.selector)
    if spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"].append(
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            }
        )
    [container] = pod["containers"]
    container.update(image=image, args=[escaped(argument) for argument in command])
    container["resources"]["limits"] = {topology.resource: topology.chips}
    for variable in container.get("env", []):
        if variable["name"] == "JAX_NUM_PROCESSES":
            variable["value"] = str(topology.hosts)
    if volume == NONE:
        without_volume(pod, command)
        return made
    claim, _, path = volume.partition(":")
    if not claim or not path.startswith("/"):
        raise InputError(
            f"--volume={volume}: give CLAIM:/PATH, the name of a PersistentVolumeClaim and where it"
            f" is mounted, or {NONE}"
        )
    container["volumeMounts"][0]["mountPath"] = path
    for variable in container["env"]:
        if (
            variable["name"] == "JAX_COMPILATION_CACHE_DIR"
        ):  # a container's own would be lost with it
            variable["value"] = f"{path.rstrip('/')}/.cache/xla"
    pod["volumes"][0]["persistentVolumeClaim"]["claimName"] = claim
    return made


def without_volume(pod: dict, command: list[str]) -> None:
    """Take the volume that all hosts share out of a JobSet's pods: all that stays is in buckets.

    Raises InputError where the command would write to a path, which would be lost with its pod.
    """
    for flag, value in _given(command):
        if flag in WRITTEN and not value.startswith(ADDRESSES):
            raise InputError(
                f"--volume={NONE}: {flag} {value} would be lost with its pod; give {flag} gs://… or"
                " s3://…, or a --volume"
            )
    [container], first = pod["containers"], pod["volumes"].pop(0)["name"]
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] != first]
    container["volumeMounts"] = mounts
    # launch/task.sh keeps compiled programs beside the workdir
    others = [one for one in container["env"] if one["name"] != "JAX_COMPILATION_CACHE_DIR"]
    container["env"] = others


def mount_bucket(made: dict, given: str, command: list[str]) -> None:
    """Add a bucket of GCS to a JobSet's pods, as a read-only mount of Cloud Storage FUSE.

    given: BUCKET:/PATH. Raises InputError where the command would write below that path, which
    takes what such a mount has not: renaming, links and locks.
    """
    bucket, _, path = given.partition(":")
    if not re.fullmatch(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", bucket) or not path.startswith("/"):
        raise InputError(
            f"--bucket={given}: give BUCKET:/PATH, the bucket's name without gs:// and where it is"
            " mounted"
        )
    inside = path.rstrip("/") + "/"
    for flag, value in _given(command):
        if flag in (*WRITTEN, *LOCAL) and f"{posixpath.normpath(value)}/".startswith(inside):
            right = (
                "a path on a disk of the machine"
                if flag in LOCAL
                else f"{flag} gs://{bucket}/…, or a path on --volume"
            )
            raise InputError(
                f"--bucket={given}: {flag} {value} is on the bucket's mount, which can only be"
                f" read; give {right}"
            )
    pods = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    pods["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}
    pod = pods["spec"]
    attributes = {"bucketName": bucket, "mountOptions": "implicit-dirs"}
    if pod.get("hostNetwork"):
        attributes["hostNetworkPodKSA"] = "true"
    driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}
    pod["volumes"].append({"name": "bucket", "csi": {**driver, "volumeAttributes": attributes}})
    pod["containers"][0]["volumeMounts"].append(
        {"name": "bucket", "mountPath": path, "readOnly": True}
    )


def _given(command: list[str]) -> list[tuple[str, str]]:
    """Return (flag, value) of a command's flags, in both ways to write them."""
    joined = [word.partition("=")[::2] for word in command if re.match("--.*=", word)]
    return [*joined, *itertools.pairwise(command)]


def escaped(argument: str) -> str:
    """Return an argument with $(X) written as $$(X), which Kubernetes does not expand."""
    return argument.replace("$(", "$$(")


def main(argv: list[str] | None = None) -> None:
    """Print the JobSet. Raises SystemExit(2) on flags that do not fit."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python launch/gke.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=(
            "python launch/gke.py --name=NAME --image=IMAGE --topology=TOPOLOGY [OPTION...] --"
            " COMMAND..."
        ),
    )
    parser.add_argument("--name", required=True, help="name of the JobSet")
    parser.add_argument(
        "--image", required=True, help="container image with cv3jax, built from launch/Dockerfile"
    )
    parser.add_argument(
        "--topology",
        required=True,
        help="the devices, such as v5e:16x16, v5p:8x8x4, v6e:16x16, h100:4x8x1",
    )
    parser.add_argument("--slices", type=int, default=1, help="number of TPU slices (default: 1)")
    parser.add_argument(
        "--restarts",
        type=int,
        default=3,
        help="restarts after failures; preemptions do not count (default: 3)",
    )
    parser.add_argument(
        "--volume",
        default="runs:/runs",
        help=(
            "CLAIM:/PATH, a volume that all hosts can write to (default: runs:/runs), or none where"
            " all that the command writes is in buckets"
        ),
    )
    parser.add_argument(
        "--bucket",
        help=(
            "BUCKET:/PATH, a bucket of GCS that is mounted there to be read, by Cloud Storage FUSE"
        ),
    )
    parser.add_argument("--spot", action="store_true", help="run on spot nodes")
    split = argv.index("--") if "--" in argv else len(argv)
    args, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not command:
        raise InputError(
            "no command; give it after --, as in -- cv3jax train --config=base_512"
            " --workdir=/runs/base_512"
        )
    for flag in ("slices", "restarts"):
        if getattr(args, flag) < (flag == "slices"):
            raise InputError(
                f"--{flag}={getattr(args, flag)}: must be at least {int(flag == 'slices')}"
            )
    made = jobset(
        args.name,
        args.image,
        parse_topology(args.topology),
        args.slices,
        args.restarts,
        args.volume,
        args.spot,
        command,
    )
    if args.bucket:
        mount_bucket(made, args.bucket, command)
    print("---\n" + yaml.safe_dump(made, sort_keys=False, width=1000), end="")


if __name__ == "__main__":
    run_command(main)
