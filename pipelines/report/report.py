"""Report: from certificate files to a folder of figures, tables and one HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from boxnn_numba import validation
from boxnn_numba.certificates.margin import CONVENTIONS
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.paths import Location, Name, exists, location, reachable
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.attack.comparison import with_attacks
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures.learning import Learning, learning_curves, learning_of
from boxnn_numba.pipelines.figures.origins import Origins
from boxnn_numba.pipelines.figures.published import best_published, is_sample, published_rows
from boxnn_numba.pipelines.figures.runs import Run, constant_of, load_runs
from boxnn_numba.pipelines.report import gallery_views
from boxnn_numba.pipelines.report.contact_sheet import contact_sheet
from boxnn_numba.pipelines.report.gallery import GROUPS, Sample, select_samples
from boxnn_numba.pipelines.report.headline import headline
from boxnn_numba.pipelines.report.page import render
from boxnn_numba.pipelines.report.summary_files import write_tables
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.progress import Progress

PAGE = "report.html"
FILES = {
    PAGE,
    "certified_curves.png",
    "radius_histogram.png",
    "certified_curves.csv",
    "summary.csv",
    "per_class.csv",
    "published.csv",
    "attack_curves.csv",
    "patches.csv",
    "learning_curves.png",
    "learning_curves.csv",
}
#: Which published methods are shown at first.
PUBLISHED = ("best", "all")
_GALLERY_NAME = re.compile(r"gallery_[\w.+-]+\.png")
_IN_GALLERY_FIGURE = 3
#: Runs with a gallery as PNG file; the page has that of every run.
_GALLERY_FIGURES = 6
_MOST_SAMPLES = 400


@dataclass(frozen=True)
class Report(Result):
    """The files of a report and its results.

    Attributes
    ----------
    out, page, files
        The folder, the page, and the names of all files.
    headline
        The result in one sentence, with which the page opens.
    convention, dataset, split
        What was compared, and how radii were counted.
    runs
        Each with ``name``, ``n``, ``accuracy`` and ``balanced_accuracy`` in percent, the median
        and mean certified radius, their ``unit``, and ``certificate``.
    constant
        The majority-class baseline, whose accuracy is certified at every radius:
        ``name``, ``accuracy`` and ``balanced_accuracy`` in percent.
    notes
        What is missing and how to get it.
    """

    out: str
    page: str
    files: list[str]
    headline: str
    convention: str
    dataset: str
    split: str | None
    runs: list[dict[str, Any]]
    constant: dict[str, Any]
    notes: list[str]


def report(
    certificates: Sequence[Name],
    out: Name,
    *,
    data: Name | None = None,
    models: Sequence[Name] = (),
    attacks: Sequence[Name] = (),
    logs: Sequence[Name] = (),
    convention: str = "sound",
    published: str = "best",
    run: RunOptions = DEFAULT_RUN,
) -> Report:
    """Compare certificates with each other and with the paper, in figures, tables and a page.

    Parameters
    ----------
    certificates
        Certificate files of one data set and split, whose radii count the same. A path that ends in
        ``.csv`` holds radii of another method: a header ``prediction,radius`` and a line for each
        row of the split, in its order; an empty prediction abstains. At least one is a
        certificate file, from which the true classes are.
    out
        Folder to make: ``report.html`` (self-contained), PNG and CSV files. Of many runs the
        PNG files show only the first.
    data, models
        Where the data set and the models are now, if not where the certificates say. They are
        needed for the gallery of images only.
    attacks
        Attack files of the same models, data set and split, to be drawn dashed.
    logs
        Logs of training (`RunOptions`). That of a certified model is drawn as its run, any other
        beside them. Without, what a model records of its first set of boxes is drawn.
    convention
        ``"sound"``, or ``"paper"`` to count radii as the paper's tables do.
    published
        ``"best"`` shows of the published methods the best at each radius, ``"all"`` each of them;
        the page can switch between both.
    run
        Whether to replace an earlier report (``overwrite``), and where progress is shown.

    Returns
    -------
    Report
        The files, the figures of each run, and what is missing.

    Raises
    ------
    OptionError
        The certificates are of different data sets or splits or count different things, `out`
        exists, or a model or data set is not the one that was certified.
    CertificateFileError, ModelFileError, AttackFileError, DataError
        A file or a log is damaged.
    UnsoundError
        An attack succeeded within a certified radius; it is kept beside the attack file.
    OutputError
        `out` cannot be written.
    """
    certificates = validation.several("certificates", certificates)
    models, attacks = validation.several("models", models), validation.several("attacks", attacks)
    logs = validation.several("logs", logs)
    validation.choice("convention", convention, CONVENTIONS)
    validation.choice("published", published, PUBLISHED)
    target = location(out)
    if run.overwrite:
        _refuse_foreign_folder(target)
    with staged_output(
        target, overwrite=run.overwrite, no_lock=run.no_lock, owned=lambda folder: True
    ) as folder:
        run.progress.start(3 + len(certificates), "steps")
        runs = with_attacks(load_runs(certificates, convention), attacks, convention)
        run.progress.advance(1)
        learning = learning_of(runs, logs)
        origins = Origins(runs, data, models)
        notes = _fill(folder, runs, origins, learning, convention, published, run.progress)
    return Report(
        out=str(target),
        page=str(target / PAGE),
        files=sorted(path.name for path in target.iterdir()),
        headline=headline(runs, convention),
        convention=convention,
        dataset=runs[0].dataset_name,
        split=runs[0].attributes.get("split"),
        runs=[
            {**one.summary()._asdict(), "unit": one.unit, "certificate": str(one.path)}
            for one in runs
        ],
        constant=constant_of(runs)._asdict(),
        notes=notes,
    )


def _fill(
    folder: Location,
    runs: Sequence[Run],
    origins: Origins,
    learning: Sequence[Learning],
    convention: str,
    shown: str,
    progress: Progress,
) -> list[str]:
    """Write all files of a report; return what is missing, in sentences."""
    samples, notes = [], []
    for run in runs:
        chosen, note = _samples(run, origins)
        samples.append(chosen)
        notes += [note] if note else []
        progress.advance(1)
    published, title = published_rows(runs[0].dataset_name), _title(runs)
    write_tables(folder, runs, published, learning)
    words = f"{title} (radii: {convention} convention)"
    best = published and [best_published(published)[0]]
    drawn = plots.certified_curves(runs, published if shown == "all" else best, words)
    plots.save(drawn, folder / "certified_curves.png")
    plots.save(plots.radius_histogram(runs, words), folder / "radius_histogram.png")
    if learning:
        figure = learning_curves(learning, f"Training on {title.split(', ')[0]}")
        plots.save(figure, folder / "learning_curves.png")
    _write_galleries(folder, runs, samples, title)
    progress.advance(1)
    title = f"Certified robustness on {title}"
    page = render(
        runs, samples, title, convention=convention, notes=notes, learning=learning,
        every_row=shown == "all",
    )  # fmt: skip
    (folder / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
    progress.advance(1)
    return notes


def _refuse_foreign_folder(target: Location) -> None:
    """Raise if replacing `target` would delete something that no report wrote."""
    with reachable(target, OptionError):
        if not exists(target):
            return
        if not target.is_dir() or target.is_symlink():
            raise OptionError(f"{target} is not a folder; choose another `out`")
        names = sorted(entry.name for entry in target.iterdir())
    for name in names:
        if name not in FILES and not _GALLERY_NAME.fullmatch(name):
            raise OptionError(
                f"{target} holds {name}, which is not part of a report; choose another `out`"
            )


def _title(runs: Sequence[Run]) -> str:
    name = runs[0].dataset_name
    words = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
    known = words.get(name, "a sample of MNIST" if is_sample(name) else name or "data")
    return f"{known}, {runs[0].attributes.get('split')} split"


# --- samples ---------------------------------------------------------------------------


def _samples(run: Run, origins: Origins) -> tuple[Sequence[Sample], str]:
    """Return the samples to show of a run, and a sentence on what is missing or ``""``."""
    if not run.has_boxes:
        return [], ""
    chosen = select_samples(run)[:_MOST_SAMPLES]
    if not chosen:
        return chosen, ""
    image = gallery_views.is_image(run.attributes.get("feature_shape", ()))
    model, dataset = origins.model(run), origins.dataset(run)
    if model is not None and dataset is not None:
        split = str(run.attributes["split"])
        x, _ = dataset.matched(model.columns, str(run.attributes.get("model"))).read_rows(
            split, [sample.index for sample in chosen]
        )
        return gallery_views.show_samples(run, chosen, x, model), ""
    nouns, options = [], []
    if model is None:
        nouns, options = [f"model {run.attributes.get('model')}"], ["--model MODEL"]
    if dataset is None:
        nouns.append(f"data set {run.attributes.get('dataset')}")
        options.append("--data DATASET")
    verb = "was" if len(nouns) == 1 else "were"
    what, left = ("images", []) if image else ("values of features", chosen)
    return left, (
        f"No {what} for {run.name}: the {' and the '.join(nouns)} {verb} not found; "
        f"run boxnn report again with {' '.join(options)}."
    )


def _write_galleries(
    folder: Location, runs: Sequence[Run], samples: Sequence[Sequence[Sample]], title: str
) -> None:
    drawn = [pair for pair in zip(runs, samples, strict=True) if pair[1] and pair[1][0].images]
    for run, chosen in drawn[:_GALLERY_FIGURES]:
        groups = ([sample for sample in chosen if sample.group == group] for group in GROUPS)
        pictures = [sample for group in groups for sample in group[:_IN_GALLERY_FIGURE]]
        sheet = contact_sheet(pictures, f"{run.name}: {title}")
        name = re.sub(r"[^\w.+-]+", "_", run.name)
        plots.write_png(sheet, folder / f"gallery_{name}.png")
