"""Registry versions side by side on one locked test set, with paired intervals and a verdict against the reference."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sage_ray.errors import UserError
from sage_ray.evaluation.ledger import reads_of_test_set
from sage_ray.evaluation.score_tables import PRIMARY, seed_table, summary, why_no_interval
from sage_ray.evaluation.shared_reads import readings_of
from sage_ray.files import write_text
from sage_ray.metrics.definitions import IMAGE_SCORES
from sage_ray.record.home import Home
from sage_ray.record.model_versions import (
    COMPUTED_ON_SEPARATOR,
    MODEL_NAME,
    TAG_COMPUTED_ON,
    Version,
    download,
    get_version,
    list_versions,
)
from sage_ray.registry.comparison import Comparison, Difference, VersionScores, comparison_markdown
from sage_ray.registry.final_plan import is_base
from sage_ray.registry.package import SCORES_FILE
from sage_ray.runtime.devices import crossing
from sage_ray.statistics import Interval, Verdict, coarser, paired_interval, verdicts
from sage_ray.statistics.claims import UNDECIDED, WORDS

CHAMPION = "champion"
FIRST = "first version"


@dataclass(frozen=True)
class _Loaded:
    version: Version
    frame: pd.DataFrame


def compare(home: Home, versions: Sequence[int | str] | None = None, model_name: str = MODEL_NAME) -> Comparison:
    """Versions side by side: test scores with intervals, differences to the reference, verdicts; a table in reports/.

    The reference is the champion if it is among the versions, else the oldest untuned base, else the oldest version.

    Args:
        home: of the registry; its ledger counts the reads of the test set.
        versions: numbers or aliases; None for all.
        model_name: of the registered model.

    Raises:
        UserError: no such model or version, or versions scored on other data, test sets or definitions.
    """
    if versions is None:
        chosen = list_versions(home, model_name)
        if not chosen:
            get_version(home, model_name, "latest")  # raises, naming the nearest model
    else:
        found = {v.version: v for v in (get_version(home, model_name, each) for each in versions)}
        chosen = [found[number] for number in sorted(found)]
    home.check_writable()
    comparison = compare_versions(home, chosen, reference_of(home, chosen))
    path = home.path / "reports" / f"compare-{model_name}-{'-'.join(str(v.version) for v in chosen)}.md"
    path.parent.mkdir(exist_ok=True)
    write_text(path, comparison_markdown(comparison))
    return replace(comparison, report=path)


def reference_of(home: Home, versions: Sequence[Version]) -> Version:
    """The champion, else the oldest untuned base, else the oldest of at least one version."""
    for entry in versions:
        if CHAMPION in entry.aliases:
            return entry
    bases = [entry for entry in versions if _is_base(home, entry)]
    return (bases or list(versions))[0]


def _is_base(home: Home, version: Version) -> bool:
    trial = version.tags.get("sage.trial")
    study, choice = version.tags.get("sage.study"), version.tags.get("sage.choice")
    return is_base(home, study, None if trial is None else int(trial), choice)


def compare_versions(home: Home, versions: Sequence[Version], reference: Version) -> Comparison:
    """Compare these versions with one of them, as `compare` does, without a table on disk."""
    check_same_test(versions)
    loaded = [_Loaded(v, pd.read_parquet(download(home, v, f"artifacts/{SCORES_FILE}"))) for v in versions]
    loaded, notes = _grouped_alike(loaded)
    base = next(entry for entry in loaded if entry.version.version == reference.version)
    _check_same_definitions(loaded)
    differences = {
        entry.version.version: _differences(entry, base)
        for entry in loaded
        if entry.version.version != reference.version
    }
    known = {str(number): interval for number, (_, interval) in differences.items() if interval is not None}
    judged = verdicts(known)
    rows = []
    for entry in loaded:
        row = _version_scores(entry)
        number = entry.version.version
        if number in differences:
            found = judged.get(str(number))
            row = replace(
                row,
                reference=reference.version,
                differences=differences[number][0],
                p_value=found.p_value if found else None,
                verdict=found.word if found else WORDS[UNDECIDED],
            )
        else:
            row = replace(row, is_reference=True)
        rows.append(row)
    tags = reference.tags
    test_set = tags.get("sage.test_set", "")
    readings = readings_of(home, test_set, write=True)
    return Comparison(
        model_name=reference.name,
        test_set=test_set,
        fingerprint=tags.get("sage.data_fingerprint"),
        split_id=tags.get("sage.split_id"),
        images=rows[0].scores[PRIMARY].images,
        reference=reference.version,
        reference_is=_why(home, reference),
        rule=_rule(judged, compared=bool(differences)),
        versions=rows,
        test_reads=len(reads_of_test_set(home.path, test_set)),
        readings=readings,
        report=None,
        notes=[*notes, *crossing({f"version {v.version}": _computed_on(v) for v in versions}), *readings.notes],
    )


def _rule(judged: Mapping[str, Verdict], *, compared: bool) -> str:
    """What the verdicts of a comparison mean, as sentences."""
    for found in judged.values():
        return found.rule
    return "All are undecided, as there is no interval." if compared else "One version: nothing to compare with."


def _grouped_alike(loaded: Sequence[_Loaded]) -> tuple[list[_Loaded], list[str]]:
    """The versions with one grouping of their images, and a note if they had several.

    What any version holds together stays together: crops do not become independent by being registered without
    `data.split.group`, or by a release that did not store it.
    """
    tables = [seed_table(entry.frame, PRIMARY, entry.version.uri) for entry in loaded]
    first = tables[0]
    own = [coarser(found.groups, found.groups) for found in tables]
    if any(found.images != first.images for found in tables) or all(groups == own[0] for groups in own):
        return list(loaded), []
    together = functools.reduce(coarser, own)
    named = {sha: str(group) for sha, group in zip(first.images, together, strict=True)}
    known = [_Loaded(e.version, e.frame.assign(group=e.frame["image_sha"].map(named))) for e in loaded]
    count = len(set(together))
    note = f"the versions do not all know the same micrographs of the test images; all are judged over {count} of them"
    return known, [note]


def _computed_on(version: Version) -> tuple[str, ...]:
    """Where all its seeds were computed; () for a version of the first release, which did not record it."""
    return tuple(filter(None, version.tags.get(TAG_COMPUTED_ON, "").split(COMPUTED_ON_SEPARATOR)))


def check_same_test(versions: Sequence[Version]) -> None:
    """Raise UserError, naming the first two that differ, unless all versions have one fingerprint and test set."""
    named = {"sage.data_fingerprint": "data fingerprints", "sage.test_set": "test sets"}
    for tag, what in named.items():
        first = versions[0]
        for other in versions:
            if tag not in other.tags:
                raise UserError("version has no test scores", other.uri, "compare versions that `sage-ray final` made")
            if other.tags[tag] != first.tags[tag]:
                raise UserError(
                    f"mixed {what}",
                    f"{first.uri} has {first.tags[tag]}, {other.uri} has {other.tags[tag]}",
                    "name versions that were tested on the same images, such as --versions 1,2",
                )


def _check_same_definitions(loaded: Sequence[_Loaded]) -> None:
    first = loaded[0]
    for other in loaded:
        for score in IMAGE_SCORES:
            mine = seed_table(first.frame, score, first.version.uri).definition
            theirs = seed_table(other.frame, score, other.version.uri).definition
            if mine != theirs:
                raise UserError(
                    f"mixed definitions of {score}",
                    f"{first.version.uri}: {mine}; {other.version.uri}: {theirs}",
                    "name versions whose scores mean the same",
                )


def _differences(entry: _Loaded, base: _Loaded) -> tuple[dict[str, Difference], Interval | None]:
    """The difference of each score, and the interval of the primary one; None where there is one image alone."""
    found: dict[str, Difference] = {}
    primary: Interval | None = None
    for score in IMAGE_SCORES:
        arm = seed_table(entry.frame, score, entry.version.uri)
        reference = seed_table(base.frame, score, base.version.uri)
        if arm.images != reference.images:
            where = f"{entry.version.uri}, {base.version.uri}"
            raise UserError("mixed test images", where, "name versions tested on the same images")
        common = [seed for seed in arm.seeds if seed in reference.seeds]
        if not common:
            raise UserError(
                "versions share no seed",
                f"{entry.version.uri} has {list(arm.seeds)}, {base.version.uri} has {list(reference.seeds)}",
                "run `sage-ray final` with the same seeds for both",
            )
        mine = arm.values[:, [arm.seeds.index(seed) for seed in common]]
        theirs = reference.values[:, [reference.seeds.index(seed) for seed in common]]
        why = why_no_interval(arm.groups)
        if why is not None:
            found[score] = Difference(float((mine - theirs).mean()), None, None, None, f"{why}: no interval", None)
            continue
        gain = paired_interval(mine, theirs, groups=arm.groups)
        found[score] = Difference(gain.mean, gain.low, gain.high, gain.level, gain.over, gain.p_value)
        primary = gain if score == PRIMARY else primary
    return found, primary


def _version_scores(entry: _Loaded) -> VersionScores:
    tags = entry.version.tags
    trial, seed = tags.get("sage.trial"), tags.get("sage.registered_seed")
    return VersionScores(
        version=entry.version.version,
        uri=entry.version.uri,
        aliases=entry.version.aliases,
        run_id=tags.get("sage.run_id"),
        source=tags.get("sage.source"),
        study=tags.get("sage.study"),
        trial=int(trial) if trial is not None else None,
        choice=tags.get("sage.choice"),
        seeds=seed_table(entry.frame, PRIMARY, entry.version.uri).seeds,
        registered_seed=int(seed) if seed is not None else None,
        weights_sha=tags.get("sage.weights_sha"),
        scores=summary(entry.frame, entry.version.uri),
        by_seed={str(own): summary(rows, entry.version.uri) for own, rows in entry.frame.groupby("seed", sort=True)},
    )


def _why(home: Home, reference: Version) -> str:
    if CHAMPION in reference.aliases:
        return "champion"
    return "untuned base" if _is_base(home, reference) else "oldest version"


def compare_with_reference(home: Home, version: Version) -> tuple[list[VersionScores], str]:
    """A version beside the reference among those of its test set, and the verdict; `first version` if it is alone."""
    same = [
        v
        for v in list_versions(home, version.name)
        if v.tags.get("sage.test_set") == version.tags.get("sage.test_set") and v.version != version.version
    ]
    comparison = compare_versions(home, [version], version)
    if not same:
        return comparison.versions, FIRST
    reference = reference_of(home, same)
    try:
        comparison = compare_versions(home, [reference, version], reference)
    except UserError as error:
        return comparison.versions, f"not comparable with version {reference.version} ({error.what})"
    mine = next(row for row in comparison.versions if row.version == version.version)
    return comparison.versions, str(mine.verdict)
