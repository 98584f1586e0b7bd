"""Test that text from outside reaches a terminal as text, in every message."""

import ast
import contextlib
import io
import sys
from pathlib import Path

import pytest

from cv3jax import cli
from data_pipeline.io import exits, progress, terminal
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import FailedRunError, InputError, StoppedError

ROOT = Path(__file__).resolve().parents[2]
# clears the screen, sets the title, turns the direction around, goes back, half a pair, a NUL
HOSTILE = "a\x1b[2J\x1b]0;title\x07\u202eb\u2066c\x9b31m\r\x08\x00\ud800\u2028d\x7f\ue000"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\u202eb\u2066c\x9b31m\r\x08\x00\ud800\u2028d\x7f\ue000"
# what may write to stdout and stderr: these make their text visible, or write JSON
WRITERS = {
    "data_pipeline/io/terminal.py",
    "data_pipeline/io/progress.py",
    "data_pipeline/io/exits.py",
    "data_pipeline/io/library_words.py",
    "data_pipeline/io/figures.py",
    "cv3jax/aot/progress.py",
    "cv3jax/serving/http/access_log.py",
}


def harmless(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text)


def test_what_is_not_printable_is_escaped():
    assert terminal.visible(HOSTILE) == SHOWN
    for text in ("plain", "Σ é 猫\u3000犬", "👩‍💻", "نمی‌خواهم", "a\\x1b", ""):
        assert terminal.visible(text) == text
    assert terminal.visible("line\nbreak\tand") == r"line\nbreak\tand"
    assert terminal.visible("x" * 10, 4) == "xxxx…"
    assert len(terminal.visible("\x1b" * 10**4, 100)) == 101
    assert terminal.one_line(" a\n b\tc ") == "a b c"


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda: terminal.tell(HOSTILE), id="tell"),
        pytest.param(lambda: progress.say(f"cv3jax: {HOSTILE}"), id="say"),
        pytest.param(lambda: exits.say(HOSTILE), id="the last line"),
        pytest.param(lambda: progress.bar(1, HOSTILE, "step").close(), id="a bar"),
        *(
            pytest.param(
                lambda e=e: cli.run_command(lambda argv: (_ for _ in ()).throw(e)), id=name
            )
            for name, e in {
                "bad input": InputError(f"{HOSTILE}: give another"),
                "a failed run": FailedRunError(HOSTILE),
                "a signal": StoppedError(15, HOSTILE),
                "a full disk": OSError(28, "No space left", HOSTILE),
                "no memory": MemoryError(HOSTILE),
            }.items()
        ),
        pytest.param(
            lambda: cli.run_command(
                lambda argv: Parser(prog="cv3jax sample").parse_args([f"--{HOSTILE}"])
            ),
            id="a flag",
        ),
        pytest.param(
            lambda: cli.run_command(lambda argv: Parser(prog="x").parse_args([HOSTILE])),
            id="a word",
        ),
    ],
)
def test_no_message_obeys_what_it_quotes(write, capsys):
    with contextlib.suppress(SystemExit):
        write()
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert harmless(text), ascii(text)
    assert r"\x1b[2J" in text
    assert len(text.splitlines()) == 1


def test_a_wait_is_named_visibly(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SOON", 0.0)
    with progress.waiting(f"reading {HOSTILE}"):
        while "\\x1b" not in (text := capsys.readouterr().err):
            pass
    assert harmless(text)


def test_a_terminal_s_stream_gets_what_a_file_gets(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    progress.say(HOSTILE)
    assert stream.getvalue().strip("\r\n") == SHOWN


def test_nothing_else_writes_to_the_terminal():
    found = set()
    for package in ("cv3jax", "data_pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "print",
                    "tqdm.write",
                    "sys.stdout.write",
                    "sys.stderr.write",
                ):
                    found.add(str(path.relative_to(ROOT)))
    assert found <= WRITERS, f"{found - WRITERS}: use terminal.tell or progress.say"
    assert {"data_pipeline/io/terminal.py", "data_pipeline/io/exits.py"} <= found
