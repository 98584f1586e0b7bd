"""Test the manifests that launch/gke.py gives to Kubernetes, and their templates.

A JobSet is checked against the models of its API that Kubeflow Trainer publishes
(kubeflow-trainer-api, generated from JobSet's OpenAPI description). A field that the models do not
know is an error here, although an API server drops it silently.
"""

import runpy
from pathlib import Path

import pydantic
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from data_pipeline.io.errors import InputError

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
COMMAND = ["cv3jax", "train", "--config=base_512", '--workdir=/runs/it\'s $(HOME) "here"']
GKE = ["--name=base-512", "--image=registry/cv3jax:1"]
# the models take any string there
ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
# topology → (label, its value, hosts, chips a host), from GKE's tables
TOPOLOGIES = {
    "v5e:16x16": ("gke-tpu-accelerator", "tpu-v5-lite-podslice", 64, 4),
    "v5e:1x1": ("gke-tpu-accelerator", "tpu-v5-lite-podslice", 1, 1),
    "v5p:8x8x4": ("gke-tpu-accelerator", "tpu-v5p-slice", 64, 4),
    "v5p:2x2x1": ("gke-tpu-accelerator", "tpu-v5p-slice", 1, 4),
    "v6e:2x4": ("gke-tpu-accelerator", "tpu-v6e-slice", 2, 4),
    "h100:4x8x1": ("gke-accelerator", "nvidia-h100-80gb", 4, 8),
    "h200:2x1x8": ("gke-accelerator", "nvidia-h200-141gb", 2, 8),
    "a100:1x8x1": ("gke-accelerator", "nvidia-a100-80gb", 1, 8),
}


@pytest.fixture(scope="module")
def gke():
    return runpy.run_path(str(LAUNCH / "gke.py"))


def check(jobset: dict) -> None:
    """Raise an error if the published models refuse a manifest or would lose a part of it."""
    assert JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset
    assert {rule["action"] for rule in jobset["spec"]["failurePolicy"]["rules"]} <= ACTIONS


def printed(gke, capsys, *options, command=COMMAND):
    gke["main"]([*GKE, *options, "--", *command])
    return yaml.safe_load(capsys.readouterr().out)


def parts(jobset):
    """Return (the job, its pods' spec, their container) of the only replicated job."""
    [job] = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    return job, pod, pod["containers"][0]


@pytest.mark.parametrize("name", ["jobset_tpu.yaml", "jobset_gpu.yaml"])
def test_templates_are_jobsets_as_they_stand(name):
    made = yaml.safe_load((LAUNCH / name).read_text())
    check(made)
    container = parts(made)[2]
    # compiled programs outlive the container: they are stored on the volume
    assert cache_of(container).startswith(f"{container['volumeMounts'][0]['mountPath']}/")


def cache_of(container: dict) -> str:
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    return variables["JAX_COMPILATION_CACHE_DIR"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replicatedJobs", 0, "template", "spec", "backofLimit"), 0),
        (
            (
                "spec",
                "replicatedJobs",
                0,
                "template",
                "spec",
                "template",
                "spec",
                "containers",
                0,
                "resource",
            ),
            {},
        ),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "64"),
        (("spec", "failurePolicy", "rules", 0, "action"), "FailJob"),
        (("spec", "failurePolicy", "rules", 0, "name"), None),
    ],
)
def test_the_check_sees_what_is_wrong(path, value):
    jobset = yaml.safe_load((LAUNCH / "jobset_tpu.yaml").read_text())
    where = jobset
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    with pytest.raises((pydantic.ValidationError, AssertionError)):
        check(jobset)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gke_topologies(gke, capsys, topology):
    label, value, hosts, chips = TOPOLOGIES[topology]
    made = printed(gke, capsys, f"--topology={topology}")
    check(made)
    job, pod, container = parts(made)
    assert made["metadata"]["name"] == "base-512"
    assert pod["nodeSelector"][f"cloud.google.com/{label}"] == value
    assert (job["template"]["spec"]["parallelism"], job["template"]["spec"]["completions"]) == (
        hosts,
        hosts,
    )
    [(resource, count)] = container["resources"]["limits"].items()
    assert (resource, count) == (
        "google.com/tpu" if topology.startswith("v") else "nvidia.com/gpu",
        chips,
    )
    assert container["image"] == "registry/cv3jax:1"


def test_gke_names_slices_as_google_does(gke, capsys):
    selectors = [
        parts(printed(gke, capsys, f"--topology=v5p:{shape}"))[1]["nodeSelector"]
        for shape in ("8x8x4", "4x8x8", "1x2x2")
    ]
    assert [s["cloud.google.com/gke-tpu-topology"] for s in selectors] == [
        "4x8x8",
        "4x8x8",
        "2x2x1",
    ]


def test_gke_options(gke, capsys):
    made = printed(
        gke,
        capsys,
        "--topology=v5e:4x4",
        "--slices=3",
        "--restarts=7",
        "--volume=disk:/mnt/runs",
        "--spot",
    )
    check(made)
    job, pod, container = parts(made)
    assert job["replicas"] == 3
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "disk"
    assert container["volumeMounts"][0]["mountPath"] == "/mnt/runs"
    assert cache_of(container) == "/mnt/runs/.cache/xla"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert "cloud.google.com/gke-spot" in {toleration["key"] for toleration in pod["tolerations"]}


@pytest.mark.parametrize("volume", ["disk:/mnt/runs", "none"])
@pytest.mark.parametrize("topology", ["v5e:4x4", "h100:4x8x1"])
def test_gke_gives_each_host_a_disk_for_a_workdir_in_a_bucket(gke, capsys, topology, volume):
    command = ["cv3jax", "train", "--config=base_512", "--workdir", "gs://bucket/base"]
    made = printed(gke, capsys, f"--topology={topology}", f"--volume={volume}", command=command)
    check(made)
    _, pod, container = parts(made)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"name": "CV3JAX_STORES", "value": mounts["stores"]} in container["env"]
    assert {"name": "stores", "emptyDir": {}} in pod["volumes"]
    assert {one["name"] for one in pod["volumes"]} == mounts.keys()
    claims = [one for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert len(claims) == (volume != "none")
    # without a volume, launch/task.sh chooses the cache of compiled programs
    cache = [one for one in container["env"] if one["name"] == "JAX_COMPILATION_CACHE_DIR"]
    assert [one["value"] for one in cache] == ["/mnt/runs/.cache/xla"] * len(claims)


def test_gke_refuses_a_workdir_that_would_be_lost(gke):
    argv = [*GKE, "--topology=v5e:4x4", "--volume=none", "--", *COMMAND]
    with pytest.raises(InputError, match=r"--volume=none: --workdir /runs/.* would be lost"):
        gke["main"](argv)


@pytest.mark.parametrize("topology", ["v5e:4x4", "h100:4x8x1"])
def test_gke_mounts_a_bucket_to_be_read(gke, capsys, topology):
    made = printed(gke, capsys, f"--topology={topology}", "--bucket=photos:/data")
    check(made)
    _, pod, container = parts(made)
    template = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    mount = container["volumeMounts"][-1]
    assert mount == {"name": "bucket", "mountPath": "/data", "readOnly": True}
    volume = pod["volumes"][-1]
    assert volume["name"] == "bucket"
    assert volume["csi"]["readOnly"] is True
    attributes = volume["csi"]["volumeAttributes"]
    assert attributes["bucketName"] == "photos"
    # on the host's network, the driver would else take the node's own account
    assert attributes.get("hostNetworkPodKSA") == ("true" if pod.get("hostNetwork") else None)


@pytest.mark.parametrize("words", [["--workdir=/data/run"], ["--workdir", "/data/run"]])
def test_gke_keeps_what_is_written_off_a_bucket(gke, words):
    argv = [*GKE, "--topology=v5e:4x4", "--bucket=photos:/data", "--", "cv3jax", "train", *words]
    with pytest.raises(InputError, match=r"--workdir /data/run is on the bucket's mount"):
        gke["main"](argv)


@pytest.mark.parametrize("field", ["train.local_dir", "data.cache_dir"])
def test_gke_keeps_what_is_of_a_hosts_disk_off_a_bucket(gke, capsys, field):
    options = ["--topology=v5e:4x4", "--bucket=photos:/data"]
    for words in ([f"--config.{field}=/data/x"], [f"--config.{field}", "/ssd/../data"]):
        with pytest.raises(InputError, match=rf"--config\.{field} .* disk of the machine"):
            gke["main"]([*GKE, *options, "--", *COMMAND, *words])
    printed(gke, capsys, *options, command=[*COMMAND, f"--config.{field}=/database"])


def test_gke_processes_on_gpus_get_their_ranks(gke, capsys):
    """Kubernetes replaces $(JOBSET); JobSet names the first pod NAME-JOB-0-0.NAME."""
    job, _, container = parts(printed(gke, capsys, "--topology=h100:4x8x1"))
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["JAX_NUM_PROCESSES"]["value"] == "4"
    assert (
        variables["JAX_COORDINATOR_ADDRESS"]["value"]
        == f"$(JOBSET)-{job['name']}-0-0.$(JOBSET):8476"
    )
    # only those before are put in
    assert list(variables).index("JOBSET") < list(variables).index("JAX_COORDINATOR_ADDRESS")
    rank = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert rank == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_gke_hands_the_command_over_word_by_word(gke, capsys):
    """Kubernetes turns $$( into $(, and would replace $(HOME) by a variable."""
    container = parts(printed(gke, capsys, "--topology=v5e:4x4"))[2]
    assert container["command"] == ["/cv3jax/launch/task.sh", "--"]
    assert [word.replace("$$(", "$(") for word in container["args"]] == COMMAND
    assert "$$(HOME)" in container["args"][-1]


@pytest.mark.parametrize("name", ["jobset_tpu.yaml", "jobset_gpu.yaml"])
def test_gke_ends_for_good_at_bad_input_and_counts_no_preemption(name):
    """Kubernetes' Job fails with the message and the reason of the rule that applies.

    JobSet chooses its own rule by them.
    """
    made = yaml.safe_load((LAUNCH / name).read_text())
    job, _, container = parts(made)
    given, stopped, drained = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert (given["onExitCodes"]["values"], stopped["onExitCodes"]["values"]) == ([2], [75])
    assert {rule["onExitCodes"]["containerName"] for rule in (given, stopped)} == {
        container["name"]
    }
    assert drained["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    first, second = made["spec"]["failurePolicy"]["rules"]
    assert (first["action"], first["onJobFailureMessagePatterns"]) == (
        "FailJobSet",
        [".*exit code 2 .*"],
    )
    assert (second["action"], "onJobFailureMessagePatterns" in second) == (
        "RestartJobSetAndIgnoreMaxRestarts",
        False,
    )
    assert first["onJobFailureReasons"] == second["onJobFailureReasons"] == ["PodFailurePolicy"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--topology=v4:2x2x2"], "unknown chip 'v4'; give one of v5e"),
        (["--topology=v5e:4x4x4"], "no TPU v5e has this shape; give one of 1x1, 2x2"),
        (["--topology=h100:8"], "give GPUs as PARTITIONSxHOSTSxGPUS"),
        (["--topology=h100:1x4x8"], "a machine has 8 GPUs; give machines x GPUs x 1"),
        (["--topology=v6e:1x2"], "no TPU v6e has this shape"),
        (["--topology=v5e:3x4"], "no TPU v5e has this shape"),
        (["--topology=v5e:32x32"], "no TPU v5e has this shape"),
        (["--topology=v5e:4x0"], "no TPU v5e has this shape"),
        (["--topology=h100:4x8x1", "--slices=2"], "only TPUs have slices"),
        (["--topology=v5e:4x4", "--slices=0"], "--slices=0"),
        (["--topology=v5e:4x4", "--restarts=-1"], "--restarts=-1"),
        (["--topology=v5e:4x4", "--volume=/runs"], "CLAIM:/PATH"),
        (["--topology=v5e:4x4", "--bucket=gs://photos"], "the bucket's name without gs://"),
        (["--topology=v5e:4x4", "--name=base_512"], "lower-case letters"),
        (["--topology=v5e:4x4", f"--name={'a' * 60}"], "give at most 47"),
    ],
)
def test_gke_bad_input(gke, capsys, argv, message):
    with pytest.raises(InputError, match=message):
        gke["main"]([*GKE, *argv, "--", *COMMAND])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", [[], ["--"]])
def test_gke_without_a_command(gke, command):
    with pytest.raises(InputError, match="no command"):
        gke["main"]([*GKE, "--topology=v5e:4x4", *command])
