"""Running a Beam pipeline: its runner, its options, a progress bar, and its errors in one line."""

import argparse
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from data_pipeline.builder import beam_worker
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError

LOCAL, PROCESSES = "DirectRunner", "multi_processing"
# an exception of our functions in the text of a runner's exception; for some system errors
# Python has subclasses of OSError (TimeoutError, BlockingIOError, ...)
_OURS = re.compile(
    r"\b(InputError|MemoryError|OSError|\w+Error(?=: \[Errno))(?:: (.*?))?"
    r"(?: \[while running .*)?$",
    re.MULTILINE,
)
_SYSTEM = re.compile(r"\[Errno (\d+)\] (.*?)(?:: (['\"])(.*)\3)?$")


def beam_options(flags: list[str]) -> PipelineOptions:
    """Return Beam's own options. Raises InputError on an option that no part of Beam knows."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for kind in _all_kinds(PipelineOptions):
        if "_add_argparse_args" in vars(kind):
            try:
                kind._add_argparse_args(parser)
            except argparse.ArgumentError:  # two classes of options share a flag
                continue
    try:
        unknown = parser.parse_known_args(flags)[1]
    except (argparse.ArgumentError, SystemExit) as e:
        raise InputError(f"Apache Beam refuses its options: {e}; correct the option") from e
    if unknown:
        raise InputError(
            f"unknown flags: {' '.join(unknown)}; give flags of data build (see --help) or of"
            " Apache Beam"
        )
    if not any(flag.startswith("--default_sdk_harness_log_level") for flag in flags):
        # otherwise workers log every start and end
        flags = [*flags, "--default_sdk_harness_log_level=ERROR"]
    return PipelineOptions(flags)


def _all_kinds(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _all_kinds(each)


def workers(options: PipelineOptions) -> int:
    """Return the number of processes that work on this machine."""
    direct = options.view_as(DirectOptions)
    return (
        (direct.direct_num_workers or os.cpu_count() or 1)
        if direct.direct_running_mode == PROCESSES
        else 1
    )


def run(
    options: PipelineOptions,
    construct: Callable[[beam.Pipeline], None],
    progress: tuple[str, int, str, Callable[[], int]],
) -> None:
    """Build a pipeline and run it to its end with a progress bar.

    progress: the bar's name, total and unit, and a function that returns how much is done.

    Raises:
        InputError, OSError, MemoryError: as the pipeline's own functions raised them.
    """
    runner, options = _runner(options)
    pipeline = beam.Pipeline(runner=runner, options=options)
    construct(pipeline)
    with _watched(*progress), _quiet():
        try:
            pipeline.run().wait_until_finish()
        # runners put a function's exception into the text of their own, and may add where it was
        except Exception as e:
            found = _OURS.findall(f"{type(e).__name__}: {e}")
            if not found:
                raise
            raise _again(*found[-1]) from e


def _again(kind: str, message: str) -> Exception:
    """Return the exception that was raised, from the name of its class and its text."""
    if kind in ("InputError", "MemoryError"):
        return (InputError if kind == "InputError" else MemoryError)(message)
    if not (told := _SYSTEM.match(message)):
        return OSError(message)
    return OSError(int(told[1]), told[2], *([told[4]] if told[4] else []))


def _runner(options: PipelineOptions) -> tuple[Any, PipelineOptions]:
    """Return the runner that was asked for, and its options.

    The local one is Beam's FnApiRunner: Beam's DirectRunner first downloads a Go program and tries
    that.
    """
    name = options.view_as(StandardOptions).runner or LOCAL
    if name.rpartition(".")[2] != LOCAL:
        return name, options
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
    from apache_beam.runners.portability.portable_runner import JobServiceHandle
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    direct, environment = options.view_as(DirectOptions), None
    if direct.direct_running_mode == PROCESSES:
        # In this mode the runner would start workers that outlive a killed build. So it is given
        # other workers, and a different mode.
        environment = SubprocessSDKEnvironment.from_command_string(beam_worker.command(os.getpid()))
        options = PipelineOptions.from_dictionary(options.get_all_options(drop_default=True))
        options.view_as(DirectOptions).direct_running_mode = "in_memory"
    told = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=told))
    return FnApiRunner(default_environment=environment, provision_info=provision), options


@contextmanager
def _watched(name: str, total: int, unit: str, done: Callable[[], int]) -> Iterator[None]:
    """Show a progress bar with an ETA, updated from the files on disk: workers may be anywhere."""
    stop = threading.Event()
    with progress.bar(total, name, unit, initial=done()) as bar:

        def watch() -> None:
            pause = 0.5
            while not stop.wait(pause):
                started = time.monotonic()
                bar.update(done() - bar.n)
                # looking at the files takes at most a twentieth of the time
                pause = max(0.5, 20 * (time.monotonic() - started))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            bar.update(done() - bar.n)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Beam's log during the block.

    Its warnings are about features of other runners, and its errors are raised as well.
    """
    logger = logging.getLogger("apache_beam")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
