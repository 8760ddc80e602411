"""The grammar of `data.extra_pairs`: which source of further training pairs a setting names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SourceKind = Literal["place", "drawn", "stage", "model", "preset"]
DRAWN = "synthetic://"
_SCHEMES: dict[str, SourceKind] = {"stage:": "stage", "model:": "model", "preset:": "preset"}
_FIXED = ("seed", "runtime.", "data.", "pretrain.synthetic_share")
_FREE = "data.augment."
_FILES = (".checkpoint", "_weights", "_table")
"""How settings end that may name a file."""
EPOCHS_FOLDER = "extra_pairs_epochs"
"""Among a run's artifacts: which epochs each attempt at it has trained for its extra pairs, as arrays `epoch`."""
EXAMPLES = "a folder, synthetic://ordered?num=64, stage:KEY, a MODEL, or preset:tiny_sage_gan?pairs=48"


@dataclass(frozen=True)
class PairSource:
    """One source of extra pairs.

    Attributes:
        kind: place (a folder of pairs, or a MODEL: a run id, a folder or a `models:/` URI), drawn particles, stage (of
            the stage store), model (the folder of a model that was found), or preset (trained first, in the run).
        name: what follows the scheme, up to the question mark; of drawn particles the whole text.
        pairs: how many are made; None: one for each training mask.
        sets: of a preset, "a.b=value" texts in the order given.
    """

    kind: SourceKind
    name: str
    pairs: int | None = None
    sets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> PairSource:
        """The source that a text names.

        Raises:
            ValueError: an option that the source does not have, or a number of pairs below 1.
        """
        text = text.strip()
        if text.startswith(DRAWN):
            return cls("drawn", text)
        kind, rest = next(((k, text[len(s) :]) for s, k in _SCHEMES.items() if text.startswith(s)), ("place", text))
        name, query = _split(rest) if kind in ("place", "model") else rest.partition("?")[::2]
        if not name:
            raise ValueError(f"data.extra_pairs={text} names nothing; give {EXAMPLES}")
        pairs: int | None = None
        sets: list[str] = []
        for option in filter(None, query.split("&")):
            key, _, value = option.partition("=")
            if key == "pairs" and kind != "stage":
                pairs = _count(text, value)
            elif kind == "preset" and "." in key and value:
                _check_free(text, key)
                sets.append(option)
            else:
                raise ValueError(f"data.extra_pairs={text}: unknown option {option}; {_options(kind)}")
        return cls(kind, name, pairs, tuple(sets))

    def __str__(self) -> str:
        scheme = next((scheme for scheme, kind in _SCHEMES.items() if kind == self.kind), "")
        options = [*([] if self.pairs is None else [f"pairs={self.pairs}"]), *self.sets]
        return scheme + self.name + ("?" + "&".join(options) if options else "")

    def absolute(self) -> PairSource:
        """The source with folders and files of this disk, those in settings of a preset too, as absolute paths."""
        sets = tuple(_absolute_file(text) for text in self.sets)
        is_folder = self.kind in ("place", "model") and Path(self.name).expanduser().is_dir()
        name = str(Path(self.name).expanduser().absolute()) if is_folder else self.name
        return PairSource(self.kind, name, self.pairs, sets)


def _split(rest: str) -> tuple[str, str]:
    """(name, options) of a place: a folder's own name may have question marks, an option has a sign of equality."""
    name, _, query = rest.rpartition("?")
    return (name, query) if query.partition("=")[0].isidentifier() and "=" in query else (rest, "")


def _absolute_file(text: str) -> str:
    key, _, value = text.partition("=")
    path = Path(value).expanduser()
    return f"{key}={path.absolute()}" if key.endswith(_FILES) and path.is_file() else text


def _count(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"data.extra_pairs={text}: pairs={value} must be a whole number of at least 1")
    return int(value)


def _check_free(text: str, key: str) -> None:
    if key == "pretrain.checkpoint":
        mend = "let the preset train its phase 1"
        raise ValueError(f"data.extra_pairs={text}: nobody tells what {key} was trained on: {mend}")
    fixed = next((name for name in _FIXED if key == name or (name.endswith(".") and key.startswith(name))), None)
    if fixed is not None and not key.startswith(_FREE):
        raise ValueError(f"data.extra_pairs={text}: {key} is that of the run; set the preset's other settings")


def _options(kind: SourceKind) -> str:
    if kind == "preset":
        return "write preset:NAME?pairs=N&section.key=value"
    return "a stage has none" if kind == "stage" else "the one option is pairs=N"
