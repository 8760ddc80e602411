"""The versions of a registered model: reading and writing the MLflow registry, always through one explicit client."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import RunFailed, UserError, did_you_mean
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import (
    MirrorAway,
    MirrorUnavailable,
    connect,
    is_refusal,
    one_line_of,
    prepare_import,
    probe,
    unavailable,
)
from sage_ray.record.store_uris import store_mark

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL_NAME = "sage-gan"
TAG_COMPUTED_ON, COMPUTED_ON_SEPARATOR = "sage.computed_on", " | "
"""Tag of a version: where the runs of all its seeds were computed (`RunRecord.computed_on`)."""
PACKAGE_PATH = "model"
"""Artifact path of the package in the MLflow run of its first seed."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model, as the registry tells it."""

    name: str
    version: int
    source: str
    run_id: str | None
    """MLflow run, not our run id: that is tag `sage.run_id`."""
    created_ms: int
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@contextmanager
def registry(home: Home) -> Iterator[MlflowClient]:
    """A client of the home's registry; a server that is away or refuses becomes one line.

    Raises:
        UserError: the tracking or registry server cannot be reached, is none of MLflow's, or lets nobody in.
    """
    prepare_import()
    from mlflow.exceptions import MlflowException

    try:
        if home.registry_uri != home.mlflow_uri:
            probe(home.registry_uri)
        yield connect(home)
    except MirrorUnavailable as error:
        raise _unreachable(str(error)) from None
    except MlflowException as error:
        refused = unavailable(home.registry_uri, error)
        if is_refusal(error):
            mend = "give an MLflow server in MLFLOW_TRACKING_URI (MLFLOW_REGISTRY_URI), and who may enter it"
            raise UserError("MLflow registry cannot be used", str(refused), mend) from None
        if not isinstance(refused, MirrorAway):
            raise
        raise _unreachable(str(refused)) from None


def _unreachable(where: str) -> UserError:
    return UserError(
        "MLflow registry cannot be reached", where, "start the server or mend MLFLOW_TRACKING_URI (MLFLOW_REGISTRY_URI)"
    )


def list_versions(home: Home, name: str = MODEL_NAME) -> list[Version]:
    """All versions of a model, oldest first; empty if the model does not exist."""
    if _is_unmade(home):
        return []
    with registry(home) as client:
        aliases: dict[str, list[str]] = {}
        for model in client.search_registered_models(f"name = '{_quoted(name)}'"):
            for alias, number in model.aliases.items():
                aliases.setdefault(str(number), []).append(alias)
        found: list[ModelVersion] = []
        token = None
        for _ in range(1000):  # pages
            page = client.search_model_versions(f"name = '{_quoted(name)}'", max_results=200, page_token=token)
            found += page
            token = page.token
            if not token:
                break
    versions = [
        Version(
            v.name, int(v.version), v.source or "", v.run_id, int(v.creation_timestamp or 0),
            tuple(sorted(aliases.get(str(v.version), []))), dict(v.tags or {}),
        )
        for v in found
    ]  # fmt: skip
    return sorted(versions, key=lambda v: v.version)


def get_version(home: Home, name: str, version: str | int) -> Version:
    """One version by its number or alias.

    Raises:
        UserError: the model, version or alias does not exist; the nearest is named.
    """
    versions = list_versions(home, name)
    if not versions:
        raise UserError("no such model", f"models:/{name}", _nearest_model(home, name))
    wanted = str(version).removeprefix("@")
    if wanted == "latest":
        return versions[-1]
    for entry in versions:
        if wanted == str(entry.version) or wanted in entry.aliases:
            return entry
    known = [str(v.version) for v in versions] + sorted({f"@{a}" for v in versions for a in v.aliases})
    raise UserError("no such version", f"models:/{name}, {version}", "it has " + ", ".join(known))


def _is_unmade(home: Home) -> bool:
    """Whether the registry is a file of the home that is not there; to look is no reason to make it."""
    return home.database is not None and home.registry_uri == home.mlflow_uri and not home.database.is_file()


def _nearest_model(home: Home, name: str) -> str:
    names: list[str] = []
    if not _is_unmade(home):
        with registry(home) as client:
            names = [model.name for model in client.search_registered_models(max_results=200)]
    there = "registered are " + ", ".join(names) if names else "nothing is registered yet: `sage-ray final STUDY` does"
    return did_you_mean(name, names, there)


def _quoted(name: str) -> str:
    return name.replace("'", "")


def parse_uri(text: str) -> tuple[str, str]:
    """("NAME", "VERSION" or "@ALIAS") of a `models:/` URI; without either, "latest".

    Raises:
        UserError: not of the form models:/NAME/VERSION or models:/NAME@ALIAS.
    """
    rest = text.removeprefix("models:").lstrip("/")
    for mark in ("@", "/"):
        name, found, version = rest.partition(mark)
        if found and name and version and "/" not in version and "@" not in version:
            return name, ("@" if mark == "@" else "") + version
    if rest and "/" not in rest and "@" not in rest:
        return rest, "latest"
    raise UserError("bad model URI", text, "write models:/NAME/VERSION or models:/NAME@ALIAS")


def download(home: Home, version: Version, path: str = "") -> Path:
    """Local copy, under the home's cache, of a version's package or of one `path` inside it."""
    mark = hashlib.sha256(
        f"{store_mark(home.registry_uri)} {version.source} {version.created_ms}".encode()
    ).hexdigest()[:12]
    folder = home.cache / "models" / f"{version.name}-{version.version}-{mark}"
    target = folder / path if path else folder / "package"
    if target.exists():
        return target
    import mlflow

    target.parent.mkdir(parents=True, exist_ok=True)
    part = folder / f".part-{uuid.uuid4().hex[:8]}"
    part.mkdir(parents=True)
    try:
        with registry(home) as client:
            uri = client.get_model_version_download_uri(version.name, str(version.version))
            uri = f"{uri.rstrip('/')}/{path}" if path else uri
            got = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(part), tracking_uri=home.mlflow_uri))
        if not target.exists():
            got.rename(target)
    except UserError:
        raise
    except Exception as error:  # each artifact store has its own errors; a server answers with MLflow's
        raise _files_missing(version, path, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _files_missing(version: Version, path: str, error: Exception) -> UserError:
    lacking = f"{path} in {version.source}" if path else version.source
    final = version.tags.get("sage.final_id")
    again = f"`sage-ray resume {final}` registers it again from the home's own weights" if final else "restore them"
    known = isinstance(error, FileNotFoundError) or "failures occurred" in str(error)  # what is said already
    where = f"{version.uri}, {lacking}" + ("" if known else f" ({one_line_of(error)})")
    return UserError("files of a registered model are missing", where, f"{again}, or name another version")


def has_files(home: Home, version: Version) -> bool:
    """Whether the package of a version is where the registry says; its run in MLflow may have been purged."""
    with registry(home) as client:
        from mlflow.artifacts import list_artifacts
        from mlflow.exceptions import MlflowException

        uri = client.get_model_version_download_uri(version.name, str(version.version))
        try:
            found = list_artifacts(artifact_uri=uri, tracking_uri=home.mlflow_uri)
        except (MlflowException, OSError) as error:
            if isinstance(unavailable(home.mlflow_uri, error), MirrorAway):
                raise
            return False
        return any(file.path.rsplit("/", 1)[-1] == "MLmodel" for file in found)


def restore_files(home: Home, version: Version, package: Path) -> None:
    """Write the package of a version anew where the registry says it is, and note on the version that this was done.

    Raises:
        UserError: the registry cannot be reached. RunFailed: the store of artifacts does not take the files.
    """
    from sage_ray.record.provenance import now  # it needs torch

    with registry(home) as client:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = client.get_model_version_download_uri(version.name, str(version.version))
        try:
            get_artifact_repository(uri, tracking_uri=home.mlflow_uri).log_artifacts(str(package))  # type: ignore[no-untyped-call]
        except Exception as error:  # each artifact store has its own errors
            raise RunFailed(
                f"{version.uri} has lost its files, and MLflow does not take them again: {one_line_of(error)}"
            ) from None
        client.set_model_version_tag(version.name, str(version.version), "sage.restored", now())
