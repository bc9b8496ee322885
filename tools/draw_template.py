"""Draw docs/images/template.png: a template of a model, and the box it becomes for an image.

Usage: python tools/draw_template.py MODEL DATASET [ROW]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from boxnn_numba import load_model
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.distances import part_distance

OUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "template.png"
_SHOWN = 5


def draw(model_path: str, data_path: str, row: int) -> Figure:
    """Draw an image, some variants of its nearest template, and what they are assembled to."""
    model, dataset = load_model(model_path), open_dataset(data_path)
    x = dataset.read("test")[0].reshape(dataset.n_rows("test"), -1)[row]
    boxes, shape = model.boxes, model.feature_shape or ()
    middle = (boxes.lower.astype(float) + boxes.upper) / 2
    apart = part_distance(x[None], boxes)[0]
    starts = boxes.structure.rows
    nearest = int(np.minimum.reduceat(apart, starts[:-1], axis=1).sum(axis=0).argmin())
    rows = np.arange(starts[nearest], starts[nearest + 1])
    chosen = rows[apart[:, rows].argmin(axis=1)]
    assembled = np.choose(boxes.part, [middle[m] for m in chosen])
    used = list(dict.fromkeys(chosen.tolist()))
    others = [m for m in rows.tolist() if m not in used]
    shown = sorted((used + others)[:_SHOWN])
    figure = Figure(figsize=(1.5 * (len(shown) + 2), 2.0), layout="constrained")
    axes = figure.subplots(1, len(shown) + 2)
    pictures = [(x, "input"), *((middle[m], f"variant {m - rows[0] + 1}") for m in shown)]
    for axis, (picture, title) in zip(axes, [*pictures, (assembled, "assembled")], strict=True):
        axis.imshow(np.reshape(picture, shape), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    parts = boxes.part.reshape(shape)
    for axis, m in zip(axes[1:-1], shown, strict=True):
        for p in np.flatnonzero(chosen == m):
            inside = np.argwhere(parts == p)
            (top, left), (bottom, right) = inside.min(axis=0)[:2], inside.max(axis=0)[:2]
            corners = [left, right, right, left, left], [top, top, bottom, bottom, top]
            axis.plot(*corners, color="#d55e00", linewidth=2)
    return figure


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0).savefig(
        OUT, dpi=120
    )
