"""The report's parts on synthetic runs: published rows, figures and samples."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.text import Text
from support.report_page import make_page
from support.report_samples import WIDTH, make_model, make_run, pairwise_loops, part_loops

from boxnn_numba.certificates.margin import certified_accuracy, certified_radius
from boxnn_numba.errors import CertificateFileError
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures import published, scales
from boxnn_numba.pipelines.figures.runs import Run, constant_of, in_steps
from boxnn_numba.pipelines.report import charts, gallery, page
from boxnn_numba.pipelines.report.contact_sheet import contact_sheet
from boxnn_numba.pipelines.report.report import gallery_views

UNATTACKED = [group for group in gallery.GROUPS if group != "attacked"]


@pytest.fixture
def oracle_distance(monkeypatch):
    monkeypatch.setattr("boxnn_numba.rivals.part_distance", part_loops)


# --- published rows ----------------------------------------------------------------------


def test_published_rows_are_the_papers():
    mnist = published.published_rows("mnist")
    assert len(mnist) == 19
    assert mnist[0].method == "Box-NN"
    assert mnist[0].radii == list(range(0, 41, 4))
    assert mnist[0].percents[3] == 55.63
    fashion = published.published_rows("fashion-mnist")
    assert [row.method for row in fashion] == ["Box-NN", "RA_10", "RA_20", "RA_40", "RA_60"]
    assert published.published_rows("mnist-sample") == mnist
    assert published.published_rows("wine") == []
    assert {published.family(row.method) for row in mnist} == set(published.FAMILIES)
    assert published.method("FPA_65^B").setting == 65
    assert published.method("Box-NN").setting is None
    assert [str(published.method(name)) for name in ("FPA_65^B", "Box-NN")] == ["FPA₆₅ᴮ", "Box-NN"]


def test_published_medians():
    assert published.published_medians("mnist") == {
        "Box-NN": 13,
        "RA": 8,
        "RA^B": 10,
        "FPA^A": 9,
        "FPA^B": 12,
    }
    assert published.published_medians("mnist-sample")["Box-NN"] == 13
    assert published.published_medians("fashion-mnist") == {"Box-NN": 22, "RA": 16}
    assert published.published_medians("digits") == {}


# --- runs and figures --------------------------------------------------------------------


def test_curve_is_certified_accuracy_at_every_radius():
    run, _, _ = make_run()
    curve = run.curve()
    assert len(curve) == run.radius.max() + 1
    radii = np.arange(len(curve))
    np.testing.assert_allclose(curve, 100 * certified_accuracy(*run.outcome, radii))
    assert run.summary().accuracy == pytest.approx(curve[0], abs=1e-4)


@pytest.mark.parametrize("last", [1, 2, 12, 13, 40, 61, 100, 784, 150_528])
def test_ticks_are_few_and_whole(last):
    step = scales.tick_step(last)
    assert step >= 1
    assert 1 <= last // step <= 12


def test_radii_in_texts_are_those_of_pixels_or_about_a_dozen():
    pixels = range(0, 41, 4)
    assert list(scales.default_radii("pixels", 784, 33, pixels)) == [*pixels]
    assert list(scales.default_radii("pixels", 16, 33, pixels)) == [0, 4, 8, 12, 16]
    assert list(scales.default_radii("pixels", 1024, 7, pixels)) == [*range(8)]
    assert list(scales.default_radii("columns", 30, 33, pixels)) == [*range(0, 31, 4)]


def test_curves_draw_every_run_and_row_with_the_papers_in_red():
    runs = [make_run("first")[0], make_run("second", seed=2)[0]]
    rows = published.published_rows("mnist")
    figure = plots.certified_curves(runs, rows, "title")
    (axes,) = figure.axes
    assert len(axes.lines) == len(runs) + len(rows)
    red = [line for line in axes.lines if line.get_color() == "#d62728"]
    assert [list(line.get_ydata()) for line in red] == [rows[0].percents]
    widths = [line.get_linewidth() for line in axes.lines]
    assert min(widths[:2]) > max(widths[2:])
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(dotted) == len(rows) and not {*dotted} & {*axes.lines[:2]}
    assert axes.get_xlabel() == "certified radius (pixels)"
    assert axes.get_ylabel() == "certified accuracy (%)"
    assert axes.get_xlim()[1] >= 40


def test_what_a_constant_reaches_is_drawn_beside_the_steps():
    run, _, _ = make_run(n=60)
    label = np.where(np.arange(60) < 45, 0, run.label)
    run = Run("r", run.prediction, run.radius, label, run.classes)
    constant = constant_of([run])
    share = 100 * (label == 0).mean()
    assert constant == ("0", pytest.approx(share, abs=1e-3), pytest.approx(100 / 3, abs=1e-3))
    (axes,) = plots.certified_curves([run], [], "t").axes
    (line,) = axes.collections
    assert line.get_segments()[0][:, 1].tolist() == [constant.accuracy] * 2
    assert axes.lines[0].get_drawstyle() == "steps-post"
    area, lines = charts.curves([run], [])
    moves = next(line.path for line in lines if line.key == "run-0")
    at, curve = area.y(run.curve()[0]), [*run.curve(), 0.0]
    assert moves.startswith(f"M{area.x(0)} {at}H{area.x(1)}V{area.y(curve[1])}")
    assert area.last == scales.last_radius([run], []) == len(curve) - 1
    balanced = [
        np.mean(
            [100 * ((run.prediction == c) & (run.radius >= r))[label == c].mean() for c in range(3)]
        )
        for r in range(len(curve) - 1)
    ]
    np.testing.assert_allclose(run.balanced_curve(), balanced)
    text = make_page([run])
    assert f"always says 0, right on {share:.1f}%" in text
    assert 'id="balanced"' in text and f"{run.summary().balanced_accuracy:.2f}" in text


def test_the_band_lies_between_what_is_certified_and_what_an_attack_leaves():
    run, _, _ = make_run(n=60)
    robust = np.minimum(100, np.append(run.curve(), [0, 0]) + 5.0)
    part, whole = (
        charts.curves([replace(run, robust=robust, attacked=n)], [])[1][-1] for n in (59, 60)
    )
    area = charts.curves([run], [])[0]
    assert part.band == "" and whole.band.startswith(area.steps(np.append(run.curve(), 0.0)))
    first, last = robust[0], robust[int(area.last) - 1]
    assert f"V{area.y(last)}" in whole.band
    assert whole.band.endswith(f"V{area.y(first)}H{area.x(0)}Z")


COSTS = {"feature_shape": [4], "group_size": 1}


@pytest.mark.parametrize("costs", [[0.1, 0.2, None, 0.4], [1, 2, 3, 50], [1000.0, 250.5, 3.0, 1.0]])
def test_budgets_are_counted_in_whole_steps_and_rounded_down(costs):
    known = {**COSTS, "costs": costs, "attackable": [0, 1, 3]}
    total = sum(cost or 0 for cost in costs)
    run = Run("r", np.zeros(2, int), np.zeros(2, int), np.zeros(2, int), ["a", "b"], known)
    step = run.step
    assert 19 <= total / step <= 200.5 and run.unit.startswith("cost")
    budgets = np.concatenate([[0.0, total], step * np.arange(9), step * (np.arange(9) + 0.5)])
    found = in_steps(budgets, known)
    assert found.dtype == np.int64 and (found * step <= budgets * (1 + 1e-9)).all()
    assert found[2:11].tolist() == found[11:].tolist() == list(range(9))
    assert run.most == found[1]


def test_radii_of_the_columns_that_may_be_rewritten():
    run = Run("r", np.zeros(2, int), np.zeros(2, int), np.zeros(2, int), ["a"],
              {**COSTS, "attackable": [1, 3]})  # fmt: skip
    assert (run.most, run.unit, run.step) == (2, "features", 1)


def test_axes_end_where_all_features_are_rewritten():
    run, _, _ = make_run()
    few = {"feature_shape": [3], "group_size": 1}
    run = Run("r", run.label, np.full(len(run.label), 3), run.label, run.classes, few)
    assert scales.last_radius([run], []) == 3 == scales.table_radii([run], [])[-1]


def test_figures_are_deterministic_pngs(tmp_path, oracle_distance):
    run, x, model = make_run()
    samples = gallery.select_samples(run, 2, 0)
    pictures = gallery_views.show_samples(run, samples, x[[s.index for s in samples]], model)
    for draw in (
        lambda: plots.drawn(plots.certified_curves([run], [], "t")),
        lambda: plots.drawn(plots.radius_histogram([run, run], "t")),
        lambda: contact_sheet(pictures, "t"),
    ):
        plots.write_png(draw(), tmp_path / "a.png")
        plots.write_png(draw(), tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [r"over $5, $\frac$", "猫"])
def test_names_are_drawn_as_they_are(oracle_distance, name):
    run, x, model = make_run()
    run = replace(run, name=name, classes=(name, *run.classes[1:]))
    samples = gallery.select_samples(run, 1, 0)
    pictures = gallery_views.show_samples(run, samples, x[[s.index for s in samples]], model)
    figures = plots.certified_curves([run], [], name), plots.radius_histogram([run], name)
    for figure in figures:
        plots.drawn(figure)  # a formula that is none raises; a sign without a glyph warns
        drawn = [
            text for text in figure.findobj(Text) if name in text.get_text().replace("\\$", "$")
        ]
        assert drawn and not any(is_math_text(text.get_text()) for text in drawn)
    contact_sheet(pictures, name)


def test_histogram_bins_hold_every_sample():
    run, _, _ = make_run()
    for radius in (run.radius, run.radius * 97):
        many = Run("r", run.prediction, radius, run.label, run.classes)
        edges = scales.histogram_edges([many])
        assert len(edges) <= 62
        assert np.histogram(radius, bins=edges)[0].sum() == len(radius)
        area, width, bars = charts.histogram([many], 0)
        heights = sum(height for bar in bars for _, _, height in bar["parts"])
        counts = area.highest * heights / area.height
        assert counts == pytest.approx(len(radius), abs=len(bars))
        assert all(area.left <= bar["left"] <= area.left + area.width - width for bar in bars)


def test_matplotlib_is_loaded_only_to_draw_and_without_pyplot():
    script = (
        "import sys; from boxnn_numba.pipelines.report import report, page;"
        "from boxnn_numba.pipelines.figures import curves as plots;"
        "assert 'matplotlib' not in sys.modules;"
        "plots.new_figure(1, 1); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- samples -----------------------------------------------------------------------------


def test_groups_are_ordered_by_radius():
    run, _, _ = make_run()
    samples = gallery.select_samples(run, overall=5, per_class=2)
    right = run.prediction == run.label
    by_group = {
        group: [s for s in samples if s.group == group and s.overall] for group in UNATTACKED
    }
    assert all(len(group) == 5 for group in by_group.values())
    radii = {group: [s.radius for s in chosen] for group, chosen in by_group.items()}
    ranked = np.sort(run.radius[right])
    assert radii["worst"] == list(ranked[:5])
    assert radii["best"] == list(ranked[::-1][:5])
    assert radii["median"][2] == ranked[len(ranked) // 2]
    assert radii["wrong"] == list(np.sort(run.radius[~right])[::-1][:5])
    assert all(not right[s.index] for s in by_group["wrong"])
    assert len({(s.group, s.index) for s in samples}) == len(samples)
    for index in range(3):
        for group in UNATTACKED:
            assert sum(s.label == index and s.group == group for s in samples) >= 2


def test_rival_is_the_class_that_limits_the_radius():
    run, _, _ = make_run(n=400)
    for sample in gallery.select_samples(run, 50, 0):
        row = run.class_distance[sample.index].astype(int)
        limits = {
            c: (row[c] - row[sample.prediction] - (c < sample.prediction)) // (2 * WIDTH)
            for c in range(3)
            if c != sample.prediction
        }
        assert limits[sample.rival] == min(limits.values()) == sample.radius
        assert sample.rival_distance == row[sample.rival] / WIDTH


def test_unknown_labels_and_small_runs_are_sampled_without_error():
    run, _, _ = make_run(n=3)
    label = np.array([-1, run.prediction[1], -1])
    few = Run("few", run.prediction, run.radius, label, run.classes, run.attributes)
    assert gallery.select_samples(few) == []
    few = Run(
        "few", few.prediction, few.radius, label, few.classes, few.attributes, run.class_distance
    )
    assert {s.index for s in gallery.select_samples(few)} == {1}


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (4, 3, 3), (129, 6)])
def test_pictures_show_the_nearest_own_and_rival_box(oracle_distance, shape):
    model = make_model(shape)
    run, x, _ = make_run(n=30, model=model)
    samples = gallery.select_samples(run, 2, 1)
    pictures = gallery_views.show_samples(run, samples, x[[s.index for s in samples]], model)
    assert len(pictures) == len(samples)
    for picture in pictures:
        units = pairwise_loops(x[[picture.index]], model.boxes)[0]
        flat = [x[picture.index]]
        for index in (picture.prediction, picture.rival):
            inside = np.flatnonzero(model.boxes.labels == index)
            nearest = inside[units[inside].argmin()]
            flat += [model.boxes.lower[nearest], model.boxes.upper[nearest]]
        for image, values in zip(picture.images, flat, strict=True):
            assert image.dtype == np.uint8
            if max(shape) <= gallery_views.LONGEST_SIDE:
                np.testing.assert_array_equal(image, values.reshape(shape).squeeze())
            else:
                assert image.shape == (43, 2)
                assert image[0, 0] == np.rint(values.reshape(shape)[:3, :3].mean())


def test_dark_codes_are_stretched(oracle_distance):
    model = make_model()
    run, x, _ = make_run(n=20, model=model)
    x = x // 16
    units = pairwise_loops(x, model.boxes)
    distance = np.stack([units[:, model.boxes.labels == c].min(axis=1) for c in range(3)], axis=1)
    prediction, radius = certified_radius(distance, WIDTH)
    run = Run("dark", prediction, radius, prediction, run.classes, run.attributes, distance)
    samples = gallery.select_samples(run, 4, 0)
    pictures = gallery_views.show_samples(run, samples, x[[s.index for s in samples]], model)
    assert max(int(picture.images[0].max()) for picture in pictures) == 255


def test_a_model_that_disagrees_with_the_certificate_is_refused(oracle_distance):
    run, x, _ = make_run()
    samples = gallery.select_samples(run, 2, 0)
    with pytest.raises(CertificateFileError, match="certify the data set again"):
        gallery_views.show_samples(run, samples, x[[s.index for s in samples]], make_model(seed=5))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_round_trip(shape):
    from matplotlib.image import imread

    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    kind, _, code = page.data_url(image).partition(",")
    assert kind == "data:image/png;base64"
    read = imread(io.BytesIO(base64.b64decode(code)), format="png")
    np.testing.assert_array_equal(np.rint(read * 255), image)


def test_only_images_are_drawn():
    assert gallery_views.is_image((28, 28))
    assert gallery_views.is_image([32, 32, 3])
    assert not gallery_views.is_image((13,))
    assert not gallery_views.is_image((3, 32, 32))
