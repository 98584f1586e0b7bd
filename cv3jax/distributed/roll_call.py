"""Check that all processes of a run have started, before JAX looks for them.

Where one is missing, JAX aborts the others with a C++ stack and without saying which one.
"""

import contextlib
import re
import socket
import time

MAX_LINE = 64  # bytes
RETRY = 0.2  # seconds


def answer(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Return once all `count` processes have called at `coordinator` (HOST:PORT).

    This process is `index`. Process 0 listens there, and stops before it returns, because the port
    is JAX's afterwards.

    Raises:
        ConnectionError: not all were there in time, with the missing ones named; or the port is
            taken.
    """
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + seconds
    if index == 0:
        _listen(coordinator, int(port), count, until, seconds)
    else:
        _call(coordinator, host.strip("[]"), int(port), count, index, until, seconds)


def _listen(coordinator: str, port: int, count: int, until: float, seconds: float) -> None:
    there: dict[int, socket.socket] = {}
    try:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        server = socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
    except OSError as e:
        raise ConnectionError(
            f"process 0 cannot listen at {coordinator} ({e.strerror}); give a --coordinator with a"
            " free port"
        ) from e
    with server, contextlib.ExitStack() as stack:
        while len(there) < count - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(TimeoutError):
                caller = stack.enter_context(server.accept()[0])
                if (known := _index(caller, count)) is not None:
                    there[known] = caller
        missing = [index for index in range(1, count) if index not in there]
        for caller in there.values():
            with contextlib.suppress(OSError):  # JAX or the heartbeats will miss one that has gone
                caller.sendall(f"missing {','.join(map(str, missing))}\n".encode())
        for caller in there.values():
            with contextlib.suppress(OSError):  # it hangs up first, so that the port is free
                caller.settimeout(5)
                caller.recv(1)
    if missing:
        raise ConnectionError(_absent(missing, count, seconds))


def _index(caller: socket.socket, count: int) -> int | None:
    """Return which process calls, or None where the caller does not belong to this run."""
    try:
        caller.settimeout(5)
        line = caller.recv(MAX_LINE)
    except OSError:
        return None
    found = re.fullmatch(rb"cv3jax (\d{1,9}) of (\d{1,9})\n", line)
    if found and int(found[2]) == count and 0 < int(found[1]) < count:
        return int(found[1])
    return None


def _call(
    coordinator: str, host: str, port: int, count: int, index: int, until: float, seconds: float
) -> None:
    problem = "no answer"
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as call:
                call.sendall(f"cv3jax {index} of {count}\n".encode())
                # process 0 waits for the others as long as this process does, and then says who is
                # missing
                call.settimeout(max(until - time.monotonic(), 0.0) + 5)
                line = call.makefile("rb").readline(MAX_LINE * 1024)
        except OSError as e:
            problem = e.strerror or str(e)
            time.sleep(RETRY)
            continue
        if found := re.fullmatch(rb"missing ([\d,]*)\n", line):
            if found[1]:
                missing = [int(number) for number in found[1].split(b",")]
                raise ConnectionError(_absent(missing, count, seconds))
            return
        problem = (
            "it closed the connection; give all processes the same --num-processes, and each its"
            " own --process-id"
        )
        time.sleep(RETRY)
    raise ConnectionError(
        f"process 0 did not answer at {coordinator} within {seconds:g} s ({problem}); start all"
        f" {count} processes, with the same --coordinator"
    )


def _absent(missing: list[int], count: int, seconds: float) -> str:
    shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
    return (
        f"process {shown} of {count} did not connect within {seconds:g} s; start all of them, each"
        " with its own --process-id"
    )
