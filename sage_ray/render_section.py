"""The section of an ExperimentConfig that says how pairs of images and masks are rendered (DiffRenderGAN).

Source: Possart et al., npj Comput. Mater. 11:197, 2025. All of it is of a later release: the whole section is left out
of hashes while every value is the default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sage_ray.identity import later
from sage_ray.section_base import Count, NonNegative, Positive, PositiveInt, Probability, Section

Engine = Literal["mitsuba", "shader"]
Shape = Literal["sphere", "crystal", "rod", "wire", "loop"]
MaterialName = Literal[
    "particle_base_color",
    "particle_roughness",
    "particle_sheen",
    "particle_sheen_tint",
    "particle_spec_tint",
    "particle_tilt",
    "particle_edge",
    "stage_base_color",
    "stage_roughness",
    "stage_sheen",
    "stage_sheen_tint",
    "stage_spec_tint",
    "stage_shade",
    "noise",
]
Limits = tuple[NonNegative, NonNegative]

ENGINE_MATERIALS: dict[str, tuple[MaterialName, ...]] = {
    "mitsuba": (
        *("particle_base_color", "particle_roughness", "particle_sheen", "particle_sheen_tint", "particle_spec_tint"),
        *("stage_base_color", "stage_roughness", "stage_sheen", "stage_sheen_tint", "stage_spec_tint", "noise"),
    ),
    "shader": (
        *("particle_base_color", "particle_tilt", "particle_edge"),
        *("stage_base_color", "stage_shade", "noise"),
    ),
}
"""The parameters that each engine has, in the order in which the regressor gives them: all are free by default."""


class RenderConfig(Section):
    """Renders pairs: scenes of particles whose materials learn, against an adversary, to look like real images."""

    engine: Engine = "mitsuba"
    """mitsuba: a path tracer (pip install 'sage-ray[render]'); shader: a height field with the yield of an SEM."""
    train_on_pairs: bool = False
    """Whether a run begins with this stage and its segmenter learns from rendered pairs instead of real ones."""
    epochs: Count = 50
    """Passes over the real training images, which need no masks here."""
    lr: Positive = 2e-4
    """Adam's learning rate of the regressor."""
    disc_lr: Positive = 1e-4
    """Adam's learning rate of the adversary, a PatchGAN with the settings of `discriminators`."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    """Adam betas of regressor and adversary."""
    adversarial_weight: NonNegative = 1.0
    """Weight of the adversary's term: rendered images shall look real to it."""
    histogram_weight: NonNegative = 0.0
    """Weight of the distance of grey histograms, rendered and real; no part of the paper."""
    histogram: Literal["image", "set"] = later("image")
    """Between what that distance is. image: a rendered image and the real one of the step; set: a rendered image,
    weighted as if it showed as many particles as all scenes do on average, and all real images together."""
    regressor_width: PositiveInt = 128
    """Channels of the hidden layers of the regressor, the network that gives the materials."""
    regressor_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of the regressor."""
    free: tuple[MaterialName, ...] = ()
    """Which materials learn; the others keep their starting values. Empty: all that the engine has."""
    particle_limits: Limits = (0.01, 5.0)
    """Lowest and highest value of a particle's free parameters, within what each can be at all (a roughness: 1)."""
    stage_limits: Limits = (0.01, 0.4)
    """Likewise of the stage."""
    noise_limits: Limits = (0.001, 0.1)
    """Standard deviation of the noise, as a share of the grey scale."""
    samples: PositiveInt = 121
    """Samples per pixel of the path tracer; the shader has a fixed grid of 2 x 2 in each pixel."""
    path_depth: Annotated[int, Field(ge=2, le=16)] = 4
    """Longest path of light, in edges (mitsuba)."""
    light_above: NonNegative = 0.0
    """Radiance of a light above beside the one all around, whose radiance is 1 (mitsuba)."""
    scenes: PositiveInt = 32
    """Different scenes that the materials are learnt on."""
    particles: tuple[PositiveInt, PositiveInt] = (8, 24)
    """Fewest and most particles of a scene."""
    agglomerates: Count = 4
    """A scene has up to so many agglomerates, of particles that touch; 0: all stand alone where there is room."""
    piled: Probability = 0.3
    """Share of the particles of an agglomerate that lie on others."""
    shapes: tuple[Shape, ...] = ("sphere",)
    """Shapes of particles; each particle gets one of them."""
    sizes: Literal["normal", "lognormal", "bimodal", "fitted"] = "lognormal"
    """Law of diameters; fitted: a lognormal fitted to `sizes_table`, or without one to the training masks."""
    sizes_table: str | None = None
    """A particles.csv of `sage-ray predict`; its diameters in pixels are those of images of `image_size`."""
    diameter: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Mean (lognormal: median) diameter of a particle, as a share of the image's smaller side."""
    spread: Annotated[float, Field(ge=0, le=2)] = 0.25
    """Standard deviation as a share of the mean (lognormal: of the logarithm)."""
    second_diameter: Annotated[float, Field(gt=0, le=1)] = 0.3
    """bimodal: the mean of the other kind."""
    second_share: Probability = 0.3
    """bimodal: how many are of the other kind."""
    pairs: PositiveInt = 256
    """Pairs that are rendered when the materials have learnt."""

    @model_validator(mode="after")
    def _ranges(self) -> RenderConfig:
        for name in ("particle_limits", "stage_limits", "noise_limits", "particles"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high] with low <= high, not [{low}, {high}]")
        if not self.shapes:
            raise ValueError("shapes is empty; give at least one of sphere, crystal, rod, wire, loop")
        known = ENGINE_MATERIALS[self.engine]
        strange = [name for name in self.free if name not in known]
        if strange:
            raise ValueError(f"engine {self.engine} has no {strange[0]}; free takes {', '.join(known)}")
        if self.adversarial_weight + self.histogram_weight == 0:
            raise ValueError("adversarial_weight and histogram_weight are both 0; nothing would be learnt")
        return self

    @property
    def learnt(self) -> tuple[MaterialName, ...]:
        """The free parameters in the engine's order."""
        known = ENGINE_MATERIALS[self.engine]
        return tuple(name for name in known if not self.free or name in self.free)
