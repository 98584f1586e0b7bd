"""What a run can do without: pictures and figures of it."""

import contextlib
from collections.abc import Iterator

from cv3jax.distributed import processes
from data_pipeline.io.errors import first_line
from data_pipeline.io.progress import say


@contextlib.contextmanager
def optional(step: int, what: str) -> Iterator[None]:
    """Print why what is inside failed; the training continues without it."""
    try:
        yield
    except Exception as e:
        if processes.main():
            why = f"{type(e).__name__}: {first_line(e)}"
            say(f"cv3jax: step {step}: no {what} ({why}); training continues")
