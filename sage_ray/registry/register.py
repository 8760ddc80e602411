"""Registration of a final training: one version for its pre-declared first seed, with the test scores of all seeds."""

from __future__ import annotations

import re

import pandas as pd

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import RunFailed
from sage_ray.evaluation.locked_test import seen_and_tested
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine, name_test_set, summary
from sage_ray.files import read_json
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.model_versions import (
    COMPUTED_ON_SEPARATOR,
    PACKAGE_PATH,
    TAG_COMPUTED_ON,
    Version,
    get_version,
    list_versions,
    registry,
)
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.card import CardFacts, description, model_card, provenance_of_model
from sage_ray.registry.final_plan import FinalPlan
from sage_ray.registry.package import save_package

CHALLENGER = "challenger"
TAG_FINAL = "sage.final"


def registered(plan: FinalPlan, home: Home) -> Version | None:
    """The version that this final training has made already, if it has."""
    mine = [v for v in list_versions(home, plan.model_name) if v.tags.get(TAG_FINAL) == registration_key(plan, home)]
    return mine[0] if mine else None


def registration_key(plan: FinalPlan, home: Home) -> str:
    """Value of tag `sage.final`: the home's identity tells apart homes that share a registry."""
    return f"{plan.final_id}@{home.identity[:8]}"


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
        if final_id and whose == home.identity[:8]:
            seeds = version.tags.get("sage.seeds", "").split(",")
            found |= {f"{final_id}-s{seed}": version.uri for seed in seeds}
    return found


def register(plan: FinalPlan, home: Home, scores: pd.DataFrame) -> Version:
    """The version of this final training, made if it is not there yet; it starts as `challenger`.

    Args:
        plan: of the final training; all its runs are complete.
        home: of the runs.
        scores: test rows of all seeds.

    Raises:
        UserError: the registry cannot be reached. RunFailed: MLflow does not take the run.
    """
    found = registered(plan, home)
    if found is not None:
        return found
    first = RunFolder.open(home.runs, plan.run_id(plan.seeds[0]))
    facts, tree = _facts(plan, home, first)
    lines = summary(scores, plan.final_id)
    card = model_card(facts, lines)
    package = save_package(home.finals / plan.final_id / "package", first.model, scores, tree, card)
    try:
        mirror = Mirror(home)
        for run_id in plan.run_ids:
            mirror.push(RunFolder.open(home.runs, run_id))
        mirror.parent_run(plan.final_id, state="COMPLETE", tags={"sage.kind": "final"})
        mlflow_run = str(read_json(first.path / "mlflow.json")["mlflow_run_id"])
    except MirrorUnavailable as error:
        raise RunFailed(
            f"training and scoring are done, but MLflow took no model ({error}); "
            f"`sage-ray resume {plan.final_id}` registers it"
        ) from None
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
        tags = _tags(plan, home, facts, tree, lines)
        made = client.create_model_version(
            plan.model_name, source, mlflow_run, tags=tags, description=description(card)
        )
        client.set_registered_model_alias(plan.model_name, CHALLENGER, str(made.version))
    return get_version(home, plan.model_name, str(made.version))


def _facts(plan: FinalPlan, home: Home, first: RunFolder) -> tuple[CardFacts, dict[str, object]]:
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
        has_generator=(first.model / "generator.safetensors").is_file(),
    )
    return facts, provenance_of_model(facts, seen, tested, data.split.split_id)


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
