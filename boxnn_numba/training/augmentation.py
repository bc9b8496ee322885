"""Augmentation: mildly distorted images to train on, a new version of each in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from boxnn_numba.errors import OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.kernels.augmentation import CELL, POSITION_BITS, warp
from boxnn_numba.training.options import TrainingOptions, are_images

#: Images warped at a time.
_BLOCK = 512
#: Random numbers of an image that are not displacements: rotation, two scales, shear, two shifts.
_AFFINE_DRAWS = 6
# Part of the key of the draws that say which images are mirrored.
_MIRROR = 1
# Constants of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
# generators", OOPSLA 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


class Augmentation:
    """Distorts images by a rotation, scaling, shear and shift and a smooth displacement.

    Which distortion an image gets depends on the seed, its row number and the epoch only, and
    the arithmetic gives the same bits on every machine.

    Parameters
    ----------
    feature_shape
        (height, width) or (height, width, channels) of a sample.
    options
        Gives the strengths and the seed.
    threads
        Threads to use; the result is the same.

    Raises
    ------
    OptionError
        The samples are not images.
    """

    def __init__(
        self, feature_shape: Sequence[int], options: TrainingOptions, threads: int = 1
    ) -> None:
        if not are_images(feature_shape, True):
            raise OptionError(
                f"`{_asked(options)}` needs images, (height, width) or (height, width, 1 to 4 "
                f"channels), and the samples have shape {tuple(feature_shape)}; put channels last "
                f"or leave `{_asked(options)}` at 0"
            )
        self._shape: tuple[int, ...] = (*map(int, feature_shape), 1)[:3]
        self._options, self._threads = options, threads

    def __call__(self, codes: np.ndarray, first: int, epoch: int) -> np.ndarray:
        """Return distorted copies of training rows first, first + 1, ...

        Parameters
        ----------
        codes
            (N, n) uint8.
        first
            Row number of the first.
        epoch
            Number of the epoch.

        Returns
        -------
        ndarray
            (N, n) uint8.
        """
        out = np.empty((len(codes), codes.shape[1]), np.uint8)

        def work(start: int) -> None:
            part = slice(start, start + _BLOCK)
            rows = np.arange(first + start, first + start + len(out[part]))
            affine, displacement = self.maps(rows, epoch)
            bent = np.empty(displacement.shape[3], np.int64)
            place = np.empty((2, CELL * (len(bent) - 1)), np.int64)
            warp(codes[part], self._shape, affine, displacement, bent, place, out[part])

        with ThreadPoolExecutor(self._threads, "boxnn-augment") as pool:
            list(pool.map(work, range(0, len(codes), _BLOCK)))
        return out

    def maps(self, rows: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the affine maps and displacements of some rows, as `kernels.augmentation.warp`.

        Parameters
        ----------
        rows
            (N,) row numbers.
        epoch
            Number of the epoch.

        Returns
        -------
        affine, displacement
            (N, 2, 3) and (N, 2, cells down + 1, cells across + 1) int64.
        """
        options = self._options
        height, width, _ = self._shape
        grid = (-(-height // CELL) + 1, -(-width // CELL) + 1)
        draws = _uniform([options.seed, epoch], rows, _AFFINE_DRAWS + 2 * grid[0] * grid[1])
        draws *= options.augment
        affine = np.empty((len(rows), 2, 3))
        angle = draws[:, 0] * (options.rotation * np.pi / 180)
        tall, wide = 1 + options.scaling * draws[:, 1], 1 + options.scaling * draws[:, 2]
        # To third order, within 0.1% up to 25 degrees: a library's sine differs between machines.
        sine, cosine = angle - angle * angle * angle / 6, 1 - angle * angle / 2
        slant = options.shear * draws[:, 3]
        affine[:, 0, 0], affine[:, 0, 1] = tall * cosine, -(wide * sine)
        affine[:, 1, 0], affine[:, 1, 1] = tall * sine + slant, wide * cosine
        middle = (height - 1) / 2, (width - 1) / 2
        for side in range(2):
            moved = affine[:, side, 0] * middle[0] + affine[:, side, 1] * middle[1]
            affine[:, side, 2] = middle[side] - moved + options.shift * draws[:, 4 + side]
        displacement = options.displacement * draws[:, _AFFINE_DRAWS:]
        displacement = displacement.reshape(-1, 2, *grid)
        if options.mirror:
            chosen = _uniform([options.seed, epoch, _MIRROR], rows, 1)[:, 0]
            mirrored = chosen < 2 * options.mirror - 1
            affine[mirrored, 1] *= -1
            affine[mirrored, 1, 2] += width - 1
            displacement[mirrored, 1] *= -1
        unit = 2.0**POSITION_BITS
        return (
            np.rint(affine * unit).astype(np.int64),
            np.rint(displacement * unit).astype(np.int64),
        )


def augmentation(
    feature_shape: Sequence[int], grid: Grid | None, options: TrainingOptions, threads: int
) -> Augmentation | None:
    """Return what `Feed` takes as `augment`: None where the options ask for no augmentation.

    Samples must be images of codes, and so have no grid.
    """
    if options.augment == 0 and options.mirror == 0:
        return None
    if grid is not None:
        raise OptionError(
            f"`{_asked(options)}` needs images of whole numbers 0..255, and these features are "
            f"binned one by one; store uint8 pixels or leave `{_asked(options)}` at 0"
        )
    return Augmentation(feature_shape, options, threads)


def _asked(options: TrainingOptions) -> str:
    """Return the option that asks for augmentation."""
    return "augment" if options.augment else "mirror"


def _uniform(key: Sequence[int], rows: np.ndarray, count: int) -> np.ndarray:
    """Return (rows, count) random numbers in [-1, 1) that depend on the key and row number only."""
    state = np.zeros(1, np.uint64)
    for word in key:
        # A seed may be any whole number: 64 bits of it at a time.
        for shift in range(0, max(1, word.bit_length()), 64):
            state = _mixed(state + np.uint64(word >> shift & 0xFFFF_FFFF_FFFF_FFFF) + _GOLDEN)
    state = _mixed(state + rows.astype(np.uint64) * _GOLDEN)
    numbers = _mixed(state[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (numbers >> np.uint64(11)) * 2.0**-52 - 1.0


def _mixed(state: np.ndarray) -> np.ndarray:
    for shift, factor in _MIX:
        state = (state ^ (state >> shift)) * factor
    return np.asarray(state ^ (state >> np.uint64(31)))
