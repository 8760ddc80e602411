"""The engine `mitsuba`: a differentiable path tracer (Mitsuba 3, extra `sage-ray[render]`).

Particles are one mesh with one principled BSDF, the stage is another. Dr.Jit and torch hand tensors to one another
where they lie: on a CPU and on a GPU nothing is copied to the host.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_ray.errors import UserError
from sage_ray.rendering.scenes import Scene
from sage_ray.rendering.views import (
    CAMERA_HEIGHT,
    FIELD_OF_VIEW,
    LIGHT_RADIUS,
    STAGE_HEIGHT,
    View,
)

INSTALL = "pip install 'sage-ray[render]'"
INSTALL_LLVM = "apt install libllvm19"
LEAST_LLVM = 16


def missing_for_mitsuba(device: str) -> tuple[str, str] | None:
    """What the path tracer lacks here and the command that mends it; None if it can be used on "cpu" or "cuda"."""
    if importlib.util.find_spec("mitsuba") is None or importlib.util.find_spec("drjit") is None:
        return "no Mitsuba here", f"{INSTALL}{'' if device == 'cuda' else f' and {INSTALL_LLVM}'}"
    if device == "cuda":
        return None
    llvm = _llvm_version()
    if llvm is None:
        return "Mitsuba finds no LLVM here", f"{INSTALL_LLVM} (or set DRJIT_LIBLLVM_PATH to a libLLVM.so)"
    if llvm < LEAST_LLVM:
        return f"Mitsuba needs LLVM {LEAST_LLVM} or newer, and finds {llvm}", INSTALL_LLVM
    return None


def check_mitsuba(device: str, where: str) -> None:
    """Raise UserError, with the command that installs it, if the path tracer cannot be used."""
    missing = missing_for_mitsuba(device)
    if missing is not None:
        what, mend = missing
        raise UserError(what, where, f"{mend}, or set render.engine to shader")


def mitsuba_versions(device: str) -> str:
    """Versions of Mitsuba and of what it compiles with on "cpu" or "cuda", where it can be used."""
    compiler = "CUDA" if device == "cuda" else f"LLVM {_llvm_version()}"
    return f"Mitsuba {importlib.metadata.version('mitsuba')} with {compiler}"


def _llvm_version() -> int | None:
    """Major version of the LLVM that Dr.Jit loads; None if it loads none."""
    if importlib.util.find_spec("mitsuba") is None:
        return None
    with _quiet():
        drjit = importlib.import_module("drjit")
        if not drjit.has_backend(drjit.JitBackend.LLVM):
            return None
    return int(drjit.detail.llvm_version()[0])


@contextlib.contextmanager
def _quiet() -> Any:
    """Nothing of what a library writes to standard error by itself is shown in the body."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


class PathTracer:
    """The engine `mitsuba`.

    Args:
        view: of the images.
        device: where they are computed, "cpu" (LLVM) or "cuda".
        samples: per pixel.
        path_depth: longest path of light, in edges.
        light_above: radiance of the light above; the one all around has 1.

    Raises:
        UserError: Mitsuba or LLVM is missing.
    """

    def __init__(
        self,
        view: View,
        device: torch.device | str = "cpu",
        *,
        samples: int = 121,
        path_depth: int = 4,
        light_above: float = 0.0,
    ) -> None:
        self.view, self.device = view, torch.device(device)
        self._samples, self._depth, self._light_above = samples, path_depth, light_above
        check_mitsuba(self.device.type, "render.engine=mitsuba")
        mitsuba = importlib.import_module("mitsuba")
        mitsuba.set_variant("cuda_ad_mono" if self.device.type == "cuda" else "llvm_ad_mono")
        self._mi: Any = mitsuba
        self._dr: Any = importlib.import_module("drjit")
        if self.device.type == "cpu":
            self._dr.set_thread_count(torch.get_num_threads())  # as many as the worker was given

    def render(self, scene: Scene, materials: Mapping[str, Tensor], seed: int, name: Hashable | None = None) -> Tensor:
        """As `Renderer`. Nothing is kept, whatever the name.

        Dr.Jit records every call of a material for all materials that are alive, those of other scenes too: forward and
        backward (64 x 64, 8 samples) took 1.05 s with 64 scenes kept, and take .12 s with the scene made anew.
        """
        whole, parameters = self._scene(scene)
        keys = [key for key in materials if key != "noise"]
        values = torch.stack([materials[key] for key in keys]).to(torch.float32)
        mi, dr = self._mi, self._dr

        def traced(vector: Any) -> Any:
            for i, key in enumerate(keys):
                parameters[_path_of(key)] = dr.gather(mi.Float, vector.array, i)
            parameters.update()
            return mi.render(whole, parameters, spp=self._samples, seed=seed, seed_grad=seed + (1 << 31))

        image: Tensor = dr.wrap(source="torch", target="drjit")(traced)(values)
        return image[..., 0] if image.ndim == 3 else image

    def instances(self, scene: Scene) -> np.ndarray:
        """(H,W) int32: which particle the ray through each pixel's centre meets, from 1; 0: the stage."""
        mi, dr = self._mi, self._dr
        whole, _ = self._scene(scene)
        x, y = np.meshgrid(np.arange(self.view.columns) + 0.5, np.arange(self.view.rows) + 0.5)
        sensor = whole.sensors()[0]
        place = mi.Point2f((x / self.view.columns).ravel(), (y / self.view.rows).ravel())
        ray, _ = sensor.sample_ray(0.0, 0.5, place, mi.Point2f(0.5, 0.5))
        hit = whole.ray_intersect_preliminary(ray)
        is_particle = hit.shape == mi.ShapePtr(self._particles(whole))
        face = np.array(dr.select(is_particle & hit.is_valid(), hit.prim_index, 2**32 - 1))
        owner = np.concatenate([scene.merged()[3] + 1, [0]]).astype(np.int32)
        index = np.where(face == 2**32 - 1, len(owner) - 1, face).astype(np.int64)
        return owner[index].reshape(self.view.rows, self.view.columns)

    @staticmethod
    def _particles(whole: Any) -> Any:
        return next(shape for shape in whole.shapes() if shape.id() == "particles")

    def _scene(self, scene: Scene) -> tuple[Any, Any]:
        """The scene as Mitsuba has it, and its parameters."""
        mi = self._mi
        vertices, normals, faces, _ = scene.merged()
        properties = mi.Properties()
        properties["bsdf"] = mi.load_dict(_principled(), optimize=False)
        mesh = mi.Mesh("particles", len(vertices), len(faces), has_vertex_normals=True, props=properties)
        mesh.set_id("particles")
        buffers = mi.traverse(mesh)
        buffers["vertex_positions"] = mi.Float(vertices.astype(np.float32).ravel())
        buffers["vertex_normals"] = mi.Float(normals.astype(np.float32).ravel())
        buffers["faces"] = mi.UInt32(faces.astype(np.uint32).ravel())
        buffers.update()
        # Not optimised: Mitsuba would make one object of all materials and values that begin alike.
        whole = mi.load_dict(self._description() | {"particles": mesh}, optimize=False)
        return whole, mi.traverse(whole)

    def _description(self) -> dict[str, Any]:
        """Camera, stage and lights."""
        mi = self._mi
        transform = mi.ScalarTransform4f
        film = {
            "type": "hdrfilm",
            "width": self.view.columns,
            "height": self.view.rows,
            "pixel_format": "luminance",
            "rfilter": {"type": "gaussian", "stddev": 0.5},
        }
        camera = transform().look_at(origin=[0, 0, CAMERA_HEIGHT], target=[0, 0, STAGE_HEIGHT], up=[0, 1, 0])
        light: dict[str, Any] = {
            "type": "cylinder",
            "p0": [0, 0, STAGE_HEIGHT - 1],
            "p1": [0, 0, CAMERA_HEIGHT + 2],
            "radius": LIGHT_RADIUS,
            "flip_normals": True,
            "emitter": {"type": "area", "radiance": {"type": "uniform", "value": 1.0}},
        }
        found: dict[str, Any] = {
            "type": "scene",
            "integrator": {"type": "prb", "max_depth": self._depth},
            "sensor": {
                "type": "perspective",
                "fov": FIELD_OF_VIEW,
                "fov_axis": "smaller",
                "to_world": camera,
                "film": film,
                "sampler": {"type": "independent", "sample_count": self._samples},
            },
            "around": light,
            "stage": {
                "type": "rectangle",
                "to_world": transform().translate([0, 0, STAGE_HEIGHT]).scale(LIGHT_RADIUS),
                "bsdf": _principled(),
            },
        }
        if self._light_above:
            found["above"] = {
                "type": "rectangle",
                "to_world": transform().translate([0, 0, CAMERA_HEIGHT + 4]).rotate([1, 0, 0], 180).scale(4),
                "emitter": {"type": "area", "radiance": {"type": "uniform", "value": self._light_above}},
            }
        return found


def _principled() -> dict[str, Any]:
    def value(number: float) -> dict[str, Any]:
        return {"type": "uniform", "value": number}

    return {
        "type": "principled",
        "base_color": value(0.5),
        "roughness": value(0.5),
        "sheen": value(0.1),
        "sheen_tint": value(0.1),
        "spec_tint": value(0.1),
    }


def _path_of(key: str) -> str:
    surface, name = key.split("_", 1)
    return f"{'particles' if surface == 'particle' else surface}.bsdf.{name}.value"
