"""What is written and read again: the checkpoints of a run, and the cascade directory."""
