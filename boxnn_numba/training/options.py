"""Training options, their documented ranges, and the presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from boxnn_numba import validation
from boxnn_numba.errors import OptionError

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("linear", "cosine", "constant")
SOFTMINS = ("boltzmann", "logsumexp", "hard", "mean")
OBJECTIVES = ("paper", "clip", "target")
RELAXATIONS = ("graded", "l1", "l2")
INITIALISATIONS = ("data", "random")


@dataclass(frozen=True)
class TrainingOptions:
    """Everything that determines a training run, apart from the data.

    Parameters
    ----------
    boxes
        Number M of boxes, split evenly over the classes; at least one per class.
    width
        Cap W of the deployed boxes, 1..255 codes.
    train_width
        Cap during training if it differs (the paper deploys 1 and trains with 255); 0 for `width`.
    alpha
        Half the side of the initial boxes, in units of the feature range (0.1 is 25.5 codes).
    initialisation
        ``"data"``: centred on random training samples, balanced over classes; ``"random"``:
        uniform centres.
    epochs, batch
        Passes over the training data; samples per step.
    optimizer, momentum, weight_decay
        ``"sgd"`` (with momentum and weight decay) or ``"adam"``.
    lr
        Learning rate, parameters in units of [0, 1]. For SGD it is per 100 samples: gradients are
        summed over the batch and divided by 100, so that `batch` alone does not change the curve
        (a batch larger than the boxes are many counts as that many samples).
    crowd
        Samples of a batch that may pull at one box with full weight, for SGD; where more do, their
        sum is scaled down to so many. Large steps of popular boxes are what makes a run diverge.
        0 for no limit.
    schedule
        Learning rate over time: ``"linear"`` or ``"cosine"`` to zero, or ``"constant"``.
    softmin, tau
        Smooth minimum over boxes: ``"boltzmann"`` (Eq. 12), ``"logsumexp"`` (Eq. 28), ``"hard"``,
        ``"mean"`` (tau = 0); inverse temperature.
    objective, beta, radius, sharpness
        ``"paper"`` (signed margin of the predicted class, clipped at beta), ``"clip"`` (margin of
        the true class, clipped at beta) or ``"target"`` (logistic of (margin - 2 radius) /
        sharpness). beta 0 is set from the data: 1.1 times the 90th percentile of the margins of
        the initial boxes.
    keep
        Share of the margin, clipped at 2 radius, in objective ``"target"``, which alone gives up
        samples and whole classes that are far below its radius. Keeps accuracy at small radii.
    warmup
        Share of the `epochs` with objective ``"clip"`` before ``"target"`` begins, 0..0.9: far
        more samples keep their class than with the target from the start. The learning rate
        follows its schedule in either part.
    relaxation
        ``"graded"``, or ``"l1"`` and ``"l2"`` (Eqs. 26, 27; ablation only).
    leak
        Factor of the gradient beyond the width, 0..1.
    augment
        Strength of the distortions below, for images, 0..2: 1 is what they say, 0 for none.
        Every epoch sees other versions of the training images.
    rotation, scaling, shear, shift, displacement
        Largest rotation in degrees, change of height and width as a fraction, slant, shift in
        pixels, and shift of every eighth pixel (in between it is linear) in pixels.
    validation
        Fraction of the training data kept apart to select and report, 0 for none.
    group_size
        Codes that an adversary rewrites together (3 for RGB pixels); divides certified radii.
    seed
        Seed of the split, the initial boxes and the order of samples.

    Raises
    ------
    OptionError
        A value is outside its range.
    """

    boxes: int = 2500
    width: int = 112
    train_width: int = 0
    alpha: float = 0.1
    initialisation: str = "data"
    epochs: int = 8
    batch: int = 100
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    lr: float = 2.0
    crowd: float = 0.0
    schedule: str = "linear"
    softmin: str = "boltzmann"
    tau: float = 1.0
    objective: str = "clip"
    beta: float = 0.0
    radius: int = 10
    sharpness: float = 12.0
    keep: float = 0.0
    warmup: float = 0.0
    relaxation: str = "graded"
    leak: float = 1.0
    augment: float = 0.0
    rotation: float = 5.0
    scaling: float = 0.04
    shear: float = 0.05
    shift: float = 0.3
    displacement: float = 0.5
    validation: float = 0.1
    group_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            check = _CHECKS[item.name]
            object.__setattr__(self, item.name, check(item.name, getattr(self, item.name)))
        if (
            self.relaxation == "l2"
            and self.softmin in ("boltzmann", "logsumexp")
            and self.tau < 0.1
        ):
            raise OptionError("option tau must be at least 0.1 with relaxation l2")
        if self.warmup and self.objective != "target":
            raise OptionError(
                f"--warmup comes before objective target, and the objective is {self.objective}; "
                "pass --warmup 0"
            )

    @property
    def warmup_epochs(self) -> int:
        """Number of epochs with objective ``"clip"`` before ``"target"``."""
        return int(self.warmup * self.epochs)

    @property
    def forward_width(self) -> int:
        """Cap W of the penalty while training."""
        return self.train_width or self.width

    @property
    def unit(self) -> float:
        """Distance of one integer unit, so that d = unit * D is in features."""
        return {"graded": 1.0 / self.forward_width, "l1": 1.0 / 255, "l2": 1.0 / 255**2}[
            self.relaxation
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return all options as plain values."""
        return asdict(self)


def _whole(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    return lambda name, value: validation.integer(name, value, low, high)


def _number(low: float, high: float, open_low: bool = False) -> Callable[[str, Any], float]:
    return lambda name, value: validation.real(name, value, low, high, open_low)


def _one_of(known: tuple[str, ...]) -> Callable[[str, Any], str]:
    return lambda name, value: validation.choice(name, value, known)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "boxes": _whole(1, 2**31 - 1),
    "width": _whole(1, 255),
    "train_width": _whole(0, 255),
    "alpha": _number(0, 1),
    "initialisation": _one_of(INITIALISATIONS),
    "epochs": _whole(1, 2**31 - 1),
    "batch": _whole(1, 2**31 - 1),
    "optimizer": _one_of(OPTIMIZERS),
    "momentum": _number(0, 0.9999),
    "weight_decay": _number(0, 1),
    "lr": _number(0, 1e4, open_low=True),
    "crowd": _number(0, 1e9),
    "schedule": _one_of(SCHEDULES),
    "softmin": _one_of(SOFTMINS),
    "tau": _number(0.01, 1000),
    "objective": _one_of(OBJECTIVES),
    "beta": _number(0, 1e9),
    "radius": _whole(0, 2**31 - 1),
    "sharpness": _number(0, 1e9, open_low=True),
    "keep": _number(0, 1),
    "warmup": _number(0, 0.9),
    "relaxation": _one_of(RELAXATIONS),
    "leak": _number(0, 1),
    "augment": _number(0, 2),
    "rotation": _number(0, 25),
    "scaling": _number(0, 0.4),
    "shear": _number(0, 1),
    "shift": _number(0, 100),
    "displacement": _number(0, 100),
    "validation": _number(0, 0.9),
    "group_size": _whole(1),
    "seed": _whole(0),
}

#: Of an image; where channels come first, the last axis is longer.
_MOST_CHANNELS = 4
#: What each preset changes of the defaults above.
PRESETS: dict[str, dict[str, Any]] = {
    # Table 4 of the paper; its tables count the radii of boxes of width 1.
    "paper": {"width": 1, "train_width": 255, "objective": "paper", "beta": 50.0, "lr": 0.2},
    # Chosen on validation data of MNIST and Fashion-MNIST.
    "graded": {"leak": 0.2},
    "target": {"leak": 0.2, "objective": "target", "warmup": 0.4, "keep": 0.05},
}
_IMAGES = {"boxes": 3000, "lr": 1.5, "batch": 200, "crowd": 8.0, "augment": 0.5}
#: What they change besides for images of codes.
IMAGE_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "graded": {**_IMAGES, "epochs": 24},
    "target": {**_IMAGES, "epochs": 36},
}


def are_images(feature_shape: Sequence[int], codes: bool) -> bool:
    """Return whether samples are (height, width) or (height, width, 1 to 4 channels) of codes."""
    channels_last = len(feature_shape) == 2 or (
        len(feature_shape) == 3 and feature_shape[2] <= _MOST_CHANNELS
    )
    return codes and channels_last and min(feature_shape[:2]) > 1


def resolve(preset: str, overrides: Mapping[str, Any], images: bool = False) -> TrainingOptions:
    """Return the options of a preset with some of them replaced.

    Parameters
    ----------
    preset
        One of `PRESETS`. ``"target"`` needs ``radius`` among the overrides.
    overrides
        Values of `TrainingOptions` by name; None keeps the preset's.
    images
        Whether samples are images of codes, see `are_images`: presets augment these.

    Raises
    ------
    OptionError
        Unknown preset or option, or a value outside its range.
    """
    validation.choice("preset", preset, PRESETS)
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given:
        validation.choice("option", name, _CHECKS)
    if preset == "target" and "radius" not in given:
        raise OptionError("preset target needs a radius; pass --radius R (radius=R in Python)")
    chosen = {**PRESETS[preset], **(IMAGE_PRESETS[preset] if images else {})}
    return TrainingOptions(**{**chosen, **given})
