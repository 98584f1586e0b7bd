"""Test what SIGTERM, Ctrl-C and SIGHUP do to a process, from its first moment on."""

import signal
import subprocess
import sys
import textwrap

import pytest

from data_pipeline.io import signals

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
FIRST = """
import os, signal, threading, time
from data_pipeline.io import signals

def send(name):
    os.kill(os.getpid(), getattr(signal, name))

"""
LINE = "cv3jax: {}: interrupted; run the same command again\n"


def ended(program: str) -> tuple[int, str, str]:
    """Run a program; return its exit code, stdout and stderr."""
    code = FIRST + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_before_anything_has_begun_a_signal_ends_it_with_one_line(number):
    program = f"""
        signals.install()
        try:
            send("{number.name}")
            time.sleep(30)
        except BaseException:
            print("swallowed")
    """
    assert ended(program) == (CODES[number], "", LINE.format(number.name))


def test_a_destructor_swallows_no_signal():
    program = """
        signals.install()
        class Last:
            def __del__(self):
                send("SIGINT")
        last = Last()
        del last
        print("gone on")
    """
    assert ended(program) == (130, "", LINE.format("SIGINT"))


def test_what_nohup_ignores_stays_ignored():
    program = """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals.install()
        send("SIGHUP")
        with signals.heeding(print):
            send("SIGHUP")
        print("done")
    """
    assert ended(program) == (0, "done\n", "")


def test_a_block_is_told_of_the_first_signal_and_the_second_ends_the_process():
    program = """
        signals.install()
        with signals.heeding(lambda number: print("noted", number, flush=True)):
            send("SIGHUP")
            print("saving", signals.first(), flush=True)
            send("SIGTERM")
            print("gone on")
    """
    assert ended(program) == (143, "noted 1\nsaving 1\n", LINE.format("SIGTERM"))


def test_the_second_ends_it_after_the_block_too():
    program = """
        signals.install()
        with signals.heeding(lambda number: None):
            send("SIGTERM")
        print("exported", flush=True)
        send("SIGTERM")
        print("gone on")
    """
    assert ended(program) == (143, "exported\n", LINE.format("SIGTERM"))


def test_no_handler_changes_between_the_blocks():
    program = """
        signals.install()
        def handlers():
            return [signal.getsignal(number) for number in signals.SIGNALS]
        before = handlers()
        seen = []
        with signals.heeding(lambda number: None):
            seen.append(handlers())
            with signals.heeding(lambda number: None, times=2):
                seen.append(handlers())
            seen.append(handlers())
        seen.append(handlers())
        assert all(one == before for one in seen), seen
        assert signal.SIG_DFL not in before
    """
    assert ended(program) == (0, "", "")


def test_the_inner_block_hands_over_to_the_outer_one():
    program = """
        signals.install()
        with signals.heeding(lambda number: print("outer", number, flush=True), times=2):
            with signals.heeding(lambda number: print("inner", number, flush=True)):
                send("SIGINT")
            send("SIGINT")
            send("SIGINT")
    """
    assert ended(program) == (130, "inner 2\nouter 2\n", LINE.format("SIGINT"))


@pytest.mark.parametrize(("heeds", "count"), [("False", 1), ("True", 2)])
def test_a_main_thread_in_a_long_call_is_not_waited_for(heeds, count):
    """It computes for minutes, without the interpreter's lock, as a compilation does."""
    program = f"""
        import contextlib, hashlib
        signals.install()
        for i in range({count}):
            threading.Timer(0.3 + i / 2, send, ("SIGTERM",)).start()
        block = signals.heeding(lambda number: None) if {heeds} else contextlib.nullcontext()
        with block:
            hashlib.pbkdf2_hmac("sha256", b"p", b"s", 500_000_000)
        print("gone on")
    """
    assert ended(program) == (143, "", LINE.format("SIGTERM"))


@pytest.mark.parametrize(
    ("name", "saved", "code"),
    [
        ("SIGTERM", "True", 0),
        ("SIGTERM", "False", 143),
        ("SIGTERM", "open('/nowhere/at/all')", 143),
        ("SIGINT", "True", 130),
        ("SIGHUP", "True", 129),
    ],
)
def test_sigterm_is_a_success_where_everything_is_saved(name, saved, code):
    program = f"""
        signals.install()
        with signals.saving(lambda: {saved}):
            send("{name}")
    """
    assert ended(program) == (code, "", LINE.format(name))


def test_other_processes_are_told_before_the_end():
    program = """
        signals.install()
        signals.telling(lambda line, code: print(line, code, flush=True))
        send("SIGINT")
    """
    code, said, _ = ended(program)
    assert (code, said) == (130, "SIGINT: interrupted; run the same command again 130\n")


def test_a_second_signal_does_not_wait_until_other_processes_are_told():
    program = """
        signals.install()
        signals.telling(lambda line, code: (send("SIGTERM"), time.sleep(30)))
        send("SIGINT")
    """
    assert ended(program)[0] == 143


def test_a_main_thread_that_answers_late_does_not_cut_off_what_other_processes_are_told():
    """The thread of signals tells them meanwhile; the exit code is that of a saved run."""
    program = """
        signals.install()
        busy = threading.Event()
        def leave(line, code):
            busy.set()
            time.sleep(1)
            print("told", code, flush=True)
        signals.telling(leave)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)  # comes to the other thread
        lock = threading.Lock()
        lock.acquire()
        threading.Thread(target=lambda: (busy.wait(), lock.release())).start()
        threading.Timer(0.3, send, ("SIGTERM",)).start()
        with signals.saving(lambda: True):
            lock.acquire()
            print("gone on", flush=True)
    """
    assert ended(program) == (0, "told 0\n", LINE.format("SIGTERM"))


def test_a_signal_while_python_ends_does_not_change_the_exit_code():
    """Python gives signals back their own effect before it clears its modules."""
    program = """
        import sys
        class Late:
            def __del__(self, send=send, write=os.write):
                write(1, b"late")
                send("SIGINT")
                send("SIGTERM")
        signals.install()
        signals.late = Late()
        sys.exit(7)
    """
    assert ended(program) == (7, "late", "")


def test_a_signal_while_others_clean_up_still_ends_it():
    program = """
        import atexit
        signals.install()
        atexit.register(lambda: (send("SIGTERM"), time.sleep(30)))
    """
    assert ended(program) == (143, "", LINE.format("SIGTERM"))


def test_without_install_the_handlers_of_before_come_back():
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    mine = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        inside = signal.getsignal(signal.SIGHUP)
        seen = []
        with signals.heeding(seen.append):
            assert signal.getsignal(signal.SIGHUP) != inside
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == inside  # the second is obeyed
        assert seen == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, mine)
    assert {number: signal.getsignal(number) for number in signals.SIGNALS} == before
