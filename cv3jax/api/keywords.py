"""Say what a keyword that a method does not have is called here."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from data_pipeline.io.arguments import nearest

Method = TypeVar("Method", bound=Callable[..., Any])
# names of other libraries that are too unlike ours to be found as misspelt
FOREIGN = {
    "num_images": "num",
    "num_images_per_prompt": "num",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "scale": "factor",
    "generator": "seed",
    "batch_size": "batch",
    "torch_dtype": "dtype",
    "callback_on_step_end": "callback",
    "height": "size",
    "width": "size",
}
# names of what these models do not have
WITHOUT = {"negative_prompt": "a negative prompt has no effect on these models; leave it out"}


def naming_keywords(method: Method) -> Method:
    """Return the method, which raises TypeError on an unknown keyword and names the right one."""
    known = [name for name in inspect.signature(method).parameters if name not in ("self", "cls")]

    @functools.wraps(method)
    def call(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in known:
                raise TypeError(f"unknown argument {name!r}: {_right(name, known)}")
        return method(*args, **given)

    return call


def _right(name: str, known: list[str]) -> str:
    """Return what to write in place of an unknown keyword."""
    if name in WITHOUT:
        return WITHOUT[name]
    ours = {theirs: one for theirs, one in FOREIGN.items() if one in known}
    close = ours.get(name) or nearest(name, known) or ours.get(nearest(name, ours) or "")
    return f"did you mean {close}?" if close else f"it has {', '.join(known)}"
