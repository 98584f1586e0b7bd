"""Errors as clients of OpenAI's API know them: a status, and a body with message, type and code."""

import math
from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered as the client asked.

    Attributes:
        status: of HTTP.
        code: a word for programs, which does not change with the message.
        param: the parameter that is to blame, or None.
        retry_after: the seconds after which the same request may succeed, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ):
        """Create the error; the message is one line that says what would be right."""
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": str(self),
                "type": _TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return the answer's headers besides those of every answer."""
        found = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            found["Retry-After"] = str(max(math.ceil(self.retry_after), 1))
        return found


def wrong(param: str, message: str) -> ApiError:
    """Return the error for a value that a parameter cannot have."""
    return ApiError(400, message, code="invalid_value", param=param)


def refused(param: str, message: str) -> ApiError:
    """Return the error for a parameter of OpenAI's API that this server does not have."""
    return ApiError(400, message, code="unsupported_parameter", param=param)
