"""The name under which models registered up to release 0.2 ask for their loader; it is `imaging.model` now.

Such a model brings its own copy of the code, but a process that has imported this package already finds this file.
"""

from sage_ray.imaging.model import load_model_folder

__all__ = ["load_model_folder"]
