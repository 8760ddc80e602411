"""A loopback server that misbehaves on request, and what tests of downloads look at."""

from __future__ import annotations

import http.server
import io
import threading
import time
import zipfile
from pathlib import Path


class Server:
    """A loopback server of named contents, each of which may misbehave a number of times first."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.announce_length = self.resumable = True
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name = request.path.rsplit("/", 1)[-1]
        self.asked.append((request.path, request.headers.get("Range")))
        data = self.contents.get(name)
        fault = self.faults.get(name, []).pop(0) if self.faults.get(name) else ""
        request.close_connection = True
        if data is None or fault.isdigit():
            request.send_error(int(fault or 404))
            return
        start = 0
        wanted = request.headers.get("Range")
        if wanted and self.resumable and request.headers.get("If-Range") == '"v1"':
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if start else 200)
        if self.resumable:
            request.send_header("ETag", '"v1"')
            request.send_header("Accept-Ranges", "bytes")
        if self.announce_length:
            request.send_header("Content-Length", str(len(data) - start))
        else:
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        body = data[start:]
        half = body[: len(body) // 2]
        if fault == "stall":
            request.wfile.write(half)
            request.wfile.flush()
            time.sleep(1.5)
        elif fault == "break":
            request.wfile.write(half if self.announce_length else b"%x\r\n%b" % (len(body), half))
        elif self.announce_length:
            request.wfile.write(body)
        else:
            request.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def zipped(members: dict[str, bytes], **words: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **words) as package:  # type: ignore[arg-type]
        for name, data in members.items():
            package.writestr(name, data)
    return buffer.getvalue()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
