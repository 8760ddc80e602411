"""sage_ray in Python: what its verbs do, for scripts and notebooks; homes and files may be given by name.

A home is a `Home`, a folder, or None: `SAGE_HOME`, else ./sage_runs. A search space, a design or a config is an
object, a YAML file, or the name of a shipped one. Where Python is used by hand, in a notebook or at a prompt, progress
is printed; give `watch=SilentWatch()` (`sage_ray.watch`) for none of it. Scripts stay silent.
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
from typing import TYPE_CHECKING, Any

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.watch import SilentWatch, Watch

if TYPE_CHECKING:
    import pandas as pd

    from sage_ray.config import ExperimentConfig
    from sage_ray.record.overview import ListedStudy
    from sage_ray.record.run_record import RunRecord
    from sage_ray.registry.final import FinalResult
    from sage_ray.search.ablate import AblationResult
    from sage_ray.search.best import BestChoice
    from sage_ray.search.study_status import StudyStatus
    from sage_ray.study.design import Design
    from sage_ray.study.space import Space

HomeLike = Home | str | Path | None
Sets = Iterable[str] | Mapping[str, Any]


def open_home(home: HomeLike = None) -> Home:
    """The home itself, that of a folder, or for None that of `SAGE_HOME`, else ./sage_runs."""
    if isinstance(home, Home):
        return home
    opened = Home(home).look()
    if opened.in_bucket:
        from sage_ray.evaluation.shared_reads import bring_in

        bring_in(opened)
    return opened


def train(
    config: ExperimentConfig | str | Path,
    home: HomeLike = None,
    run_id: str | None = None,
    *,
    sets: Sets = (),
    watch: Watch | None = None,
    **more: Any,
) -> RunRecord:
    """Train one config through both phases; the same config again goes on with, or returns, the same run.

    Args:
        config: the run: a config, a YAML file, or the name of a preset.
        home: where it is kept.
        run_id: another name than the one made from the config.
        sets: overrides, as "a.b=value" texts or a mapping.
        watch: shown each epoch and lines for the user.
        more: as `sage_ray.runtime.launch.train`.

    Raises:
        UserError: bad input; nothing was trained.
    """
    from sage_ray.config import ExperimentConfig as Config
    from sage_ray.config import resolve
    from sage_ray.runtime.launch import default_run_id
    from sage_ray.runtime.launch import train as work

    if isinstance(config, Config):
        resolved, name = config.with_values(resolve_sets(sets)), None
    elif Path(config).suffix in (".yaml", ".yml"):
        resolved, name = resolve(file=config, sets=sets).config, None
    else:
        resolved, name = resolve(preset=str(config), sets=sets).config, str(config)
    total = resolved.pretrain.epochs + resolved.adversarial.epochs
    with _shown(watch) as seen:
        chosen = run_id or default_run_id(resolved, name)
        told = {"on_report": lambda report: seen.epoch(report, total), "say": seen.line}
        try:
            return work(resolved, open_home(home), chosen, **{**told, **more})
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped cleanly; go on with: sage_ray.resume({chosen!r})") from None


def sweep(
    space: Space | str | Path,
    home: HomeLike = None,
    name: str | None = None,
    watch: Watch | None = None,
    *,
    sets: Sets = (),
    **more: Any,
) -> StudyStatus:
    """Run a search to its end, or go on with it if it exists; `sage_ray.resume(name)` goes on after an interruption.

    Args:
        space: what to search: a space, a YAML file, or the name of a shipped one.
        home: where study, runs and stages are kept.
        name: of the study; default: the space's.
        watch: shown the status as it changes and lines for the user.
        sets: overrides of the file, as "a.b=value" texts or a mapping.
        more: as `sage_ray.search.driver.sweep`.

    Raises:
        UserError: bad input; nothing was trained. KeyboardInterrupt: interrupted; the study can be resumed.
    """
    with _shown(watch) as seen:
        from sage_ray.search.driver import sweep as work

        found = work(_loaded("space", space, sets), open_home(home), name, seen, **more)
    _tidy(found.study, home)
    return found


def ablate(
    design: Design | str | Path,
    home: HomeLike = None,
    name: str | None = None,
    watch: Watch | None = None,
    *,
    sets: Sets = (),
    **more: Any,
) -> AblationResult:
    """Train every arm of a design with every seed and fold, then score each finished run once on the locked test.

    Args:
        design: a design, a YAML file, or the name of a shipped one.
        home, name, watch, sets: as `sweep`.
        more: as `sage_ray.search.ablate.ablate`.

    Raises:
        UserError: bad input; nothing was trained. KeyboardInterrupt: interrupted; the study can be resumed.
    """
    with _shown(watch) as seen:
        from sage_ray.search.ablate import ablate as work

        found = work(_loaded("design", design, sets), open_home(home), name, seen, **more)
    _tidy(found.status.study, home)
    return found


def resume(
    name: str, home: HomeLike = None, watch: Watch | None = None, **more: Any
) -> StudyStatus | AblationResult | FinalResult | RunRecord:
    """Go on with a search, an ablation, a final training or a single run after any kind of end.

    Args:
        name: of it.
        home: that holds it.
        watch: as `sweep`.
        more: as the function that goes on with a search, `sage_ray.search.driver.resume`, or with an ablation.

    Returns:
        What `sweep`, `ablate`, `final` or `train` returns.

    Raises:
        UserError: nothing of that name (the nearest is given), or it is being run.
    """
    quiet_imports()
    from sage_ray.record.run_folder import RunFolder
    from sage_ray.registry.final import is_final, resume_final
    from sage_ray.search.ablate import resume_ablation
    from sage_ray.search.driver import resume as resume_search
    from sage_ray.search.study_folder import is_ablation
    from sage_ray.upkeep.belongings import unknown

    place = open_home(home)
    if name in place.study_names():
        work: Callable[..., Any] = resume_ablation if is_ablation(name, place) else resume_search
        with _shown(watch) as seen:
            found: StudyStatus | AblationResult = work(name, place, watch=seen, **more)
        _tidy(name, place)
        return found
    final = is_final(name, place)
    if not final and name not in place.run_ids():
        raise unknown(name, place)
    if any(more.values()):
        mend = f"leave {', '.join(more)} out: only a study changes"
        raise UserError("no study, but a run or a final training", name, mend)
    if final:
        with _shown(watch) as seen:
            return resume_final(name, place, watch=seen)
    folder = RunFolder.open(place.runs, name)
    record = folder.read()
    owner = record.parent or record.study
    if owner:
        raise UserError("run of a study", name, f"go on with the whole of it: sage_ray.resume({owner!r})")
    return train(folder.config(), place, name, watch=watch)


def status(name: str, home: HomeLike = None) -> StudyStatus | RunRecord:
    """A study with its trials, or the record of a run; changes nothing.

    Raises:
        UserError: nothing of that name; the nearest is given.
    """
    from sage_ray.record.run_folder import RunFolder
    from sage_ray.search.study_status import status as of_study
    from sage_ray.upkeep.belongings import unknown

    place = open_home(home)
    if name in place.study_names():
        return of_study(name, place)
    if name in place.run_ids():
        return RunFolder.open(place.runs, name).read()
    raise unknown(name, place)


def list_studies(home: HomeLike = None) -> list[ListedStudy]:
    """The studies of a home, searches and ablations, each with its state and how many trials ended in which way."""
    from sage_ray.record.overview import overview

    return list(overview(open_home(home)).studies)


class Study:
    """A study of a home, to be looked at; making the object changes nothing.

    Args:
        name: of the study.
        home: that holds it.

    Raises:
        UserError: no such study; the nearest name is given.
    """

    def __init__(self, name: str, home: HomeLike = None) -> None:
        from sage_ray.search.study_folder import StudyFolder

        self.name, self.home = name, open_home(home)
        StudyFolder.open(self.home, name)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, home={self.home.address!r})"

    def status(self) -> StudyStatus:
        """The study as it stands: its state, counts and trials."""
        from sage_ray.search.study_status import status as of_study

        return of_study(self.name, self.home)

    def frame(self) -> pd.DataFrame:
        """One row per trial: number, state, value, parameters, epochs, seconds, error, weights_sha."""
        from sage_ray.search.study_tables import trial_table

        return trial_table(self.status())

    def runs(self) -> pd.DataFrame:
        """One row per run (trial, seed and fold): its record, and its scores at the selected epoch."""
        from sage_ray.search.study_tables import run_table

        return run_table(self.status(), self.home)

    def best(self) -> BestChoice:
        """The best trial by the stated rule. Raises UserError while none is complete."""
        from sage_ray.search.best import best

        return best(self.name, self.home)


FILES = ("spec", "space", "design")
"""Names of parameters that take a search space or a design."""


def opened(work: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the package whose parameter `home` may be a folder or left out, and files be given by name.

    `watch` is what progress is shown by where Python is used by hand. A function that takes a space or a design also
    takes `sets`, overrides of its file.
    """
    signature = inspect.signature(work)
    named = [name for name in signature.parameters if name in FILES]

    @wraps(work)
    def call(*args: Any, **kwargs: Any) -> Any:
        sets = kwargs.pop("sets", ()) if named else ()
        given = signature.bind_partial(*args, **kwargs)
        if "home" in signature.parameters:
            given.arguments["home"] = open_home(given.arguments.get("home"))
        for name in named:
            if name in given.arguments:
                given.arguments[name] = _loaded(name, given.arguments[name], sets)
        if "watch" not in signature.parameters:
            return work(*given.args, **given.kwargs)
        with _shown(given.arguments.get("watch")) as seen:
            given.arguments["watch"] = seen
            return work(*given.args, **given.kwargs)

    call.__signature__ = _looser(signature)  # type: ignore[attr-defined]
    return call


def _looser(signature: inspect.Signature) -> inspect.Signature:
    """The signature as `help` shall show it: the home may be left out."""
    parameters = [
        parameter.replace(default=None, annotation=HomeLike) if parameter.name == "home" else parameter
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def resolve_sets(sets: Sets) -> dict[str, Any]:
    """Overrides as a mapping from dotted paths to values."""
    from sage_ray.config import parse_set

    return dict(sets) if isinstance(sets, Mapping) else dict(parse_set(text) for text in sets)


def _loaded(kind: str, given: Any, sets: Sets) -> Any:
    """The space or design of a file or shipped name; an object is taken as it is."""
    if not isinstance(given, str | Path):
        if sets:
            raise UserError("nothing to set", kind, "sets change a file: give them to load_space or load_design")
        return given
    from sage_ray.study.design import load_design, load_spec
    from sage_ray.study.space import load_space

    load = {"space": load_space, "design": load_design}.get(kind, load_spec)
    return load(given, sets if isinstance(sets, Mapping) else tuple(sets))


def quiet_imports() -> None:
    """Keep Ray and tqdm from advertising widgets in a notebook when they are imported: nothing here uses any."""
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")


@contextmanager
def _shown(watch: Watch | None) -> Iterator[Watch]:
    """The watch; without one, lines or a live table where Python is used by hand, and nothing in a script."""
    if watch is not None:
        yield watch
        return
    quiet_imports()
    from sage_ray.terminal.progress import make_watch

    made = make_watch() if hasattr(sys, "ps1") else SilentWatch()
    try:
        yield made
    finally:
        made.close()


def _tidy(study: str, home: HomeLike) -> None:
    from sage_ray.upkeep.finished_study import tidy_finished

    tidy_finished(open_home(home), study)
