"""The page of a study over HTTP: its routes, and the gate around them."""

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cv3jax.evaluation.people.desk import Desk
from cv3jax.web.bounds import Bounds, Notes
from cv3jax.web.errors import ApiError
from cv3jax.web.gate import Access, Gate
from data_pipeline.io.bounded_json import SETTINGS, ParseError, parse_json

PAGE = Path(__file__).parent / "page"
mimetypes.add_type("text/javascript", ".js")  # whatever this system's list of types says
mimetypes.add_type("image/svg+xml", ".svg")


def make_app(desk: Desk, access: Access, limits: Bounds, notes: Notes) -> Any:
    """Return the ASGI application of a study's page."""
    silent = dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False)
    app = FastAPI(openapi_url=None, redirect_slashes=False, telemetry=silent)

    @app.get("/")
    @app.get("/r/{token}")
    def page() -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html")

    @app.get("/api/study")
    def study() -> Response:
        return JSONResponse({"closed": desk.closed})

    @app.post("/api/rater")
    async def enter(request: Request) -> Response:
        given = await _object(request)
        token = await run_in_threadpool(desk.enter, given.get("name"))
        return JSONResponse({"token": token})

    @app.get("/api/{token}/state")
    def state(token: str, place: int | None = None) -> Response:
        return JSONResponse(desk.state(token, place))

    @app.post("/api/{token}/vote")
    async def vote(token: str, request: Request) -> Response:
        given = await _object(request)
        return JSONResponse(await run_in_threadpool(desk.cast, token, given))

    @app.get("/picture/{token}/{place}/{side}")
    def picture(token: str, place: int, side: str) -> Response:
        return Response(desk.picture(token, place, side), media_type="image/png")

    app.mount("/page", StaticFiles(directory=PAGE), "page")
    _add_errors(app)
    return Gate(app, access, limits, notes)


async def _object(request: Request) -> dict[str, Any]:
    """Return the object in a request's body. Raises ApiError on another body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON as application/json", code="unsupported_media_type")
    try:
        value = parse_json(await request.body(), SETTINGS)
    except ParseError as e:
        raise ApiError(400, f"the body is not JSON: {e}"[:200], code="invalid_json") from e
    if not isinstance(value, dict):
        raise ApiError(400, "the body is JSON, but no object", code="invalid_json")
    return value


def _add_errors(app: FastAPI) -> None:
    """Answer errors by JSON that says what is wrong."""

    @app.exception_handler(ApiError)
    async def refuse(request: Request, e: ApiError) -> JSONResponse:
        return JSONResponse(e.body(), e.status, e.headers())

    @app.exception_handler(HTTPException)
    async def refuse_http(request: Request, e: HTTPException) -> JSONResponse:
        error = ApiError(e.status_code, str(e.detail), code="invalid_request")
        return JSONResponse(error.body(), e.status_code, dict(e.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def refuse_values(request: Request, e: RequestValidationError) -> JSONResponse:
        error = ApiError(400, "a part of the address is no number", code="invalid_value")
        return JSONResponse(error.body(), 400)

    @app.exception_handler(ClientDisconnect)
    async def leave(request: Request, e: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def fail(request: Request, e: Exception) -> JSONResponse:
        error = ApiError(500, "the server failed; its log says why", code="internal_error")
        return JSONResponse(error.body(), 500)
