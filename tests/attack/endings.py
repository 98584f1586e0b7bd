"""Start a command, disturb it by a signal, and judge how it ended."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import subprocesses

WAIT = 1200.0  # seconds for a command to end; a machine may have other work
AFTER = 5.0  # seconds after which a command that a signal reached must not have gone on to its end
CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}
# name → the signals, the second after the seconds given
DISTURBANCES = {
    "kill -9": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGHUP": (signal.SIGHUP,),
    "SIGSTOP, SIGCONT": (signal.SIGSTOP, signal.SIGCONT),
}


class Process:
    """A command that runs in a process of its own; what it says goes to a file."""

    def __init__(self, argv: list[str], log: Path, environment: dict[str, str]):
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                subprocesses.command("cv3jax", *argv),
                env=subprocesses.environment(
                    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.1", **environment
                ),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.began, self.over_at = time.monotonic(), None

    def answering(self) -> bool:
        """Wait until the process answers signals. Returns False where it ended before.

        Before that Python itself starts, which takes a hundredth of a second.
        """
        while self.process.poll() is None:
            try:
                status = Path(f"/proc/{self.process.pid}/status").read_text()
            except OSError:
                return False
            caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
            if caught >> (signal.SIGHUP - 1) & 1:
                self.began = time.monotonic()
                return True
            time.sleep(0.0005)
        return False

    def send(self, number: int) -> bool:
        """Send a signal. Returns whether the process was still running."""
        if self.process.poll() is not None:
            return False
        os.kill(self.process.pid, number)
        return True

    def end(self) -> tuple[int, str, float]:
        """Return the exit code, what was said, and the seconds since `answering`."""
        try:
            code = self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return 9999, f"did not end within {WAIT:g} s\n{self.said()}", WAIT
        return code, self.said(), time.monotonic() - self.began

    def over(self) -> bool:
        """Return whether it has ended; the first such call keeps the time."""
        if self.over_at is None and self.process.poll() is not None:
            self.over_at = time.monotonic()
        return self.over_at is not None

    def said(self) -> str:
        """Return what the command printed so far."""
        return self.log.read_bytes().decode(errors="replace")


def wait_for(processes: list[Process]) -> None:
    """Wait until all have ended, and keep the time of each; at most `WAIT` seconds."""
    until = time.monotonic() + WAIT
    while sum(process.over() for process in processes) < len(processes):
        if time.monotonic() > until:
            return
        time.sleep(0.02)


def judge(name: str, code: int, said: str, seconds: float, *, saves: bool) -> str:
    """Return what is wrong with how a disturbed command ended, or "".

    seconds: from the signal to the end. saves: whether a SIGTERM may have exit code 0.
    """
    if "Traceback" in said or "Fatal Python error" in said:
        return f"traceback: {said.strip().splitlines()[-1][:120]}"
    if name == "kill -9":
        return "" if code in (-9, 0) else f"exit code {code}"
    if name.startswith("SIGSTOP"):
        return "" if code == 0 else f"exit code {code}: {last(said)}"
    number = name.split()[0]
    told = f"cv3jax: {number}: " in said
    if code == CODES[number] and told:
        return "" if last(said).startswith("cv3jax: ") else f"its last line is {last(said)}"
    if code == 0 and saves and number == "SIGTERM" and told:
        return ""
    if code == 0:  # the end of the work came first
        return "" if told or seconds < AFTER else "the signal was swallowed"
    return f"exit code {code}: {last(said)}"


def last(said: str) -> str:
    """Return the last line of what was said."""
    return (said.replace("\r", "\n").strip().splitlines() or [""])[-1][:160]
