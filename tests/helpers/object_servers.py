"""Servers on loopback that speak the protocols of S3 (moto) and of GCS (gcp-storage-emulator)."""

import contextlib
import importlib
import importlib.util
import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

NEEDED = {"s3": ("moto", "s3fs"), "gs": ("gcp_storage_emulator", "gcsfs")}
CLIENTS = {"s3": ("s3fs", "S3FileSystem"), "gs": ("gcsfs.core", "GCSFileSystem")}
BUCKET = "bucket"
_SERVE = {
    "s3": """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
""",
    "gs": """
import json, socket, threading
from http import HTTPStatus
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

insert = objects.insert

def checked(request, response, storage, *args, **kwargs):  # the emulator ignores ifGenerationMatch
    wanted = request.query.get("ifGenerationMatch")
    if wanted:
        try:
            held = storage.get_file_obj(request.params["bucket_name"], request.query["name"][0])
        except NotFound:
            held = {"generation": 0}
        if str(held["generation"]) != wanted[0]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            return response.json({"error": {"code": 412, "message": "conditionNotMet"}})
    return insert(request, response, storage, *args, **kwargs)

objects.insert = checked
from gcp_storage_emulator import server as emulator  # which takes `insert` when it is imported
read = emulator._read_data

def exact(handler, query):  # the emulator reads an upload as text: a last carriage return is lost
    if not (handler.headers.get("Content-Type") or "").startswith("multipart/related"):
        return read(handler, query)
    raw = emulator._read_raw_data(handler)
    _, about, content = raw.split(b"--==0==", 2)  # as gcsfs separates the two
    return {
        "meta": json.loads(about.partition(b"\\n\\n")[2]),
        "content": content.partition(b"\\n\\n")[2].removesuffix(b"\\n--==0==--"),
        "content-type": "application/octet-stream",
    }

emulator._read_data = exact
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = emulator.create_server("127.0.0.1", port, in_memory=True)
server.start()
print(port, flush=True)
threading.Event().wait()
""",
}


def need(kind: str) -> None:
    """Skip the test where a package of the dev extra that it needs is absent."""
    for module in NEEDED[kind]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} of the extra dev is not installed")


def environment(kind: str, port: int) -> dict[str, str]:
    """Return what the libraries and a command need to find the server."""
    url = f"http://127.0.0.1:{port}"
    if kind == "gs":
        return {"STORAGE_EMULATOR_HOST": url, "FSSPEC_GS_TOKEN": "anon", "FSSPEC_GCS_TOKEN": "anon"}
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def serving(kind: str) -> Iterator[int]:
    """Run a server with one empty bucket in a process of its own. Yields its port."""
    need(kind)
    # it keeps a client for each set of arguments, which knows an earlier server's port
    module, name = CLIENTS[kind]
    getattr(importlib.import_module(module), name).clear_instance_cache()
    logging.getLogger("botocore").setLevel(logging.WARNING)
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE[kind]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        port = int(process.stdout.readline())
        url, data, method = f"http://127.0.0.1:{port}/{BUCKET}", None, "PUT"
        if kind == "gs":
            url, method = f"http://127.0.0.1:{port}/storage/v1/b?project=p", "POST"
            data = json.dumps({"name": BUCKET}).encode()
        request = urllib.request.Request(url, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request).read()
        yield port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def served(kind: str) -> Iterator[str]:
    """Run such a server where this process's environment names it. Yields the bucket's address."""
    with serving(kind) as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(kind, port).items():
            patch.setenv(name, value)
        yield f"{kind}://{BUCKET}"
