"""What the recipes of adapters have in common, made from those of the stages they adapt."""

from ml_collections import ConfigDict


def adapt(c: ConfigDict, *, rank: int, lr: float, steps: int) -> ConfigDict:
    """Return a stage's recipe as that of an adapter for a few pictures.

    The sections `lora` and `pictures` come. Pictures of any size are taken, and their middle is
    seen, so that latents can be cached; a batch is small, and there are eight previews.
    """
    c.lora = ConfigDict(
        {
            "rank": rank,
            "alpha": float(rank),
            "rslora": False,
            "dropout": 0.0,
            "dora": False,
            "base_dtype": "computed",
            "targets": "attention,feed_forward",
        }
    )
    c.pictures = ConfigDict(
        {
            "repeats": 1,
            "caption_from": "auto",
            "trigger": "",
            "class_prompt": "",
            "class_pictures": 100,
            "prior_weight": 1.0,
            "cache": True,
        }
    )
    c.init_part = c.stage
    c.batch.size, c.batch.per_device = 4, 1
    c.data.update({"min_side": None, "threads": 4, "random_crop": False, "flip": False})
    c.optim.update({"lr": lr, "warmup": steps // 20, "b2": 0.999, "ema": 0.99})
    every = steps // 8
    c.train.update({"steps": steps, "log_every": 10, "keep": 2, "eval_every": every})
    c.train.update({"save_every": every, "preview_every": every})
    return c
