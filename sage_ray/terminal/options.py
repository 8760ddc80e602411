"""The options and arguments that several verbs of `sage-ray` share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sage_ray.config import Resolved

Preset = Annotated[str | None, typer.Option("--preset", help="Name of a shipped preset, such as sage_gan_paper.")]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="A YAML file; it may say `extends: PRESET`.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, as a.b=value; may be repeated.")
]
StudyName = Annotated[str | None, typer.Option("--name", help="Name of the study [default: the file's].")]
Earlier = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="STUDY", help="The sampler knows its trials, its best come first; repeatable."),
]
SpaceFile = Annotated[str, typer.Argument(metavar="SPACE", help="A search space: YAML file or shipped name.")]
DesignFile = Annotated[str, typer.Argument(metavar="DESIGN", help="An ablation design: YAML file or shipped name.")]
StudyFile = Annotated[str, typer.Argument(metavar="FILE", help="A search space or ablation design: YAML file or name.")]
ModelName = Annotated[str, typer.Option("--model-name", help="Name in the model registry.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Run id, model folder or models:/ URI.")]
OutFolder = Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")]
DEFAULT_MODEL = "sage-gan"
"""Name in the model registry where none is given."""


def resolved_config(preset: str | None, file: Path | None, sets: list[str] | None) -> Resolved:
    """The config that --preset, -c and --set ask for, with the origin of each value."""
    from sage_ray.config import resolve

    return resolve(preset, file, sets or [])
