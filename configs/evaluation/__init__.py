"""The recipes of evaluations: what is drawn and scored, and by `sweep()` what is compared."""
