"""`cv3jax judge-people export`: votes and figures as CSV, and a page in HTML."""

from cv3jax.commands import arguments as command_line
from cv3jax.commands.judge_analyse import add_analysis, analysed, check_flags
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.files import check_directory
from data_pipeline.io.terminal import tell

EXAMPLE = "cv3jax judge-people export --votes votes.sqlite --out runs/votes"


def parser() -> Parser:
    """Return the parser of `cv3jax judge-people export`."""
    made = command_line.command("judge-people export", __doc__, EXAMPLE)
    add_analysis(made)
    command_line.add_out(made, "directory for votes.csv, win_rates.csv, raters.csv and report.html")
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Write the files. Raises InputError on a file without votes."""
    args = parser().parse_args(argv)
    check_flags(args)
    check_directory(args.out, "--out")
    check_json(args.json)
    extras.check("judge-people export", "jinja2", extra="eval")
    with reporting(args.json) as report:
        from cv3jax.evaluation.people.export import write_all

        study, votes, figures = analysed(args)
        for path in write_all(args.out, study, votes, figures):
            tell(path)
        report(figures)
