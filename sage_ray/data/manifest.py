"""The manifest: one row per image, with contents, size, coverage, objects and split part, kept as parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sage_ray.data.prepare import PreparedData
from sage_ray.errors import UserError

FORMAT_VERSION = 1
COLUMNS = (
    "stem", "image_file", "mask_file", "image_sha256", "mask_sha256", "rows", "columns", "coverage", "objects", "part",
)  # fmt: skip


def manifest(data: PreparedData) -> pd.DataFrame:
    """One row per image, in the order of `data.images`.

    Columns: stem, image_file, mask_file (empty if drawn), image_sha256, mask_sha256, rows and columns of the original
    in pixels, coverage in [0, 1] and objects of the raw mask, part ("train", "validation", "test", "unlabelled", or
    "other").
    """
    parts = data.split.parts(len(data.stems))
    rows = [
        (stem, *files, fact.image_sha, fact.mask_sha, fact.rows, fact.columns, fact.coverage, fact.objects, part)
        for stem, files, fact, part in zip(data.stems, data.files, data.facts, parts, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_manifest(data: PreparedData, path: Path) -> Path:
    """Write the manifest as parquet; fingerprint, split_id and format version stand in the file's metadata."""
    table = pa.Table.from_pandas(manifest(data), preserve_index=False)
    facts = {"format_version": str(FORMAT_VERSION), "fingerprint": data.fingerprint, "split_id": data.split.split_id}
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **facts}), path)
    return path


def read_manifest(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows, and fingerprint, split_id and format_version.

    Raises:
        UserError: no manifest that this version reads.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise UserError("unreadable manifest", path, f"copy the file again, or train the run anew ({reason})") from None
    stored = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if stored.get("format_version") != str(FORMAT_VERSION):
        mend = f"write it again with this version (format {FORMAT_VERSION})"
        raise UserError("manifest of another format", path, mend)
    return table.to_pandas(), {key: stored[key] for key in ("fingerprint", "split_id", "format_version")}
