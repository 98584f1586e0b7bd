"""`cv3jax judge-people analyse`: win rates, ratings, agreement and failed controls of votes."""

import argparse
from typing import Any

from cv3jax.commands import arguments as command_line
from cv3jax.commands.judge_serve import add_votes
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.terminal import tell

EXAMPLE = """cv3jax judge-people analyse --votes votes.sqlite
  cv3jax judge-people analyse --votes votes.sqlite --exclude-above 0.3 --json votes.json"""


def parser() -> Parser:
    """Return the parser of `cv3jax judge-people analyse`."""
    made = command_line.command("judge-people analyse", __doc__, EXAMPLE)
    add_analysis(made)
    add_json(made)
    return made


def add_analysis(made: Parser) -> None:
    """Add the flags of an analysis."""
    add_votes(made, "the file of votes; its server may go on meanwhile")
    made.add_argument(
        "--exclude-above",
        type=float,
        metavar="SHARE",
        help="leave out raters with a larger share of failed controls, 0..1 (default: nobody)",
    )
    made.add_argument(
        "--level",
        type=float,
        default=0.95,
        metavar="L",
        help="level of the intervals (default: %(default)s)",
    )


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on values that no analysis can have."""
    if args.exclude_above is not None and not 0.0 <= args.exclude_above <= 1.0:
        raise InputError(f"--exclude-above {args.exclude_above:g}: give a share in 0..1")
    if not 0.5 <= args.level < 1.0:
        raise InputError(f"--level {args.level:g}: give a number from 0.5 on, below 1")
    extras.check("judge-people", "scipy", extra="eval")


def analysed(args: argparse.Namespace) -> tuple[Any, list, dict[str, Any]]:
    """Return (the study, its votes, their figures)."""
    from cv3jax.evaluation.people.votes import Votes

    votes = Votes(args.votes)
    try:
        found = votes.all()
    finally:
        votes.close()
    from cv3jax.evaluation.people.analysis import analyse

    figures = analyse(votes.study, found, exclude_above=args.exclude_above, level=args.level)
    return votes.study, found, figures


def main(argv: list[str] | None = None) -> None:
    """Print the figures. Raises InputError on a file without votes."""
    args = parser().parse_args(argv)
    check_flags(args)
    check_json(args.json)
    with reporting(args.json) as report:
        figures = analysed(args)[2]
        for line in lines(figures):
            tell(line)
        report(figures)


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines of text."""
    raters = [row for row in figures["raters"] if not row["excluded"]]
    found = [
        f"{counted(figures['votes'], 'vote')} of {counted(len(raters), 'rater')} on"
        f" {counted(figures['prompts'], 'prompt')}; win rate: wins and half of the ties"
    ]
    for name, aspect in figures["aspects"].items():
        found += ["", f"{name}:"]
        found += [_rate(row, figures["level"]) for row in aspect["pairs"]]
        for row in aspect["ratings"] or ():
            ends = "" if row["low"] is None else f" ({row['low']:+.0f} to {row['high']:+.0f})"
            found.append(f"  rating {row['rating']:+.0f}{ends} {row['model']}")
        if aspect["unrated"]:
            found.append(f"  no ratings: {aspect['unrated']}")
        found.append(f"  {_agreement(aspect['agreement'])}")
    found += ["", "raters:"]
    for row in figures["raters"]:
        share = "" if row["share"] is None else f" ({100 * row['share']:.0f} %)"
        found.append(
            f"  {row['name']}: {counted(row['votes'], 'vote')}, {row['failed']} of"
            f" {counted(row['controls'], 'control answer')} failed{share}"
            f"{', excluded' if row['excluded'] else ''}"
        )
    if any(row["excluded"] for row in figures["raters"]):
        found.append(f"  excluded: more than {100 * figures['exclude_above']:g} % failed")
    return found


def _rate(row: dict[str, Any], level: float) -> str:
    ends = "one rater tells of no others"
    if row["low"] is not None:
        ends = f"{100 * level:g} %: {100 * row['low']:.1f} to {100 * row['high']:.1f} %"
        ends += f", p = {row['p']:.3f}"
    these = ""
    if row["low_these"] is not None:
        these = f"; these raters: {100 * row['low_these']:.1f} to {100 * row['high_these']:.1f} %"
    won, tied = counted(row["wins"], "win"), counted(row["ties"], "tie")
    votes = f"{won}, {tied}, {row['losses']:,} {'loss' if row['losses'] == 1 else 'losses'}"
    return f"  {row['a']} over {row['b']}: {100 * row['rate']:.1f} % ({ends}{these}); {votes}"


def _agreement(row: dict[str, Any]) -> str:
    if row["alpha"] is None:
        return "agreement: too few raters judged the same pairs"
    ends = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"agreement: Krippendorff's alpha {row['alpha']:.2f}{ends} of {row['units']:,} answers"
