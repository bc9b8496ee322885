"""The report's HTML page: well formed, self-contained, labelled, and safe from odd names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.report_page import Checker, make_page
from support.report_samples import WIDTH, make_run, part_loops

from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report import gallery, gallery_views, page


@pytest.fixture
def oracle_distance(monkeypatch):
    monkeypatch.setattr("boxnn_numba.rivals.part_distance", part_loops)


def drawn_page(**changes):
    run, x, model = make_run("graded")
    samples = gallery.select_samples(run)
    pictures = gallery_views.show_samples(run, samples, x[[s.index for s in samples]], model)
    other = make_run("other", seed=3)[0]
    return make_page([run, other], [pictures, []], **changes)


def test_page_is_well_formed_self_contained_and_labelled(oracle_distance):
    text = drawn_page()
    checker = Checker(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text) < 5_000_000
    assert "@@" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert all("src" not in attributes for attributes in checker.all("script"))
    assert checker.all("link") == []
    assert all(attributes["src"].startswith("data:image/png") for attributes in checker.all("img"))
    assert all(attributes["alt"] for attributes in checker.all("img"))
    assert len(checker.all("img")) % 5 == 0 and checker.all("img")
    assert all(attributes["scope"] in ("col", "row") for attributes in checker.all("th"))
    assert len(checker.all("caption")) == len(checker.all("table"))
    ids = [attributes["id"] for _, attributes in checker.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    copied = {button["data-copy"] for button in checker.all("button") if "data-copy" in button}
    assert copied == {"curves", *(table["id"] for table in checker.all("table"))}
    toggles = {box["data-toggle"] for box in checker.all("input") if "data-toggle" in box}
    assert {"run-0", "run-1", "family-box-nn", "family-fpa-b"} <= toggles
    series = {e["data-series"] for _, e in checker.elements if "data-series" in e}
    assert series == toggles
    assert all(a.get("role") == "img" or a.get("aria-hidden") for a in checker.all("svg"))
    for heading in (a["aria-labelledby"] for a in checker.all("section")):
        assert heading in ids
    assert "prefers-color-scheme: dark" in text


def test_page_is_deterministic(oracle_distance):
    assert drawn_page() == drawn_page()


def test_page_escapes_names_and_keeps_the_data_readable():
    hostile = '</script><b onclick="x">&'
    run, _, _ = make_run(hostile)
    names = ["<i>", "b&c", '"']
    run = Run(
        hostile, *run.outcome, names, run.attributes | {"feature_shape": [30]}, run.class_distance
    )
    samples = gallery.select_samples(run)
    text = make_page([run], [samples], title=hostile, notes=["<u>"])
    checker = Checker(text)
    assert "<i>" not in text and "<u>" not in text and hostile not in text
    assert hostile in checker.text
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert data["runs"][0]["name"] == hostile
    np.testing.assert_allclose(data["runs"][0]["values"], run.curve(), atol=1e-3)


def test_page_names_the_convention():
    run, _, _ = make_run(dataset_name="wine")
    sound = make_page([run])
    paper = make_page([run], convention="paper")
    assert "Radii are <b>sound</b>" in sound
    assert "paper’s convention" in paper
    assert "Box-NN" not in sound.replace("family-box-nn", "")


def test_tabular_samples_are_a_table_of_class_distances():
    run, _, _ = make_run(feature_shape=[30])
    samples = gallery.select_samples(run)
    text = make_page([run], [samples])
    assert 'id="samples-0"' in text
    assert "Distance to 2" in text
    assert "<img" not in text
    one = next(sample for sample in samples if sample.overall)
    assert f"<td>{run.class_distance[one.index][0] / WIDTH:.2f}</td>" in text


def test_gallery_stays_within_its_budget(oracle_distance, monkeypatch):
    whole = len(drawn_page())
    monkeypatch.setattr(page, "GALLERY_BYTES", 20_000)
    assert len(drawn_page()) < whole
