"""Registration of a final training: one version for its pre-declared first seed, with the test scores of all seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sage_ray.config import ExperimentConfig
from sage_ray.data.lineage import extra_pairs_of
from sage_ray.data.prepare import prepare
from sage_ray.errors import RunFailed, UserError
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine, name_test_set, summary
from sage_ray.evaluation.seen_images import seen_and_tested
from sage_ray.followed import pull
from sage_ray.imaging.model import GENERATOR_FILE
from sage_ray.imaging.seed_votes import SEEDS_FOLDER
from sage_ray.locks import is_locked
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_params import preset_of_run, study_params
from sage_ray.record.mlflow_rows import ParentFacts
from sage_ray.record.model_reference import MODEL_IN_PACKAGE, SEGMENTER_FILE
from sage_ray.record.model_versions import (
    COMPUTED_ON_SEPARATOR,
    PACKAGE_PATH,
    TAG_COMPUTED_ON,
    Version,
    get_version,
    has_files,
    list_versions,
    registry,
    restore_files,
)
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import State
from sage_ray.registry.card import CardFacts, description, model_card, provenance_of_model
from sage_ray.registry.final_note import final_note, final_points
from sage_ray.registry.final_plan import FinalPlan, plan_path
from sage_ray.registry.package import save_package

CHALLENGER = "challenger"
TAG_FINAL = "sage.final"
PACKAGE = "package"
"""Folder under finals/ID of what was registered."""


def registered(plan: FinalPlan, home: Home) -> Version | None:
    """The version that this final training has made already, if it has."""
    mine = [v for v in list_versions(home, plan.model_name) if v.tags.get(TAG_FINAL) == registration_key(plan, home)]
    return mine[0] if mine else None


def registration_key(plan: FinalPlan, home: Home) -> str:
    """Value of tag `sage.final`: the home's identity tells apart homes that share a registry."""
    return f"{plan.final_id}@{home.identity_in(home.registry_uri)[:8]}"


def final_parent(plan: FinalPlan, home: Home) -> ParentFacts:
    """What MLflow's run of a final training shall say: it is complete once all seeds are and the package was made."""
    folder = home.finals / plan.final_id
    runs = [RunFolder(home.runs / run_id) for run_id in plan.run_ids]
    done = all((run.path / "record.json").is_file() and run.read().finished for run in runs)
    state: State = "COMPLETE" if done and (folder / PACKAGE).is_dir() else "INTERRUPTED"
    if state != "COMPLETE" and is_locked(home.finals / f".{plan.final_id}.lock"):
        state = "RUNNING"
    tags = {
        "sage.study": plan.final_id,
        "sage.home": home.address,
        "sage.source": plan.source,
        "sage.seeds": ",".join(str(seed) for seed in plan.seeds),
        "sage.model": plan.model_name,
    }
    first = next((run.read() for run in runs if (run.path / "record.json").is_file()), None)
    preset = None if first is None else preset_of_run(first, home.studies)
    shown = study_params(plan.run_config(plan.seeds[0]), preset)
    note = final_note(plan, home, state, shown)
    files = (plan_path(home, plan.final_id),)
    return ParentFacts(plan.final_id, "final", folder, state, tags, final_points(plan, home), files, shown, note)


def registered_runs(home: Home) -> dict[str, str]:
    """URIs of the registered versions by what is behind them: ids of runs of this home, and ids of runs in MLflow.

    All seeds of a final training are behind its version. A version that was made by hand names a run of MLflow alone.

    Raises:
        UserError: the registry cannot be reached.
    """
    if home.database is not None and not home.database.is_file() and home.registry_uri == home.mlflow_uri:
        return {}
    names: list[str] = []
    with registry(home) as client:
        page = client.search_registered_models(max_results=200)
        names += [model.name for model in page]
        while page.token:
            page = client.search_registered_models(max_results=200, page_token=page.token)
            names += [model.name for model in page]
    found: dict[str, str] = {}
    for version in (version for name in names for version in list_versions(home, name)):
        named = [*re.findall(r"\b[0-9a-f]{32}\b", version.source), version.run_id or ""]
        found |= {mlflow_run: version.uri for mlflow_run in named if mlflow_run}
        final_id, _, whose = version.tags.get(TAG_FINAL, "").rpartition("@")
        if final_id and whose == home.identity_in(home.registry_uri)[:8]:
            seeds = version.tags.get("sage.seeds", "").split(",")
            found |= {f"{final_id}-s{seed}": version.uri for seed in seeds}
    return found


def register(plan: FinalPlan, home: Home, scores: pd.DataFrame) -> Version:
    """The version of this final training, made if it is not there yet; it starts as `challenger`.

    If the version is there and its files are not (the MLflow run that held them was purged, say), they are written anew
    from the weights of the home: number, aliases and tags of the version stay.

    Args:
        plan: of the final training; all its runs are complete.
        home: of the runs.
        scores: test rows of all seeds.

    Raises:
        UserError: the registry cannot be reached. RunFailed: MLflow does not take the run.
    """
    found = registered(plan, home)
    if found is not None and has_files(home, found):
        return found
    package, card, tags = _packed(plan, home, scores)
    mlflow_run = _send_runs(plan, home)
    if found is not None:
        restore_files(home, found, package)
        return get_version(home, plan.model_name, str(found.version))
    with registry(home) as client:
        from mlflow.exceptions import MlflowException

        client.log_artifacts(mlflow_run, str(package), PACKAGE_PATH)
        try:
            client.create_registered_model(plan.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(mlflow_run).info.artifact_uri.rstrip('/')}/{PACKAGE_PATH}"
        # The tags go in with the creation: a kill right after it leaves a version that the next attempt finds.
        made = client.create_model_version(
            plan.model_name, source, mlflow_run, tags=tags, description=description(card)
        )
        client.set_registered_model_alias(plan.model_name, CHALLENGER, str(made.version))
    return get_version(home, plan.model_name, str(made.version))


def _packed(plan: FinalPlan, home: Home, scores: pd.DataFrame) -> tuple[Path, str, dict[str, str]]:
    """The package of all seeds' weights, the first one's registered, in finals/ID/package, with its card and tags."""
    package = home.finals / plan.final_id / PACKAGE
    pull(package, all_sizes=True)  # it may have been made on another machine, as the runs
    models = _models(plan, home, package)
    facts, tree = _facts(plan, home, models)
    lines = summary(scores, plan.final_id)
    card = model_card(facts, lines)
    save_package(package, models, scores, tree, card)
    return package, card, _tags(plan, home, facts, tree, lines)


def _models(plan: FinalPlan, home: Home, package: Path) -> dict[int, Path]:
    """Model folders by seed, the registered seed first: of the runs, or where those lost their weights, of the package.

    Raises:
        UserError: neither has the weights of the registered seed; the others are then not packed.
    """
    pull(package, all_sizes=True)  # it may have been made on another machine, as the runs may
    packed = package / MODEL_IN_PACKAGE
    found: dict[int, Path] = {}
    for seed in plan.seeds:
        run = RunFolder.open(home.runs, plan.run_id(seed))
        pull(run.path, all_sizes=True)
        registered = seed == plan.seeds[0]
        for folder in (run.model, packed if registered else packed / SEEDS_FOLDER / str(seed)):
            if (folder / SEGMENTER_FILE).is_file():
                found.setdefault(seed, folder)
        if registered and seed not in found:
            mend = f"restore them, or remove the run's folder and `sage-ray resume {plan.final_id}` trains it again"
            raise UserError("weights of a final training are missing", run.model, mend)
    return found


def _send_runs(plan: FinalPlan, home: Home) -> str:
    """Send the runs of all seeds, those once more that MLflow has lost; returns the MLflow run of the first seed."""
    runs = [RunFolder.open(home.runs, run_id) for run_id in plan.run_ids]
    try:
        mirror = Mirror(home, insist=True)
        known = [mirror.cursor(run, run.read()).mlflow_run_id for run in runs]
        there = mirror.stored_runs([run_id for run_id in known if run_id is not None])
        mirror.send_parent(final_parent(plan, home))
        for run in runs:
            mirror.renew(run, there)
        return str(mirror.cursor(runs[0], runs[0].read()).mlflow_run_id)
    except MirrorUnavailable as error:
        raise RunFailed(
            f"training and scoring are done, but MLflow took no model ({error}); "
            f"`sage-ray resume {plan.final_id}` registers it"
        ) from None


def _facts(plan: FinalPlan, home: Home, models: Mapping[int, Path]) -> tuple[CardFacts, dict[str, object]]:
    first = RunFolder.open(home.runs, plan.run_ids[0])
    record = first.read()
    config: ExperimentConfig = first.config()
    data = prepare(config.data, home.cache)
    seen, tested = seen_and_tested(data)
    facts = CardFacts(
        model_name=plan.model_name,
        final_id=plan.final_id,
        run_id=first.run_id,
        study=plan.study,
        trial=plan.trial,
        rule=plan.rule,
        seeds=plan.seeds,
        config=config,
        fingerprint=data.fingerprint,
        test_set=name_test_set(tested),
        images={"train": len(seen), "test": len(tested)},
        commit=record.commit,
        weights_sha=record.weights_sha,
        has_generator=(models[plan.seeds[0]] / GENERATOR_FILE).is_file(),
        packed=tuple(models),
        segmenter_bytes=(models[plan.seeds[0]] / SEGMENTER_FILE).stat().st_size,
    )
    extra = extra_pairs_of(models[plan.seeds[0]])
    provenance = provenance_of_model(facts, seen, tested, data.split.split_id)
    return facts, provenance | ({"extra_pairs": extra} if extra else {})


def _places(plan: FinalPlan, home: Home) -> list[str]:
    """Where the runs of all seeds were computed, each place once."""
    records = [RunFolder.open(home.runs, run_id).read() for run_id in plan.run_ids]
    return list(dict.fromkeys(place for record in records for place in record.computed_on))


def _tags(
    plan: FinalPlan, home: Home, facts: CardFacts, tree: dict[str, object], lines: dict[str, ScoreLine]
) -> dict[str, str]:
    values = {
        TAG_FINAL: registration_key(plan, home),
        "sage.final_id": plan.final_id,
        "sage.run_id": facts.run_id,
        "sage.source": plan.source,
        "sage.study": plan.study,
        "sage.trial": plan.trial,
        "sage.choice": plan.choice,
        "sage.seeds": ",".join(str(seed) for seed in plan.seeds),
        "sage.registered_seed": plan.seeds[0],
        "sage.packed_seeds": ",".join(str(seed) for seed in facts.packed),
        "sage.declared": plan.created,
        "sage.config_hash": facts.config.config_hash(),
        "sage.data_fingerprint": facts.fingerprint,
        "sage.split_id": tree["split_id"],
        "sage.test_set": facts.test_set,
        "sage.weights_sha": facts.weights_sha,
        "sage.commit": facts.commit,
        "sage.generator": facts.has_generator,
        TAG_COMPUTED_ON: COMPUTED_ON_SEPARATOR.join(_places(plan, home)),
        f"sage.test_{PRIMARY}": f"{lines[PRIMARY].mean:.6f}",
    }
    return {name: str(value) for name, value in values.items() if value is not None}
