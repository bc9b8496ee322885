"""The report's one self-contained HTML page: no network, no dependency, images inside.

The template ``report.html`` holds style and script; this module fills in what
depends on the runs. Every text from outside passes through `html.escape`.
"""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

from boxnn_numba.distances import UNREACHABLE
from boxnn_numba.pipelines import page_svg
from boxnn_numba.pipelines.gallery import GROUPS, Picture, Sample, png
from boxnn_numba.pipelines.published import FAMILIES, PublishedRow, family, setting
from boxnn_numba.pipelines.runs import Run

#: Bytes of gallery in all runs together; the page stays well below 5 MB.
GALLERY_BYTES = 3_000_000
_MOST_DISTANCES = 12
_DASH = "–"
_FIGURE_HEAD = ("Median radius", "Accuracy, %", "Mean radius", "Samples")
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
        For each run the chosen samples, `Picture` where they can be drawn.
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
    source = resources.files("boxnn_numba.pipelines").joinpath("report.html")
    runs, published = content.runs, content.published
    data = page_svg.curve_data(runs, published)
    # "<" is written as an escape so that no name can end the script element.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    words = (
        "Certified accuracy in percent by certified radius: "
        + "; ".join(f"{run.name} falls from {run.curve()[0]:.1f} at radius 0" for run in runs)
        + ". The table below has the values."
    )
    return _Template(source.read_text(encoding="utf-8")).substitute(
        title=escape(content.title),
        introduction=f"<p>{escape(content.introduction)}</p><p>{_CONVENTIONS[content.convention]}</p>",
        paper_words=_paper_words(published, content.convention),
        curves=page_svg.curves_svg(runs, published, words),
        last=str(data["last"]),
        legend=_legend(runs, published),
        summary=_summary(content),
        accuracy=_accuracy(content),
        histograms="".join(
            f'<div data-series="run-{index}"><h3>{escape(run.name)}</h3>'
            f"{page_svg.histogram_svg(runs, index)}</div>"
            for index, run in enumerate(runs)
        ),
        per_class="".join(_per_class(run, index) for index, run in enumerate(runs)),
        gallery=_gallery(content),
        settings=_settings(content),
        footer=f"Made by boxnn report, boxnn-numba {escape(content.versions['boxnn-numba'])}.",
        data=embedded,
    )


def _paper_words(published: Sequence[PublishedRow], convention: str) -> str:
    if not published:
        return ""
    others = len(published) > 1
    words = " The red line is the paper’s Box-NN" + (
        "; the dotted lines are the defences it compares with, one colour each." if others else "."
    )
    if convention == "sound":
        words += " Published Box-NN values count in the paper’s convention, ours are sound."
    return words


def _method(name: str) -> str:
    """Return a published method as HTML: ``RA_20^B`` with a subscript and a superscript."""
    base, _, variant = family(name).partition("^")
    size = setting(name)
    return (
        escape(base)
        + (f"<sub>{size}</sub>" if size is not None else "")
        + (f"<sup>{escape(variant)}</sup>" if variant else "")
    )


def _run_words(run: Run) -> str:
    return _method(run.name) if run.named_by_method else escape(run.name)


def _legend(runs: Sequence[Run], published: Sequence[PublishedRow]) -> str:
    items = []
    for index, run in enumerate(runs):
        style = f"line run run-{index % 6} dash-{index // 6 % 4}"
        items.append(_legend_item(f"run-{index}", style, _run_words(run), run.name))
    present = {family(row.method) for row in published}
    for name in (name for name in FAMILIES if name in present):
        key = page_svg.series_key(name)
        note = " (paper)" if name == "Box-NN" else " (best)"
        items.append(_legend_item(key, f"line {key}", _method(name) + note, name + note))
    return "".join(items)


def _legend_item(key: str, style: str, words: str, name: str) -> str:
    return (
        f'<li><label><input type="checkbox" class="js-only" data-toggle="{key}" checked>'
        f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">'
        f'<path class="{style}" d="M2 5H28"/></svg><span class="name">{words}</span>'
        f'<output data-value="{key}" data-name="{escape(name)}" aria-live="off"></output>'
        "</label></li>"
    )


# --- tables ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    head: str
    cells: Sequence[str]
    attributes: str = ""
    plain: str = ""


def _table(ident: str, caption: str, head: Sequence[str], rows: Sequence[_Row], kind: str) -> str:
    """Return a table with scopes, in a region that scrolls sideways, and its copy button.

    Heads and cells are HTML; `caption` is plain text.
    """
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr{row.attributes}><th scope="row"'
        + (f' data-csv="{escape(row.plain)}"' if row.plain else "")
        + f">{row.head}</th>"
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row.cells)
        + "</tr>"
        for row in rows
    )
    label = escape(caption, quote=True)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f'<table id="{ident}" class="{kind}"><caption><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="copy js-only"><button type="button" data-copy="{ident}" '
        f'aria-label="Copy as CSV: {label}">Copy as CSV</button><span role="status"></span></p>'
    )


def _run_row(index: int, run: Run, cells: Sequence[str]) -> _Row:
    return _Row(_run_words(run), cells, f' class="ours" data-series="run-{index}"', run.name)


def _summary(content: PageContent) -> str:
    rows = []
    for index, run in enumerate(content.runs):
        figures = run.summary()
        rows.append(_run_row(index, run, _figure_cells(figures)))
    accuracy = {row.method: row.percents[0] for row in content.published}
    for name, median in content.medians.items():
        key = f' data-series="{page_svg.series_key(name)}"'
        right = f"{accuracy[name]:.2f}" if name in accuracy else _DASH
        cells = [str(median), right, _DASH, _DASH]
        rows.append(_Row(_method(name) + " (paper)", cells, key, f"{name} (paper)"))
    caption = "Certified radius and accuracy; a median of -1 means an accuracy below one half."
    if content.medians:
        caption += " Of the paper’s methods, the best published median."
    return _table("summary", caption, ["Run", *_FIGURE_HEAD], rows, "numbers")


def _figure_cells(figures: dict[str, Any]) -> list[str]:
    return [
        str(figures["median_certified_radius"]),
        f"{figures['accuracy']:.2f}",
        f"{figures['mean_certified_radius']:.2f}",
        f"{figures['n']:,}",
    ]


def _accuracy(content: PageContent) -> str:
    radii = content.radii
    lines: list[tuple[_Row, list[float | None]]] = []
    for index, run in enumerate(content.runs):
        curve = run.curve()
        values = [float(curve[r]) if r < len(curve) else 0.0 for r in radii]
        lines.append((_run_row(index, run, []), list(values)))
    for row in content.published:
        known = dict(zip(row.radii, row.percents, strict=True))
        key = f' data-series="{page_svg.series_key(family(row.method))}"'
        head = _method(row.method) + (" (paper)" if row.method == "Box-NN" else "")
        lines.append((_Row(head, [], key, row.method), [known.get(r) for r in radii]))
    columns = zip(*(values for _, values in lines), strict=True)
    best = [max(value or 0.0 for value in column) for column in columns]
    rows = []
    for row_head, numbers in lines:
        cells = [
            _DASH
            if value is None
            else f'<td class="best">{value:.1f}</td>'
            if value == top > 0
            else f"{value:.1f}"
            for value, top in zip(numbers, best, strict=True)
        ]
        rows.append(_Row(row_head.head, cells, row_head.attributes, row_head.plain))
    caption = "Certified accuracy in percent at each certified radius; the highest is bold."
    return _table("accuracy", caption, ["Radius", *map(str, radii)], rows, "numbers")


def _per_class(run: Run, index: int) -> str:
    rows = [_Row(escape(row["class"]), _figure_cells(row)) for row in run.per_class()]
    caption = f"{run.name}: certified radius and accuracy by true class."
    body = _table(f"class-{index}", caption, ["Class", *_FIGURE_HEAD], rows, "numbers")
    return f'<div data-series="run-{index}">{body}</div>'


def _settings(content: PageContent) -> str:
    names = list(dict.fromkeys(name for settings in content.settings for name in settings))
    rows = [
        _Row(
            escape(name),
            [escape(settings.get(name, _DASH)) for settings in content.settings],
        )
        for name in names
    ]
    head = ["Setting", *(escape(run.name) for run in content.runs)]
    settings_table = _table("settings", "Settings of each run.", head, rows, "words")
    versions = [_Row(escape(name), [escape(text)]) for name, text in content.versions.items()]
    caption = "Software that made this report."
    return settings_table + _table("versions", caption, ["Software", "Version"], versions, "words")


# --- samples ---------------------------------------------------------------------------


def _gallery(content: PageContent) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in content.notes)
    parts = []
    drawn = False
    for index, (run, samples) in enumerate(zip(content.runs, content.samples, strict=True)):
        if not samples:
            continue
        pictures = [sample for sample in samples if isinstance(sample, Picture)]
        if pictures:
            budget = GALLERY_BYTES // len(content.runs)
            body = f'<div class="cards">{_cards(pictures, budget)}</div><p hidden>None here.</p>'
            drawn = True
        else:
            body = _sample_table(run, index, [item for item in samples if item.overall])
        parts.append(f'<div data-series="run-{index}"><h3>{escape(run.name)}</h3>{body}</div>')
    controls = _gallery_controls(content.runs) if drawn else ""
    return notes + controls + "".join(parts)


def _gallery_controls(runs: Sequence[Run]) -> str:
    radios = "".join(
        f'<label><input type="radio" name="gallery-group" value="{group}"'
        f"{' checked' if position == 0 else ''}>{group} ({words})</label>"
        for position, (group, words) in enumerate(GROUPS.items())
    )
    options = "".join(
        f'<option value="{escape(name)}">{escape(name)}</option>'
        for name in dict.fromkeys(str(name) for run in runs for name in run.classes)
    )
    return (
        "<p>A box is a range of values for every feature, drawn as its lower and its upper image. "
        "A sample belongs to the class of its nearest box; the nearest box of the rival class "
        "limits the radius. Distances are in features outside the box.</p>"
        f'<fieldset class="js-only"><legend>Samples shown</legend><div class="choices">{radios}'
        '<label>true class <select id="gallery-class"><option value="">all</option>'
        f"{options}</select></label></div></fieldset>"
    )


def _cards(pictures: Sequence[Picture], budget: int) -> str:
    cards: list[str] = []
    spent = 0
    for picture in pictures:
        card = _card(picture)
        spent += len(card)
        if spent > budget and cards:
            break
        cards.append(card)
    return "".join(cards)


def _card(picture: Picture) -> str:
    own, rival = escape(picture.predicted_name), escape(picture.rival_name)
    label = escape(picture.label_name)
    if picture.label == picture.prediction:
        verdict = f"class {label}, predicted {own}"
    else:
        verdict = f'class {label}, <span class="miss">predicted {own}</span>'
    alts = (
        f"sample {picture.index} of class {label}",
        f"lower image of the nearest box of class {own}",
        f"upper image of the nearest box of class {own}",
        f"lower image of the nearest box of rival class {rival}",
        f"upper image of the nearest box of rival class {rival}",
    )
    words = ["sample", *(f"box {c} {bound}" for c in (own, rival) for bound in ("lower", "upper"))]
    images = "".join(
        f'<span><img alt="{alt}" width="{image.shape[1]}" height="{image.shape[0]}" '
        f'src="data:image/png;base64,{base64.b64encode(png(image)).decode()}">{word}</span>'
        for alt, word, image in zip(alts, words, picture.images, strict=True)
    )
    return (
        f'<figure class="card" data-group="{picture.group}" data-class="{label}" '
        f'data-overall="{int(picture.overall)}"><figcaption>'
        f'<span class="radius">Radius {picture.radius}</span> · #{picture.index}, {verdict}<br>'
        f"<small>distance {picture.own_distance:.1f} to the nearest box of {own}, "
        f"{picture.rival_distance:.1f} to that of {rival}</small></figcaption>"
        f'<div class="pictures">{images}</div></figure>'
    )


def _sample_table(run: Run, index: int, samples: Sequence[Sample]) -> str:
    """Return the samples with their distances, for features that are not an image."""
    every = run.class_distance is not None and len(run.classes) <= _MOST_DISTANCES
    head = ["Sample", "Group", "Radius", "Class", "Predicted", "Nearest rival"]
    if every:
        head += [f"Distance to {escape(str(name))}" for name in run.classes]
    else:
        head += ["Distance to predicted", "Distance to rival"]
    rows = []
    for sample in samples:
        names = [escape(name) for name in sample.names]
        cells = [sample.group, str(sample.radius), *names]
        if every and run.class_distance is not None:
            width = int(run.attributes["width"])
            cells += [
                f"{units / width:.2f}" if units < UNREACHABLE else _DASH
                for units in run.class_distance[run.place(sample.index)]
            ]
        else:
            cells += [f"{sample.own_distance:.2f}", f"{sample.rival_distance:.2f}"]
        rows.append(_Row(str(sample.index), cells))
    groups = "; ".join(f"{group}: {words}" for group, words in GROUPS.items())
    caption = f"{run.name}: samples by radius ({groups}); distances in features to the nearest box."
    return _table(f"samples-{index}", caption, head, rows, "numbers")
