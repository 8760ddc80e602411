"""What `sage-ray doctor --cluster` says: one line per node of the Ray cluster, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage_ray.terminal.shell import Answer, Session, plain

if TYPE_CHECKING:
    from sage_ray.runtime.node_check import NodeReport

HEADS = ("node", "address", "CPUs", "GPUs", "home", "version", "data", "MLflow", "CUDA", "clock", "host name")
_KINDS = {"home": ("home",), "version": ("package", "version"), "data": ("data",), "MLflow": ("mlflow",)}
_KINDS |= {"CUDA": ("cuda",), "clock": ("clock",), "host name": ("host",)}


def nodes_of(sets: Sequence[str], session: Session) -> Answer:
    """The node check of every node; exit code 1 if something is wrong on one.

    Args:
        sets: settings of the config whose data and files the nodes shall have, "data.path=DIR".
        session: the call; its home is what the nodes shall share.

    Raises:
        UserError: no Ray at `RAY_ADDRESS`, or a home that cannot be written.
    """
    from sage_ray.config import resolve
    from sage_ray.runtime.node_check import NodeCheck
    from sage_ray.runtime.ray_cluster import connect, disconnect

    config = resolve(None, None, sets).config
    session.home.check_writable()
    connect()
    try:
        check = NodeCheck(session.home, [config], gpu=True)
        try:
            reports = check.all_nodes()
        finally:
            check.signs.clear()
    finally:
        disconnect()
    rows = [_row(report, data=bool(check.question.listings)) for report in reports]
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (HEADS, *rows)]
    wrong = [line for report in reports for line in report.lines()]
    nodes = [plain(report) | {"ok": not report.faults, "place": report.place} for report in reports]
    fields = {"nodes": nodes, "broken": [report.name for report in reports if report.faults]}
    if wrong:
        count = f"{len(fields['broken'])} of {len(reports)} nodes"
        return Answer([*lines, *wrong], fields, exit_code=1, error=f"broken: {count}: see the lines above")
    return Answer(lines, fields, next=[session.command("sweep SPACE.yaml")])


def _row(report: NodeReport, *, data: bool) -> tuple[str, ...]:
    cells = [report.name, report.address, f"{report.cpus:g}", f"{report.gpus:g}"]
    for head, kinds in _KINDS.items():
        if report.of(kinds):
            cell = f"{report.clock_s:+.0f} s" if head == "clock" else "WRONG"
        elif report.version is None or report.cuda_devices is None:
            cell = "?"  # it has not answered, or has no package that could
        elif head == "data" and not data:
            cell = "-"
        elif head == "CUDA":
            cell = "ok" if report.gpus else "-"
        else:
            cell = "ok"
        cells.append(cell)
    return tuple(cells)
