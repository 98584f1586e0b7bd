"""How many files a process may keep open."""

import resource

WANTED = 8192  # of which those that are kept open may be one in SHARE
SHARE = 2


def room() -> int:
    """How many files may be kept open beside what else a process opens: a share of its limit
    (`ulimit -n`), which is raised first as far as the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = WANTED if hard == endless else min(WANTED, hard)
    if soft != endless and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # the system allows less than it says
            pass
    return max(1, (WANTED if soft == endless else min(soft, WANTED)) // SHARE)
