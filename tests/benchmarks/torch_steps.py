"""What a user of torch would write for a training step, and for the forward passes of RA.

Imported only where torch is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from boxnn_numba.errors import BackendError

#: Samples whose distances to all boxes are one tensor: larger temporaries are slower.
_BROADCAST_ROWS, _COMPILED_ROWS = 4, 20
#: Images whose masked copies RA's network takes at once.
RA_BATCH = 1000


class Loss(NamedTuple):
    """A batch and the boxes it moves; the loss is that of the options of `TrainingOptions`.

    Attributes
    ----------
    x
        (batch, n) float32 codes.
    own
        (batch, M) bool, which boxes have the sample's label.
    lower, upper
        (M, n) float32 codes, leaves that gather gradients.
    width, tau, beta
        Cap in codes, inverse temperature, clip of the margin in features.
    """

    x: torch.Tensor
    own: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    width: float
    tau: float
    beta: float

    @classmethod
    def of(cls, codes: Any, labels: Any, boxes: tuple[Any, Any, Any], **options: float) -> Loss:
        """Make tensors of NumPy arrays: codes, class indices and (lower, upper, labels)."""
        lower, upper = (
            torch.from_numpy(side.astype("float32")).requires_grad_() for side in boxes[:2]
        )
        own = torch.from_numpy(labels[:, None] == boxes[2][None, :])
        return cls(torch.from_numpy(codes.astype("float32")), own, lower, upper, **options)


def _broadcast_distance(x: Any, lower: Any, upper: Any, width: float) -> Any:
    outside = torch.relu(lower - x[:, None]) + torch.relu(x[:, None] - upper)
    return outside.clamp(max=width).sum(-1) / width


def _cdist_distance(x: Any, lower: Any, upper: Any, width: float) -> Any:
    both = torch.cdist(x, lower, p=1.0) + torch.cdist(x, upper, p=1.0)
    return (both - (upper - lower).sum(1)) / (2.0 * width)


def _objective(distance: Any, own: Any, tau: float, beta: float) -> Any:
    def softmin(mask: Any) -> Any:
        weights = torch.softmax((-tau * distance).masked_fill(~mask, -torch.inf), dim=1)
        return (weights * distance).sum(1)

    return (softmin(~own) - softmin(own)).clamp(max=beta).sum()


def _value(distance: Any, x: Any, own: Any, boxes: tuple[Any, Any], options: Any) -> Any:
    width, tau, beta = options
    return _objective(distance(x, *boxes, width), own, tau, beta)


@functools.cache
def _compiled() -> Any:
    return torch.compile(functools.partial(_value, _broadcast_distance), dynamic=False)


def step(loss: Loss, variant: str) -> Callable[[], tuple[Any, Any]]:
    """Return a call that computes the gradient of a batch's objective by autograd.

    Parameters
    ----------
    loss
        The batch and the boxes.
    variant
        ``"broadcast"``, ``"cdist"`` (only without a cap, width 255) or ``"compile"``.

    Raises
    ------
    BackendError
        The variant does not work on this machine.
    """
    if variant == "compile":
        value, rows = _compiled(), _COMPILED_ROWS
    elif variant == "cdist":
        value, rows = functools.partial(_value, _cdist_distance), len(loss.x)
    else:
        value, rows = functools.partial(_value, _broadcast_distance), _BROADCAST_ROWS
    pieces = list(zip(loss.x.split(rows), loss.own.split(rows), strict=True))
    options = loss.width, loss.tau, loss.beta

    def run() -> tuple[Any, Any]:
        loss.lower.grad = loss.upper.grad = None
        for x, own in pieces:
            value(x, own, (loss.lower, loss.upper), options).backward()
        return loss.lower.grad, loss.upper.grad

    if variant == "compile":
        try:
            run()
        except (RuntimeError, OSError, ImportError) as error:  # no C++ compiler or headers
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise BackendError(f"does not work here: {reason[0][:80]}") from error
    return run


def masked_forward(images: Any, keep: int, seed: int = 0) -> Callable[[], Any]:
    """Return a call of RA's network on `RA_BATCH` random ablations of one image.

    Parameters
    ----------
    images
        (rows, n) uint8 codes of square images; the first is taken.
    keep
        Features that an ablation retains.
    seed
        Seed of the ablations and of the network.

    Notes
    -----
    Input (x, 1 - x) with ablated features (0, 0); two strided convolutions of 32 and 64 channels
    and a dense layer, smaller than the networks of Levine & Feizi. Making the ablations is not
    part of the call.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(images[0].astype("float32")) / 255.0
    n = len(x)
    side = int(n**0.5)
    kept = torch.rand(RA_BATCH, n, generator=generator).argsort(1) < keep
    pair = torch.stack((x, 1.0 - x))[None] * kept[:, None, :]
    batch = pair[..., : side * side].reshape(RA_BATCH, 2, side, side)
    after = ((side + 1) // 2 + 1) // 2
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * after * after, 10),
    ).eval()

    def run() -> Any:
        with torch.inference_mode():
            return network(batch).argmax(1)

    return run
