"""Check which stage can teach a distillation's first round, or continue as its student."""

from cv3jax.checkpoints.description import StageDescription
from cv3jax.distillation.settings import DistillSettings, span, within
from data_pipeline.io.errors import InputError, counted


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
            f"begin config.distill.rounds with {counted(theirs // 2, 'step')}"
            if theirs % 2 == 0
            else "its steps cannot be halved"
        )
        raise InputError(
            f"{where} was distilled to {counted(theirs, 'step')} and works with no other number,"
            f" but round 1 needs a teacher of {steps} steps; {half}"
        )
    if w and not within(first.w, w):
        raise InputError(
            f"{where} was distilled for w in {span(w)}, but round 1 has w in {span(first.w)}; give"
            f" round 1 a range within {span(w)}"
        )
    return []


def check_student(settings: DistillSettings, stage: StageDescription, where: str) -> None:
    """Raise InputError where the stage at `where` cannot continue as the first round's student.

    It may learn another range of w.
    """
    check_stage(settings, stage, where)
    if not stage.w_dim:
        raise InputError(
            f"{where} is not guidance-conditioned, so it cannot be a student; leave"
            " config.distill.student out, and the first round starts from its teacher's weights"
        )
    steps = settings.rounds[0].steps
    if stage.steps != steps:
        raise InputError(
            f"{where} has {counted(stage.steps, 'step')}, but config.distill.rounds begins with"
            f" {steps}; begin with {stage.steps}"
        )


def check_stage(settings: DistillSettings, stage: StageDescription, where: str) -> None:
    """Raise InputError where the stage at `where` does not fit the recipe.

    It must have the recipe's kind, start, prediction, form and blur, and the same embedding of w.
    """
    ours, w_dim = settings.stage, stage.w_dim
    if stage.kind != ("relay" if ours.relay else "base"):
        raise InputError(
            f"{where} is a {stage.kind} stage, but the recipe is of a"
            f" {'relay' if ours.relay else 'base'} stage; give a checkpoint of that kind"
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
            f"{where} was trained from T_r = {stage.start}, and {start} is outside of what it was"
            f" trained for; {right}"
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
    for name in ("zero_snr", "guidance_rescale"):
        if getattr(stage, name):
            raise InputError(
                f"{where} has {name}, with which no stage is distilled; give a checkpoint without"
            )
    if w_dim not in (0, settings.w_dim):
        raise InputError(
            f"{where} embeds the guidance weight w in {w_dim} dimensions, not in {settings.w_dim};"
            f" give --config.model.w_dim={w_dim}"
        )
