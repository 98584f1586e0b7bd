"""Requests that the server has to refuse: (method, path, headers, body, status, code)."""

import json
import zlib
from typing import Any, NamedTuple

import http_server

DRAW, EDIT, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
VALUE, UNKNOWN, REFUSED = "invalid_value", "unknown_parameter", "unsupported_parameter"
MISSING, JSON = "missing_required_parameter", "invalid_json"


class Bad(NamedTuple):
    """A request, and how it is answered. `param`: the parameter that the error names."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None
    status: int
    code: str
    param: str | None = None


def values() -> list[Bad]:
    """Return requests to draw with a value that cannot be."""
    rows: list[tuple[dict[str, Any], str, str]] = [
        ({"prompt": None}, MISSING, "prompt"),
        ({"prompt": ""}, MISSING, "prompt"),
        ({"prompt": "\n\t "}, MISSING, "prompt"),
        ({"prompt": 7}, VALUE, "prompt"),
        ({"prompt": ["a star"]}, VALUE, "prompt"),
        ({"prompt": {"text": "a star"}}, VALUE, "prompt"),
        ({"prompt": "x" * 4097}, VALUE, "prompt"),
        ({"prompt": "a red star " * 300}, "prompt_too_long", "prompt"),
        ({"prompt": "half a \ud800 pair"}, VALUE, "prompt"),
        ({"n": 0}, VALUE, "n"),
        ({"n": 11}, VALUE, "n"),
        ({"n": -1}, VALUE, "n"),
        ({"n": 1.0}, VALUE, "n"),
        ({"n": "2"}, VALUE, "n"),
        ({"n": True}, VALUE, "n"),
        ({"n": 10**400}, VALUE, "n"),
        ({"size": "100x100"}, VALUE, "size"),
        ({"size": "128"}, VALUE, "size"),
        ({"size": "128×128"}, VALUE, "size"),
        ({"size": "128x128x3"}, VALUE, "size"),
        ({"size": "-128x128"}, VALUE, "size"),
        ({"size": "0x0"}, VALUE, "size"),
        ({"size": "99999x99999"}, VALUE, "size"),
        ({"size": "128x192"}, VALUE, "size"),  # height first
        ({"size": 128}, VALUE, "size"),
        ({"size": [128, 128]}, VALUE, "size"),
        ({"size": "٣٢x٣٢"}, VALUE, "size"),
        ({"seed": -1}, VALUE, "seed"),
        ({"seed": 2**32}, VALUE, "seed"),
        ({"seed": 2**32 - 1, "n": 2}, VALUE, "seed"),
        ({"seed": 1.5}, VALUE, "seed"),
        ({"seed": "1"}, VALUE, "seed"),
        ({"steps": 0}, VALUE, "steps"),
        ({"steps": 3}, VALUE, "steps"),  # distilled to 4
        ({"steps": [4, 2]}, VALUE, "steps"),
        ({"steps": [4, 1, 1]}, VALUE, "steps"),
        ({"steps": []}, VALUE, "steps"),
        ({"steps": "4"}, VALUE, "steps"),
        ({"steps": 1001}, VALUE, "steps"),
        ({"guidance": -1}, VALUE, "guidance"),
        ({"guidance": 101}, VALUE, "guidance"),
        ({"guidance": "7.5"}, VALUE, "guidance"),
        ({"guidance": 10**400}, VALUE, "guidance"),
        ({"steps": 10**9}, VALUE, "steps"),
        ({"guidance": [[1]]}, VALUE, "guidance"),
        ({"eta": 1.1}, VALUE, "eta"),
        ({"eta": "x"}, VALUE, "eta"),
        ({"expand": True}, VALUE, "expand"),  # the server was started without it
        ({"expand": "yes"}, VALUE, "expand"),
        ({"stream": "true"}, VALUE, "stream"),
        ({"stream": 1}, VALUE, "stream"),
        ({"partial_images": 4, "stream": True}, VALUE, "partial_images"),
        ({"partial_images": -1, "stream": True}, VALUE, "partial_images"),
        ({"partial_images": 1}, VALUE, "partial_images"),
        ({"response_format": "b64"}, VALUE, "response_format"),
        ({"response_format": ["url"]}, VALUE, "response_format"),
        ({"response_format": "url", "stream": True}, VALUE, "response_format"),
        ({"output_format": "gif"}, VALUE, "output_format"),
        ({"output_format": "PNG"}, VALUE, "output_format"),
        ({"output_format": "../png"}, VALUE, "output_format"),
        ({"output_compression": 101, "output_format": "jpeg"}, VALUE, "output_compression"),
        ({"output_compression": 50}, VALUE, "output_compression"),
        ({"quality": "hd"}, VALUE, "quality"),
        ({"background": "transparent"}, VALUE, "background"),
        ({"moderation": "low"}, VALUE, "moderation"),
        ({"user": "u" * 257}, VALUE, "user"),
        ({"user": 5}, VALUE, "user"),
        ({"model": "gpt-image-1"}, "model_not_found", "model"),
        ({"model": "../scenes"}, "model_not_found", "model"),
        ({"model": 3}, VALUE, "model"),
        ({"style": "vivid"}, REFUSED, "style"),
        ({"negative_prompt": "blurry"}, REFUSED, "negative_prompt"),
        ({"num_inference_steps": 4}, REFUSED, "num_inference_steps"),
        ({"guidance_scale": 4}, REFUSED, "guidance_scale"),
        ({"mask": "x"}, REFUSED, "mask"),
        ({"promt": "a star"}, UNKNOWN, "promt"),
        ({"frame_count": 2}, UNKNOWN, "frame_count"),
        ({"__class__": 1}, UNKNOWN, "__class__"),
        ({"<script>alert(1)</script>": 1}, UNKNOWN, "<script>alert(1)</script>"),
        ({"a\r\nSet-Cookie: b=c": 1}, UNKNOWN, "a\r\nSet-Cookie: b=c"),
    ]
    found = []
    for changed, code, param in rows:
        body = json.dumps({"prompt": "a star", **changed}).encode()
        status = 404 if code == "model_not_found" else 400
        found.append(_posted(DRAW, body, status, code, param))
    return found


def bodies() -> list[Bad]:
    """Return requests whose body is not what it should be."""
    deep = b'{"prompt": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    rows = [
        (b"", JSON),
        (b"{", JSON),
        (b"null", JSON),
        (b"[]", JSON),
        (b'"a star"', JSON),
        (b'{"prompt": "a star",}', JSON),
        (b'{"prompt": "a star", "prompt": "b"}', JSON),
        (b'{"prompt": "a star", "guidance": NaN}', JSON),
        (b'{"prompt": "a star", "guidance": Infinity}', JSON),
        (b'{"prompt": "a star", "guidance": -Infinity}', JSON),
        (b'{"prompt": "a star"} x', JSON),
        (b'{"prompt": "\xff\xfe"}', JSON),
        (b"\xef\xbb\xbf{}", JSON),
        (b"\x1f\x8b\x08\x00", JSON),
        (b'{"n": ' + b"9" * 5000 + b"}", JSON),
        (deep, JSON),
    ]
    found = [_posted(DRAW, body, 400, code) for body, code in rows]
    large = b'{"prompt": "' + b"x" * 2**20 + b'"}'
    found.append(_posted(DRAW, large, 413, "body_too_large"))
    star = b'{"prompt": "a star"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": kind}
        found.append(Bad("POST", DRAW, headers, star, 415, "unsupported_media_type"))
    found.append(_posted(JOBS, b'{"prompt": "a star", "stream": true}', 400, UNKNOWN, "stream"))
    found.append(_posted("/v1/expansions", b'{"prompt": "a"}', 400, REFUSED))
    found.append(_posted("/v1/expansions", b'{"prompt": "a", "x": 1}', 400, VALUE, "prompt"))
    long = {"Content-Type": "application/json", "Idempotency-Key": "k" * 256}
    found.append(Bad("POST", DRAW, long, star, 400, VALUE, "idempotency-key"))
    return found


def forms() -> list[Bad]:
    """Return requests to enlarge that cannot be."""
    good, prompt = http_server.png(40, 40), ("prompt", "a star")
    rows: list[tuple[list[tuple[str, str | bytes]], str, str | None]] = [
        ([prompt], MISSING, "image"),
        ([prompt, ("image", "text")], VALUE, "image"),
        ([prompt, ("image", good), ("image", good)], VALUE, "image"),
        ([prompt, ("image", b"")], "invalid_image", "image"),
        ([prompt, ("image", b"not a picture")], "invalid_image", "image"),
        ([prompt, ("image", good[:40])], "invalid_image", "image"),
        ([prompt, ("image", good[:-30])], "invalid_image", "image"),
        ([prompt, ("image", b"GIF89a" + b"\0" * 40)], "unsupported_image", "image"),
        ([prompt, ("image", b"<svg xmlns='http://www.w3.org/2000/svg'/>")], None, "image"),
        ([prompt, ("image", http_server.png(200, 200))], VALUE, "image"),
        ([prompt, ("image", good), ("mask", good)], REFUSED, "mask"),
        ([prompt, ("image", good), ("input_fidelity", "high")], REFUSED, "input_fidelity"),
        ([prompt, ("image", good), ("size", "81x80")], VALUE, "size"),
        ([prompt, ("image", good), ("size", "40x40")], VALUE, "size"),
        ([prompt, ("image", good), ("strength", "2")], VALUE, "strength"),
        ([prompt, ("image", good), ("strength", "0.5")], VALUE, "strength"),
        ([prompt, ("image", good), ("steps", "[4, 1]")], VALUE, "steps"),
        ([prompt, ("image", good), ("colour_fix", "red")], VALUE, "colour_fix"),
        ([prompt, ("image", good), ("expand", "true")], UNKNOWN, "expand"),
        ([prompt, prompt, ("image", good)], VALUE, "prompt"),
        ([("image", good)], MISSING, "prompt"),
        ([("prompt", " "), ("image", good)], MISSING, "prompt"),
        ([prompt, ("image", good), ("n", "two")], VALUE, "n"),
        ([prompt, ("image", good), ("guidance", "NaN")], VALUE, "guidance"),
        ([prompt, ("image", good), ("guidance", "1e999")], VALUE, "guidance"),
        ([prompt, ("image", good), ("seed", "[" * 5000)], VALUE, "seed"),
        ([prompt, ("image", good), ("seed", "1"), ("seed", "1")], VALUE, "seed"),
        ([prompt, ("image", good), *[(f"f{i}", "x") for i in range(70)]], None, None),
        ([prompt, ("image", good), ("user", "u" * 70_000)], None, None),
        ([prompt, ("image", good), ("../../x", "1")], UNKNOWN, "../../x"),
    ]
    found = []
    for parts, code, param in rows:
        body, kind = http_server.form(parts)
        status, code = (400, code or ("unsupported_image" if param else "invalid_request"))
        found.append(Bad("POST", EDIT, {"Content-Type": kind}, body, status, code, param))
    body, kind = http_server.form([prompt, ("image", bomb())])
    found.append(Bad("POST", EDIT, {"Content-Type": kind}, body, 413, "image_too_large", "image"))
    body, kind = http_server.form([prompt, ("image", good)])
    for wrong in ("multipart/form-data", "multipart/form-data; boundary=y"):
        found.append(Bad("POST", EDIT, {"Content-Type": wrong}, body, 400, "", None))
    found.append(_posted(EDIT, b'{"prompt": "a"}', 415, "unsupported_media_type"))
    return found


def paths() -> list[Bad]:
    """Return requests for what is not there, or may not be read."""
    names = [
        "/nothing",
        "/v1",
        "/v1/images",
        "/v1/images/variations",
        "/v1/chat/completions",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/index.html%00.png",
        "/docs",
        "/openapi.json",
        "/.git/config",
        "/app.py",
    ]
    found = [Bad("GET", name, {}, None, 404, "not_found") for name in names]
    for name in ("x", "../journal.sqlite", "..%2fjournal.sqlite", "a" * 32 + ".png", "%00"):
        code = "not_found" if ".." in name else "file_not_found"
        found.append(Bad("GET", f"/v1/files/{name}", {}, None, 404, code))
    for name in ("x", "job_" + "a" * 24, "%27%20or%201=1", "a" * 5000):
        for method in ("GET", "DELETE"):
            found.append(Bad(method, f"{JOBS}/{name}", {}, None, 404, "job_not_found"))
    found.append(Bad("GET", "/v1/models/dall-e-3", {}, None, 404, "model_not_found", "model"))
    for method, path in (
        ("GET", DRAW),
        ("PUT", DRAW),
        ("DELETE", "/v1/models"),
        ("POST", "/healthz"),
        ("PATCH", f"{JOBS}/x"),
        ("TRACE", "/metrics"),
    ):
        found.append(Bad(method, path, {}, None, 405, "method_not_allowed"))
    found.append(Bad("POST", "/nothing", {}, b"x", 404, "not_found"))
    other = {"Content-Type": "application/json", "Origin": "https://evil.example"}
    star = b'{"prompt": "a star"}'
    found.append(Bad("POST", DRAW, other, star, 403, "cross_origin"))
    for origin in ("null", "http://[", "http://[::1", "//localhost", "evil"):
        strange = {"Content-Type": "application/json", "Origin": origin}
        found.append(Bad("POST", DRAW, strange, star, 403, "cross_origin"))
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "[::1", ""):
        found.append(Bad("GET", "/v1/models", {"Host": host}, None, 403, "unknown_host"))
    return found


def bomb() -> bytes:
    """Return a small PNG whose header claims a billion pixels."""
    data = bytearray(http_server.png(8, 8))
    data[16:24] = (32_768).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def _posted(path: str, body: bytes, status: int, code: str, param: str | None = None) -> Bad:
    return Bad("POST", path, {"Content-Type": "application/json"}, body, status, code, param)


def every() -> list[Bad]:
    """Return all of them."""
    return [*values(), *bodies(), *forms(), *paths()]
