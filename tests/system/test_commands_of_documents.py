"""Test that every command in a document, a recipe or a --help is accepted."""

import ast
import re
import shlex

import pytest
from documents import DOCUMENTS, ROOT, read

from cv3jax import cli, recipes
from data_pipeline.io.errors import InputError

BEFORE = re.compile(r"^(?:\S*/)?cv3jax$")
NOT_RUN = ("docs/decisions/",)  # they quote commands as they were on their day


def blocks(document: str) -> list[str]:
    """Return a document's blocks of shell commands, and the commands inside its sentences.

    The latter end in "…", because they may be only parts of a command.
    """
    text = read(document)
    fenced = re.findall(r"```(?:sh|bash|shell)\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [*fenced, *(f"{part} …" for part in re.findall(r"`(cv3jax [^`\n]+)`", prose))]


def commands(block: str) -> list[list[str]]:
    """Return the words that follow `cv3jax` in each line of a block, comments left out."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that the line does not close: prose
            continue
        for i, word in enumerate(words):
            if BEFORE.match(word):
                ends = [
                    j for j, other in enumerate(words[i:], i) if other in ("&&", "&", "|", ">", ";")
                ]
                found.append(words[i + 1 : ends[0] if ends else None])
    return found


def shown() -> list[tuple[str, list[str]]]:
    """Return (where, the words after `cv3jax`) of every command that users are shown."""
    places = {name: blocks(name) for name in DOCUMENTS if not name.startswith(NOT_RUN)}
    places["CONTRIBUTING.md"] = blocks("CONTRIBUTING.md")
    for path in sorted((ROOT / "configs").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        places[path.relative_to(ROOT).as_posix()] = [text]
    for name in cli.modules():
        places[f"cv3jax {name} --help"] = [cli.parser_of(name).epilog or ""]
    return [
        (place, words)
        for place, texts in places.items()
        for text in texts
        for words in commands(text)
        if words
    ]


def check(words: list[str]) -> None:
    """Raise InputError on a command that is not taken: its name, a flag, a value or a field."""
    name = " ".join(words[: 2 if " ".join(words[:2]) in cli.modules() else 1])
    if name.startswith("-") or name == "data":
        return
    if name not in cli.modules():
        raise InputError(f"no command {name}")
    given = words[len(name.split()) :]
    parser = cli.parser_of(name)
    if "…" in given or any(word.startswith("$") for word in given):
        # some of a command: which flag is meant, not all that it needs
        given = [
            "1" if re.fullmatch(r"[A-Z]|\$\w+", word) and before.startswith("--") else word
            for before, word in zip(["", *given], given, strict=False)
        ]
        # a path below a variable is one, and a recipe's variant does not change its fields
        given = [re.sub(r"^\$\w+/", "/", word) for word in given]
        given = [re.sub(r"^(--config=\w+)\$\w+$", r"\1", word) for word in given]
        given = [word for word in given if word[0] not in "…$"]
        parser._positional = None
        for group in (*parser._actions, *parser._mutually_exclusive_groups):
            group.required = False
    if {"--help", "-h"} & {*given}:
        return
    args, left = parser.parse_known_args(given)
    fields = [word for word in left if word.startswith("--config.")]
    config = getattr(args, "config", None) or (getattr(args, "name", None) if fields else None)
    if config and fields and "/" not in config and not config.isupper():
        recipes.load(config, fields, ())  # those of evaluations lack the sections of a training


def test_the_commands_are_found():
    places = [place for place, _ in shown()]
    assert places.count("README.md") > 8
    assert sum(place.startswith("docs/") for place in places) > 60
    assert sum(place.startswith("configs/") for place in places) > 10
    assert sum(place.endswith("--help") for place in places) >= len(cli.modules())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("smaple --checkpoint scenes", "no command"),
        ("sample --checkpoint scenes --promt x --out y", "--prompt"),
        ("train --config=base_256 --workdir w --config.optim.lrr=1", "optim.lr"),
        ("data pack --input a", "--out"),
    ],
)
def test_a_wrong_command_is_seen(words, said):
    with pytest.raises(InputError, match=said):
        check(words.split())


@pytest.mark.parametrize("place", sorted({place for place, _ in shown()}))
def test_the_commands_are_taken(place):
    problems = []
    for where, words in shown():
        if where == place:
            try:
                check(words)
            except InputError as e:
                problems.append(f"cv3jax {' '.join(words)}: {e}")
    assert problems == []
