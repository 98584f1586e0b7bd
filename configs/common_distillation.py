"""What the recipes of distillations have in common, made from those of the stages they distil."""

from ml_collections import ConfigDict, config_dict


def distil(c: ConfigDict, *, rounds: tuple, w: tuple[float, ...], warmup: int) -> ConfigDict:
    """Return a stage's recipe as that of its distillation.

    The losses' fields, the learning rate and the length go; the section `distill` comes.

    rounds: (student steps, updates, learning rate, least w, greatest w) of each; the steps halve.
    w: what the rounds are judged by.
    """
    c.distill = ConfigDict(
        {
            "rounds": rounds,
            "target": "landing",
            "ema": 0.1,
            "w": w,
            "diverged": 3.0,
            "student": config_dict.placeholder(str),
        }
    )
    c.objective = ConfigDict({"prediction": c.objective.prediction, "text_drop": 0.0})
    for section, name in (("optim", "lr"), ("optim", "ema"), ("train", "steps")):
        del c[section][name]
    c.model.w_dim = 512
    c.optim.warmup = warmup
    c.train.preview_every = looks(rounds)
    return c


def looks(rounds: tuple) -> int:
    """Return the updates from one evaluation to the next: four in the longest round."""
    return -(-max(updates for _, updates, *_ in rounds) // 4)


def distil_tiny(c: ConfigDict) -> ConfigDict:
    """Return a `:tiny` recipe as that of its distillation.

    Its teachers are untrained, so no distance from them ends a round.
    """
    c = distil(c, rounds=((2, 4, 1e-3, 1.0, 4.0), (1, 4, 1e-3, 1.0, 4.0)), w=(1.0, 3.0), warmup=2)
    c.distill.diverged, c.train.preview_every = 1e6, 0
    return c


def long_distil(c: ConfigDict) -> ConfigDict:
    """Return a distillation for two cores as one for a GPU with 16 of them."""
    c.batch.size = c.batch.per_device = 256
    c.data.update({"threads": 1, "workers": 12})
    c.optim.update({"warmup": 50, "turns": 1, "renew": 1})
    c.train.update({"log_every": 100, "save_every": 1000, "preview_every": looks(c.distill.rounds)})
    c.train.update({"eval_every": 2000, "eval_records": 256})
    return c
