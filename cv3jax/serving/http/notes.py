"""What is noted of each request: a line in the access log, and counts for Prometheus."""

from collections.abc import Mapping
from typing import Any

from cv3jax.serving.http.access_log import AccessLog
from cv3jax.serving.http.metrics import Metrics
from cv3jax.web.errors import ApiError

NO_ROUTE = "none"  # of what was refused before it was a request


class Notes:
    """Notes requests in the metrics and in the log."""

    def __init__(self, metrics: Metrics, log: AccessLog):
        """Keep both."""
        self.metrics, self._log = metrics, log

    def answered(self, scope: Mapping[str, Any], status: int, seconds: float, size: int) -> None:
        """Note an answered request, whose body had `size` bytes.

        Its route is noted and not its path, which may have names that are secrets.
        """
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "page" if status < 400 else "unknown")
        self.metrics.answered(route, status, seconds)
        if code := state.get("code"):
            self.metrics.count("refused", kind=code)
        said = {name: state[name] for name in ("job", "code", "prompt") if state.get(name)}
        self._log.write(
            client=_address(scope.get("client")),
            owner=state["owner"],
            method=scope["method"][:20],
            route=route,
            status=status,
            seconds=round(seconds, 4),
            received=size,
            **said,
        )

    def refused(self, client: tuple[str, int] | None, e: ApiError, seconds: float) -> None:
        """Note a connection that was refused before it had a whole request."""
        self.metrics.answered(NO_ROUTE, e.status, seconds)
        self.metrics.count("refused", kind=e.code)
        self._log.write(
            client=_address(client),
            owner="",
            method="",
            route=NO_ROUTE,
            status=e.status,
            seconds=round(seconds, 4),
            received=0,
            code=e.code,
        )


def _address(client: tuple[str, int] | None) -> str:
    return client[0] if client else ""
