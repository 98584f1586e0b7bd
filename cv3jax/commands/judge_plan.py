"""`cv3jax judge-people plan`: how many votes tell a win rate from one half.

Votes on one prompt, and votes of one rater, are alike: too few of either tell nothing, however many
votes there are.
"""

from cv3jax.commands import arguments as command_line
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.terminal import tell

EXAMPLE = """cv3jax judge-people plan --rate 0.55 --num-prompts 400 --num-raters 30
  cv3jax judge-people plan --rate 0.6 --num-prompts 200 --num-raters 10 --ties 0.3 \\
      --prompt-icc 0.15 --rater-icc 0.01"""


def parser() -> Parser:
    """Return the parser of `cv3jax judge-people plan`."""
    made = command_line.command("judge-people plan", __doc__, EXAMPLE)
    made.add_argument(
        "--rate",
        type=float,
        default=0.55,
        metavar="R",
        help="the win rate that is to be told from 0.5 (default: %(default)s)",
    )
    made.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="P",
        help="probability that it is told (default: %(default)s)",
    )
    for name, what in (("prompts", "prompts"), ("raters", "raters")):
        made.add_argument(
            f"--num-{name}", type=int, required=True, metavar="N", help=f"how many {what} there are"
        )
    for name, default, text in (
        ("ties", 0.2, "share of the votes that are ties"),
        ("prompt-icc", 0.1, "intraclass correlation of votes on one prompt"),
        ("rater-icc", 0.02, "intraclass correlation of votes of one rater"),
        ("level", 0.95, "level of the interval that is to leave out 0.5"),
    ):
        made.add_argument(
            f"--{name}",
            type=float,
            default=default,
            metavar="X",
            help=f"{text} (default: %(default)s)",
        )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Print the number of votes. Raises InputError on values that no plan has."""
    args = parser().parse_args(argv)
    check_json(args.json)
    from cv3jax.evaluation.statistics import planning

    design = planning.Design(
        args.num_prompts,
        args.num_raters,
        args.ties,
        args.prompt_icc,
        args.rater_icc,
        args.level,
    )
    planning.check(args.rate, args.power, design)
    extras.check("judge-people plan", "scipy", extra="eval")
    with reporting(args.json) as report:
        votes = planning.votes_needed(args.rate, args.power, design)
        most = args.num_prompts * args.num_raters
        least = planning.rate_told(args.power, most, design)
        all_ = "nothing" if least is None else f"{100 * least:.1f} %"
        if votes is None:
            tell(
                f"no number of votes tells {100 * args.rate:g} % from 50 % with power"
                f" {args.power:g}: all {most:,} tell {all_}; take more prompts or more raters"
            )
        else:
            tell(
                f"{votes:,} votes tell {100 * args.rate:g} % from 50 % with power {args.power:g}:"
                f" {votes / args.num_prompts:.1f} a prompt, {votes / args.num_raters:.1f} a rater;"
                f" all {most:,} tell {all_}"
            )
        effect = None if votes is None else design.design_effect(votes)
        report({"votes": votes, "design_effect": effect, "most": most, "least_rate": least})
