"""A request's body: JSON or a form, and the picture in a form."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import Request
from starlette.datastructures import UploadFile

from cv3jax.serving.http.fields import from_form, read_json
from cv3jax.web.errors import ApiError

# bytes; the longest texts fit, each character written as \uXXXX\uXXXX, and no JSON of that size
# takes long to parse
MAX_JSON = 2**16
MAX_FIELDS = 64  # of a form
MAX_FIELD = 2**16  # bytes
_RETRY = "idempotency-key"


class Given(NamedTuple):
    """What a client sent: values by name, and a picture's bytes."""

    values: dict[str, Any]
    image: bytes | None = None

    def digest(self, kind: str) -> str:
        """Return a hash by which the same request is known again."""
        said = json.dumps([kind, self.values], sort_keys=True).encode()
        return hashlib.sha256(said + b"\0" + (self.image or b"")).hexdigest()


def is_form(request: Request) -> bool:
    """Return whether a request says that its body is a form with files."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def retry_of(request: Request) -> str | None:
    """Return the client's Idempotency-Key. Raises ApiError on one that is too long."""
    retry = request.headers.get(_RETRY)
    if retry is not None and not 1 <= len(retry) <= 255:
        raise ApiError(
            400, "Idempotency-Key: give 1..255 characters", code="invalid_value", param=_RETRY
        )
    return retry


async def read_object(request: Request) -> Given:
    """Return the values of a JSON body. Raises ApiError on another body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            f"content-type {kind[:60]!r}: send JSON as application/json",
            code="unsupported_media_type",
        )
    data = await request.body()
    if len(data) > MAX_JSON:
        raise ApiError(413, f"JSON of more than {MAX_JSON:,} bytes", code="body_too_large")
    try:
        values = read_json(data.decode())
    except ValueError as e:
        said = str(e).splitlines()[0][:120]
        raise ApiError(400, f"the body is not JSON: {said}", code="invalid_json") from e
    if not isinstance(values, dict):
        raise ApiError(400, "the body is JSON, but no object", code="invalid_json")
    return Given(values)


async def read_form(request: Request) -> Given:
    """Return the values and the picture of a form. Raises ApiError on another body.

    The picture is the file `image` or `image[]`, as OpenAI's clients send it.
    """
    if not is_form(request):
        raise ApiError(
            415,
            "send a form as multipart/form-data, with a file as image",
            code="unsupported_media_type",
        )
    values: dict[str, Any] = {}
    images: list[bytes] = []
    # damage is answered by the handler of HTTP's errors
    async with request.form(max_files=4, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD) as form:
        for name, value in form.multi_items():
            plain = name.removesuffix("[]")
            if plain == "image" and isinstance(value, UploadFile):
                images.append(await value.read())
            elif isinstance(value, UploadFile):
                values[plain] = "a file"
            elif plain == "image":
                raise ApiError(400, "image: send it as a file", code="invalid_value", param="image")
            elif plain in values:
                raise ApiError(
                    400, f"{plain[:60]!r} is given twice", code="invalid_value", param=plain[:60]
                )
            else:
                values[plain] = value if plain in _TEXTS else from_form(value)
    if len(images) != 1:
        right = "give one picture as the file image" if not images else "give one picture"
        raise ApiError(
            400,
            f"{len(images)} pictures: {right}",
            code="missing_required_parameter" if not images else "invalid_value",
            param="image",
        )
    return Given(_named(values), images[0])


_TEXTS = ("prompt", "user", "safety_identifier", "model", "size")


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those that a form leaves empty."""
    return {name: value for name, value in values.items() if value != "" or name == "prompt"}
