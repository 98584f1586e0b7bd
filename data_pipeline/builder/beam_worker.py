"""A worker process of a build on this machine, which ends when the build ends, even when killed.

Beam's own worker would wait forever for a build that is gone.
"""

import logging
import os
import sys
import threading
import time

_PAUSE = 1.0  # seconds


def command(build: int) -> str:
    """Return the shell command that starts a worker as a child of the process `build`."""
    return f"exec {sys.executable} -m {__spec__.name} {build}"


def watch(parent: int) -> None:
    """End this process once `parent` is no longer its parent."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
    # Beam logs clouds that it could not reach, and every start and end
    logging.disable(logging.WARNING)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])
