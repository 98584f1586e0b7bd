"""Test the package's metadata, its README as PyPI shows it, and the community files."""

import re

import pytest
import setup_script
import yaml

import cv3jax

ROOT = setup_script.ROOT
META = setup_script.metadata()
MARKDOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PYTHONS = ["3.11", "3.12", "3.13"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_of_the_readme_are_absolute_and_their_files_are_there():
    below = f"{META['URL']}/"
    there = {
        link.removeprefix(below).partition("#")[0].split("/", 2)[2]
        for link in LINK.findall(META["long_description"])
        if link.startswith((f"{below}blob/", f"{below}raw/"))
    }
    assert {"CONTRIBUTING.md", "docs/start/scenes.png"} <= there
    assert [name for name in sorted(there) if not (ROOT / name).exists()] == []
    links = LINK.findall(META["long_description"])
    assert [link for link in links if not re.match(r"https://|#", link)] == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("[a](docs/a.md#b)", "[a](URL/blob/main/docs/a.md#b)"),
        ("![a](docs/a.PNG)", "![a](URL/raw/main/docs/a.PNG)"),
        ("[![a](b.svg)](c)", "[![a](URL/raw/main/b.svg)](URL/blob/main/c)"),
        ("[a](#b) [c](https://d/e.png)", "[a](#b) [c](https://d/e.png)"),
    ],
)
def test_a_relative_link_becomes_one_to_the_repository(given, wanted):
    assert META["absolute"](given) == wanted.replace("URL", META["URL"])


@pytest.mark.parametrize("name", MARKDOWN)
def test_relative_links_of_the_files_beside_the_readme_are_not_dead(name):
    text = (ROOT / name).read_text()
    links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if link and not (ROOT / link).exists()]
    assert missing == []


def test_classifiers_and_workflow_name_the_same_pythons_and_the_package_is_typed():
    minor = "Programming Language :: Python :: 3."
    said = [each.rpartition(" ")[2] for each in META["classifiers"] if each.startswith(minor)]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    for job in ("test", "wheel"):
        assert workflow["jobs"][job]["strategy"]["matrix"]["python"] == PYTHONS
    assert said == PYTHONS
    assert META["python_requires"] == f">={PYTHONS[0]}"
    assert "Typing :: Typed" in META["classifiers"]
    for package in ("cv3jax", "data_pipeline"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in META["package_data"][package]


def test_every_place_says_the_same_version_and_nothing_is_said_of_serving():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert META["version"] == citation["version"] == cv3jax.__version__
    assert citation["license"] == META["license_expression"]
    assert cv3jax.__version__ in (ROOT / "CHANGELOG.md").read_text()
    assert "serv" not in META["description"]
    assert "serv" not in cv3jax.__doc__
    (paper,) = citation["references"]
    assert paper["authors"][0] == {"family-names": "Zheng", "given-names": "Wendi"}
    assert META["project_urls"]["Paper"] == paper["url"]


def test_modules_that_security_names_have_the_bounds_that_it_says():
    """SECURITY.md states the values by hand."""
    from cv3jax.sampling import inputs
    from cv3jax.serving.load import client
    from cv3jax.weights import pickle_cost, torch_file, values
    from data_pipeline.builder import blocklist
    from data_pipeline.chat import endpoint
    from data_pipeline.images import decode
    from data_pipeline.io import bounded_yaml, safetensors_header
    from data_pipeline.loading import tokenizer_checks

    text = (ROOT / "SECURITY.md").read_text()
    for said, value in (
        ("at most 64 MiB encoded", decode.MAX_IMAGE_BYTES == 64 * 2**20),
        ("64 Mi pixels", decode.MAX_PIXELS == 64 * 2**20),
        ("at most 4,096 characters", inputs.MAX_PROMPT == 4096),
        ("64 KiB a line", inputs.MAX_LINE == 64 * 2**10),
        ("a million lines", inputs.MAX_LINES == 10**6),
        ("more than 4 MiB", torch_file._PICKLE_BYTES == 4 * 2**20),
        ("more than 400,000 steps", pickle_cost.MOST_STEPS == 400_000),
        ("a tuple of more than 10,000 values", pickle_cost._MOST_VALUES == 10_000),
        ("at most 16 MiB and 32,768 tensors", safetensors_header.MOST_BYTES == 2**24),
        ("32,768 tensors", safetensors_header.MOST_TENSORS == 32_768),
        ("above 65,504", values.MOST == 65504),
        ("at most 256 MiB, and never", client.MAX_BODY == 2**28),
        ("at most 1 MiB", endpoint.MAX_BODY == 2**20),
        ("at most 256 KiB", bounded_yaml._LIMITS.bytes == 2**18),
        ("at most 64 MiB a file", tokenizer_checks._MAX_BYTES == 64 * 2**20),
        ("at most 16 MiB, and 2,000", blocklist._MAX_FILE == 16 * 2**20),
        ("2,000 characters a line", blocklist._MAX_LINE == 2000),
    ):
        assert value, said
        assert said in text
    for module, words in (
        ("cv3jax/weights/torch_file.py", "weights_only=True"),
        ("cv3jax/sampling/inputs.py", "allow_pickle=False"),
        ("data_pipeline/records/sizes.py", "allow_pickle=False"),
        ("data_pipeline/loading/tokenizer_files.py", "trust_remote_code=False"),
        ("data_pipeline/builder/report.py", "autoescape=True"),
        ("cv3jax/quickstart/report.py", "autoescape=True"),
    ):
        assert words in (ROOT / module).read_text()
        assert words in text
