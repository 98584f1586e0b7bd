"""Answer one request to a captioning endpoint.

The chat is checked as the API checks it. The answer is right or wrong as caption_server.py asks.
"""

import base64
import io
import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from PIL import Image

MODEL, KEY = "captioner", "sk-loopback-secret"
REFUSAL = "I'm sorry, but I can't assist with that request."


def solid(number: int, side: int = 8) -> np.ndarray:
    """Return the image of record `number`: uint8 [side, side, 3] of one colour."""
    return np.full((side, side, 3), [number >> 16, number >> 8 & 255, number & 255], np.uint8)


def answer_of(record: int, turn: int) -> str:
    return f"answer {turn} of {record}: {{caption}} \N{GREEK SMALL LETTER SIGMA}"


class Answering(BaseHTTPRequestHandler):
    """Answer each request as the handler's owner, a CaptionServer, decides."""

    protocol_version = "HTTP/1.1"
    owner: Any

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        data = self.rfile.read(int(headers["content-length"]))
        if self.path != "/v1/chat/completions":
            return self.say(404, {"error": {"message": f"no {self.path}", "code": 404}})
        if headers.get("authorization") != f"Bearer {KEY}":
            return self.say(
                401,
                {
                    "error": {
                        "message": f"Incorrect API key: {headers.get('authorization')}",
                        "code": "invalid_api_key",
                    }
                },
            )
        try:
            body = json.loads(data)
            if body["model"] != MODEL:
                error = {
                    "object": "error",
                    "message": f"The model `{body['model']}` does not exist.",
                    "type": "NotFoundError",
                    "code": 404,
                }
                return self.say(404, error)
            record, turn, action = owner.note(headers, body)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as e:
            owner.wrong.append(f"{type(e).__name__}: {e}")
            return self.say(
                400,
                {
                    "error": {
                        "message": f"{type(e).__name__}: {e}",
                        "type": "invalid_request_error",
                        "code": None,
                    }
                },
            )
        owner.entered(1)
        time.sleep(owner.latency)
        self.act(record, turn, action)

    def act(self, record: int, turn: int, action: str) -> None:
        """Return the response to a well-formed request."""
        owner, text, finish = self.owner, answer_of(record, turn), "stop"
        usage: dict[str, int] | None = {
            "prompt_tokens": 100 + turn,
            "completion_tokens": 10,
            "total_tokens": 110 + turn,
        }
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if action in ("429", "limited", "broke", "redirect") or action.isdigit():
            owner.entered(-1)
        if action in ("429", "limited"):
            extra = {"Retry-After": owner.retry_after} if owner.retry_after else {}
            return self.say(
                429,
                {
                    "error": {
                        "message": "Rate limit reached",
                        "type": "requests",
                        "code": "rate_limit_exceeded",
                    }
                },
                extra,
            )
        if action == "broke":
            return self.say(
                429,
                {
                    "error": {
                        "message": "You exceeded your current quota",
                        "type": "insufficient_quota",
                        "code": None,
                    }
                },
            )
        if action == "redirect":
            return self.say(307, {}, {"Location": "http://example.invalid/v1/chat/completions"})
        if action.isdigit():
            return self.say(
                int(action),
                {"error": {"message": f"status {action}", "type": "server_error", "code": None}},
            )
        if action == "hang":
            owner.entered(-1)
            owner.closing.wait(60)
            self.close_connection = True
            return None
        if action == "slow":
            time.sleep(owner.delay)
        owner.entered(-1)
        if action == "malformed":
            return self.send(200, b"<html>Bad gateway</html>", {})
        if action == "error-in-200":
            return self.say(200, {"error": {"message": "upstream is overloaded", "code": 502}})
        if action == "huge":
            self.send(200, b" " * 2**20, {}, length=2**40)
            self.wfile.write(b" " * 2**20)
            self.close_connection = True
            return None
        message |= {
            "empty": {"content": None},
            "blank": {"content": " \n "},
            "sorry": {"content": REFUSAL},
            "refusal": {"content": None, "refusal": "I cannot look at this."},
            "control": {"content": "a \x1b[31mcaption"},
        }.get(action, {})
        finish = {"truncated": "length", "filtered": "content_filter"}.get(action, finish)
        answer: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }
        body = json.dumps(answer if action == "unmeasured" else answer | {"usage": usage}).encode()
        if action == "cut":
            self.send(200, body[: len(body) // 2], {}, length=len(body))
            self.close_connection = True
            return None
        self.send(200, body, {})
        return owner.answered()

    def say(self, status: int, value: dict[str, Any], extra: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), extra or {})

    def send(
        self, status: int, body: bytes, extra: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def read_request(body: dict[str, Any]) -> tuple[int, int]:
    """Check the shape of a chat and return its (record, turn).

    Raises:
        ValueError, KeyError, TypeError, IndexError, OSError: if it is not what the API takes.
    """
    chat = [m for m in body["messages"] if m["role"] != "system"]
    if [m["role"] for m in chat] != [("user", "assistant")[i % 2] for i in range(len(chat))] or len(
        chat
    ) % 2 == 0:
        raise ValueError(f"roles {[m['role'] for m in body['messages']]}")
    parts = chat[0]["content"]
    if sorted(part["type"] for part in parts) != ["image_url", "text"]:
        raise ValueError("the first message has an image and a text")
    if not all(isinstance(m["content"], str) and m["content"] for m in chat[1:]):
        raise ValueError("later messages are texts")
    url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    head, _, data = url.partition(",")
    if head not in ("data:image/png;base64", "data:image/jpeg;base64", "data:image/webp;base64"):
        raise ValueError(f"not a data URL of an image: {head[:60]}")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    if f"data:{Image.MIME[image.format]};base64" != head:
        raise ValueError(f"{head} holds a {image.format}")
    red, green, blue = image.convert("RGB").getpixel((0, 0))
    return red << 16 | green << 8 | blue, len(chat) // 2
