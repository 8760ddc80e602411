"""The verb that shows a home in a browser, and stays until it is ended."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_ray.terminal.apps import app
from sage_ray.terminal.shell import EXIT_DONE, EXIT_FAILED, Answer, Session, one_line, show, verb
from sage_ray.termination import handled

if TYPE_CHECKING:
    from sage_ray.dashboards.dashboard_servers import ServedPage

SHOWS = {"MLflow": "runs, curves, models", "Optuna": "trials, parameters, what matters"}


@verb(app, "ui")
def ui(
    session: Session,
    mlflow_port: Annotated[
        int | None,
        typer.Option("--mlflow-port", min=1, max=65535, help="For MLflow [default: 5000 or a free one]."),
    ] = None,
    optuna_port: Annotated[
        int | None,
        typer.Option("--optuna-port", min=1, max=65535, help="For Optuna's dashboard [default: 8080 or a free one]."),
    ] = None,
) -> Answer:
    """Show runs in MLflow and studies in Optuna's dashboard, on this machine's loopback, until Ctrl-C.

    Studies may go on meanwhile. From your own machine, of one that you reach by ssh:
    ssh -N -L 5000:127.0.0.1:5000 -L 8080:127.0.0.1:8080 USER@MACHINE
    """
    from sage_ray.dashboards.dashboard_servers import (
        ServerEnded,
        left_out,
        pages_of,
        prepare_database,
        refuse_silent,
        silent,
        started,
    )

    pages, missing = pages_of(session.home, mlflow_port, optuna_port)
    refuse_silent(session.home, pages)
    names = [page.name for page in pages if page.words]
    try:
        if names:
            session.watch.line(f"starting {' and '.join(names)}")
        if "MLflow" in names:
            prepare_database(session.home)
        with _hung_up_as_interrupted(), started(pages) as servers:
            servers.await_answers()
            missing += silent(session.home)
            show(_addresses(pages, missing, left_out(pages), session), session, session.as_json)
            _wait(servers.await_end)
    except ServerEnded as error:
        also = [name for name in names if not str(error).startswith(f"{name} ")]
        tail = f"; {also[0]} was ended, too" if also else ""
        return Answer(exit_code=EXIT_FAILED, error=one_line(f"failed: {error}{tail}"))
    raise typer.Exit(EXIT_DONE)


def _wait(await_end: Any) -> None:
    """Return when the user ends it, which is how it is meant to end."""
    try:
        await_end()
    except KeyboardInterrupt:
        return


def _addresses(pages: list[ServedPage], missing: list[str], unread: dict[str, str], session: Session) -> Answer:
    lines = [f"{page.name}: {page.address}{page.opens}  ({SHOWS[page.name]})" for page in pages] + missing
    lines += [one_line(f"not shown: study {name} ({reason})") for name, reason in unread.items()]
    if not session.home.study_names():
        lines.append("the home has no study yet: the pages fill as one goes on")
    own = [page for page in pages if page.words]
    if own and os.environ.get("SSH_CONNECTION"):
        ports = " ".join(f"-L {page.port}:127.0.0.1:{page.port}" for page in own)
        lines.append(f"from your own machine: ssh -N {ports} {socket.gethostname()}")
    if own:
        lines.append(f"Ctrl-C ends {'both' if len(own) == 2 else 'it'}")
    addresses = {page.name.lower(): page.address for page in pages}
    return Answer(lines, {"mlflow": None, "optuna": None, **addresses, "missing": missing, "left_out": unread})


@contextmanager
def _hung_up_as_interrupted() -> Iterator[None]:
    """A terminal that is closed raises KeyboardInterrupt in the body, unless `nohup` said that it shall not matter."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("the terminal was closed")

    with handled([] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP], handle):
        yield
