"""One module a command: its parser and `main`."""
