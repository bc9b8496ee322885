"""Warped copies of images: an affine map and a smooth displacement, in integers.

Positions are fixed-point, so an image is the same to the last bit on every machine.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.compile import kernel, register_jitable

#: Positions are multiples of 2 ** -POSITION_BITS pixels; grey values are weighed by the first
#: WEIGHT_BITS of a position's fraction.
POSITION_BITS, WEIGHT_BITS = 16, 8
#: Displacements are given at every CELL-th pixel (2 ** CELL_BITS) and linear in between.
CELL_BITS = 3
CELL = 1 << CELL_BITS
_ONE = 1 << WEIGHT_BITS


@register_jitable
def _places(row, affine, bend, last, bent, place):
    """Write the positions, in units of weights and along one axis, that a row of pixels shows."""
    cell, part = row >> CELL_BITS, row & (CELL - 1)
    for k in range(len(bent)):
        bent[k] = bend[cell, k] * (CELL - part) + bend[cell + 1, k] * part
    for k in range(len(bent) - 1):
        first = affine[0] * row + affine[1] * (k * CELL) + affine[2]
        start, slope = bent[k] * CELL, bent[k + 1] - bent[k]
        for step in range(CELL):
            at = first + affine[1] * step + ((start + slope * step) >> 2 * CELL_BITS)
            place[k * CELL + step] = min(max(at, 0), last) >> (POSITION_BITS - WEIGHT_BITS)


@register_jitable
def _mixed(one, two, weight):
    return one * _ONE + (two - one) * weight


@kernel
def warp(x, shape, affine, displacement, bent, place, out):
    """Write to ``out[i]`` what image i shows where the map of each pixel leads.

    x and out are (N, n) uint8, images of shape (height, width, channels). affine (N, 2, 3) int64
    has rows y and x of a matrix that takes (row, column, 1) to a position in the image; positions
    beyond the edge show the edge. displacement (N, 2, cells down + 1, cells across + 1) int64 is
    added to the positions. bent (cells across + 1,) and place (2, cells across * CELL), int64, are
    room for the displacements and positions of a row.
    """
    height, width, channels = shape
    last = ((height - 1) << POSITION_BITS, (width - 1) << POSITION_BITS)
    for i in range(len(x)):
        image = x[i]
        for row in range(height):
            for side in range(2):
                bend = displacement[i, side]
                _places(row, affine[i, side], bend, last[side], bent, place[side])
            for column in range(width):
                y, z = place[0, column], place[1, column]
                top, left = y >> WEIGHT_BITS, z >> WEIGHT_BITS
                v, u = y & (_ONE - 1), z & (_ONE - 1)
                # The last row and column have no neighbour, but then its weight is 0.
                under = width * channels if top < height - 1 else 0
                beside = channels if left < width - 1 else 0
                for c in range(channels):
                    # Unsigned, or every index is checked for counting from the end.
                    k = (top * width + left) * channels + c
                    a, b = np.int64(image[np.uintp(k)]), np.int64(image[np.uintp(k + beside)])
                    k += under
                    d, e = np.int64(image[np.uintp(k)]), np.int64(image[np.uintp(k + beside)])
                    grey = _mixed(_mixed(a, b, u), _mixed(d, e, u), v)
                    k = (row * width + column) * channels + c
                    out[i, k] = (grey + (_ONE * _ONE >> 1)) >> 2 * WEIGHT_BITS
