"""Test that containers run as a user: the image, and the pods of every manifest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
MANIFESTS = ("serve.yaml", "jobset_gpu.yaml", "jobset_tpu.yaml")


def user_of_the_image() -> int:
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    return int([line.split()[1] for line in lines if line.startswith("USER ")][-1])


def pods(value: object) -> Iterator[dict]:
    """Yield every description of a pod in a manifest."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for each in value.values():
            yield from pods(each)
    elif isinstance(value, list):
        for each in value:
            yield from pods(each)


def test_the_image_has_a_user_who_owns_the_volumes_and_nothing_is_run_after():
    text = (LAUNCH / "Dockerfile").read_text()
    user = user_of_the_image()
    assert user > 0
    assert f"useradd --uid={user} " in text
    assert "--owner=cv3jax /runs /serve" in text
    assert "RUN" not in text.partition("\nUSER ")[2]


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_run_as_the_image_s_user_without_rights(name):
    [pod] = [one for each in yaml.safe_load_all((LAUNCH / name).read_text()) for one in pods(each)]
    user = user_of_the_image()
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {user}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
