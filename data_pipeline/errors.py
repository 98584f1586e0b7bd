"""The one exception every command turns into a single line and exit code 2."""


class InputError(Exception):
    """Something given from outside is unusable: a flag, a config field, a file, a record.

    The message is one line that says what was wrong with which file or flag, and what would be right.
    """
