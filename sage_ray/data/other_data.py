"""Which settings read a folder that is not the one a model was trained on."""

from __future__ import annotations

from pathlib import Path

from sage_ray.data.pair_masks import foreground_for
from sage_ray.data.pairs import look_through, patterns_for
from sage_ray.errors import UserError
from sage_ray.foreground_rule import foreground_rule
from sage_ray.sections import DataConfig, SplitConfig


def read_alike(data: DataConfig, path: str, foreground: str | None = None) -> DataConfig:
    """The settings that read `path` as a model's own data were read, all of it as one part.

    Patterns of masks, and the rule which of their values are particles, are those of the model where they fit.

    Args:
        data: of the model.
        path: a folder of pairs, or a drawn source.
        foreground: a rule given for this folder; None takes the model's, where it finds particles.

    Raises:
        UserError: `foreground` is no rule.
    """
    masks = patterns_for(path, data.masks)
    if foreground is not None:
        rule = checked_rule(foreground)
    elif not data.foreground or path.startswith("synthetic://") or not Path(path).expanduser().is_dir():
        rule = data.foreground
    else:
        rule = foreground_for(look_through(path, masks).pairs, data.foreground)
    changed = {"path": path, "split": SplitConfig(test=0.0, validation=0.0), "masks": masks, "foreground": rule}
    return data.model_copy(update=changed)


def checked_rule(foreground: str) -> str:
    """The shortest text of a rule that a user typed.

    Raises:
        UserError: it is none.
    """
    try:
        return foreground_rule(foreground).text
    except ValueError as error:
        raise UserError("bad rule of data.foreground", foreground, f"name values of the mask: {error}") from None
