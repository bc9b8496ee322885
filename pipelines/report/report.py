"""From certificate files to a folder of figures, tables and one HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from boxnn_numba import validation
from boxnn_numba.certificates.margin import CONVENTIONS
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.paths import Location, Name, exists, location, reachable
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.attack.evaluate import with_attacks
from boxnn_numba.pipelines.figures.origins import Origins
from boxnn_numba.pipelines.figures.published import (
    PublishedRow,
    is_sample,
    published_medians,
    published_rows,
)
from boxnn_numba.pipelines.figures.runs import Run, load_runs
from boxnn_numba.pipelines.report import gallery_views
from boxnn_numba.pipelines.report.gallery import GROUPS, Sample, select_samples
from boxnn_numba.pipelines.report.summary_files import (
    run_settings,
    software_versions,
    table_radii,
    write_tables,
)

PAGE = "report.html"
_FIXED_NAMES = {
    PAGE,
    "certified_curves.png",
    "radius_histogram.png",
    "certified_curves.csv",
    "summary.csv",
    "per_class.csv",
    "published.csv",
    "attack_curves.csv",
}
_GALLERY_NAME = re.compile(r"gallery_[\w.+-]+\.png")
_IN_GALLERY_FIGURE = 3
#: Runs with a gallery as PNG file; the page has that of every run.
_GALLERY_FIGURES = 6
_MOST_SAMPLES = 400


def report(
    certificates: Sequence[Name],
    out: Name,
    *,
    data: Name | None = None,
    models: Sequence[Name] = (),
    attacks: Sequence[Name] = (),
    convention: str = "sound",
    overwrite: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Compare certificates with each other and with the paper, in figures, tables and a page.

    Parameters
    ----------
    certificates
        Certificate files of one data set and split.
    out
        Folder to make: ``report.html`` (self-contained), PNG and CSV files. Of many runs the
        PNG files show only the first.
    data, models
        Where the data set and the models are now, if not where the certificates say. They are
        needed for the gallery of images only.
    attacks
        Attack files of the same models, data set and split, to be drawn dashed.
    convention
        ``"sound"``, or ``"paper"`` to count radii as the paper's tables do.
    overwrite
        Replace an earlier report at `out`.
    progress
        Object with ``start(total, unit)`` and ``advance(n)``, or None.

    Returns
    -------
    dict
        ``out``, ``page``, ``files``, ``convention``, ``dataset``, ``split``, ``runs`` (each
        with ``name``, ``certificate``, ``n``, ``accuracy`` in percent and the median and mean
        certified radius) and ``notes`` (what is missing and how to get it).

    Raises
    ------
    OptionError
        The certificates are of different data sets or splits, `out` exists, or a model or data
        set is not the one that was certified.
    CertificateFileError, ModelFileError, AttackFileError, DataError
        A file is damaged.
    UnsoundError
        An attack succeeded within a certified radius; it is kept beside the attack file.
    OutputError
        `out` cannot be written.
    """
    validation.choice("convention", convention, CONVENTIONS)
    target = location(out)
    if overwrite:
        _refuse_foreign_folder(target)
    with staged_output(target, overwrite=overwrite, owned=lambda folder: True) as folder:
        _start(progress, 3 + len(certificates))
        runs = with_attacks(load_runs(certificates, convention), attacks, convention)
        _advance(progress)
        notes = _fill(folder, runs, Origins(runs, data, models), convention, progress)
        files = sorted(path.name for path in folder.iterdir())
    return {
        "out": str(target),
        "page": str(target / PAGE),
        "files": files,
        "convention": convention,
        "dataset": _dataset_name(runs),
        "split": runs[0].attributes.get("split"),
        "runs": [{**run.summary(), "certificate": str(run.path)} for run in runs],
        "notes": notes,
    }


def _fill(
    folder: Location, runs: Sequence[Run], origins: Origins, convention: str, progress: Any
) -> list[str]:
    """Write all files of a report; return what is missing, in sentences."""
    rows = published_rows(_dataset_name(runs))
    samples, notes = [], []
    for run in runs:
        chosen, note = _samples(run, origins)
        samples.append(chosen)
        notes += [note] if note else []
        _advance(progress)
    write_tables(folder, runs, rows)
    _write_figures(folder, runs, rows, samples, convention)
    _advance(progress)
    page = _page(runs, rows, samples, notes, convention)
    (folder / PAGE).write_text(page, encoding="utf-8")
    _advance(progress)
    return notes


def _start(progress: Any, total: int) -> None:
    if progress is not None:
        progress.start(total, "steps")


def _advance(progress: Any) -> None:
    if progress is not None:
        progress.advance(1)


def _refuse_foreign_folder(target: Location) -> None:
    """Raise if replacing `target` would delete something that no report wrote."""
    with reachable(target, OptionError):
        if not exists(target):
            return
        if not target.is_dir() or target.is_symlink():
            raise OptionError(f"{target} is not a folder; choose another --out")
        names = sorted(entry.name for entry in target.iterdir())
    for name in names:
        if name not in _FIXED_NAMES and not _GALLERY_NAME.fullmatch(name):
            raise OptionError(
                f"{target} holds {name}, which is not part of a report; choose another --out"
            )


def _dataset_name(runs: Sequence[Run]) -> str:
    return str(runs[0].attributes.get("dataset_name", ""))


def _title(runs: Sequence[Run]) -> str:
    name = _dataset_name(runs)
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
    missing = []
    if model is None:
        missing.append(("model", run.attributes.get("model"), "--model MODEL"))
    if dataset is None:
        missing.append(("data set", run.attributes.get("dataset"), "--data DATASET"))
    if missing:
        nouns = " and the ".join(f"{noun} {path}" for noun, path, _ in missing)
        remedy = " ".join(option for _, _, option in missing)
        verb = "was" if len(missing) == 1 else "were"
        what, left = ("images", []) if image else ("values of features", chosen)
        return left, (
            f"No {what} for {run.name}: the {nouns} {verb} not found; "
            f"run boxnn report again with {remedy}."
        )
    assert model is not None and dataset is not None
    split = str(run.attributes["split"])
    x, _ = dataset.read_rows(split, [sample.index for sample in chosen])
    show = gallery_views.draw_samples if image else gallery_views.tabulate_samples
    return show(run, chosen, x, model), ""


def _write_figures(
    folder: Location,
    runs: Sequence[Run],
    published: Sequence[PublishedRow],
    samples: Sequence[Sequence[Sample]],
    convention: str,
) -> None:
    from boxnn_numba.pipelines.figures import curves as plots
    from boxnn_numba.pipelines.report.contact_sheet import contact_sheet

    title = _title(runs)
    words = f"{title} (radii: {convention} convention)"
    plots.save(plots.certified_curves(runs, published, words), folder / "certified_curves.png")
    plots.save(plots.radius_histogram(runs, words), folder / "radius_histogram.png")
    drawn = 0
    for run, chosen in zip(runs, samples, strict=True):
        pictures = [
            sample
            for group in GROUPS
            for sample in [item for item in chosen if item.group == group][:_IN_GALLERY_FIGURE]
            if isinstance(sample, gallery_views.Picture)
        ]
        if pictures and drawn < _GALLERY_FIGURES:
            drawn += 1
            name = re.sub(r"[^\w.+-]+", "_", run.name)
            figure = contact_sheet(pictures, f"{run.name}: {title}")
            plots.save(figure, folder / f"gallery_{name}.png")


def _page(
    runs: Sequence[Run],
    published: Sequence[PublishedRow],
    samples: Sequence[Sequence[Sample]],
    notes: Sequence[str],
    convention: str,
) -> str:
    from boxnn_numba.pipelines.report import page

    dataset_name = _dataset_name(runs)
    count = len(runs[0].label)
    introduction = f"Measured on {count:,} samples."
    if len({len(run.label) for run in runs}) > 1:
        introduction = "Measured on as many samples as the first table says for each run."
    if is_sample(dataset_name):
        introduction = (
            f"This is a sample of MNIST ({count:,} images): the paper’s rows were measured on all "
            "10,000 test images by models trained on all 60,000."
        )
    attacked = [f"{run.name}, {run.attacked:,} samples" for run in runs if run.robust is not None]
    if attacked:
        introduction += f" Dashed: what boxnn attack has left ({'; '.join(attacked)})."
        if any(0 < run.attacked < len(run.label) for run in runs):
            introduction += " On a part of the samples it can lie below the certified curve of all."
    return page.render(
        page.PageContent(
            runs=runs,
            published=published,
            medians=published_medians(dataset_name),
            title=f"Certified robustness on {_title(runs)}",
            convention=convention,
            introduction=introduction,
            radii=table_radii(runs, published),
            samples=samples,
            settings=[run_settings(run) for run in runs],
            versions=software_versions(),
            notes=notes,
        )
    )
