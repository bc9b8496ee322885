"""The page's gallery: a card for each sample, all visible without a script, one by one with it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from boxnn_numba.distances import UNREACHABLE
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report.gallery import GROUPS, Sample
from boxnn_numba.pipelines.report.gallery_views import Attack, Features, Picture, png
from boxnn_numba.pipelines.report.page_tables import DASH, Cell, Row, run_words, table

#: Bytes of gallery in all runs together; the page stays well below 5 MB.
GALLERY_BYTES = 3_000_000
_MOST_DISTANCES = 12


def gallery_html(
    runs: Sequence[Run], samples: Sequence[Sequence[Sample]], notes: Sequence[str]
) -> str:
    """Return the gallery.

    Parameters
    ----------
    runs
        All runs.
    samples
        For each run the chosen samples, `Picture` or `Features` where they can be shown.
    notes
        Sentences on what is missing.
    """
    budget = GALLERY_BYTES // len(runs)
    parts, shown = [], []
    for index, (run, chosen) in enumerate(zip(runs, samples, strict=True)):
        cards = _cards([s for s in chosen if isinstance(s, Picture | Features)], index, budget)
        distances = ""
        if chosen and not isinstance(chosen[0], Picture):
            distances = _sample_table(run, index, [sample for sample in chosen if sample.overall])
        if cards:
            shown.append(index)
        if cards or distances:
            start, end = f'<div data-series="run-{index}">', "</div>"
            if cards:
                head = f'<h3 class="no-js">{run_words(run)}</h3>'
                cards = f'{start}{head}<div class="cards" data-run="{index}">{cards}</div>{end}'
                summary = f"<summary>All distances of {escape(run.name)} as a table</summary>"
                distances = distances and f"<details>{summary}{distances}</details>"
            parts.append((cards, distances and start + distances + end))
    words = "".join(f"<p>{escape(note)}</p>" for note in notes)
    if not parts:
        return words + ("" if notes else "<p>None: published defences have no boxes to show.</p>")
    cards = "".join(cards for cards, _ in parts)
    if shown:
        words += _viewer(runs, samples, shown, cards)
    return words + "".join(distances for _, distances in parts)


def _viewer(
    runs: Sequence[Run], samples: Sequence[Sequence[Sample]], shown: Sequence[int], cards: str
) -> str:
    """Return controls, the place where one card is shown at a time, and all cards."""
    present = {sample.group for chosen in samples for sample in chosen}
    groups = "".join(
        f'<label><input type="radio" name="group" value="{group}"'
        f"{' checked' if position == 0 else ''}>{group} <small>({words})</small></label>"
        for position, (group, words) in enumerate(GROUPS.items())
        if group in present
    )
    names = dict.fromkeys(str(name) for index in shown for name in runs[index].classes)
    classes = "".join(f'<option value="{escape(n)}">{escape(n)}</option>' for n in names)
    options = "".join(f'<option value="{i}">{escape(runs[i].name)}</option>' for i in shown)
    pictures = [sample for chosen in samples for sample in chosen if isinstance(sample, Picture)]
    how = ", drawn as its lower and its upper image" if pictures else ""
    marks = ""
    if any(picture.attack is not None for picture in pictures):
        marks = (
            '<label><input type="checkbox" id="gallery-marks" checked>mark what an attack changed'
            "</label>"
        )
    return (
        f"<p>A box is a range of values for every feature{how}. A sample belongs to the class of "
        "its nearest box; the nearest box of the rival class limits the radius. Distances are in "
        "features outside the box.</p>"
        '<div class="viewer" id="viewer" role="group" aria-label="Sample viewer">'
        '<fieldset class="js-only"><legend>Samples shown</legend>'
        f'<div class="choices">{groups}</div><div class="choices">'
        f'<label>run <select id="gallery-run">{options}</select></label>'
        f'<label>true class <select id="gallery-class"><option value="">all</option>{classes}'
        f"</select></label>{marks}</div></fieldset>"
        '<div class="steps js-only"><button type="button" id="previous" '
        'aria-label="Previous sample">← previous</button>'
        '<span id="place" role="status"></span>'
        '<button type="button" id="next" aria-label="Next sample">next →</button>'
        '<span class="soft hint">or the arrow keys</span></div>'
        f'{cards}<div class="strip js-only" id="strip" role="group" '
        'aria-label="All samples of this choice"></div></div>'
    )


def _cards(samples: Sequence[Picture | Features], run: int, budget: int) -> str:
    cards: list[str] = []
    spent = 0
    for position, sample in enumerate(samples):
        card = _card(sample, f"{run}-{position}")
        spent += len(card)
        if spent > budget and cards:
            break
        cards.append(card)
    return "".join(cards)


def _card(sample: Picture | Features, ident: str) -> str:
    own, rival, label = (
        escape(name) for name in (sample.predicted_name, sample.rival_name, sample.label_name)
    )
    verdict = own
    if sample.label != sample.prediction:
        verdict = f'<span class="miss">{own}, wrong</span>'
    facts = [
        ("true class", label),
        ("predicted", verdict),
        ("attack", _attack_words(sample.attack)),
        (f"distance to the nearest box of {own}", f"{sample.own_distance:.1f}"),
        (f"distance to the nearest box of rival {rival}", f"{sample.rival_distance:.1f}"),
    ]
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{words}</dd></div>" for name, words in facts if words
    )
    body = _pictures(sample) if isinstance(sample, Picture) else _features(sample, ident)
    spoken = f"{sample.group}, sample {sample.index}, class {label}, radius {sample.radius}"
    return (
        f'<figure class="card" data-group="{sample.group}" data-class="{label}" '
        f'data-overall="{int(sample.overall)}" data-words="{spoken}" '
        f'data-short="#{sample.index}"><figcaption><p class="radius">Certified radius '
        f"{sample.radius} <small>{sample.group}, sample #{sample.index}</small></p>"
        f"<dl>{listed}</dl></figcaption>{body}</figure>"
    )


def _attack_words(attack: Attack | None) -> str:
    if attack is None:
        return ""
    if attack.changed == 0:
        return "none needed"
    if attack.changed < 0:
        return "found nothing"
    changes = "1 change" if attack.changed == 1 else f"{attack.changed} changes"
    return f"{changes}, then {escape(attack.predicted_name)}"


def _pictures(picture: Picture) -> str:
    own, rival = escape(picture.predicted_name), escape(picture.rival_name)
    sides = ((own, f"nearest box of {own}"), (rival, f"nearest box of rival {rival}"))
    boxes = [
        (f"{side}, {bound}", f"{bound} image of the {words}")
        for side, words in ((f"box of {sides[0][0]}", sides[0][1]), (f"rival {rival}", sides[1][1]))
        for bound in ("lower", "upper")
    ]
    label = escape(picture.label_name)
    parts = [_image(picture.images[0], "sample", f"sample {picture.index} of class {label}")]
    attack = picture.attack
    if attack is not None and attack.image is not None and attack.marks is not None:
        alt = f"the sample with {attack.changed} changes by an attack, predicted "
        alt += escape(attack.predicted_name)
        parts.append(_image(attack.image, "attacked", alt, _marks(attack.marks)))
    for image, (word, alt) in zip(picture.images[1:], boxes, strict=True):
        parts.append(_image(image, word, alt))
    return f'<div class="pictures">{"".join(parts)}</div>'


def _image(image: np.ndarray, word: str, alt: str, over: str = "") -> str:
    source = base64.b64encode(png(image)).decode()
    return (
        f'<span class="picture"><span class="frame"><img alt="{alt}" width="{image.shape[1]}" '
        f'height="{image.shape[0]}" src="data:image/png;base64,{source}">{over}</span>{word}</span>'
    )


def _marks(marks: np.ndarray) -> str:
    """Return outlines of the pixels that are True."""
    height, width = marks.shape
    squares = "".join(f"M{x} {y}h1v1h-1z" for y, x in zip(*np.nonzero(marks), strict=True))
    return (
        f'<svg class="marks" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{squares}"/></svg>'
    )


def _features(sample: Features, ident: str) -> str:
    """Return the table of a sample that is not an image."""
    own, rival = escape(sample.predicted_name), escape(sample.rival_name)
    attacked = any(row.attacked for row in sample.rows)
    head = ["Feature", "Value", *(["Attacked"] if attacked else [])]
    head += [f"Box of {own}", "outside", f"Rival box of {rival}", "outside"]
    rows = []
    for row in sample.rows:
        feature, value, changed, *boxes = (escape(text) for text in row)
        marked = Cell(changed, row.attacked, "changed") if changed else Cell(DASH, "")
        rows.append(Row(feature, [value, *([marked] if attacked else []), *boxes]))
    caption = f"Sample {sample.index}: {len(rows)} of {sample.n_features} features"
    if len(rows) < sample.n_features:
        caption += ", those that were changed or tell the two boxes apart most"
    return table(f"features-{ident}", caption + ".", head, rows, "numbers")


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
        cells: list[Cell | str] = [sample.group, str(sample.radius), *names]
        if every and run.class_distance is not None:
            width = run.units
            cells += [
                f"{units / width:.2f}" if units < UNREACHABLE else Cell(DASH, "")
                for units in run.class_distance[run.place(sample.index)]
            ]
        else:
            cells += [f"{sample.own_distance:.2f}", f"{sample.rival_distance:.2f}"]
        rows.append(Row(str(sample.index), cells))
    groups = "; ".join(
        f"{group}: {words}"
        for group, words in GROUPS.items()
        if any(sample.group == group for sample in samples)
    )
    caption = f"{run.name}: samples by radius ({groups}); distances in features to the nearest box."
    return table(f"samples-{index}", caption, head, rows, "numbers")
