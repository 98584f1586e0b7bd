"""`cv3jax judge-people serve`: a page on which people judge pairs of pictures without the models.

Each rater sees a pair at a time, on random sides. Votes go into a SQLite file.
"""

import argparse
import hashlib
import string
from pathlib import Path

from cv3jax.commands import arguments as command_line
from cv3jax.commands.serve_flags import check_origin
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import say
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.files import check_file
from data_pipeline.io.regular_files import read_regular
from data_pipeline.io.terminal import tell

EXAMPLE = """cv3jax judge-people serve --a runs/ours --b runs/theirs --prompts prompts.txt \\
      --votes votes.sqlite
  cv3jax judge-people serve --a runs/one --b runs/two --c runs/three --prompts prompts.txt \\
      --votes votes.sqlite --raters raters.txt --host 0.0.0.0 --public-url http://judge.example:8000"""
MODELS = string.ascii_lowercase[:8]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST = 2**20  # bytes of --raters


def parser() -> Parser:
    """Return the parser of `cv3jax judge-people serve`."""
    made = command_line.command("judge-people serve", __doc__, EXAMPLE)
    for letter in MODELS:
        made.add_argument(
            f"--{letter}",
            type=Path,
            required=letter in "ab",
            metavar="DIR",
            help=f"pictures of model {letter}: the --out of cv3jax sample, or others by file name",
        )
    made.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="the prompts of the pictures, one per line, or a .jsonl",
    )
    add_votes(made, "the file of votes, which is made, or gone on with")
    made.add_argument(
        "--controls",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of a rater's pairs that were shown before, 0..0.5 (default: %(default)s)",
    )
    made.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="pairs that each rater is shown, without controls (default: all)",
    )
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of orders and sides (default: %(default)s)",
    )
    made.add_argument(
        "--raters",
        type=Path,
        metavar="FILE",
        help="names, one per line: each gets a link, and nobody else may vote (default: whoever"
        " gives a name)",
    )
    command_line.add_network(made, "raters open")
    add_json(made)
    return made


def add_votes(made: Parser, help: str) -> None:
    """Add --votes, the file of a study's votes."""
    made.add_argument("--votes", type=Path, required=True, metavar="FILE", help=help)


def names_of(folders: dict[str, Path]) -> tuple[str, ...]:
    """Return the models' names: those of their folders, with the flag's letter where two agree."""
    names = {letter: path.resolve().name or letter for letter, path in folders.items()}
    return tuple(
        f"{name} ({letter})" if list(names.values()).count(name) > 1 else name
        for letter, name in names.items()
    )


def read_raters(path: Path | None) -> list[str] | None:
    """Return the names in a file, or None without one. Raises InputError."""
    if path is None:
        return None
    try:
        text = read_regular(path, _MOST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        said = getattr(e, "strerror", None) or "not UTF-8"
        raise InputError(f"--raters {path}: {said}") from e
    names = [line.strip() for line in text.splitlines() if line.strip()]
    for number, name in enumerate(names, 1):
        if len(name) > 60 or not name.isprintable():
            raise InputError(f"--raters {path}: name {number} has more than 60 letters, or others")
    if len({*names}) != len(names) or not names:
        raise InputError(f"--raters {path}: give different names, one per line")
    return names


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: give 0..65535")
    if args.public_url is not None:
        check_origin("--public-url", args.public_url)
    check_file(args.votes, "--votes")
    check_json(args.json)
    for one in MODELS:
        if (path := getattr(args, one)) is not None and not path.is_dir():
            raise InputError(f"--{one} {path}: there is no such folder")
    names = read_raters(args.raters)
    extras.check("judge-people serve", "fastapi", "uvicorn", extra="eval")
    with reporting(args.json) as report:
        report(_serve(args, names))


def _serve(args: argparse.Namespace, names: list[str] | None) -> dict[str, object]:
    """Serve, and return the figures of `--json`."""
    from cv3jax.evaluation.people.desk import Desk
    from cv3jax.evaluation.people.pictures import read_folder
    from cv3jax.evaluation.people.server import LIMITS, serve
    from cv3jax.evaluation.people.study import Study
    from cv3jax.evaluation.people.votes import Votes
    from cv3jax.sampling.inputs import read_prompts
    from cv3jax.web.gate import Access, hosts_of
    from cv3jax.web.listening import address_of, listen

    prompts = [prompt.text for prompt in read_prompts(args.prompts, 1)[0]]
    folders = {one: getattr(args, one) for one in MODELS if getattr(args, one) is not None}
    pictures = [read_folder(f"--{one}", path, prompts) for one, path in folders.items()]
    counts = {one: len(made[0]) for one, made in zip(folders, pictures, strict=True)}
    if len({*counts.values()}) > 1:
        said = ", ".join(f"--{one} {count}" for one, count in counts.items())
        raise InputError(f"other numbers of pictures per prompt: {said}; give as many of each")
    digest = hashlib.sha256()
    for picture in (one for model in pictures for each in model for one in each):
        digest.update(bytes.fromhex(picture.sha256))
    study = Study(
        names_of(folders),
        tuple(prompts),
        len(pictures[0][0]),
        digest.hexdigest(),
        args.seed,
        args.controls,
        args.limit,
    )
    study.check()
    if study.controls and not study.controlled:
        say(
            "there are too few pairs for a control, so that careless raters are not found; give"
            " more prompts or a larger --controls"
        )
    sock = listen(args.host, args.port, LIMITS)
    args.votes.parent.mkdir(parents=True, exist_ok=True)
    votes = Votes(args.votes, study)
    public = args.public_url and args.public_url.lower()
    address = public or address_of(sock)
    links = {name: f"{address}/r/{votes.enter(name)}" for name in names or []}
    for name, link in links.items():
        tell(f"{name}: {link}")
    if args.host not in LOOPBACK and names is None:
        say(f"anyone who reaches {address} can vote; --raters lets only some")
    desk = Desk(study, votes, pictures, closed=names is not None)
    before = len(votes.all())
    try:
        serve(desk, Access(hosts=hosts_of(args.host, public), public=public), sock, say)
        return {"address": address, "votes": len(votes.all()), "votes_before": before}
    finally:
        votes.close()
