"""The application: the routes, the page, the errors and the gate around them."""

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from cv3jax.serving.http import images_routes, jobs_routes, status_routes
from cv3jax.serving.http.context import Context
from cv3jax.serving.http.images_routes import JOB
from cv3jax.serving.http.notes import Notes
from cv3jax.web.errors import ApiError
from cv3jax.web.gate import Access, Gate

PAGE = Path(__file__).parent / "page"
mimetypes.add_type("text/javascript", ".js")  # whatever this system's list of types says
mimetypes.add_type("image/svg+xml", ".svg")
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request"}


def make_app(context: Context, access: Access, notes: Notes) -> Any:
    """Return the ASGI application of a server."""
    silent = dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False)
    app = FastAPI(openapi_url=None, redirect_slashes=False, telemetry=silent)
    routers = [module.routes(context) for module in (images_routes, jobs_routes, status_routes)]
    for router in routers:
        app.include_router(router)
    known = [route for router in routers for route in router.routes]
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), "page")

    @app.exception_handler(ApiError)
    async def refuse(request: Request, e: ApiError) -> JSONResponse:
        request.state.code = e.code
        return JSONResponse(e.body(), e.status, e.headers())

    @app.exception_handler(HTTPException)
    async def refuse_http(request: Request, e: HTTPException) -> JSONResponse:
        status, said, headers = e.status_code, str(e.detail), {}
        path = request.url.path
        if status in (404, 405):  # the page's folder answers for all that has no route
            allowed = {m for one in known if one.path_regex.match(path) for m in one.methods}
            status, said = 404, f"there is nothing at {path[:120]}"
            if allowed:
                status, said = 405, f"{request.method[:20]} is not possible at {path[:120]}"
                allowed |= {"HEAD"} if "GET" in allowed else set()
                headers = {"Allow": ", ".join(sorted(allowed))}
        error = ApiError(status, said, code=_CODES.get(status, "invalid_request"))
        return _with(request, error, headers)

    @app.exception_handler(ClientDisconnect)
    async def leave(request: Request, e: ClientDisconnect) -> Response:
        request.state.code = "client_left"  # before its body was whole
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def fail(request: Request, e: Exception) -> JSONResponse:
        context.metrics.count("errors", kind="program")
        error = ApiError(500, "the server failed; its log says why", code="internal_error")
        return _with(request, error, {})

    gate = Gate(app, access, context.limits, notes)
    if not access.origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=list(access.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # OpenAI's client for JavaScript sends a dozen of its own
        expose_headers=[JOB, "Retry-After", "Location"],
    )


def _with(request: Request, error: ApiError, headers: dict[str, str]) -> JSONResponse:
    request.state.code = error.code
    return JSONResponse(error.body(), error.status, headers)
