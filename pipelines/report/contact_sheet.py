"""Contact sheet: samples beside their nearest boxes, as a PNG figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor

from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures.curves import literal, shortened
from boxnn_numba.pipelines.figures.palette import CHANGED
from boxnn_numba.pipelines.report.gallery import Sample


def contact_sheet(pictures: Sequence[Sample], title: str) -> Image.Image:
    """Draw test images, a row each, what attacks made of them, and their own and rival boxes."""
    heads = ["sample", "own box, lower", "own box, upper", "rival box, lower", "rival box, upper"]
    attacked = any(picture.attack is not None for picture in pictures)
    if attacked:
        heads.insert(1, "under attack")
    dpi = plots.DPI
    canvas = _all_images(pictures, attacked, 1.1 * dpi)
    left, head, margin = round(1.75 * dpi), round(0.75 * dpi), round(0.1 * dpi)
    height, width = canvas.shape[:2]
    across, down = left + width + margin, head + height + margin
    figure = plots.new_figure(across / dpi, down / dpi, layout=None)
    for column, words in enumerate(heads):
        x = left + width * (column + 0.5) / len(heads)
        y = margin + height + 0.06 * dpi
        figure.text(x / across, y / down, words, ha="center", va="bottom", fontsize=9)
    for row, picture in enumerate(pictures):
        lines = [
            f"{picture.group}, #{picture.index}",
            f"radius {picture.radius}",
            f"true {shortened(picture.label_name)}",
            f"predicted {shortened(picture.predicted_name)}",
            f"rival {shortened(picture.rival_name)}",
        ]
        if picture.attack is not None and picture.attack.changed > 0:
            lines[1] += f", attack {picture.attack.changed}"
        y = margin + height * (1 - (row + 0.5) / len(pictures))
        x = left - 0.1 * dpi
        words = literal("\n".join(lines))
        figure.text(x / across, y / down, words, ha="right", va="center", fontsize=8.5)
    x, y = 0.1 * dpi / across, 1 - 0.12 * dpi / down
    figure.text(x, y, literal(title), ha="left", va="top", fontsize=11)
    sheet = plots.drawn(figure)
    # Not by matplotlib, which would take longer than for all else.
    sheet.paste(Image.fromarray(canvas), (left, head))
    return sheet


def _all_images(pictures: Sequence[Sample], attacked: bool, side: float) -> np.ndarray:
    """Return all images in one, a row for each picture, each about `side` pixels a side."""
    first = pictures[0].images[0]
    gap = max(2, max(first.shape[:2]) // 12)
    down, across = first.shape[0] + gap, first.shape[1] + gap
    sheet = Image.new("RGB", (across * (6 if attacked else 5), down * len(pictures)), "white")
    for row, picture in enumerate(pictures):
        images: list[np.ndarray | None] = [*picture.images]
        if attacked:
            images.insert(1, _attacked(picture))
        for column, image in enumerate(images):
            if image is not None:
                sheet.paste(Image.fromarray(image), (across * column, down * row))
    # Enlarged here to whole pixels of the figure: matplotlib would take longer, and blur.
    scale = max(1, round(side / max(down, across)))
    return np.asarray(sheet).repeat(scale, axis=0).repeat(scale, axis=1)


def _attacked(picture: Sample) -> np.ndarray | None:
    """Return what an attack makes of an image, changed pixels tinted; None where there is none."""
    attack = picture.attack
    if attack is None or attack.image is None:
        return None
    image = np.array(Image.fromarray(attack.image).convert("RGB"))
    tint = np.array(ImageColor.getrgb(CHANGED))
    image[attack.marks] = (0.4 * image[attack.marks] + 0.6 * tint).astype(np.uint8)
    return image
