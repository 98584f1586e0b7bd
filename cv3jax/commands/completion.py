"""Completion by Tab in a shell: commands, flags, recipes and installed cascades, without JAX."""

import argparse
import os
import shlex

import argcomplete

from cv3jax.cli import modules, parser_of


def parser_for(line: str) -> argparse.ArgumentParser:
    """Return a parser of the whole command line, with the flags of the command in `line` alone."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:  # a quote that is still open
        words = line.split()[1:]
    root = argparse.ArgumentParser(prog="cv3jax", allow_abbrev=False)
    commands = root.add_subparsers()
    data = None
    for name, (_, summary) in modules().items():
        *group, last = name.split()
        if group and data is None:
            data = commands.add_parser("data", help="prepare data").add_subparsers()
        place = data if group else commands
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
