"""sage_ray: Ray-distributed search and ablation of SAGE-GAN, scarce-label segmentation of nanoparticle micrographs.

The public functions are imported on first use, so that `import sage_ray` and `sage-ray --help` stay quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.4.0"

_PUBLIC = {
    "ExperimentConfig": "sage_ray.config",
    "resolve": "sage_ray.config",
    "Home": "sage_ray.record.home",
    "UserError": "sage_ray.errors",
    "Interrupted": "sage_ray.errors",
    "load_space": "sage_ray.study.space",
    "load_design": "sage_ray.study.design",
    "train": "sage_ray.api",
    "sweep": "sage_ray.api",
    "ablate": "sage_ray.api",
    "resume": "sage_ray.api",
    "status": "sage_ray.api",
    "list_studies": "sage_ray.api",
    "Study": "sage_ray.api",
}
_READERS = ("resolve", "load_space", "load_design")
"""Of these, what reads files, and is not asked by the modules of the package in the way that a person asks it."""
# These take a home, or a file, as its object alone; `by_hand.opened` lets both be given by name.
_OPENED = {
    "check": "sage_ray.data.check",
    "plan": "sage_ray.search.plan",
    "stop": "sage_ray.search.study_status",
    "export": "sage_ray.search.study_tables",
    "best": "sage_ray.search.best",
    "final": "sage_ray.registry.final",
    "compare": "sage_ray.registry.compare",
    "promote": "sage_ray.registry.promote",
    "evaluate": "sage_ray.evaluation.locked_test",
    "fidelity": "sage_ray.evaluation.fidelity",
    "predict": "sage_ray.apply.predict",
    "report": "sage_ray.reports.study_reports",
    "generate": "sage_ray.apply.generate",
    "sync": "sage_ray.upkeep.mlflow_sync",
    "forget": "sage_ray.upkeep.forget",
}

__all__ = ["__version__", *_PUBLIC, *_OPENED]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        found = getattr(import_module(_PUBLIC[name]), name)
        return import_module("sage_ray.argument_kinds").kinds_checked(found) if name in _READERS else found
    if name in _OPENED:
        # By name: an import statement would count among those of a registered model, which carries what it imports.
        by_hand = import_module("sage_ray.by_hand")
        by_hand.quiet_imports()
        return by_hand.opened(getattr(import_module(_OPENED[name]), name))
    raise AttributeError(f"module 'sage_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if any("default_worker.py" in word for word in sys.orig_argv):  # a process that Ray has started, for a trial say
    import_module("sage_ray.startup").start_quickly()
