"""Run a fuzzing campaign: the same seed makes the same tries.

It is no test of the suite: pytest does not collect it.
"""

import argparse
import collections
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcomes

from data_pipeline.io.bounded_json import ParseError
from data_pipeline.io.errors import InputError

# (random numbers) → an input, as it is shown, and the call that may raise InputError alone
Make = Callable[[random.Random], tuple[str, Callable[[], object]]]
SECONDS, MEMORY = 5.0, 2**20  # of a try: CPU time; KiB by which the process may grow
LONG = 1000  # characters of a message
# how a try may end: the text is no JSON or YAML within the limits, it is and is refused, it is read
ENDS = UNPARSED, REFUSED, ACCEPTED = "not parsed", "refused", "accepted"
VALUES = ("null", "true", "false", '""', '"x"', r'"\u0000"', r'"\u001b[31m"', "[]", "{}", "0", "-1")
VALUES += ("1", "2", "1.5", "2147483648", "9223372036854775808", "9" * 25, "1e300", "-1e300")
VALUES += ("5e-324", "[0]", "[[]]", '{"a":1}', '"NaN"', r'"\ud800"')
TOKENS = ("NaN", "-Infinity", "1e999", "9" * 50, "[" * 40, "{", "}", "]", ",", ":", '"', "\\u")
TOKENS += ("\ufeff", "\u2028", "null", "true", "-", "0", "\\ud800", '"a": 1, "a": 2', "\0")
# what fields of texts may be somewhere
WORDS = ("released", "paper", "eps", "v", "bfloat16", "float32", "float16", "block", "linear")
WORDS += ("base", "relay", "vae", "..", "/", "a/../b", "{}", "{0.__class__}", "%s", "array_record")
CHARACTERS = (0, 9, 10, 27, 34, 58, 0xD800, 0x1F600)


def paths(value: Any) -> list[tuple[Any, Any]]:
    """Return (collection, key) of everything within lists and objects."""
    keys = value if isinstance(value, dict) else range(len(value))
    found = []
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += paths(value[key])
    return found


def changed(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with one to four changes, mostly with one."""
    value = json.loads(json.dumps(value))
    words = sorted({place[key] for place, key in paths(value) if isinstance(place[key], str)})

    def other() -> Any:
        if words and rng.random() < 0.2:
            return rng.choice((*words, *WORDS))
        return json.loads(rng.choice(VALUES))

    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if not (places := paths(value)):
            return value
        inside, key = rng.choice(places)
        beside, name = rng.choice(places)
        kind = rng.randrange(7)
        if kind <= 2:
            inside[key] = other()
        elif kind == 3 and type(inside[key]) in (int, float):
            near = [inside[key] + n for n in (-1, 1, 8)]
            inside[key] = rng.choice([*near, *(inside[key] * n for n in (-1, 0, 2, 0.5, 1000))])
        elif kind == 4:
            inside[key] = json.loads(json.dumps(beside[name]))
        elif kind == 5:
            del inside[key]
        elif isinstance(inside, dict):
            inside[rng.choice(["name", "parent", "x", str(name)])] = other()
        else:
            inside.append(other())
    return value


def garbled(rng: random.Random, text: str, tokens: tuple[str, ...] = TOKENS) -> str:
    """Return a text with one to six pieces inserted, removed, repeated or moved."""
    for _ in range(rng.randint(1, 6)):
        a, b = sorted(rng.randint(0, len(text)) for _ in range(2))
        b = min(b, a + rng.choice([1, 3, 40]))
        piece = rng.choice(tokens)
        kind = rng.randrange(4)
        middle = (
            piece,
            "",
            text[a:b] * 2,
            chr(rng.choice(CHARACTERS)),
        )
        text = text[:a] + middle[kind] + text[b if kind else a :]
    return text


def run(make: Make) -> int:
    """Try inputs for the seconds of the command line. Returns the exit code, 1 after a crash."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    outcomes.add_flag(parser)
    args = parser.parse_args()
    began, tries, crashes = time.monotonic(), 0, {}
    ends = collections.Counter()
    while time.monotonic() < began + args.seconds:
        shown, call = make(random.Random(f"{args.seed}/{tries}"))
        tries += 1
        problem = tried(call)
        ends[problem] += 1
        if problem not in ENDS:
            crashes.setdefault(problem, (tries - 1, shown))
    for problem, (number, shown) in crashes.items():
        print(f"try {number}: {problem}\n    {ascii(shown)[:2000]}")
    return outcomes.told(
        args.json,
        outcomes.Outcome(
            seed=args.seed,
            seconds=time.monotonic() - began,
            tries=tries,
            past_first_check=tries - ends[UNPARSED],
            accepted=ends[ACCEPTED],
            failures=len(crashes),
        ),
    )


def tried(call: Callable[[], object]) -> str:
    """Return how a call ends: one of ENDS, or in words what is wrong with its end."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        call()
    except InputError as e:
        fine = len(str(e).splitlines()) == 1 and len(str(e)) < LONG
        ended = UNPARSED if isinstance(e.__cause__, ParseError) else REFUSED
        ended = ended if fine else f"not one short line: {str(e)[:200]!r}"
    except Exception as e:
        place = e.__traceback__
        while place.tb_next:
            place = place.tb_next
        file = Path(place.tb_frame.f_code.co_filename).name
        name = place.tb_frame.f_code.co_qualname
        ended = f"{type(e).__name__} in {name}, {file}, line {place.tb_lineno}"
    else:
        ended = ACCEPTED
    if time.process_time() - began > SECONDS:
        return "it took too long"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEMORY:
        return "it took too much memory"
    return ended
