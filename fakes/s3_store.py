"""An S3 server on loopback that counts what it is asked for; moto's, nothing is mocked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"


@dataclass
class Store:
    """The server, and its requests since they were last forgotten."""

    url: str
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and bytes sent."""

    def asked(self, *methods: str, path: str = "") -> list[int]:
        """Bytes of every request of these methods (or all) whose path holds a text."""
        return [n for m, p, n in self.requests if path in p and (not methods or m in methods)]

    def upload(self, folder: Path, prefix: str) -> str:
        """Put the files of a folder into the bucket, and return the URL of the copy."""
        client = boto3.client("s3", endpoint_url=self.url)
        for path in sorted(folder.rglob("*.*")):
            name = f"{prefix}/{path.relative_to(folder)}"
            client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())
        self.requests.clear()
        return f"s3://{BUCKET}/{prefix}"


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def s3_store(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A server with one empty bucket, which this process and its children find."""
    app = DomainDispatcherApplication(create_backend_app)
    store = Store("")

    def counted(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            sizes = {name.lower(): value for name, value in headers}
            sent = 0 if environ["REQUEST_METHOD"] == "HEAD" else sizes.get("content-length", 0)
            store.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], int(sent)))
            return start(status, headers, *rest)

        return app(environ, started)

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=_Quiet)
    store.url = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("AWS_ENDPOINT_URL", store.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("NO_PROXY", "no_proxy"):
        patch.setenv(name, "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        boto3.client("s3", endpoint_url=store.url).create_bucket(Bucket=BUCKET)
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
