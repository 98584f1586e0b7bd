"""The application: the routes, the page, the errors and the gate around them."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from cv3jax import __version__
from cv3jax.serving import images_routes, jobs_routes, status_routes
from cv3jax.serving.access_log import AccessLog
from cv3jax.serving.context import Context
from cv3jax.serving.errors import ApiError
from cv3jax.serving.gate import Access, Gate
from cv3jax.serving.images_routes import JOB

PAGE = Path(__file__).parent / "page"
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request"}


def make_app(context: Context, access: Access, log: AccessLog) -> Any:
    """Return the ASGI application of a server."""
    app = FastAPI(title="cv3jax", version=__version__, openapi_url=None)
    for module in (images_routes, jobs_routes, status_routes):
        app.include_router(module.routes(context))
    paths = [route for route in app.routes if hasattr(route, "path_regex")]
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), "page")

    @app.exception_handler(ApiError)
    async def refuse(request: Request, e: ApiError) -> JSONResponse:
        request.state.code = e.code
        return JSONResponse(e.body(), e.status, e.headers())

    @app.exception_handler(HTTPException)
    async def refuse_http(request: Request, e: HTTPException) -> JSONResponse:
        status, said = e.status_code, str(e.detail)
        path = request.url.path
        if status == 405 and not any(route.path_regex.match(path) for route in paths):
            status = 404  # the page's folder has no such file for any method
        if status == 404:
            said = f"there is nothing at {path[:120]}"
        elif status == 405:
            said = f"{request.method[:20]} is not possible at {path[:120]}"
        error = ApiError(status, said, code=_CODES.get(status, "invalid_request"))
        headers = {**error.headers(), **(e.headers or {})} if status == 405 else error.headers()
        return await _with(request, error, headers)

    @app.exception_handler(ClientDisconnect)
    async def leave(request: Request, e: ClientDisconnect) -> Response:
        request.state.code = "client_left"  # before its body was whole
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def fail(request: Request, e: Exception) -> JSONResponse:
        context.metrics.count("errors", kind="program")
        error = ApiError(500, "the server failed; its log says why", code="internal_error")
        return await _with(request, error, {})

    gate = Gate(app, access, context.limits, context.metrics, log)
    if not access.origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=list(access.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
        expose_headers=[JOB, "Retry-After", "Location"],
    )


async def _with(request: Request, error: ApiError, headers: dict[str, str]) -> JSONResponse:
    request.state.code = error.code
    return JSONResponse(error.body(), error.status, headers)
