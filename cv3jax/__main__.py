# PYTHON_ARGCOMPLETE_OK
"""The script `cv3jax`, and `python -m cv3jax`: signals are answered before anything is imported."""

import gc
import sys

from cv3jax.distributed import huge_pages
from data_pipeline.io import signals

# Imports and tracing make millions of objects that stay. At Python's own threshold, looking through
# them for circles takes a tenth of a start.
COLLECT_EVERY = 50_000


def main() -> None:
    """Run the command line of this process, and exit."""
    if sys.argv[1:2] and sys.argv[1] in huge_pages.COMPUTING:
        huge_pages.restart()
    signals.install()
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])
    from cv3jax import cli

    cli.main()


if __name__ == "__main__":
    main()
