"""Training of one stage: its data, programs, state, loop and export."""
