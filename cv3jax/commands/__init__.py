"""One module a command: its parser and `main`.

`main` imports what does the work once the flags are read, so that --help and a wrong flag are
answered at once.
"""
