"""Completion by Tab in a shell: commands, flags, recipes and installed cascades, without JAX."""

import argparse
import os
import shlex

import argcomplete

from cv3jax.cli import modules, parser_of

# the first words of commands that have two
GROUPS = {
    "data": "prepare data",
    "judge-people": "let people judge pictures",
    "lora": "read, merge and convert LoRA adapters",
}


def parser_for(line: str) -> argparse.ArgumentParser:
    """Return a parser of the whole command line, with the flags of the command in `line` alone."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:  # a quote that is still open
        words = line.split()[1:]
    root = argparse.ArgumentParser(prog="cv3jax", allow_abbrev=False)
    commands = root.add_subparsers()
    groups: dict[str, argparse._SubParsersAction] = {}
    for name, (_, summary) in modules().items():
        *group, last = name.split()
        place = commands
        if group:
            (first,) = group
            if first not in groups:
                groups[first] = commands.add_parser(first, help=GROUPS[first]).add_subparsers()
            place = groups[first]
        asked = words[: len(name.split())] == name.split()
        place.add_parser(
            last,
            help=summary,
            add_help=not asked,
            allow_abbrev=False,
            parents=[parser_of(name)] if asked else [],
        )
    return root


def complete() -> None:
    """Answer the shell, which asks by argcomplete's variables, and end this process."""
    argcomplete.autocomplete(parser_for(os.environ["COMP_LINE"]))
