"""Print every field of a recipe with its value, type, range and meaning.

Without a recipe: the names of all recipes with a line on each.
"""

import shutil

from cv3jax import recipes
from cv3jax.distillation.parsing import parse_recipe, recipe_fields
from cv3jax.fields import Row, rows
from cv3jax.reports import recipe_tables
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import STDOUT, add_json, check_json, reporting
from data_pipeline.io.terminal import tell

EXAMPLE = "cv3jax config base_512 --config.optim.lr=2e-5"


def parser() -> Parser:
    """Return the parser of `cv3jax config`."""
    made = Parser(
        prog="cv3jax config",
        description=__doc__,
        example=EXAMPLE,
        others=lambda flag: flag.startswith("--config."),
    )
    made.add_argument(
        "name",
        nargs="?",
        metavar="NAME[:VARIANT]|FILE.py",
        help="the recipe; without one, all recipes are listed",
    ).completer = lambda **_: list(recipes.recipes())
    add_json(made)
    return made


def describe(spec: str, overrides: list[str]) -> list[Row]:
    """Return a row for each field of the recipe `spec`, as `--config.a.b=v` overrides leave it.

    Raises InputError as a command that runs the recipe does.
    """
    config = recipes.load(spec, overrides)
    parse_recipe(config)
    values = config.to_dict()
    own = recipes.source(spec, config).own if overrides else {}
    return rows(values, recipe_fields(values), own)


def markdown(spec: str) -> str:
    """Return the fields of a recipe as Markdown, a table for each section."""
    return recipe_tables.markdown(describe(spec, []))


def overview() -> list[dict]:
    """Return {"recipe", "variants", "description"} of each packaged recipe."""
    return [
        {
            "recipe": name,
            "variants": [f"{name}:{variant}" for variant in recipes.variants(name)],
            "description": recipes.summary(name),
        }
        for name in recipes.recipes()
    ]


def list_recipes() -> str:
    """Return the overview as text."""
    lines = []
    for one in overview():
        lines += [one["recipe"], f"  {one['description']}", f"  {', '.join(one['variants'])}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the fields of a recipe, or all recipes.

    Raises InputError on a recipe that cannot be.
    """
    args, overrides = parser().parse_known_args(argv)
    check_json(args.json)
    if args.name is None and overrides:
        raise InputError(
            f"{overrides[0]}: no recipe is named; give its name first, as in cv3jax config base_512"
            f" {overrides[0]}"
        )
    with reporting(args.json) as report:
        if args.name is None:
            said, figures = list_recipes(), {"recipes": overview()}
        else:
            found, name = describe(args.name, overrides), args.name.partition(":")[0]
            said = recipe_tables.text(found, shutil.get_terminal_size((120, 0)).columns)
            said = f"{recipes.summary(name)}\n\n{said}" if name in recipes.recipes() else said
            figures = {"recipe": args.name, "fields": recipe_tables.as_json(found)}
        if args.json != STDOUT:
            tell(said)
        report(figures)
