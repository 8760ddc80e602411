"""Optuna's dashboard over the studies of a home, on loopback, for reading alone: `python -m ... HOME PORT`."""

from __future__ import annotations

import json
import logging
import re
import socketserver
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from sage_ray.dashboards.dashboard_servers import LEFT_OUT, LOOPBACK
from sage_ray.dashboards.home_studies import HomeStudies
from sage_ray.dashboards.trial_pictures import TrialRuns
from sage_ray.record.home import Home

_OWN_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def page(home: Home) -> Application:
    """The dashboard as a WSGI application that changes nothing."""
    from optuna_dashboard import wsgi

    runs = TrialRuns(home)
    studies = HomeStudies(home, runs)
    shown: Application = wsgi(studies, artifact_store=runs)

    def with_left_out(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != LEFT_OUT:
            return shown(environ, start)
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(studies.unreadable()).encode()]

    return reading_only(with_left_out)


def reading_only(shown: Application) -> Application:
    """The application, without whatever would change something, and for names of this machine alone.

    A page of another site could otherwise have a browser ask it under that site's name.
    """

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        reason = None
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            reason = "Studies are shown here, and not changed: use sage-ray."
        elif not _OWN_NAME.fullmatch(environ.get("HTTP_HOST", "")):
            reason = "Ask for localhost or 127.0.0.1."
        if reason is None:
            return shown(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return answer


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers several requests at a time, and asks nobody for the name of this machine."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Listen on loopback."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]
        self.setup_environ()


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not noted."""


def serve(home: Home, port: int) -> None:
    """Answer on a port of loopback until the process is ended."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with _Server((LOOPBACK, port), _SilentHandler) as server:
        server.set_app(page(home))
        server.serve_forever()


if __name__ == "__main__":
    serve(Home(sys.argv[1]), int(sys.argv[2]))
