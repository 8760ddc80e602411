"""Which version is the champion: promotion needs a supported comparison, a first version, or force; all is recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.score_tables import PRIMARY
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.model_versions import MODEL_NAME, Version, get_version, list_versions, registry
from sage_ray.record.provenance import now, who
from sage_ray.registry.compare import CHAMPION, FIRST, compare_versions, reference_of
from sage_ray.registry.comparison import difference_text
from sage_ray.registry.register import CHALLENGER
from sage_ray.statistics.claims import SUPPORTED, WORDS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Promotion(NotebookView):
    """What a promotion did and why."""

    model_name: str
    version: int
    promoted: bool
    alias: str
    """champion or challenger: of `version` now."""
    champion: int
    """The champion now."""
    previous: int | None
    """The champion before."""
    reason: str
    """first version, supported, refuted, undecided, already champion, or forced (with the verdict)."""
    verdict: str | None
    difference: str | None
    """Paired Dice difference to the reference with its interval, as text."""

    def frame(self) -> pd.DataFrame:
        """One row: model_name, version, promoted, alias, champion, previous, reason, verdict, difference."""
        import pandas as pd

        return pd.DataFrame([asdict(self)])

    def headline(self) -> str:
        """What the version is now, and why."""
        return f"version {self.version} of {self.model_name} is {self.alias}: {self.reason}"


def promote(
    home: Home, version: int | str | None = None, *, force: bool = False, model_name: str = MODEL_NAME
) -> Promotion:
    """Make a version the champion if the comparison with the champion supports it; else it stays challenger.

    Without a champion, the oldest untuned base (else the oldest version) takes its place first, recorded as the first
    version, and the version is judged against it.

    Args:
        home: of the registry and the ledger promotions.jsonl.
        version: number or alias; None for the newest.
        force: make it champion whatever the comparison says; recorded as forced.
        model_name: of the registered model.

    Raises:
        UserError: no such model or version, or it cannot be compared with the champion (without `force`).
    """
    entry = get_version(home, model_name, "latest" if version is None else version)
    home.check_writable()
    versions = list_versions(home, model_name)
    before = next((v for v in versions if CHAMPION in v.aliases), None)
    if before is not None and before.version == entry.version:
        number = entry.version
        return Promotion(model_name, number, False, CHAMPION, number, number, "already champion", None, None)
    if force:
        return _forced(home, entry, before)
    reference = before or reference_of(home, versions)
    if reference.version == entry.version:
        done = Promotion(model_name, entry.version, True, CHAMPION, entry.version, None, FIRST, None, None)
        _record(home, done)
        return done
    verdict, difference = _judge(home, entry, reference)
    if before is None:
        oldest = reference.version
        _record(home, Promotion(model_name, oldest, True, CHAMPION, oldest, None, FIRST, None, None))
    won = verdict == WORDS[SUPPORTED]
    champion = entry.version if won else reference.version
    alias = CHAMPION if won else CHALLENGER
    previous = before.version if before else None
    done = Promotion(model_name, entry.version, won, alias, champion, previous, verdict, verdict, difference)
    _record(home, done)
    return done


def _forced(home: Home, entry: Version, before: Version | None) -> Promotion:
    verdict, difference = None, None
    if before is not None:
        try:
            verdict, difference = _judge(home, entry, before)
        except UserError as error:
            verdict = f"not comparable ({error.what})"
    done = Promotion(
        entry.name, entry.version, True, CHAMPION, entry.version, before.version if before else None,
        f"forced ({verdict or 'no champion before'})", verdict, difference,
    )  # fmt: skip
    _record(home, done)
    return done


def _judge(home: Home, entry: Version, reference: Version) -> tuple[str, str]:
    comparison = compare_versions(home, [reference, entry], reference)
    row = next(row for row in comparison.versions if row.version == entry.version)
    assert row.differences is not None and row.verdict is not None
    gain = row.differences[PRIMARY]
    return row.verdict, f"{difference_text(gain)}, {gain.over}"


def _record(home: Home, done: Promotion) -> None:
    number = str(done.version)
    with registry(home) as client:
        tags = {
            "sage.promotion": done.reason,
            "sage.promotion_verdict": done.verdict,
            "sage.promotion_difference": done.difference,
            "sage.promotion_against": str(done.previous) if done.previous is not None else None,
            "sage.promotion_when": now(),
            "sage.promotion_by": who(),
        }
        for name, value in tags.items():
            if value is not None:
                client.set_model_version_tag(done.model_name, number, name, value)
        client.set_registered_model_alias(done.model_name, done.alias, number)
        if done.alias == CHAMPION:
            challenger = challenger_of(home, done.model_name)
            if challenger == done.version:
                client.delete_registered_model_alias(done.model_name, CHALLENGER)
    ledger.append_once(
        home.path / ledger.PROMOTIONS,
        {
            "model": done.model_name,
            "version": done.version,
            "promoted": done.promoted,
            "alias": done.alias,
            "champion": done.champion,
            "previous": done.previous,
            "reason": done.reason,
            "difference": done.difference,
        },
    )


def challenger_of(home: Home, model_name: str) -> int | None:
    """Number of the version that has alias `challenger`, if one has."""
    return next((v.version for v in list_versions(home, model_name) if CHALLENGER in v.aliases), None)
