"""A server of the S3 protocol on loopback (moto), which counts requests and can be told to answer otherwise.

Of Google's store it takes the XML protocol, which is the same but for one header: `x-goog-if-generation-match: 0` means
"only if it is not there". Conditions on later generations are not translated, since the package never makes one.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

KEY, SECRET = "test-key-id", "test-secret-not-to-be-shown"
Fault = tuple[int, str, str]
"""Status, code and message of a refusal, as S3 words it."""


class S3Server:
    """A running server: `bucket` exists; `requests` are (method, path, query) since `counted` began."""

    def __init__(self, address: str, bucket: str) -> None:
        self.address, self.bucket = address, bucket
        self.requests: list[tuple[str, str, str]] = []
        self.refuse: Callable[[str, str], Fault | None] = lambda method, path: None
        self.google_pace_s = 0.0
        """Seconds between two changes of one object that it takes from a client of Google's; there it is one."""
        self.signed_by = ""

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach the server."""
        return self.environment_at(self.address)

    def environment_at(self, address: str) -> dict[str, str]:
        """The same for a process that reaches it at another address."""
        return {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "GOOGLE_BASE_URL": address,
            "GOOGLE_BEARER_TOKEN": "test-token",
        }

    @property
    def kinds(self) -> Counter[str]:
        """How many requests of each method there were."""
        return Counter(method if "delete" not in query else "DELETE" for method, _, query in self.requests)


class Counting:
    """The server's application, with each request noted and, if asked, refused."""

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self.inner, self.server = inner, S3Server("", "")
        self._changed: dict[str, float] = {}
        self._lock = threading.Lock()

    def _too_fast(self, environ: dict[str, Any]) -> Fault | None:
        """As Google's store answers who changes an object more often than once a second."""
        google = environ.get("HTTP_AUTHORIZATION", "").startswith("Bearer")
        if not google or environ["REQUEST_METHOD"] not in ("PUT", "DELETE"):
            return None
        now, path = time.monotonic(), environ["PATH_INFO"]
        with self._lock:
            if now - self._changed.get(path, float("-inf")) < self.server.google_pace_s:
                return (429, "SlowDown", "The object exceeded the rate limit for object mutation operations.")
            self._changed[path] = now
        return None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
        if environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0":  # as Google words "only if it is not there"
            environ["HTTP_IF_NONE_MATCH"] = "*"
        self.server.signed_by = environ.get("HTTP_AUTHORIZATION", "")
        self.server.requests.append((method, path, query))
        fault = self.server.refuse(method, path) or self._too_fast(environ)
        if fault is None:
            return self.inner(environ, start_response)
        status, code, message = fault
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(f"{status} {code}", headers)
        return [b"" if method == "HEAD" else body]


@contextmanager
def s3_server(bucket: str = "stages", also_at: socket.socket | None = None) -> Iterator[S3Server]:
    """A server on a free port of loopback, in this process; its objects go with it.

    Args:
        also_at: listens for it too, as in another network.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Counting(DomainDispatcherApplication(create_backend_app))
    handler = {"threaded": True, "request_handler": MotoRequestHandler}
    serving = [make_server("127.0.0.1", 0, app, **handler)]
    if also_at is not None:
        serving.append(make_server(*also_at.getsockname()[:2], app, **handler, fd=also_at.fileno()))
    app.server = S3Server(f"http://127.0.0.1:{serving[0].server_port}", bucket)
    threads = [threading.Thread(target=one.serve_forever, daemon=True) for one in serving]
    for thread in threads:
        thread.start()
    try:
        make_bucket(app.server, bucket)
        yield app.server
    finally:
        # Its objects are the process's: without this the next server would begin with them.
        urllib.request.urlopen(urllib.request.Request(f"{app.server.address}/moto-api/reset", method="POST")).close()
        for one, thread in zip(serving, threads, strict=True):
            one.shutdown()
            thread.join()
            one.server_close()


def make_bucket(server: S3Server, bucket: str) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.address,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    server.requests.clear()


def use(server: S3Server, patch: pytest.MonkeyPatch) -> None:
    """Let this process reach the server as a user's would: by variables."""
    for name, value in server.environment.items():
        patch.setenv(name, value)
