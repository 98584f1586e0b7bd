# PYTHON_ARGCOMPLETE_OK
"""The script `cv3jax`, and `python -m cv3jax`: signals are answered before anything is imported."""

from data_pipeline.io import signals


def main() -> None:
    """Run the command line of this process, and exit."""
    signals.install()
    from cv3jax import cli

    cli.main()


if __name__ == "__main__":
    main()
