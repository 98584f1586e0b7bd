"""Bearer keys: who may ask, compared in constant time, and how often each of them may."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from pathlib import Path

from cv3jax.web.errors import ApiError
from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import read_regular

VARIABLE = "CV3JAX_SERVE_KEYS"
MIN_KEY, MAX_KEY = 16, 512  # characters
_MAX_FILE = 2**24  # bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM = "give a line for each: NAME KEY, or NAME KEY REQUESTS-PER-MINUTE"


class Bucket:
    """Permits of `rate` requests per minute, of which a minute's worth may be used at once."""

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic):
        """Start full."""
        self._rate, self._now, self._left, self._at = rate, now, rate, now()

    def take(self) -> float:
        """Return 0 and use a permit, or return the seconds until there is one."""
        now = self._now()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate / 60.0)
        self._at = now
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) * 60.0 / self._rate


class Keys:
    """The keys of a server. Only their hashes are kept."""

    def __init__(self, rows: list[tuple[str, str, float | None]]):
        """Keep (name, key, requests per minute or None) of each."""
        self._hashes = {name: _hash(key.encode()) for name, key, _ in rows}
        self._buckets = {name: Bucket(rate) for name, _, rate in rows if rate is not None}

    def owner(self, authorization: bytes | None) -> str:
        """Return the name of the key in an Authorization header. Raises ApiError without one.

        Every key is compared, each in constant time, so that the time does not tell which one a
        wrong key is like.
        """
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        found, name = "", ""
        if scheme.lower() == b"bearer" and len(given) <= MAX_KEY:
            hashed = _hash(given.strip())
            for name, known in self._hashes.items():
                found = name if hmac.compare_digest(hashed, known) else found
        if not found:
            raise ApiError(
                401,
                "give a key of this server as the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        return found

    def take(self, owner: str) -> None:
        """Count a request of an owner. Raises ApiError past the rate of the key."""
        bucket = self._buckets.get(owner)
        if bucket is not None and (pause := bucket.take()) > 0:
            raise ApiError(
                429,
                "this key has used its requests of this minute; try again later",
                code="rate_limit_exceeded",
                retry_after=pause,
            )


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(path: Path | None, variable: str | None) -> Keys | None:
    """Return the keys of a file, or of the environment variable's text; None without either.

    Raises InputError on a file that cannot be read and on lines that are no keys. No message has a
    key in it.
    """
    if path is None and variable is None:
        return None
    where, text = f"the environment's {VARIABLE}", variable
    if path is not None:
        where = f"--keys {path}"
        try:
            text = read_regular(path, _MAX_FILE).decode()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{where}: {getattr(e, 'strerror', None) or 'not UTF-8'}") from e
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            rows.append(_row(line.split(), f"{where} line {number}"))
    if not rows:
        raise InputError(f"{where} has no key; {_FORM}")
    for what, values in (("names", [row[0] for row in rows]), ("keys", [row[1] for row in rows])):
        if len({*values}) != len(values):
            raise InputError(f"{where} has two equal {what}; give each once")
    return Keys(rows)


def _row(words: list[str], where: str) -> tuple[str, str, float | None]:
    if len(words) not in (2, 3) or not _NAME.fullmatch(words[0]):
        raise InputError(f"{where}: {_FORM}")
    name, key = words[:2]
    if not (key.isascii() and key.isprintable() and MIN_KEY <= len(key) <= MAX_KEY):
        raise InputError(f"{where}: a key has {MIN_KEY} to {MAX_KEY} letters, digits and signs")
    if len(words) == 2:
        return name, key, None
    try:
        rate = float(words[2])
        if not 1.0 <= rate <= 1e6:
            raise ValueError
    except ValueError as e:
        raise InputError(f"{where}: requests per minute are a number in 1..1,000,000") from e
    return name, key, rate
