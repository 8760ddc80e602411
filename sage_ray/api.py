"""sage_ray in Python: what its verbs do, for scripts and notebooks; homes and files may be given by name.

A home is a `Home`, a folder, or None: `SAGE_HOME`, else ./sage_runs. A search space, a design or a config is an
object, a YAML file, or the name of a shipped one. Where Python is used by hand, in a notebook or at a prompt, progress
is shown; give `watch=SilentWatch()` (`sage_ray.watch`) for none of it. Scripts stay silent. Interrupting the kernel
ends a study in an orderly way, and says how to go on with it. What the functions return has `frame()`, the same as a
table (pandas), and shows that table in a notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.argument_kinds import kinds_checked
from sage_ray.by_hand import HomeLike, Sets, going_on, loaded, open_home, quiet_imports, shown
from sage_ray.errors import UserError
from sage_ray.watch import Watch, tell_maker

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sage_ray.config import ExperimentConfig
    from sage_ray.record.overview import ListedStudies
    from sage_ray.record.run_record import RunRecord
    from sage_ray.registry.final import FinalResult
    from sage_ray.search.ablate import AblationResult
    from sage_ray.search.best import BestChoice
    from sage_ray.search.study_status import StudyStatus
    from sage_ray.study.design import Design
    from sage_ray.study.space import Space


@kinds_checked
def train(
    config: ExperimentConfig | str | Path,
    home: HomeLike = None,
    run_id: str | None = None,
    *,
    sets: Sets = (),
    watch: Watch | None = None,
    **more: Any,
) -> RunRecord:
    """Train one config through all its stages; the same config again goes on with, or returns, the same run.

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
    from sage_ray.config import parse_sets, resolve
    from sage_ray.runtime.launch import default_run_id
    from sage_ray.runtime.launch import train as work

    if isinstance(config, Config):
        resolved, name = config.with_values(parse_sets(sets)), None
    elif Path(config).suffix in (".yaml", ".yml"):
        resolved, name = resolve(file=config, sets=sets).config, None
    else:
        resolved, name = resolve(preset=str(config), sets=sets).config, str(config)
    total = resolved.num_epochs
    chosen = run_id or default_run_id(resolved, name)
    with shown(watch) as seen, going_on(lambda: chosen, home):
        told: dict[str, Any] = {"on_report": lambda report: seen.epoch(report, total), "say": seen.line}
        told["on_maker"] = partial(tell_maker, seen)
        return kinds_checked(work)(resolved, open_home(home), chosen, **{**told, **more})


@kinds_checked
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
        UserError: bad input; nothing was trained. Interrupted: a KeyboardInterrupt that says how to go on.
    """
    asked = loaded("space", space, sets)
    with shown(watch) as seen, going_on(lambda: name or asked.name, home):
        from sage_ray.search.driver import sweep as work

        found = kinds_checked(work)(asked, open_home(home), name, seen, **more)
    _tidy(found.study, home)
    return found


@kinds_checked
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
        UserError: bad input; nothing was trained. Interrupted: a KeyboardInterrupt that says how to go on.
    """
    asked = loaded("design", design, sets)
    with shown(watch) as seen, going_on(lambda: name or asked.name, home):
        from sage_ray.search.ablate import ablate as work

        found = kinds_checked(work)(asked, open_home(home), name, seen, **more)
    _tidy(found.status.study, home)
    return found


@kinds_checked
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
        with shown(watch) as seen, going_on(lambda: name, home):
            found: StudyStatus | AblationResult = kinds_checked(work)(name, place, watch=seen, **more)
        _tidy(name, place)
        return found
    final = is_final(name, place)
    if not final and name not in place.run_ids():
        raise unknown(name, place)
    if any(more.values()):
        mend = f"leave {', '.join(more)} out: only a study changes"
        raise UserError("no study, but a run or a final training", name, mend)
    if final:
        with shown(watch) as seen, going_on(lambda: name, home):
            return resume_final(name, place, watch=seen)
    folder = RunFolder.open(place.runs, name)
    record = folder.read()
    owner = record.parent or record.study
    if owner:
        raise UserError("run of a study", name, f"go on with the whole of it: sage_ray.resume({owner!r})")
    return train(folder.config(), place, name, watch=watch)


@kinds_checked
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


@kinds_checked
def list_studies(home: HomeLike = None) -> ListedStudies:
    """The studies of a home, searches and ablations, each with its state and how many trials ended in which way."""
    from sage_ray.record.overview import ListedStudies, overview

    return ListedStudies(overview(open_home(home)).studies)


class Study:
    """A study of a home, to be looked at; making the object changes nothing.

    Args:
        name: of the study.
        home: that holds it.

    Raises:
        UserError: no such study; the nearest name is given.
    """

    @kinds_checked
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
        return self.status().frame()

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()

    def runs(self) -> pd.DataFrame:
        """One row per run (trial, seed and fold): its record, and its scores at the selected epoch."""
        from sage_ray.search.study_tables import run_table

        return run_table(self.status(), self.home)

    @kinds_checked
    def figure(self, name: str, columns: int = 1) -> Figure:
        """A figure of the study as matplotlib has it, as wide as one or two columns of a page (88 or 180 mm).

        `sage_ray.figures.catalog.write_figures(study.home, study.name, folder)` writes all figures that a study has as
        PDF, SVG and PNG.

        Args:
            name: finals, forest, parallel, slices, importance, history, curves, examples, generated, particles or cost.
            columns: 1 or 2.

        Raises:
            UserError: no such figure, or the study has nothing to draw in it; it names those that there are.
        """
        from sage_ray.figures.catalog import study_figure

        return study_figure(self.home, self.name, name, columns).figure

    def best(self) -> BestChoice:
        """The best trial by the stated rule. Raises UserError while none is complete."""
        from sage_ray.search.best import best

        return best(self.name, self.home)


def _tidy(study: str, home: HomeLike) -> None:
    from sage_ray.upkeep.finished_study import tidy_finished

    tidy_finished(open_home(home), study)
