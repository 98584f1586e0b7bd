"""One stage trained: its data, programs, state, loop and export."""
