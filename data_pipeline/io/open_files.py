"""The number of files that a process may keep open."""

import resource

WANTED = 8192  # the limit to ask the system for
SHARE = 2  # one in SHARE of them may be kept open


def room() -> int:
    """Return how many files may be kept open beside those that a process opens otherwise.

    It is a share of the limit (`ulimit -n`), which is first raised as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = WANTED if hard == endless else min(WANTED, hard)
    if soft != endless and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # the system allows less than its hard limit says
            pass
    return max(1, (WANTED if soft == endless else min(soft, WANTED)) // SHARE)
