"""Training options: meaning, range, default and group of each; and the presets.

An option is declared once, as a field of `TrainingOptions`; the check, the command line, the
docstring and the documentation are generated from these declarations.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from inspect import cleandoc
from typing import Any, TypeVar

from boxnn_numba.errors import OptionError

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("linear", "cosine", "constant")
SOFTMINS = ("boltzmann", "logsumexp", "hard", "mean")
OBJECTIVES = ("paper", "clip", "target")
RELAXATIONS = ("graded", "additive", "l1", "l2")
INITIALISATIONS = ("data", "room", "random")
#: What goes with relaxation additive.
ADDITIVE: dict[str, Any] = {
    "relaxation": "additive", "parts": "columns", "templates": 1, "width": 1, "train_width": 0,
}  # fmt: skip

Value = TypeVar("Value", int, float, str)

#: Groups of options, in the order in which they are shown.
GROUPS = ("Model", "Objective", "Steps", "Augmentation", "Data")
_MODEL, _OBJECTIVE, _STEPS, _AUGMENTATION, _DATA = GROUPS
_MOST = 2**31 - 1
# Larger limits keep numbers sane and are not worth telling.
_LARGE = 10_000


@dataclass(frozen=True)
class Option:
    """Declaration of one training option; its default decides whether it is whole or a number.

    `text` describes the option in one sentence, and `more` adds details; names of options are in
    backticks. A number is from `low` (itself excluded if `open_low`) to `high`; other text matches
    a `pattern`, which `form` describes in words.
    """

    default: int | float | str
    group: str
    text: str
    more: str = ""
    low: float = 0
    high: float = math.inf
    open_low: bool = False
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""

    def check(self, name: str, value: Any) -> int | float | str:
        """Return a value in the option's type, or raise if it is none."""
        from boxnn_numba import validation  # NumPy comes with it, and `boxnn --help` is light.

        if self.choices:
            return validation.choice(name, value, self.choices)
        if self.pattern:
            if re.fullmatch(self.pattern, str(value)) is None:
                raise OptionError(f"`{name}` is {value!r}; it must be {self.form}")
            return str(value)
        if isinstance(self.default, float):
            return validation.real(name, value, self.low, self.high, self.open_low)
        high = None if self.high == math.inf else int(self.high)
        return validation.integer(name, value, int(self.low), high)

    @property
    def bounded(self) -> bool:
        """Whether it is a number with a largest value worth telling."""
        return not self.choices and not self.pattern and self.high < _LARGE

    @property
    def limits(self) -> str:
        """The values it may have, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.pattern:
            return self.form
        if self.bounded:
            return f"{self.low:g}..{self.high:g}"
        return f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"


def _option(default: Value, group: str, text: str, more: str = "", **limits: Any) -> Value:
    declared = Option(default, group, text, more, **limits)
    value: Value = field(default=default, metadata={"option": declared})
    return value


@dataclass(frozen=True)
class TrainingOptions:
    """Everything that determines a training run, apart from the data.

    Each is declared below; the page on training has them in a table.

    Raises
    ------
    OptionError
        A value is outside its range.
    """

    # fmt: off
    boxes: int = _option(
        2500, _MODEL, "Number of boxes, split evenly over the classes.",
        "At least one per class.", low=1, high=_MOST)
    parts: str = _option(
        "1", _MODEL, "Parts of the features, in which the boxes of a template recombine: a grid "
        "over images (2x2), a number of parts of correlated columns, or columns for one part for "
        "each column.", "1 for plain boxes.",
        pattern=r"columns|[1-9]\d{0,5}|[1-9]\d{0,2}x[1-9]\d{0,2}",
        form="a number, ROWSxCOLUMNS or columns")
    templates: int = _option(
        20, _MODEL, "Templates of each class, over which its boxes are shared, with `parts`; 0 "
        "for 20, or for one for every 6 boxes if that is more.", high=_MOST)
    members: int = _option(
        1, _MODEL, "Sets of boxes, each trained with a seed of its own, whose distances are added "
        "up: an ensemble, certified as one.", "With relaxation additive, levels of one run.", low=1,
        high=64)
    width: int = _option(
        112, _MODEL, "Cap of one feature's penalty, in codes.", low=1, high=255)
    train_width: int = _option(
        0, _MODEL, "Cap while training, if it differs from `width`; 0 for `width`.",
        "The paper deploys 1 and trains with 255.", high=255)
    alpha: float = _option(
        0.1, _MODEL, "Half the side of the initial boxes, as a fraction of a feature's range.",
        "0.1 is 25.5 codes.", high=1)
    initialisation: str = _option(
        "data", _MODEL, "Centres of the initial boxes: training samples, balanced over the classes "
        "(data; room: with sides that also fit between the classes), or uniform (random).",
        choices=INITIALISATIONS)
    epochs: int = _option(
        8, _STEPS, "Passes over the training data.", low=1, high=_MOST)
    batch: int = _option(
        100, _STEPS, "Samples in a step; by itself it does not change the learning curve of sgd.",
        low=1, high=_MOST)
    optimizer: str = _option(
        "sgd", _STEPS, "Optimiser: sgd (with `momentum`) or adam.",
        choices=OPTIMIZERS)
    momentum: float = _option(
        0.0, _STEPS, "Momentum of sgd.", high=0.9999)
    weight_decay: float = _option(
        0.0, _STEPS, "Weight decay of sgd and adam.", high=1)
    lr: float = _option(
        2.0, _STEPS, "Learning rate, of bounds in units of [0, 1]; for sgd per 100 samples.",
        "Gradients of sgd are summed over the batch and divided by 100; if a batch has more "
        "samples than there are boxes, by 100 `batch` / `boxes`.", open_low=True, high=1e4)
    crowd: float = _option(
        0.0, _STEPS, "Samples that may pull at a box in a step with full weight (sgd); 0 for no "
        "limit.", "The pull of more samples is scaled down to that of so many. Large steps of "
        "boxes with many samples make runs diverge.", high=1e9)
    schedule: str = _option(
        "linear", _STEPS, "Learning rate over time: to zero (linear, cosine), or constant.",
        choices=SCHEDULES)
    softmin: str = _option(
        "boltzmann", _OBJECTIVE, "Smooth minimum over boxes: boltzmann (Eq. 12), logsumexp "
        "(Eq. 28), hard, or mean.", choices=SOFTMINS)
    tau: float = _option(
        1.0, _OBJECTIVE, "Inverse temperature of the smooth minimum.", low=0.01, high=1000)
    objective: str = _option(
        "clip", _OBJECTIVE, "Objective to maximise: the signed margin of the predicted class "
        "(paper) or of the true class (clip), clipped at `beta`; or a smooth certified accuracy at "
        "`radius` (target).", "The last is the logistic of (margin - 2 `radius`) / `sharpness`, or "
        "with relaxation additive the margin, clipped at 0 and at 2 `radius`.",
        choices=OBJECTIVES)
    beta: float = _option(
        0.0, _OBJECTIVE, "Where the margin is clipped, in features; 0 to set it from the data.",
        "From the data it is 1.1 times the 90th percentile of the margins of the initial boxes.",
        high=1e9)
    radius: int = _option(
        10, _OBJECTIVE, "Radius that objective target aims at; preset target needs it.",
        high=_MOST)
    sharpness: float = _option(
        12.0, _OBJECTIVE, "Scale of the logistic of objective target, in features.",
        open_low=True, high=1e9)
    keep: float = _option(
        0.0, _OBJECTIVE, "Share of the margin, clipped at twice `radius`, in objective target; "
        "keeps accuracy at small radii.",
        "Objective target alone gives up samples, and whole classes, far below `radius`.",
        high=1)
    warmup: float = _option(
        0.0, _OBJECTIVE, "Share of the `epochs` with objective clip before objective target.",
        "Far more samples are predicted right than with objective target from the start. The "
        "learning rate follows its schedule in each of the two phases.", high=0.9)
    recall: float = _option(
        0.0, _OBJECTIVE, "Smallest recall wanted for each class on held-out samples: a class below "
        "it gets up to twice the weight in later epochs, and at the end an offset if it is still "
        "below.", "Offsets leave certificates sound.",
        high=0.9)
    offsets: str = _option(
        "none", _OBJECTIVE, "Constants that are added to class distances: none, fitted to "
        "training rows so that the margins of all classes are even, or margin, fitted so that "
        "their mean margin up to nine tenths of `beta` is large.",
        "Margin makes models of different seeds more alike.", choices=("none", "fitted", "margin"))
    relaxation: str = _option(
        "graded", _OBJECTIVE, "Distance while training: graded; additive, a sum of contributions "
        "of columns, for one template of width 1 and a part for each column; or l1 and l2 "
        "(Eqs. 26, 27) for the paper's ablation.", choices=RELAXATIONS)
    leak: float = _option(
        1.0, _OBJECTIVE, "Factor of the gradient beyond the width.", high=1)
    augment: float = _option(
        0.0, _AUGMENTATION, "Strength of the distortions of training images, a factor of the next "
        "options; 0 for none.", "Every epoch uses other versions of the images.", high=2)
    rotation: float = _option(
        5.0, _AUGMENTATION, "Largest rotation, in degrees.", high=25)
    scaling: float = _option(
        0.04, _AUGMENTATION, "Largest change of height and width, as a fraction.", high=0.4)
    shear: float = _option(
        0.05, _AUGMENTATION, "Largest slant, in rows or columns per column or row.", high=1)
    shift: float = _option(
        0.3, _AUGMENTATION, "Largest shift, in pixels.", high=100)
    displacement: float = _option(
        0.5, _AUGMENTATION, "Largest shift of every eighth pixel, linear in between, in pixels.",
        high=100)
    mirror: float = _option(
        0.0, _AUGMENTATION, "Share of the training images that are mirrored left to right.",
        "They are chosen anew in every epoch.", high=1)
    class_weight: str = _option(
        "none", _DATA, "How much classes count: all rows alike (none), all classes alike "
        "(balanced), or LABEL=WEIGHT,...", "An epoch visits rows as often as they weigh, and the "
        "best epoch is chosen by the weighted figures.",
        pattern=r"none|balanced|[^,=]+=[^,=]+(,[^,=]+=[^,=]+)*",
        form="none, balanced or LABEL=WEIGHT,...")
    validation: float = _option(
        0.1, _DATA, "Fraction of the training data held out, to choose the epoch; 0 for none.",
        high=0.9)
    validation_rows: int = _option(
        0, _DATA, "Most rows that `validation` holds out, all classes together; 0 for no limit.",
        "The value of a preset does not count if `validation` is given.", high=_MOST)
    group_size: int = _option(
        0, _MODEL, "Number of consecutive features that an adversary rewrites together; 0 for the "
        "channels of a pixel in images, else 1.", "They count as one, and are capped as one.")
    seed: int = _option(
        0, _DATA, "Seed of the split, the initial boxes and the order of samples.")
    # fmt: on

    def __post_init__(self) -> None:
        for name, declared in OPTIONS.items():
            object.__setattr__(self, name, declared.check(name, getattr(self, name)))
        if (
            self.relaxation == "l2"
            and self.softmin in ("boltzmann", "logsumexp")
            and self.tau < 0.1
        ):
            raise OptionError("option tau must be at least 0.1 with relaxation l2")
        if self.warmup and self.objective != "target":
            raise OptionError(
                f"`warmup` comes before objective target, and the objective is {self.objective}; "
                "pass `warmup` 0"
            )
        if self.relaxation == "additive":
            self._check_additive()
        if self.recall and not self.validation:
            raise OptionError(
                "`recall` is of held-out samples; pass `validation` above 0, or `recall` 0"
            )

    def _check_additive(self) -> None:
        for name, value in ADDITIVE.items():
            if getattr(self, name) != value:
                raise OptionError(
                    f"relaxation additive needs `{name}` {value}, and it is {getattr(self, name)}; "
                    "pass that, or another `relaxation`"
                )
        if self.objective == "paper":
            raise OptionError(
                "relaxation additive needs `objective` clip or target, and it is paper; pass one "
                "of them, or another `relaxation`"
            )

    def held_out(self, rows: int) -> float:
        """Return the fraction of so many training rows that is kept apart."""
        if not self.validation_rows:
            return self.validation
        return min(self.validation, self.validation_rows / max(1, rows))

    @property
    def warmup_epochs(self) -> int:
        """Number of epochs with objective ``"clip"`` before ``"target"``."""
        return int(self.warmup * self.epochs)

    @property
    def levels(self) -> int:
        """Number of sets of boxes that one run trains."""
        return self.members if self.relaxation == "additive" else 1

    @property
    def forward_width(self) -> int:
        """Cap W of the penalty while training."""
        return self.train_width or self.width

    @property
    def unit(self) -> float:
        """Distance of one integer unit, so that d = unit * D is in features."""
        units = {"l1": 1.0 / 255, "l2": 1.0 / 255**2}
        return units.get(self.relaxation, 1.0 / self.forward_width)

    def as_dict(self) -> dict[str, Any]:
        """Return all options as plain values."""
        return asdict(self)


#: The declaration of each option, in the order of the fields.
OPTIONS: dict[str, Option] = {
    item.name: item.metadata["option"] for item in fields(TrainingOptions)
}


def _parameters() -> str:
    """Return the section of a docstring that describes the options."""
    lines = []
    for item in fields(TrainingOptions):
        declared = OPTIONS[item.name]
        lines.append(f"{item.name} : {item.type}, {declared.limits}; default {declared.default}")
        lines += textwrap.wrap(
            f"{declared.text} {declared.more}", 96, initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)


if TrainingOptions.__doc__:  # python -OO has none
    TrainingOptions.__doc__ = cleandoc(TrainingOptions.__doc__).replace(
        "Raises\n", f"Parameters\n----------\n{_parameters()}\n\nRaises\n"
    )


# --- presets ---------------------------------------------------------------------------

#: Of an image; where channels come first, the last axis is longer.
_MOST_CHANNELS = 4
#: Kinds of samples that presets tell apart; see `data_kind`.
KINDS = ("tables", "images", "colour images")
#: What each preset changes of the defaults above.
PRESETS: dict[str, dict[str, Any]] = {
    "graded": {"leak": 0.2},
    "accurate": {"leak": 0.2, "beta": 4.0},
    "target": {"leak": 0.2, "objective": "target", "warmup": 0.4, "keep": 0.05},
    # Table 4 of the paper; its tables count the radii of boxes of width 1.
    "paper": {"width": 1, "train_width": 255, "objective": "paper", "beta": 50.0, "lr": 0.2},
    # What its candidates begin with.
    "auto": {
        "boxes": 40,
        "width": 48,
        "beta": 8.0,
        "tau": 2.0,
        "leak": 0.2,
        "optimizer": "adam",
        "lr": 0.01,
        "initialisation": "room",
        "validation": 0.0,
        "offsets": "fitted",
    },
}
#: Options that preset auto chooses, see `boxnn_numba.training.search`.
SEARCHED = (
    "alpha", "batch", "beta", "boxes", "epochs", "initialisation", "lr", "members", "objective",
    "offsets", "optimizer", "parts", "radius", "relaxation", "tau", "templates", "warmup", "width",
)  # fmt: skip
# Chosen on validation data of MNIST and Fashion-MNIST, and of CIFAR-10.
_IMAGES = {
    "boxes": 3000, "parts": "2x2", "templates": 20, "width": 77, "tau": 2.0, "lr": 1.5,
    "batch": 200, "crowd": 8.0, "augment": 1.0, "epochs": 30,
}  # fmt: skip
# So many rows tell which epoch is best as well as more do; but not for one radius, a noisy figure.
_GREY = {**_IMAGES, "validation_rows": 1800}
_COLOUR = {**_IMAGES, "width": 128, "lr": 0.3, "mirror": 0.5, "augment": 0.5, "epochs": 8}
_TARGET = {"keep": 0.1, "warmup": 0.5, "recall": 0.25}
#: What they change besides for images of codes, grey and in colour.
IMAGE_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "images": {
        "graded": {
            **_GREY,
            "boxes": 5000,
            "templates": 0,
            "beta": 65.0,
            "epochs": 45,
            "offsets": "margin",
        },
        "accurate": {**_GREY, "beta": 16.0, "templates": 10, "epochs": 24},
        "target": {**_IMAGES, **_TARGET, "templates": 0, "augment": 0.5},
        "paper": {},
    },
    "colour images": {
        "graded": {**_COLOUR, "beta": 50.0, "offsets": "margin"},
        "accurate": {**_COLOUR, "beta": 16.0},
        "target": {**_COLOUR, **_TARGET},
        "paper": {},
    },
}


def are_images(feature_shape: Sequence[int], codes: bool) -> bool:
    """Return whether samples are (height, width) or (height, width, 1 to 4 channels) of codes."""
    channels_last = len(feature_shape) == 2 or (
        len(feature_shape) == 3 and feature_shape[2] <= _MOST_CHANNELS
    )
    return codes and channels_last and min(feature_shape[:2]) > 1


def channels_come_first(feature_shape: Sequence[int]) -> bool:
    """Return whether samples look like images of 3 or 4 channels that do not come last."""
    if len(feature_shape) != 3 or feature_shape[0] not in (3, 4):
        return False
    return min(feature_shape[1:]) > _MOST_CHANNELS


def data_kind(feature_shape: Sequence[int], codes: bool) -> str:
    """Return which of `KINDS` samples are: images are so by their shape, and if they are codes."""
    if not are_images(feature_shape, codes):
        return KINDS[0]
    return KINDS[2] if len(feature_shape) == 3 and feature_shape[2] > 1 else KINDS[1]


def default_preset(kind: str) -> str:
    """Return the preset of samples of one of `KINDS` where none is asked for."""
    return "auto" if kind == KINDS[0] else "graded"


def preset_value(name: str, preset: str, kind: str) -> str:
    """Return the value of an option in a preset, for samples of one of `KINDS`, as text."""
    if preset == "auto" and name in SEARCHED:
        return "searched"
    value = _changes(preset, kind).get(name, OPTIONS[name].default)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changes(preset: str, kind: str) -> dict[str, Any]:
    return {**PRESETS[preset], **IMAGE_PRESETS.get(kind, {}).get(preset, {})}


def resolve(preset: str, overrides: Mapping[str, Any], kind: str = KINDS[0]) -> TrainingOptions:
    """Return the options of a preset with some of them replaced.

    Parameters
    ----------
    preset
        One of `PRESETS`. ``"target"`` needs ``radius`` among the overrides.
    overrides
        Values of `TrainingOptions` by name; None keeps the preset's.
    kind
        One of `KINDS`, see `data_kind`: presets give images parts, and augment them.

    Raises
    ------
    OptionError
        Unknown preset or option, or a value outside its range.
    """
    from boxnn_numba import validation

    validation.choice("preset", preset, PRESETS)
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in given:
        validation.choice("option", name, OPTIONS)
    if preset == "auto" and kind != KINDS[0]:
        raise OptionError(f"preset auto is for tables, and these are {kind}; pass graded")
    if preset == "target" and "radius" not in given:
        raise OptionError("preset target needs a radius; pass `radius`")
    additive = {**ADDITIVE, "lr": 0.1} if given.get("relaxation") == "additive" else {}
    whole = {"validation_rows": 0} if "validation" in given else {}
    return TrainingOptions(**{**_changes(preset, kind), **additive, **whole, **given})
