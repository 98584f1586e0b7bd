"""Test launch/serve.yaml: its objects against Kubernetes' published models, and that they fit.

Kubeflow Trainer publishes the models (kubeflow-trainer-api), without that of a Deployment. Of that,
the pods' template is checked, and the few fields around it here.
"""

import copy
from pathlib import Path

import pydantic
import pytest
import yaml
from kubeflow_trainer_api.models.io_k8s_api_core_v1_persistent_volume_claim import (
    IoK8sApiCoreV1PersistentVolumeClaim as Claim,
)
from kubeflow_trainer_api.models.io_k8s_api_core_v1_pod_spec import IoK8sApiCoreV1PodSpec as Pod
from kubeflow_trainer_api.models.io_k8s_api_core_v1_service import IoK8sApiCoreV1Service as Service

from cv3jax.commands import serve, serve_flags
from cv3jax.serving.http.keys import VARIABLE

LAUNCH = Path(__file__).parents[2] / "launch"


def objects() -> dict[str, dict]:
    """Return the manifest's objects by kind."""
    made = list(yaml.safe_load_all((LAUNCH / "serve.yaml").read_text()))
    return {one["kind"]: one for one in made}


def check(made: dict[str, dict]) -> None:
    """Raise an error if the models refuse an object or would lose a part of it."""
    assert made.keys() == {"PersistentVolumeClaim", "Deployment", "Service"}
    for model, one in (
        (Claim, made["PersistentVolumeClaim"]),
        (Service, made["Service"]),
        (Pod, made["Deployment"]["spec"]["template"]["spec"]),
    ):
        assert model.from_dict(one).to_dict() == one
    around = made["Deployment"]
    assert (around["apiVersion"], around.keys()) == (
        "apps/v1",
        {"apiVersion", "kind", "metadata", "spec"},
    )
    assert around["spec"].keys() == {"replicas", "strategy", "selector", "template"}
    labels = around["spec"]["template"]["metadata"]["labels"]
    assert around["spec"]["selector"] == {"matchLabels": labels}
    assert made["Service"]["spec"]["selector"] == labels


def parts() -> tuple[dict, dict]:
    """Return (the pods' spec, their container)."""
    pod = objects()["Deployment"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def test_the_objects_are_what_kubernetes_takes():
    check(objects())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("Service", "spec", "port"), []),
        (("Service", "spec", "ports", 0, "port"), "http"),
        (("PersistentVolumeClaim", "spec", "accessMode"), []),
        (("Deployment", "spec", "template", "spec", "terminationGracePeriod"), 3),
        (
            ("Deployment", "spec", "template", "spec", "containers", 0, "startupProbe", "path"),
            "/",
        ),
        (("Deployment", "spec", "template", "metadata", "labels", "app"), "other"),
    ],
)
def test_the_check_sees_what_is_wrong(path, value):
    made = copy.deepcopy(objects())
    where = made
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    with pytest.raises((pydantic.ValidationError, AssertionError)):
        check(made)


def test_the_command_is_one_that_serve_takes():
    pod, container = parts()
    assert container["command"] == ["cv3jax", "serve"]
    args = serve.parser().parse_args(container["args"])
    serve_flags.check_flags(args)
    # the pod's other addresses are not loopback, and its keys are in the environment
    assert args.host == "0.0.0.0"
    variables = {one["name"]: one for one in container["env"]}
    secret = variables[VARIABLE]["valueFrom"]["secretKeyRef"]
    text = (LAUNCH / "serve.yaml").read_text()
    assert f"create secret generic {secret['name']} --from-file={secret['key']}=" in text
    assert pod["terminationGracePeriodSeconds"] > args.drain + 10


def test_what_has_to_outlive_a_pod_is_on_its_volume():
    pod, container = parts()
    args = serve.parser().parse_args(container["args"])
    variables = {one["name"]: one.get("value") for one in container["env"]}
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    volumes = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"]}
    for path in (str(args.workdir), variables["JAX_COMPILATION_CACHE_DIR"]):
        [mount] = [one for place, one in mounts.items() if path.startswith(f"{place}/")]
        assert volumes[mount["name"]] == objects()["PersistentVolumeClaim"]["metadata"]["name"]
        assert not mount.get("readOnly")
    # two pods cannot hold one journal, so the old one ends before the new one begins
    spec = objects()["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_probes_and_service_reach_the_server():
    _, container = parts()
    [port] = container["ports"]
    args = serve.parser().parse_args(container["args"])
    assert port["containerPort"] == args.port
    paths = {}
    for kind in ("startup", "liveness", "readiness"):
        asked = container[f"{kind}Probe"]["httpGet"]
        assert asked["port"] == port["name"]
        paths[kind] = asked["path"]
    # a server that drains or has a full disk is not ready, and is not restarted for it
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    [service] = objects()["Service"]["spec"]["ports"]
    assert service["targetPort"] == port["name"]


def test_the_image_has_what_serving_needs():
    text = (LAUNCH / "Dockerfile").read_text()
    install = next(line for line in text.splitlines() if line.startswith("RUN pip"))
    assert "serve" in install.partition("[")[2].partition("]")[0].split(",")
    assert f"EXPOSE {parts()[1]['ports'][0]['containerPort']}" in text.splitlines()
