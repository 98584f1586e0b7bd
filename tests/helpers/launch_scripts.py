"""Run the scripts of launch/ in processes that can be signalled.

They run a command that takes some time to end.
"""

import os
import subprocess
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"
# says UP, and at SIGTERM SAVED before it ends with CODE; a second SIGTERM is counted
PATIENT = """
trap 'echo TERM; ended=yes' TERM
echo UP
for i in {1..600}; do
  if [ -n "${ended:-}" ]; then sleep 0.3; echo SAVED; exit ${CODE:-0}; fi
  sleep 0.1
done
"""


def environment(**extra):
    return {**os.environ, "PAUSE": "0", **extra}


def run(script, *args, **extra):
    return subprocess.run(
        [LAUNCH / script, *args],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
    )


def start(script, *args, **extra):
    """Start a script in a session of its own, so that it can be signalled as a whole."""
    return subprocess.Popen(
        [LAUNCH / script, *args],
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process, *lines):
    """Read the output of a process until each of `lines` came."""
    missing = list(lines)
    while missing:
        line = process.stdout.readline()
        assert line, f"it ended without {missing}"
        if line.strip() in missing:
            missing.remove(line.strip())
