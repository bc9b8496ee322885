"""The report's one self-contained HTML page: no network, no dependency, images inside.

The template ``report.html``, its style and its script are files beside this module, which
fills in what depends on the runs. Every text from outside passes through `html.escape`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources

from boxnn_numba.pipelines.figures import palette
from boxnn_numba.pipelines.figures.published import FAMILIES, PublishedRow, family
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report import page_svg, page_tables
from boxnn_numba.pipelines.report.gallery import Sample
from boxnn_numba.pipelines.report.page_gallery import gallery_html
from boxnn_numba.pipelines.report.page_panels import classes_svg, histogram_svg
from boxnn_numba.pipelines.report.page_tables import method_words, run_words, series_key, swatch

_SCRIPTS = ("curves.js", "gallery.js", "page.js")
_THEME = "theme.js"
#: With more runs than this, the tables of classes wait behind a heading to be opened.
_MOST_OPEN = 3
#: With more than this, so do the charts.
_MOST_CHARTS = 6
_CONVENTIONS = {
    "sound": "Radii are <b>sound</b>: they hold exactly, with ties counted for the adversary.",
    "paper": "Radii are in the <b>paper’s convention</b>, which can overstate a radius by one "
    "(it counts a margin of exactly twice the radius); use them only beside the paper’s tables.",
}


@dataclass(frozen=True, eq=False)
class PageContent:
    """All that the page shows.

    Parameters
    ----------
    runs, published, medians
        What is compared: certificates, rows of the paper's table and its median radii.
    title
        Plain text.
    convention
        ``"sound"`` or ``"paper"``.
    introduction, notes
        Plain sentences above everything, and where the gallery is incomplete.
    radii
        Radii of the table of certified accuracies.
    samples
        For each run the chosen samples, `Picture` or `Features` where they can be shown.
    settings, versions
        For each run its settings, and versions of the software that made the report.
    """

    runs: Sequence[Run]
    published: Sequence[PublishedRow]
    medians: dict[str, int]
    title: str
    convention: str
    introduction: str
    radii: Sequence[int]
    samples: Sequence[Sequence[Sample]]
    settings: Sequence[dict[str, str]]
    versions: dict[str, str]
    notes: Sequence[str] = field(default_factory=list)


class _Template(string.Template):
    delimiter = "@@"


def render(content: PageContent) -> str:
    """Return the page.

    Parameters
    ----------
    content
        What it shows.

    Returns
    -------
    str
        A complete HTML document under 5 MB; the same content gives the same text.
    """
    runs, published = content.runs, content.published
    data = page_svg.curve_data(runs, published)
    # "<" is written as an escape so that no name can end the script element.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    script = "\n".join(['"use strict";', "{", *map(_asset, _SCRIPTS), "}"])
    theme = _asset(_THEME)
    settings = page_tables.settings_tables(runs, content.settings, content.versions)
    return _Template(_asset("report.html")).substitute(
        title=escape(content.title),
        style=_style(len(runs)),
        # Nothing but these very scripts runs, whatever a name of a run or class holds.
        script_hashes=" ".join(map(_hash, (theme, script))),
        theme=theme,
        script=script,
        introduction=f"<p>{escape(content.introduction)}</p><p>{_CONVENTIONS[content.convention]}</p>",
        paper_words=_paper_words(published, content.convention),
        curves=page_svg.curves_svg(runs, published, _description(runs)),
        last=str(data["last"]),
        legend=_legend(runs, published),
        summary=page_tables.summary_table(runs, published, content.medians),
        accuracy=page_tables.accuracy_table(runs, published, content.radii),
        attack=page_tables.attack_table(runs, content.radii),
        panels="".join(_panel(runs, index) for index in range(len(runs))),
        gallery=gallery_html(runs, content.samples, content.notes),
        settings=settings,
        footer=f"Made by boxnn report, boxnn-numba {escape(content.versions['boxnn-numba'])}.",
        data=embedded,
    )


def _asset(name: str) -> str:
    return (
        resources.files("boxnn_numba.pipelines.report")
        .joinpath("html", name)
        .read_text(encoding="utf-8")
    )


def _hash(script: str) -> str:
    """Return a script's name in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _style(n_runs: int) -> str:
    """Return the style sheet with the colours of runs and published methods."""
    grounds = []
    for ground in ("light", "dark"):
        colours = {f"run-{at}": shades for at, shades in enumerate(palette.RUNS)}
        colours |= {series_key(name): shades for name, shades in palette.FAMILIES.items()}
        grounds.append(" ".join(f"--{k}: {getattr(v, ground)};" for k, v in colours.items()))
    keys = [f"run-{index}" for index in range(n_runs)]
    used = [f"run-{index % len(palette.RUNS)}" for index in range(n_runs)]
    for name in palette.FAMILIES:
        keys.append(series_key(name))
        used.append(series_key(name))
    classes = "\n".join(
        f".{key} {{ --colour: var(--{name}); }}" for key, name in zip(keys, used, strict=True)
    )
    return _Template(_asset("report.css")).substitute(
        light=grounds[0], dark=grounds[1], series=classes, changed=palette.CHANGED
    )


def _description(runs: Sequence[Run]) -> str:
    return (
        "Certified accuracy in percent by certified radius: "
        + "; ".join(f"{run.name} falls from {run.curve()[0]:.1f} at radius 0" for run in runs)
        + ". The table below has the values."
    )


def _paper_words(published: Sequence[PublishedRow], convention: str) -> str:
    if not published:
        return ""
    others = len(published) > 1
    words = " Dotted is what the paper has published: red its Box-NN" + (
        ", the others the defences it compares with, one colour each." if others else "."
    )
    if convention == "sound":
        words += " Published Box-NN values count in the paper’s convention, ours are sound."
    return words


def _legend(runs: Sequence[Run], published: Sequence[PublishedRow]) -> str:
    items = []
    for index, run in enumerate(runs):
        attack = ""
        if run.robust is not None:
            attack = (
                f'<span class="under">{swatch(f"run-{index} dashed")}<span class="name">under '
                f'attack</span><output data-attack="run-{index}" aria-live="off"></output></span>'
            )
        sample = swatch(f"run-{index} solid", palette.run_mark(index))
        items.append(_legend_item(f"run-{index}", sample, run_words(run), run.name, attack))
    present = {family(row.method) for row in published}
    for name in (name for name in FAMILIES if name in present):
        note = " (paper)" if name == "Box-NN" else " (paper, best)"
        key = series_key(name)
        items.append(_legend_item(key, swatch(key), method_words(name) + note, name + note))
    return "".join(items)


def _legend_item(key: str, sample: str, words: str, name: str, attack: str = "") -> str:
    return (
        f'<li data-key="{key}"><label><input type="checkbox" class="js-only" data-toggle="{key}" '
        f'checked>{sample}<span class="name">{words}</span>'
        f'<output data-value="{key}" data-name="{escape(name)}" aria-live="off"></output>'
        f"</label>{attack}</li>"
    )


def _panel(runs: Sequence[Run], index: int) -> str:
    """Return how the radii of a run are spread: two charts and a table."""
    run = runs[index]
    is_open = " open" if len(runs) <= _MOST_OPEN else ""
    charts_open = " open" if len(runs) <= _MOST_CHARTS else ""
    name = f'<span class="hidden">, {escape(run.name)}</span>'
    return (
        f'<details data-series="run-{index}" class="panel"{charts_open}>'
        f"<summary><h3>{run_words(run)}</h3></summary>"
        f'<div class="pair">{histogram_svg(runs, index)}{classes_svg(runs, index)}</div>'
        f"<details{is_open}><summary>Class by class as a table{name}</summary>"
        f"{page_tables.class_table(run, index)}</details></details>"
    )
