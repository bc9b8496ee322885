"""What the report shows of samples, classes and odd runs, against plain loops; its colours."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.report_page import Checker, make_page
from support.report_samples import SHAPE, WIDTH, make_model, make_run, pairwise_loops, part_loops

from boxnn_numba import Boxes, BoxNN, Grid
from boxnn_numba.certificates.margin import certified_radius
from boxnn_numba.columns import Columns
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures import palette
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report import (
    gallery,
    gallery_views,
    tables,
)
from boxnn_numba.pipelines.report.series import of_method
from boxnn_numba.pipelines.report.summary_files import run_settings


@pytest.fixture(autouse=True)
def oracle_distance(monkeypatch):
    monkeypatch.setattr("boxnn_numba.rivals.part_distance", part_loops)


def attacked_run(every=2, seed=1):
    """A run, its inputs and model, and an attack on every second row that changes few features."""
    run, x, model = make_run(seed=seed)
    rng = np.random.default_rng(seed)
    rows = np.arange(0, len(x), every)
    changed = run.radius[rows] + rng.integers(1, 4, len(rows))
    changed[::7] = -1
    changed = np.where(run.prediction[rows] == run.label[rows], changed, 0)
    written = x[rows].copy()
    for line, count in zip(written, changed, strict=True):
        places = rng.permutation(len(line))[: max(count, 0)]
        line[places] = 255 - line[places] + (line[places] == 127)
    file = SimpleNamespace(
        row=rows, changed=changed, x=written, prediction=(run.prediction[rows] + 1) % 3,
        path="a.zarr", attributes={"options": {"method": "greedy"}},
    )  # fmt: skip
    robust = np.array([100.0, 90.0, 80.0])
    return replace(run, attack=file, robust=robust, attacked=len(rows)), x, model, file


# --- colours -----------------------------------------------------------------------------

#: Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
_SIGHTS = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear(colour):
    rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
              [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    scaled = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one, other):
    lights = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (one, other))
    return lights[1] / lights[0]


@pytest.mark.parametrize(("ground", "paper"), [("light", "#ffffff"), ("dark", "#14171c")])
@pytest.mark.parametrize("sight", list(_SIGHTS))
def test_colours_differ_for_everybody(ground, paper, sight):
    families = [getattr(shades, ground) for shades in palette.FAMILIES.values()]
    runs = [getattr(shades, ground) for shades in palette.RUNS]
    for colours in (families, [*runs, families[0]]):
        seen = [lab(np.array(_SIGHTS[sight]) @ linear(colour)) for colour in colours]
        gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(gaps) > 16
        assert min(contrast(colour, paper) for colour in colours) >= 3
    looks = {(palette.run_colour(index), palette.run_mark(index)) for index in range(30)}
    assert len(looks) == 30


def test_png_files_and_the_page_have_the_same_colours():
    runs = [make_run(f"run {index}", seed=index)[0] for index in range(8)]
    text = make_page(runs)
    light = dict(re.findall(r"--(run-\d|family-[\w-]+): (#\w+);", text[: text.index("@media")]))
    used = dict(re.findall(r"\.(run-\d) { --colour: var\(--(run-\d)\); }", text))
    lines = plots.certified_curves(runs, [], "t").axes[0].lines
    for index in range(8):
        assert light[used[f"run-{index}"]] == lines[index].get_color()
    for name, colour in plots.FAMILY_COLOURS.items():
        assert light[of_method(name).key] == colour


# --- attacks -----------------------------------------------------------------------------


def test_attacked_samples_come_first_among_equals_and_in_a_group_of_their_own():
    run, _, _, file = attacked_run()
    plain = replace(run, attack=None)
    with_attack, without = gallery.select_samples(run), gallery.select_samples(plain)
    for group in ("worst", "median", "best"):
        radii = [
            [sample.radius for sample in samples if sample.group == group and sample.overall]
            for samples in (with_attack, without)
        ]
        assert radii[0] == radii[1]
        chosen = {s.index for s in with_attack if s.group == group and s.overall}
        right = np.flatnonzero(run.prediction == run.label)
        for index in chosen - {*file.row}:
            same = {int(row) for row in right if run.radius[row] == run.radius[index]}
            assert same & {*file.row} <= chosen
    assert all(sample.group != "attacked" for sample in without)
    tour = [s.index for s in with_attack if s.group == "attacked" and s.overall]
    changes = [int(file.changed[list(file.row).index(index)]) for index in tour]
    found = file.changed[file.changed > 0]
    assert changes == sorted(changes)
    assert (changes[0], changes[-1]) == (found.min(), found.max())


def test_marks_are_the_changed_pixels():
    run, x, model, file = attacked_run()
    samples = gallery.select_samples(run)
    pictures = gallery_views.show_samples(run, samples, x[[s.index for s in samples]], model)
    assert {picture.index % 2 == 0 for picture in pictures} == {True, False}
    for picture in pictures:
        attack = picture.attack
        if picture.index % 2:
            assert attack is None
            continue
        place = picture.index // 2
        assert attack.changed == file.changed[place]
        assert attack.predicted_name == str(file.prediction[place])
        if attack.changed <= 0:
            assert attack.image is None and attack.marks is None
            continue
        np.testing.assert_array_equal(attack.image, file.x[place].reshape(SHAPE))
        np.testing.assert_array_equal(
            attack.marks, (file.x[place] != x[picture.index]).reshape(SHAPE)
        )
    text = make_page([run], [pictures])
    Checker(text)
    squares = re.findall(r'class="marks".*?<path d="([^"]*)"', text)
    counts = sorted(p.attack.changed for p in pictures if p.attack and p.attack.changed > 0)
    assert sorted(path.count("M") for path in squares) == counts


def test_marks_survive_the_reduction_of_large_images():
    marks = np.zeros((130, 70), bool)
    marks[129, 0] = marks[4, 5] = True
    flat = gallery_views._Drawing((130, 70, 3)).marks(np.repeat(marks.ravel(), 3))
    assert flat.shape == (44, 24)
    assert [*zip(*np.nonzero(flat), strict=True)] == [(1, 1), (43, 0)]


def test_the_table_of_attacks_is_of_the_attacked_rows():
    run, _, _, file = attacked_run()
    rows = [row.values for row in tables.attack_rows([run], [0, 1, 5])]
    certified = [
        100 * np.mean((run.prediction == run.label)[file.row] & (run.radius[file.row] >= radius))
        for radius in (0, 1, 5)
    ]
    assert rows[0] == pytest.approx(certified)
    assert rows[1] == [100.0, 90.0, None]
    assert rows[2] == pytest.approx([100 - certified[0], 90 - certified[1], None])
    text = make_page([run])
    shown = re.findall(r", left by the attack</th>(.*?)</tr>", text)[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", shown)[:2] == ["100.0", "–"]
    assert tables.attack_rows([replace(run, robust=None)], [0]) == []
    assert 'id="attack"' not in make_page([replace(run, robust=None)])


# --- features that are no image ------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
def test_tables_of_features_say_what_boxes_admit(real):
    model = make_model((30,))
    run, codes, _ = make_run(n=40, model=model)
    x = codes
    if real:
        x = codes / 8 - 3.0
        model = replace(model, grid=Grid.fit(np.arange(256)[:, None].repeat(30, axis=1) / 8 - 3.0))
    samples = gallery.select_samples(run)[:10]
    rows = x[[sample.index for sample in samples]]
    for table in gallery_views.show_samples(run, samples, rows, model):
        units = pairwise_loops(codes[[table.index]], model.boxes)[0]
        assert (len(table.rows), table.n_features, table.attack) == (12, 30, None)
        for row in table.rows:
            at = int(row.feature)
            code = int(codes[table.index, at])
            assert float(row.value) == pytest.approx(x[table.index, at], rel=1e-3)
            for index, admitted, outside in (
                (table.prediction, row.own, row.own_outside),
                (table.rival, row.rival, row.rival_outside),
            ):
                inside = np.flatnonzero(model.boxes.labels == index)
                box = inside[units[inside].argmin()]
                low, high = int(model.boxes.lower[box, at]), int(model.boxes.upper[box, at])
                beyond = min(max(low - code, code - high, 0), WIDTH) / WIDTH
                assert float(outside) == pytest.approx(beyond, abs=0.005)
                if not real:
                    assert admitted == (f"{low} to {high}" if low < high else str(low))
                elif low > 0 and high < 255:
                    bounds = [float(word) for word in admitted.split(" to ")]
                    wanted = [(low - 0.5) / 8 - 3, (high + 0.5) / 8 - 3]
                    assert bounds == pytest.approx(wanted, abs=0.01)


def test_tables_with_columns_are_told_in_their_own_words():
    rng = np.random.default_rng(0)
    table = {
        "amount": rng.normal(size=60),
        "city": np.array(["Bonn", "Kiel", "Ulm"])[np.arange(60) % 3],
    }
    table["amount"][::7] = np.nan
    columns = Columns.of(table)
    raw, y = columns.values(table), np.arange(60) % 2
    grid = Grid.fit(raw, columns=columns, y=y)
    bounds = np.sort(rng.integers(0, 256, (2, 4, 2)), axis=0)
    model = BoxNN(Boxes(*bounds, [0, 0, 1, 1], 9), ["no", "yes"], grid, columns=columns)
    distance = model.class_distance(raw)
    prediction, radius = certified_radius(distance, 9)
    known = {"width": 9, "group_size": 1, "feature_shape": [2], "split": "test"}
    run = Run("r", prediction, radius, y, ["no", "yes"], known, distance)
    samples = gallery.select_samples(run)
    shown = gallery_views.show_samples(run, samples, raw[[s.index for s in samples]], model)
    names = {row.feature: row.value for row in shown[0].rows}
    assert names.keys() == {"amount", "city"} and names["city"] in ("Bonn", "Kiel", "Ulm")
    values = {row.value for one in shown for row in one.rows if row.feature == "amount"}
    assert "missing" in values
    cities = {
        word
        for one in shown
        for row in one.rows
        if row.feature == "city"
        for word in row.own.removeprefix("anything but ").split(", ")
    }
    assert cities <= {"Bonn", "Kiel", "Ulm", "other", "nothing", "anything"}
    text = make_page([run], [shown])
    assert ">amount</th>" in text and ">city</th>" in text


# --- classes -----------------------------------------------------------------------------


def test_the_chart_of_classes_has_their_medians_and_means():
    run, _, _ = make_run()
    text = make_page([run])
    Checker(text)
    found = re.findall(
        r"class (\d): median (-?\d+), half within (-?\d+) to (-?\d+).*?mean ([\d.]+)<", text
    )
    assert len(found) == 3
    for row, (name, median, first, third, mean) in zip(run.per_class(), found, strict=True):
        assert (row.name, str(row.median_certified_radius)) == (name, median)
        here = run.label == int(name)
        certified = np.sort(np.where(run.prediction == run.label, run.radius, -1)[here])
        assert int(first) == certified[len(certified) // 4] <= int(median) <= int(third)
        assert float(mean) == pytest.approx(row.mean_certified_radius, abs=0.06)


# --- odd runs ----------------------------------------------------------------------------


def odd(name):
    run, _, _ = make_run(name)
    if name == "nothing right":
        return replace(run, label=(run.prediction + 1) % 3)
    if name == "radius 0":
        return replace(run, radius=np.zeros_like(run.radius))
    if name == "one sample":
        return make_run(name, n=1)[0]
    if name == "abstains":
        return replace(run, prediction=np.full_like(run.prediction, -1), class_distance=None)
    if name == "two classes":
        return make_run(name, model=make_model(n_classes=2))[0]
    if name == "same names of classes":
        return replace(run, classes=["a", "a", "a"])
    many = make_run(name, n=300, model=make_model(n_boxes=50, n_classes=50))[0]
    return replace(
        many, classes=[f"class {at} with a name that is rather long" for at in range(50)]
    )


ODD = (
    "nothing right", "radius 0", "one sample", "abstains", "two classes", "same names of classes",
    "fifty classes",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_make_a_page_and_figures(name, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 20)
    run = odd(name)
    text = make_page([run], [gallery.select_samples(run)])
    checker = Checker(text)
    assert not re.search(r"\b(nan|inf)\b", text.split("<script")[1])
    svg = re.findall(r' (?:x|y|width|height|cx|cy|x1)="(-?[\d.]+)"', text)
    assert all(float(value) >= -1 for value in svg)
    assert len(checker.all("caption")) == len(checker.all("table"))
    plots.save(plots.certified_curves([run], [], "t"), tmp_path / "a.png")
    plots.save(plots.radius_histogram([run], "t"), tmp_path / "b.png")


def test_many_runs_share_the_page_and_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 20)
    runs = [make_run(f"run {index}", n=40, seed=index)[0] for index in range(20)]
    text = make_page(runs)
    assert '<details data-series="run-0" class="panel">' in text
    assert len(plots.radius_histogram(runs, "t").axes) == plots.MOST_PANELS
    figure = plots.certified_curves(runs, [], "t")
    plots.save(figure, tmp_path / "a.png")
    assert len(figure.axes[0].lines) == 20


def test_settings_name_the_kind_of_certificate():
    run, _, _ = make_run()
    exact = Run(**{**vars(run), "attributes": run.attributes | {"certificate": "exact"}})
    assert run_settings(run)["certificate"] == "margin"
    assert run_settings(exact)["certificate"] == "exact"
    attacked, _, _, _ = attacked_run()
    assert run_settings(attacked)["attack: method"] == "greedy"
