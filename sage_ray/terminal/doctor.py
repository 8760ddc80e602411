"""What this machine offers and what is broken: versions, cores, GPUs, disk, home, Ray, MLflow, VGG weights.

And what a config's loss terms give its networks: `sage-ray doctor --gradients PRESET`.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.terminal.doctor_checks import Check, renderer, trial_storages
from sage_ray.terminal.shell import Answer, Session, plain, quoted

if TYPE_CHECKING:
    from sage_ray.record.home import Home
    from sage_ray.training.gradients import GradientReport, StepGradients, UntrainedPair

RAY_TIMEOUT_S = 90
SERVER_TIMEOUT_S = 5
NEEDED_DISK_BYTES = 1 << 30

# Ray starts in a process of its own: a hanging start can be ended, and nothing of it stays in this one.
_RAY_PROBE = """
import os, time
start = time.monotonic()
import ray
from sage_ray.runtime.ray_cluster import connect
connect()
nodes, what = len(ray.nodes()), ray.cluster_resources()
answer = ray.get(ray.remote(lambda: 6 * 7).options(num_cpus=1).remote(), timeout=60)
assert answer == 42
seconds = time.monotonic() - start
print(f"RAY {nodes} node(s), {what.get('CPU', 0):g} CPUs, {what.get('GPU', 0):g} GPUs, in {seconds:.1f} s")
from sage_ray.runtime.devices import ray_machines
from sage_ray.search.placement import usual
print("STUDIES " + "; ".join(usual(ray_machines()).lines()))
"""


def examine(home: Home) -> list[Check]:
    """All checks, in the order in which they are shown; none raises, each is bounded in time."""
    checks = [_python(), *_packages(), _cores(), _torch(), _disk(home), _home(home), *_ray(), _mlflow(home)]
    checks += trial_storages(home)
    return [*checks, _vgg(home), renderer()]


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    text = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    return Check("python", ok, text if ok else f"{text}; Python 3.11 or newer is needed")


def _packages() -> list[Check]:
    """The tested libraries: what is missing or outside the range that this package declares."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in requires("sage-ray") or []]
    except PackageNotFoundError:
        return [Check("sage-ray", False, "not installed; run `make setup`")]
    found, wrong = [f"sage-ray {version('sage-ray')}"], []
    for need in declared:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        found.append(f"{need.name} {have}")
        if not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have} is not {need.specifier}")
    text = ", ".join(found)
    return [Check("packages", not wrong, text if not wrong else f"{'; '.join(wrong)}; run `make setup`")]


def _cores() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free"
    return Check("cores", True, f"{usable} of {os.cpu_count()} usable, {free}", needed=False)


def _torch() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("gpus", True, "none; training runs on the CPU", needed=False)
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"{properties.name} {properties.total_memory / 2**30:.0f} GiB")
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    return Check("gpus", True, f"{', '.join(names)}; CUDA {torch.version.cuda}, {bf16}", needed=False)


def _disk(home: Home) -> Check:
    place = home.cache if home.in_bucket else home.path
    folder = next(p for p in (place, *place.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free at {folder}"
    ok = free >= NEEDED_DISK_BYTES
    return Check("disk", ok, text if ok else f"{text}; snapshots need at least {NEEDED_DISK_BYTES >> 30} GiB")


def _home(home: Home) -> Check:
    try:
        home.check_writable()
    except UserError as error:
        return Check("home", False, str(error))
    return Check("home", True, f"{home.address} can be written")


def _ray() -> list[Check]:
    """Whether Ray starts and answers, and where it puts the trials of a study that says nothing of resources."""
    address = os.environ.get("RAY_ADDRESS")
    where = f"cluster at {address}" if address else "local"
    command = [sys.executable, "-c", _RAY_PROBE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as probe:
        try:
            out, err = probe.communicate(timeout=RAY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # Ray's own helper processes end by themselves once their parent is gone.
            probe.kill()
            text = f"{where}: no start within {RAY_TIMEOUT_S} s; see the newest logs of Ray's session"
            return [Check("ray", False, text)]
    said = dict(line.split(" ", 1) for line in out.splitlines() if line.startswith(("RAY ", "STUDIES ")))
    if probe.returncode == 0 and "STUDIES" in said:
        studies = Check("studies", "warning" not in said["STUDIES"], said["STUDIES"], needed=False)
        return [Check("ray", True, f"{where}: {said['RAY']}"), studies]
    last = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "no message")
    return [Check("ray", False, f"{where}: does not start: {last}")]


def _mlflow(home: Home) -> Check:
    from sage_ray.record.mlflow_client import MirrorUnavailable, chosen_experiment, probe
    from sage_ray.record.store_uris import is_server, redacted, sqlite_file

    uri = home.mlflow_uri
    chosen = chosen_experiment()
    shown = redacted(uri) + (f", experiment {chosen}" if chosen else "")
    file = sqlite_file(uri)
    if file is not None:
        return _sqlite(file, shown)
    if not is_server(uri):
        return Check("mlflow", True, shown)
    try:
        probe(uri)
    except MirrorUnavailable as error:
        # No part of training needs the server: records are local first.
        text = f"no answer from {error}; runs are recorded under the home, `sage-ray sync` replays them"
        return Check("mlflow", False, text, needed=False)
    return Check("mlflow", True, f"{shown} answers")


def _sqlite(path: Path, shown: str) -> Check:
    from sage_ray.record.sqlite_reading import reading

    if not path.exists():
        return Check("mlflow", True, f"{shown}, made at the first run")
    try:
        with reading(path, SERVER_TIMEOUT_S) as store:
            verdict = store.execute("pragma quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        verdict = str(error)
    ok = verdict == "ok"
    return Check("mlflow", ok, shown if ok else f"{shown} is damaged ({verdict}); move it away and run `sage-ray sync`")


def _vgg(home: Home) -> Check:
    from sage_ray.losses.perceptual import VGG19_URL

    kept = sorted(home.cache.glob("vgg19-*.safetensors"))
    if kept:
        return Check("vgg19 weights", True, str(kept[-1]), needed=False)
    text = (
        f"not here yet; `adversarial.perceptual: vgg19` fetches {VGG19_URL} at its first use, or give a file with "
        "--set adversarial.perceptual_weights=FILE, or do without: --set adversarial.perceptual=none"
    )
    return Check("vgg19 weights", False, text, needed=False)


def gradients_of(target: str, sets: Sequence[str], session: Session) -> Answer:
    """The gradient that each loss term of a config gives each network, and which pairs are dead.

    Args:
        target: a preset's name, or the path of a YAML file.
        sets: overrides, "a.b=value".
        session: the call; its home may hold VGG19 weights.

    Raises:
        UserError: unknown preset, key or value; pictures or weights that cannot be read.
    """
    from sage_ray.config import resolve

    file = target if Path(target).suffix in (".yaml", ".yml") else None
    config = resolve(None if file else target, file, sets).config
    from sage_ray.training.gradients import BATCH_SIZE, IMAGE_SIZE, measure_gradients

    report = measure_gradients(config, session.home.cache, say=lambda step: session.watch.line(f"measuring {step}"))
    rows, columns = IMAGE_SIZE
    lines = [
        f"{target}: L2 norm of each weighted term's gradient, one batch of {BATCH_SIZE} at {rows}x{columns} pixels",
        f"pictures: {report.data}",
        *([f"perceptual network: {report.perceptual}"] if report.perceptual else []),
        f"milliseconds: {report.timed_on}",
        *_tables(report, styled=sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"),
        *_findings(report),
    ]
    again = f"-c {quoted(target)}" if file else f"--preset {target}"
    follow = [session.command(f"train {again}{''.join(f' --set {quoted(text)}' for text in sets)}")]
    if any(pair.why.endswith("(adversarial.mask_path=argmax)") for pair in report.dead):
        follow.insert(
            0, session.command(f"doctor --gradients {quoted(target)} --set adversarial.mask_path=straight_through")
        )
    fields = {
        "source": target,
        "dead": [[pair.term, pair.network] for pair in report.dead],
        "norms": report.norms,
        "on_purpose": [[pair.term, pair.network, pair.why] for pair in report.on_purpose],
        "off": report.off,
        "steps": plain(report.steps),
        "data": report.data,
        "perceptual": report.perceptual,
        "timed_on": report.timed_on,
    }
    return Answer(lines, fields, next=follow)


def _tables(report: GradientReport, *, styled: bool) -> list[str]:
    """A table of phase 1, of phase 2 with the generator learning, and of phase 2 with the generator frozen.

    Steps on real images alone, which train nothing more, stand in the JSON.
    """
    first = {step.frozen: step for step in reversed(report.steps)}
    lines: list[str] = []
    for step in (step for step in report.steps if first[step.frozen] is step):
        networks = list(next(iter(step.norms.values())))
        heads = ["term", *networks, "trainer"]
        rows = [
            [term, *(_cell(term, network, step, report) for network in networks), _treatment(term, step)]
            for term in step.norms
        ]
        title = f"{step.name}, {_ms(step.step_ms)}"
        lines += _rich_table(title, heads, rows) if styled else ["", title, *_plain_table(heads, rows)]
        if step.left_out:
            lines.append(
                "left out: not computed in this kind of step, as only the frozen generator would learn from it"
            )
    return [*lines, ""]


def _cell(term: str, network: str, step: StepGradients, report: GradientReport) -> str:
    from sage_ray.training.gradients import DETACHED, EXPECTED

    if step.norms[term][network] != 0.0:
        return f"{step.norms[term][network]:.3g}"
    if any((pair.term, pair.network) == (term, network) for pair in report.dead):
        return "DEAD"
    if (term, network) in DETACHED:
        return "detached"
    if network not in EXPECTED[term]:
        return "-"
    return "frozen" if network == "generator" and step.frozen else "not here"


def _treatment(term: str, step: StepGradients) -> str:
    return "left out" if term in step.left_out else "computed"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _plain_table(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    padded = (map(str.ljust, row, widths) for row in (heads, *rows))
    return ["  ".join(cells).rstrip() for cells in padded]


def _rich_table(title: str, heads: list[str], rows: list[list[str]]) -> list[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head in ("term", "trainer") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, "bold red" if cell == "DEAD" else "dim" if cell.isalpha() else "") for cell in row))
    console = Console(file=io.StringIO(), force_terminal=True, width=max(shutil.get_terminal_size().columns, 100))
    console.print("", table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def _findings(report: GradientReport) -> list[str]:
    lines = [f"dead: {line}" for line in _grouped(report.dead)] or ["dead: no pair"]
    dead = sorted({pair.term for pair in report.dead})
    training = {term for step in report.steps for term, norms in step.norms.items() if any(norms.values())}
    curves = {term for step in report.steps for term in step.norms if term not in step.left_out} - training
    for what, terms in (("as they train another network", training), ("for the curves alone", curves)):
        found = [term for term in dead if term in terms]
        lines += [f"computed all the same, {what}: {', '.join(found)}"] if found else []
    lines += [f"on purpose: {line}" for line in _grouped(report.on_purpose)]
    lines += [f"off: {term} ({setting})" for term, setting in report.off.items()]
    return lines


def _grouped(pairs: Sequence[UntrainedPair]) -> list[str]:
    """ "adv_mask, rec_image_l1 -> segmenter: why", one line per network and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        groups.setdefault((pair.network, pair.why), []).append(pair.term)
    return [f"{', '.join(terms)} -> {network}: {why}" for (network, why), terms in groups.items()]
