"""What is written and read back: a run's checkpoints, and the cascade directory."""
