"""File systems of s3fs and gcsfs with bounded waits, and what their refusals mean in one line."""

import logging
import os
from typing import Any

from data_pipeline.io import extras
from data_pipeline.io.errors import InputError, first_line

CONNECT, READ = 10, 60  # seconds until a server accepts, and between two pieces of an answer
# seconds to look for a cloud's metadata server, which machines elsewhere do not have
_METADATA = {"GCE_METADATA_TIMEOUT": "2", "GCE_METADATA_DETECT_RETRIES": "1"}
# of google.auth, botocore and gcsfs, by name: which of them is installed depends on the extra
_NO_CREDENTIALS = {
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "NonRetryableError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
_HOW = {
    "s3": "run aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": (
        "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS; for"
        " public objects set FSSPEC_GS_TOKEN=anon"
    ),
}


class RefusedError(InputError):
    """The store does not let these credentials do that."""


def open_s3(address: str) -> Any:
    """Return s3fs's file system. Raises InputError where s3fs is not installed."""
    made = extras.load("s3fs", address).S3FileSystem
    # each request is tried 3 times by botocore, and up to 5 times by s3fs
    retries = {"max_attempts": 3, "mode": "standard"}
    limits = {"connect_timeout": CONNECT, "read_timeout": READ, "retries": retries}
    _quiet()
    return made(use_listings_cache=False, config_kwargs=limits)


def open_gs(address: str) -> Any:
    """Return gcsfs's file system.

    Raises InputError where gcsfs is not installed, or no credentials are found.
    """
    # the class that is exported asks each bucket for its kind by gRPC, for zonal buckets
    core = extras.load("gcsfs", address).core
    for name, value in _METADATA.items():
        os.environ.setdefault(name, value)
    _quiet()
    limits = core.aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
    given = any(f"FSSPEC_{name}_TOKEN" in os.environ for name in ("GS", "GCS"))
    # by itself it also asks a metadata server for 15 s, and then goes on without credentials
    how = {} if given else {"token": "google_default"}
    try:
        return core.GCSFileSystem(use_listings_cache=False, requests_timeout=limits, **how)
    except Exception as e:  # of google.auth
        if refused := refusal(e, address, ""):
            raise refused from e
        raise


def refusal(e: BaseException, address: str, name: str) -> InputError | None:
    """Return the line for an answer that no later try changes, or None where one may."""
    if isinstance(e, InputError):
        return e
    if type(e).__name__ in _NO_CREDENTIALS:
        how, said = _HOW[address.partition(":")[0]], first_line(e).partition(". ")[0]
        return InputError(f"{address}: no credentials were found ({said}); {how}")
    forbidden = type(e) is OSError and str(e).startswith("Forbidden")  # as gcsfs has it
    if isinstance(e, PermissionError) or forbidden or getattr(e, "code", None) in (401, 403):
        return RefusedError(
            f"{address}: the store refuses {name} ({first_line(e)}); check that your credentials"
            " may read and write there"
        )
    return None


def _quiet() -> None:
    """Keep tracebacks off stderr that these libraries log of tries which failed."""
    for name in ("gcsfs", "s3fs", "aiobotocore", "botocore", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
