"""Page of a report: one self-contained HTML file, no network, no dependency, images inside.

The templates, the style sheet and the scripts are files in ``html``. Every text that a template
is given is escaped there.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from boxnn_numba.pipelines.figures.learning import Learning
from boxnn_numba.pipelines.figures.palette import CHANGED, RUNS
from boxnn_numba.pipelines.figures.published import (
    BEST,
    FAMILIES,
    PublishedRow,
    family,
    is_sample,
    published_medians,
    published_patches,
    published_rows,
)
from boxnn_numba.pipelines.figures.runs import Run, constant_of
from boxnn_numba.pipelines.figures.scales import table_radii
from boxnn_numba.pipelines.report import charts, tables
from boxnn_numba.pipelines.report.gallery import GROUPS, Sample
from boxnn_numba.pipelines.report.headline import headline
from boxnn_numba.pipelines.report.series import (
    Series,
    of_constant,
    of_learning,
    of_method,
    of_runs,
    shades,
)
from boxnn_numba.pipelines.report.summary_files import run_settings, software_versions

#: Bytes of gallery in all runs together; the page stays well below 5 MB.
GALLERY_BYTES = 3_000_000
_SCRIPTS = ("curves.js", "gallery.js", "page.js")
_THEME = "theme.js"


def render(
    runs: Sequence[Run],
    samples: Sequence[Sequence[Sample]],
    title: str,
    *,
    convention: str = "sound",
    notes: Sequence[str] = (),
    learning: Sequence[Learning] = (),
    every_row: bool = False,
) -> str:
    """Return a complete HTML document under 5 MB; the same content gives the same text.

    It has runs of one data set beside the paper's rows for it, the `samples` of each run, `notes`:
    sentences on where the gallery is incomplete, and how runs and others were trained. With
    `every_row` each published method is shown at first, otherwise the best of them.
    """
    name = runs[0].dataset_name
    published, series = published_rows(name), of_runs(runs)
    attacked = [run for run in runs if run.robust is not None]
    # How the radii of a run are spread.
    panels = [
        {
            "series": one,
            "histogram": charts.histogram(runs, index),
            "classes": charts.classes(runs, index),
            "per_class": runs[index].per_class(),
        }
        for index, one in enumerate(series)
    ]
    html = _environment()
    page = html.get_template("report.html").render(
        title=title,
        headline=headline(runs, convention),
        every_row=every_row,
        unit=runs[0].unit,
        convention=convention,
        notes=notes,
        is_sample=is_sample(name),
        runs=runs,
        series=series,
        summaries=[run.summary() for run in runs],
        attacked=attacked,
        attacked_whole=any(run.attacked == len(run.label) for run in attacked),
        attacked_in_part=any(0 < run.attacked < len(run.label) for run in attacked),
        panels=panels,
        **_compared(runs, published, published_medians(name)),
        **_gallery(html.get_template("gallery.html"), runs, series, samples),
        **_settings(runs),
        **_trained(learning),
        **_style(series, learning),
        **_scripts(html),
    )
    return page.strip() + "\n"


def _environment() -> Environment:
    html = Environment(
        loader=PackageLoader("boxnn_numba.pipelines.report", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    html.filters |= {"data_url": data_url, "places": lambda marks: np.argwhere(marks).tolist()}
    return html


def data_url(image: np.ndarray) -> str:
    """Return an image, (h, w) grey or (h, w, 3) RGB of uint8, as the URL of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _scripts(html: Environment) -> dict[str, Any]:
    """Return the scripts, and their names in a content security policy."""
    assert html.loader is not None
    theme, *rest = (html.loader.get_source(html, name)[0] for name in (_THEME, *_SCRIPTS))
    script = "\n".join(['"use strict";', "{", *rest, "}"])
    digests = (hashlib.sha256(text.encode()).digest() for text in (theme, script))
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return {"theme": Markup(theme), "script": Markup(script), "hashes": hashes}


def _style(series: Sequence[Series], learning: Sequence[Learning]) -> dict[str, Any]:
    """Return the colours of the style sheet, and which of them each series has."""
    colours = shades()
    used = {one.key: f"run-{index % len(RUNS)}" for index, one in enumerate(series)}
    for one, trained in zip(learning, of_learning(learning), strict=True):
        used[trained.key] = f"run-{one.place % len(RUNS)}"
    others = {key: key for key in colours if not key.startswith("run")}
    return {"changed": CHANGED, "shades": colours, "used": used | others}


def _trained(learning: Sequence[Learning]) -> dict[str, Any]:
    """Return the charts and the table of training."""
    series = of_learning(learning)
    return {
        "learning": [(one, len(of.members)) for one, of in zip(series, learning, strict=True)],
        "learning_charts": charts.learning(learning, series) if learning else [],
        "learning_rows": [
            (own, row) for own, one in zip(series, learning, strict=True) for row in one.rows()
        ],
    }


def _compared(
    runs: Sequence[Run], published: Sequence[PublishedRow], medians: dict[str, int]
) -> dict[str, Any]:
    """Return the curves and the tables of runs beside published methods."""
    radii = table_radii(runs, published)
    accuracy = tables.accuracy_rows(runs, published, radii)
    balanced = tables.balanced_rows(runs, radii)
    area, lines = charts.curves(runs, published)
    present = {family(row.method) for row in published}
    right = {row.method: row.percents[0] for row in published}
    known = [(of_method(name), median, right.get(name)) for name, median in medians.items()]
    if medians:
        known.insert(0, (of_method(BEST), max(medians.values()), None))
    return {
        "families": [of_method(name) for name in FAMILIES if name in present],
        "best_series": of_method(BEST),
        "n_published": len(published),
        "medians": known,
        "area": area,
        "lines": lines,
        "data": charts.curve_data(runs, published, area),
        "radii": radii,
        "accuracy": accuracy,
        "best": _best(accuracy),
        "balanced": balanced,
        "best_balanced": _best(balanced),
        "balanced_lines": charts.curves(runs, published, balanced=True)[1],
        "constant": constant_of(runs),
        "constant_series": of_constant(constant_of(runs)),
        "attack": tables.attack_rows(runs, radii),
        "patches": tables.patch_rows(runs, published_patches(runs[0].dataset_name)),
    }


def _best(rows: Sequence[tables.Row]) -> list[float]:
    """Return the highest value at each radius, without the last row, the baseline."""
    return [
        max(value or 0.0 for value in column)
        for column in zip(*(row.values for row in rows[:-1]), strict=True)
    ]


def _settings(runs: Sequence[Run]) -> dict[str, Any]:
    """Return settings of runs, those with a prefix such as options of training apart."""
    settings = [run_settings(run) for run in runs]
    names = list(dict.fromkeys(name for run in settings for name in run))
    return {
        "settings": settings,
        "settings_main": [name for name in names if ": " not in name],
        "settings_more": [name for name in names if ": " in name],
        "versions": software_versions(),
    }


def _gallery(
    template: Template,
    runs: Sequence[Run],
    series: Sequence[Series],
    samples: Sequence[Sequence[Sample]],
) -> dict[str, Any]:
    """Return what the gallery shows of each run that has boxes, and what can be chosen."""
    parts: list[dict[str, Any]] = []
    for index, (run, chosen) in enumerate(zip(runs, samples, strict=True)):
        shown = [sample for sample in chosen if sample.images or sample.rows]
        distances = None
        if chosen and not chosen[0].images:
            overall = [sample for sample in chosen if sample.overall]
            distances = tables.distances(run, overall)
        if chosen:
            cards = _cards(template, shown, index, GALLERY_BYTES // len(runs))
            part = {"index": index, "series": series[index], "cards": cards}
            part["unit"] = run.distance_unit
            parts.append({**part, "distances": distances})
    every = [sample for chosen in samples for sample in chosen]
    groups = {sample.group for sample in every}
    with_cards = [runs[part["index"]] for part in parts if part["cards"]]
    return {
        "gallery": parts,
        "groups": {group: words for group, words in GROUPS.items() if group in groups},
        "names": list(dict.fromkeys(str(name) for run in with_cards for name in run.classes)),
        "drawn": any(sample.images for sample in every),
        "distance_unit": "/".join(sorted({run.distance_unit for run in with_cards})),
        "assembled": any(sample.parts > 1 for sample in every),
        "offsets": any(run.attributes.get("offset") for run in with_cards),
        "marked": any(sample.images and sample.attack for sample in every),
    }


def _cards(template: Template, samples: Sequence[Sample], run: int, budget: int) -> Markup:
    """Return cards one after another, as many as the budget of bytes allows, or one."""
    cards: list[str] = []
    for position, sample in enumerate(samples):
        card = template.module.card(sample, f"{run}-{position}")  # type: ignore[attr-defined]
        budget -= len(card)
        if budget < 0 and cards:
            break
        cards.append(card)
    return Markup("").join(cards)
