"""Check which stage can teach a distillation's first round, or continue as its student."""

from cv3jax.checkpoints.description import StageDescription
from cv3jax.distillation.settings import DistillSettings, span, within
from data_pipeline.io.errors import InputError


def taught(stage: StageDescription) -> tuple[float, float] | None:
    """Return the range of w that a stage was distilled for, or None where it is unknown."""
    return stage.distilled.w if stage.distilled else None


def check_teacher(settings: DistillSettings, stage: StageDescription, where: str) -> list[str]:
    """Raise InputError where the stage at `where` cannot teach the first round.

    stage: its entry in cascade.json. Returns messages for the user. An undistilled teacher may have
    another number of steps, because it was trained at every noise level.
    """
    first = settings.rounds[0]
    steps = 2 * first.steps
    check_stage(settings, stage, where)
    theirs, w = stage.steps, taught(stage)
    if not stage.w_dim:
        return (
            []
            if theirs == steps
            else [f"the teacher's own {theirs} steps become {steps} in round 1"]
        )
    if theirs != steps:
        half = (
            f"let config.distill.rounds begin with {theirs // 2} steps"
            if theirs % 2 == 0
            else "it cannot be halved"
        )
        raise InputError(
            f"{where} was distilled to {theirs} steps and works with no other number, but round 1"
            f" asks it for {steps}; {half}"
        )
    if w and not within(first.w, w):
        raise InputError(
            f"{where} was distilled for w in {span(w)}, but round 1 asks it for {span(first.w)};"
            " give round 1 a w within the former"
        )
    return []


def check_student(settings: DistillSettings, stage: StageDescription, where: str) -> None:
    """Raise InputError where the stage at `where` cannot continue as the first round's student.

    It may learn another range of w.
    """
    check_stage(settings, stage, where)
    if not stage.w_dim:
        raise InputError(
            f"{where} is not guidance-conditioned, so it is no student; leave"
            " config.distill.student out, and the first round begins at its teacher"
        )
    steps = settings.rounds[0].steps
    if stage.steps != steps:
        raise InputError(
            f"{where} has {stage.steps} steps, but config.distill.rounds begins with {steps}; begin"
            f" with {stage.steps}"
        )


def check_stage(settings: DistillSettings, stage: StageDescription, where: str) -> None:
    """Raise InputError where the stage at `where` does not fit the recipe.

    It must have the recipe's kind, start, prediction, form and blur, and the same embedding of w.
    """
    ours, w_dim = settings.stage, stage.w_dim
    if stage.kind != ("relay" if ours.relay else "base"):
        raise InputError(
            f"{where} is a {stage.kind} stage, but config.schedule says"
            f" {'relay' if ours.relay else 'base'}"
        )
    if ours.relay and stage.start != ours.schedule.start:
        start = f"config.schedule.start = {ours.schedule.start}"
        tune = (
            "fine-tune it with that start first (cv3jax train,"
            f" --config.schedule.start={ours.schedule.start})"
        )
        give = f"give --config.schedule.start={stage.start}"
        right = give if w_dim else tune  # cv3jax train does not train guidance-conditioned models
        raise InputError(
            f"{where} was trained from T_r = {stage.start}, and {start} is outside of what it has"
            f" learned: {right}"
        )
    theirs = {
        "objective.prediction": stage.prediction,
        "sample.form": stage.form,
        "schedule.blur": stage.blur,
    }
    for field, value in theirs.items():
        section, name = field.split(".")
        if (mine := getattr(getattr(ours, section), name)) != value:
            raise InputError(
                f"config.{field} = {mine}, but {where} has {value}; give --config.{field}={value}"
            )
    if w_dim not in (0, settings.w_dim):
        raise InputError(
            f"{where} embeds the guidance weight w in {w_dim} dimensions; give"
            f" --config.model.w_dim={w_dim}"
        )
