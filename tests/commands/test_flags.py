"""Test the flags of all commands: spelling, one name for one meaning, and --help."""

import argparse
import itertools
import re

import pytest

from cv3jax import cli
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError

# what flags of other names would say as well; each has its one name
SYNONYMS = {
    "--input": ("--data", "--dataset", "--source", "--src", "--in"),
    "--out": ("--output", "--outdir", "--dest", "--target", "--save"),
    "--checkpoint": ("--cascade", "--model-dir", "--ckpt"),
    "--threads": ("--workers", "--jobs"),
    "--num": ("--count", "--number"),
    "--json": ("--figures", "--report"),
    "--workdir": ("--run", "--run-dir"),
}
# one name, and two things: a number a stage; PyTorch's configuration beside its weights
# a scene is a square; encode's names a file; a choice of trained weights
OTHERWISE = {("convert", "--config"), ("convert", "--weights"), ("data scenes", "--size")}


@pytest.fixture(scope="module")
def parsers() -> dict[str, Parser]:
    return {name: cli.parser_of(name) for name in cli.modules()}


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def test_every_command_is_in_one_group_and_the_overview(parsers):
    assert sorted(itertools.chain.from_iterable(cli.GROUPS.values())) == sorted(parsers)
    overview = cli.usage()
    for name in parsers:
        assert re.search(rf"^  {name} +\w.{{20,80}}$", overview, re.MULTILINE), name
    first, _, rest = overview.partition("Draw:")
    assert "cv3jax sample --checkpoint scenes" in first
    assert "register-python-argcomplete cv3jax" in rest


def test_flags_have_dashes_and_help(parsers):
    flags = {
        (name, flag): action
        for name, parser in parsers.items()
        for action in shown(parser)
        for flag in action.option_strings or [action.dest]
    }
    assert len(flags) > 100
    wrong = [where for where in flags if "_" in where[1] or where[1] != where[1].lower()]
    assert wrong == []
    assert [where for where, action in flags.items() if len(action.help or "") < 8] == []


def test_a_meaning_has_one_name(parsers):
    taken = {name: {*parser._option_string_actions} for name, parser in parsers.items()}
    for right, others in SYNONYMS.items():
        assert any(right in flags for flags in taken.values()), right
        assert {name for name, flags in taken.items() if flags & {*others}} == set(), right


def test_a_name_has_one_meaning(parsers):
    """A flag has one type and number of values in all commands, with one listed exception."""
    kinds: dict[str, dict[tuple, list[str]]] = {}
    for name, parser in parsers.items():
        for action in shown(parser):
            for flag in action.option_strings:
                if (name, flag) not in OTHERWISE:
                    kind = (action.type, action.nargs, type(action))
                    kinds.setdefault(flag, {}).setdefault(kind, []).append(name)
    # a build's may be patterns, and some may be in a store; encode hands its places to the recipe;
    # a plan may be of several
    loose = {"--input", "--out", "--checkpoint", "--workdir", "--topology"}
    assert {flag for flag, by_kind in kinds.items() if len(by_kind) > 1} <= loose


def test_every_command_has_an_example_that_its_parser_takes(parsers):
    for name, parser in parsers.items():
        text = parser.format_help()
        example = text.partition("\nexample:\n")[2]
        assert example.strip().startswith(f"cv3jax {name} "), name
        (line,) = re.findall(rf"^  cv3jax {name} ((?:.*\\\n)*.*)$", example, re.MULTILINE)[:1]
        flags = re.findall(r"(?<!\S)--[^\s=]+", line)
        unknown = [
            flag
            for flag in flags
            if flag not in parser._option_string_actions and not parser._others(flag)
        ]
        assert flags, name
        assert unknown == [], name


def test_every_command_writes_its_figures(parsers):
    without = [name for name, each in parsers.items() if "--json" not in each.format_help()]
    assert without == []


def test_old_names_are_of_flags_that_are_there(parsers):
    old = {(name, was): now for name, each in parsers.items() for was, now in each.old.items()}
    assert {("data encode", "--cascade"), ("data build", "--output")} <= old.keys()
    for (name, was), now in old.items():
        assert now in parsers[name]._option_string_actions
        assert was not in parsers[name]._option_string_actions


def made(**options) -> Parser:
    parser = Parser(prog="cv3jax x", old={"--output": "--out"}, **options)
    parser.add_argument("--out", action="append", help="where")
    parser.add_argument("--num-parts", type=int, help="how many")
    return parser


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--out a --num-parts 3", ""),
        ("--out=a --num_parts=3", ""),
        ("--output a --num-parts 3", "--output is called --out now; the old name still works"),
        ("--output=a --output=a --num_parts 3", "--output is called --out now"),
    ],
)
def test_underscores_and_old_names_are_taken(argv, said, capsys):
    args = made().parse_args(argv.split())
    assert ({*args.out}, args.num_parts) == ({"a"}, 3)
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == bool(said)  # once


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--oot a", "unknown flag --oot: did you mean --out? See cv3jax x --help"),
        ("--outputs a", "unknown flag --outputs: did you mean --out? See"),
        ("--num_part 3", "unknown flag --num_part: did you mean --num-parts? See"),
        ("--zzz", "unknown flag --zzz; see cv3jax x --help"),
        ("--num 3", "unknown flag --num"),  # nothing is abbreviated
        ("--out a b", "unknown argument b; see"),
        ("--out a -q", "unknown argument -q; see"),
        ("--out", "argument --out: expected one argument; see cv3jax x --help"),
        ("--num-parts x", "argument --num-parts: invalid int value: 'x'; see"),
    ],
)
def test_a_wrong_flag_names_the_nearest(argv, said):
    with pytest.raises(InputError) as e:
        made().parse_args(argv.split())
    assert str(e.value).startswith(said)


def test_flags_of_others_are_left_to_them():
    parser = made(others=lambda flag: flag.startswith("--config."))
    args, left = parser.parse_known_args(["--out", "a", "--config.a_b=3", "--config.c_d=--out"])
    assert (args.out, left) == (["a"], ["--config.a_b=3", "--config.c_d=--out"])
    with pytest.raises(InputError, match=r"unknown argument 3: write --config\.a=3; see"):
        parser.parse_known_args(["--config.a", "3"])
    parser = made(others={"--runner"}.__contains__, apart=True)
    assert parser.parse_known_args(["--runner", "Flink"])[1] == ["--runner", "Flink"]
    with pytest.raises(InputError, match="unknown argument Spark"):
        parser.parse_known_args(["--runner", "Flink", "Spark"])


@pytest.mark.parametrize("argv", ["a --out x", "--out x a", "--input a --out x"])
def test_what_had_no_name_once_may_come_without_it(argv, capsys):
    parser = made(positional="--input")
    parser.add_argument("--input", required=True, help="what is read")
    assert parser.parse_args(argv.split()).input == "a"
    said = "give a as --input a; without the flag it still works"
    assert (said in capsys.readouterr().err) == ("--input" not in argv)
    assert "[--input" not in parser.format_usage()
    with pytest.raises(InputError, match="the following arguments are required: --input"):
        parser.parse_args(["--out", "x"])
    with pytest.raises(InputError, match="unknown argument b"):
        parser.parse_args(["a", "b"])
