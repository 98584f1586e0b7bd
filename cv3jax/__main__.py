"""`python -m cv3jax`: the command line, where the script `cv3jax` is not on the path."""

from cv3jax.cli import main

main()
