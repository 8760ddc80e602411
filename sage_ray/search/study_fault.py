"""Failures of a run that would end every other trial of its study too."""

from __future__ import annotations

from sage_ray.errors import SnapshotFailed, StoreFailed
from sage_ray.record.run_record import RunRecord


def is_study_fault(record: RunRecord) -> bool:
    """Whether a run failed of something that would end every other trial too: a full disk, a lost share."""
    everybodys = (SnapshotFailed.state, StoreFailed.__name__)
    return record.state == "FAIL" and (record.error or "").startswith(everybodys)
