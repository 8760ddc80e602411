"""A function of the package as a person calls it from Python: home and files by name, progress, and interruption.

Where Python is used by hand progress is shown: in a notebook a table or bar that changes in place, at a prompt in a
terminal likewise, and plain lines anywhere else. Scripts stay silent.
"""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from sage_ray.argument_kinds import Kinds
from sage_ray.errors import Interrupted, UserError
from sage_ray.record.home import Home
from sage_ray.watch import SilentWatch, Watch

HomeLike = Home | str | Path | None
Sets = Iterable[str] | Mapping[str, Any]
FILES = ("spec", "space", "design")
"""Names of parameters that take a search space or a design."""


def open_home(home: HomeLike = None) -> Home:
    """The home itself, that of a folder, or for None that of `SAGE_HOME`, else ./sage_runs."""
    if isinstance(home, Home):
        return home
    opened = Home(home).look()
    if opened.in_bucket:
        from sage_ray.evaluation.shared_reads import bring_in

        bring_in(opened)
    return opened


def opened(work: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the package whose parameter `home` may be a folder or left out, and files be given by name.

    `watch` is what progress is shown by where Python is used by hand. A function that takes a space or a design also
    takes `sets`, overrides of its file. One that tells what it has begun (`declared`) says how to go on with it when it
    is interrupted.
    """
    signature = inspect.signature(work)
    named = [name for name in signature.parameters if name in FILES]
    looser = _looser(signature)
    loose = [name for name in signature.parameters if name == "home" or name in FILES]
    kinds = Kinds(work, {name: looser.parameters[name].annotation for name in loose} | {"sets": Sets})

    @wraps(work)
    def call(*args: Any, **kwargs: Any) -> Any:
        sets = kwargs.pop("sets", ()) if named else ()
        given = signature.bind_partial(*args, **kwargs)
        kinds.check({**given.arguments, "sets": sets})
        home = given.arguments.get("home")
        if "home" in signature.parameters:
            given.arguments["home"] = open_home(home)
        for name in named:
            if name in given.arguments:
                given.arguments[name] = loaded(name, given.arguments[name], sets)
        if "watch" not in signature.parameters:
            return work(*given.args, **given.kwargs)
        begun: list[str] = []
        if "declared" in signature.parameters:
            given.arguments.setdefault("declared", begun.append)
        with shown(given.arguments.get("watch")) as seen, going_on(lambda: begun[-1] if begun else None, home):
            given.arguments["watch"] = seen
            return work(*given.args, **given.kwargs)

    call.__signature__ = looser  # type: ignore[attr-defined]
    return call


def _looser(signature: inspect.Signature) -> inspect.Signature:
    """The signature as `help` shall show it: the home may be left out, and files be given by name."""
    parameters = [
        parameter.replace(default=None, annotation=HomeLike)
        if parameter.name == "home"
        else parameter.replace(annotation=f"{parameter.annotation} | str | Path")
        if parameter.name in FILES
        else parameter
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def loaded(kind: str, given: Any, sets: Sets) -> Any:
    """The space or design of a file or shipped name; an object is taken as it is."""
    if not isinstance(given, str | Path):
        if sets:
            raise UserError("nothing to set", kind, "sets change a file: give them to load_space or load_design")
        return given
    from sage_ray.study.design import load_design, load_spec
    from sage_ray.study.space import load_space

    load = {"space": load_space, "design": load_design}.get(kind, load_spec)
    return load(given, sets)


def quiet_imports() -> None:
    """Keep Ray and tqdm from advertising widgets in a notebook when they are imported: nothing here uses any."""
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")


def in_notebook() -> bool:
    """Whether this Python is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def shown(watch: Watch | None) -> Iterator[Watch]:
    """The watch; without one a display where Python is used by hand, and nothing in a script."""
    if watch is not None:
        yield watch
        return
    quiet_imports()
    made = _made_watch()
    try:
        yield made
    finally:
        made.close()


def _made_watch() -> Watch:
    if in_notebook():
        from sage_ray.terminal.notebook_progress import NotebookWatch

        return NotebookWatch()
    if not hasattr(sys, "ps1"):
        return SilentWatch()
    from sage_ray.terminal.progress import make_watch

    return make_watch()


@contextmanager
def going_on(name: Callable[[], str | None], home: HomeLike) -> Iterator[None]:
    """An interruption of the body tells how to go on with what it has begun.

    Args:
        name: of it; None while nothing was begun.
        home: as the caller gave it.

    Raises:
        Interrupted: instead of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        begun, place = name(), open_home(home)
        known = (*place.study_names(), *place.final_ids(), *place.run_ids())
        if begun is None or begun not in known:
            raise Interrupted("nothing was begun; the same call begins it") from None
        where = "" if home is None else f", {_said(home)!r}"
        kept = "what was trained is kept; go on with"
        raise Interrupted(f"{kept}: sage_ray.resume({begun!r}{where})") from None


def _said(home: HomeLike) -> str:
    return home.address if isinstance(home, Home) else str(home)
