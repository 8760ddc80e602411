"""sage_ray: Ray-distributed search and ablation of SAGE-GAN, scarce-label segmentation of nanoparticle micrographs.

The public functions are imported on first use, so that `import sage_ray` and `sage-ray --help` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.3.0"

_PUBLIC = {
    "ExperimentConfig": "sage_ray.config",
    "resolve": "sage_ray.config",
    "train": "sage_ray.runtime.launch",
    "plan": "sage_ray.search.plan",
    "sweep": "sage_ray.search.driver",
    "resume": "sage_ray.search.driver",
    "ablate": "sage_ray.search.ablate",
    "best": "sage_ray.search.best",
    "final": "sage_ray.registry.final",
    "compare": "sage_ray.registry.compare",
    "promote": "sage_ray.registry.promote",
    "evaluate": "sage_ray.evaluation.locked_test",
    "predict": "sage_ray.apply.predict",
    "generate": "sage_ray.apply.generate",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sage_ray' has no attribute {name!r}")
