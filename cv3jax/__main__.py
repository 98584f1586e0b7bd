# PYTHON_ARGCOMPLETE_OK
"""The script `cv3jax`, and `python -m cv3jax`: signals are answered before anything is imported."""

import sys

from cv3jax.distributed import huge_pages
from data_pipeline.io import signals


def main() -> None:
    """Run the command line of this process, and exit."""
    if sys.argv[1:2] and sys.argv[1] in huge_pages.COMPUTING:
        huge_pages.restart()
    signals.install()
    from cv3jax import cli

    cli.main()


if __name__ == "__main__":
    main()
