r"""The paper's tables: SDXL, Stable Cascade, LCM-SDXL and CogView3 on three sets of prompts.

    cv3jax tables --config=paper_tables --out runs/tables/page

`rows` says what draws each row. Change the checkpoints to yours:

    cv3jax tables --config=paper_tables --out runs/tables/page \
        --config.rows.cogview3.draw="--checkpoint runs/cogview3 --steps 50,10"

Table 3 needs a relay trained from each start, as `launch/sweep.py --config=relay_1024` makes them.
"""

from ml_collections import ConfigDict, config_dict

from cv3jax.configs import common

STARTS = (200, 400, 500, 600, 800)
BASELINES = ("sdxl", "stable_cascade", "cogview3")
FEW_STEPS = ("lcm_sdxl", "cogview3_distill_4_1", "cogview3_distill_8_2")
PREFERENCES = ("aes", "hps", "imagereward")


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe of the tables."""
    c = ConfigDict()
    c.reports = "runs/tables"
    c.models, c.weights, c.prompt_sets = "models", "weights", "prompt_sets"
    c.reference = "coco5k"
    c.num, c.seed = 1, 0
    c.rows = ConfigDict(
        {
            "sdxl": row("SDXL", "--model sdxl", "50"),
            "stable_cascade": row("Stable Cascade", "--model stable-cascade", "20+10"),
            "cogview3": row("CogView3", "--checkpoint cogview3 --steps 50,10", "50+10"),
            "lcm_sdxl": row("LCM-SDXL", "--model lcm-sdxl", "4"),
            "cogview3_distill_4_1": row(
                "CogView3-distill", "--checkpoint cogview3_distill_4_1", "4+1"
            ),
            "cogview3_distill_8_2": row(
                "CogView3-distill", "--checkpoint cogview3_distill_8_2", "8+2"
            ),
        }
    )
    for start in STARTS:
        place = f"runs/ablation/schedule.start={start}"
        c.rows[f"relay_{start}"] = row(
            f"start {start}", f"--checkpoint {place} --steps 50,10", "50+10"
        )
    models = (*BASELINES, *FEW_STEPS)
    c.tables = ConfigDict(
        {
            "table1": {
                "title": "Table 1: DrawBench and PartiPrompts",
                "rows": models,
                "columns": (
                    *("steps", "time"),
                    *(f"drawbench/{one}" for one in PREFERENCES),
                    *(f"partiprompts/{one}" for one in PREFERENCES),
                ),
            },
            "table2": {
                "title": "Table 2: MS-COCO 5k",
                "rows": models,
                "columns": (
                    *("steps", "time", "coco5k/fid"),
                    *(f"coco5k/{one}" for one in PREFERENCES),
                ),
            },
            "table3": {
                "title": "Table 3: where the relay starts",
                "rows": tuple(f"relay_{start}" for start in STARTS),
                "columns": ("drawbench/hps", "drawbench/imagereward"),
            },
        }
    )
    if variant:
        raise common.UnknownVariantError(f"unknown variant {variant!r}; this recipe has none")
    return c


def row(label: str, draw: str, steps: str) -> ConfigDict:
    """Return a row: its label, the flags of `cv3jax evaluate` that draw it, and its steps.

    reports: the folder of its reports, one for each set; without a value, ROW in `reports`.
    """
    place = config_dict.placeholder(str)
    return ConfigDict({"label": label, "draw": draw, "steps": steps, "reports": place})
