"""The report's page in a real browser: headless Chromium, from a file, without a network."""

from __future__ import annotations

import shutil

import pytest
from support.report_browser import (
    assert_quiet,
    brightness,
    click,
    copy,
    current,
    emulate,
    find,
    hover,
    opened,
    pasted,
    press,
    read_csv,
    shown,
    tip,
)
from support.report_files import certify, make_data, make_model

from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.pipelines.attack.attack import AttackOptions, attack
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.report.report import report
from boxnn_numba.pipelines.running import RunOptions

pytestmark = pytest.mark.browser

HOSTILE = "<script>window.broken = 1</script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Reports of images (two runs, one attacked on 100 of 300 rows) and of a table, odd names."""
    folder = tmp_path_factory.mktemp("made") / "<script>window.broken = 2"
    folder.mkdir()
    patch = pytest.MonkeyPatch()
    patch.setattr(plots, "DPI", 30)
    patch.chdir(folder)
    names = [HOSTILE, 'b "quoted", &amp;', "a rather long name of a class that has no end"]
    data = make_data(folder / "data.zarr", name="mnist-sample", classes=names)
    for name, seed in (("one", 0), ("two", 1)):
        model = make_model(folder / f"{name}-model.zarr", data, seed=seed)
        certify(folder / f"{name}.zarr", model, data)
    one, quick = RunOptions(threads=1), AttackOptions("quick")
    attack("one-model.zarr", "data.zarr", "attack.zarr", quick, limit=100, run=one)
    report(["one.zarr", "two.zarr"], "out", attacks=["attack.zarr"])
    table = make_data(folder / "wine.zarr", name="wine", shape=(30,), real=True)
    certify(folder / "wine-cert.zarr", make_model(folder / "w.zarr", table, seed=0), table)
    attack("w.zarr", "wine.zarr", "wine-attack.zarr", quick, limit=50, run=one)
    report(["wine-cert.zarr"], "wine-out", attacks=["wine-attack.zarr"])
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, from the machine's packages; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs the programs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        chrome.execute_cdp_cmd("Browser.grantPermissions", grant)
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def page(browser, made):
    """The images' report, opened anew, wide and light; nothing it does may end in an error."""
    yield opened(browser, made / "out")
    assert_quiet(browser)


@pytest.fixture
def wine(browser, made):
    yield opened(browser, made / "wine-out")
    assert_quiet(browser)


@pytest.fixture
def curves(made):
    """Certified and robust accuracy by name and radius, from the CSV files."""
    values = {}
    for row in read_csv(made / "out" / "certified_curves.csv"):
        values[row["run"], int(row["radius"])] = float(row["certified_accuracy"])
    for row in read_csv(made / "out" / "attack_curves.csv"):
        values["one, under attack", int(row["changes"])] = float(row["robust_accuracy"])
    return values


def expected_at(curves, radius, names):
    return {n: curves[n, radius] for n in names if (n, radius) in curves}


NAMES = ("one", "two", "one, under attack")


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_pointing_at_the_curves_shows_all_values_there(page, made, curves, radius):
    hover(page, radius)
    at, values = tip(page)
    assert at == radius
    wanted = expected_at(curves, radius, NAMES)
    assert len(wanted) == 3
    assert {name: values[name] for name in NAMES} == pytest.approx(wanted, abs=0.051)
    assert list(values.values()) == sorted(values.values(), reverse=True)
    if radius == 0:
        rows = [row for row in read_csv(made / "out" / "published.csv") if row["radius"] == "0"]
        best = max(float(row["certified_accuracy"]) for row in rows)
        assert best == pytest.approx(max(values.values()), abs=0.051)


def test_the_crosshair_follows_arrow_keys_and_touch(page, curves):
    from selenium.webdriver import Keys

    page.execute_script("document.getElementById('plot').focus()")
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_RIGHT)
    at, values = tip(page)
    assert at == 2
    assert values["two"] == pytest.approx(curves["two", 2], abs=0.051)
    (plot,) = find(page, "#plot")
    assert (plot.aria_role, plot.get_attribute("aria-valuenow")) == ("slider", "2")
    assert f"two {curves['two', 2]:.1f} %" in plot.get_attribute("aria-valuetext")
    press(page, Keys.END)
    assert tip(page)[0] == int(plot.get_attribute("aria-valuemax"))
    press(page, Keys.HOME, Keys.ARROW_LEFT)
    assert tip(page)[0] == 0
    where = page.execute_script(
        "const c = document.getElementById('curves'); c.scrollIntoView();"
        "const b = c.getBoundingClientRect(); return [b.left, b.top, b.width, b.height];"
    )
    points = [{"x": where[0] + where[2] * 0.6, "y": where[1] + where[3] / 2}]
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert int(plot.get_attribute("aria-valuenow")) > 2


def test_a_hidden_run_is_hidden_everywhere(page):
    before = len(shown(page, "#accuracy tr"))
    click(page, 'input[data-toggle="run-0"]')
    assert shown(page, '[data-series="run-0"]') == []
    assert len(shown(page, "#accuracy tr")) == before - 1
    assert [o.text for o in find(page, "#gallery-run option:not([hidden])")] == ["two"]
    assert find(page, "#gallery-run")[0].get_attribute("value") == "1"
    assert current(page).find_element("xpath", "..").get_attribute("data-run") == "1"
    hover(page, 1)
    assert {"one", "one, under attack"}.isdisjoint(tip(page)[1]) and "two" in tip(page)[1]
    assert [cell.text for cell in shown(page, "#settings thead th")] == ["Setting", "two"]
    click(page, 'button[data-show="none"]')
    assert shown(page, "#curves .line") == shown(page, ".card") == []
    assert "None" in find(page, "#place")[0].text
    click(page, 'button[data-show="all"]')
    assert len(shown(page, "#accuracy tr")) == before


def test_published_rows_are_reduced_to_the_best_until_all_are_wanted(page, made):
    best, ra = '[data-series="family-best-published"]', '[data-series="family-ra"]'
    assert len(shown(page, "#accuracy tr")) == 1 + 2 + 1 + 1
    assert len(shown(page, f"#curves {best}")) == 1 and not shown(page, ra)
    hover(page, 0)
    rows = [row for row in read_csv(made / "out" / "published.csv") if row["radius"] == "0"]
    highest = max(float(row["certified_accuracy"]) for row in rows)
    assert tip(page)[1]["best published"] == pytest.approx(highest, abs=0.051)
    click(page, "#every-row")
    assert len(shown(page, "#accuracy tr")) == 1 + 2 + 19 + 1
    assert shown(page, f"#curves {ra}") and not shown(page, best)
    click(page, 'input[data-toggle="family-ra"]')
    assert not shown(page, ra)
    click(page, "#every-row")
    assert shown(page, best) and not shown(page, '[data-series="family-box-nn"]')


def test_the_gallery_moves_by_keyboard_and_marks_what_an_attack_changed(page, made):
    from selenium.webdriver import Keys

    click(page, 'input[name="group"][value="attacked"]')
    words = current(page).get_attribute("data-words")
    assert words.startswith("attacked, sample ")
    page.execute_script("document.getElementById('next').focus()")
    press(page, Keys.ARROW_RIGHT)
    assert find(page, "#place")[0].text.startswith("2 of 6")
    assert current(page).get_attribute("data-words") != words
    press(page, Keys.HOME)
    assert current(page).get_attribute("data-words") == words
    press(page, Keys.END, Keys.ARROW_RIGHT)
    assert find(page, "#place")[0].text.startswith("6 of 6")
    click(page, "#previous")
    assert find(page, "#place")[0].text.startswith("5 of 6")
    file = open_attack(made / "attack.zarr")
    seen = []
    for button in find(page, "#strip button"):
        button.click()
        card = current(page)
        row = int(card.get_attribute("data-words").split(", ")[1].split()[1])
        changed = int(file.changed[list(file.row).index(row)])
        squares = card.find_element("css selector", ".marks path").get_attribute("d")
        assert squares.count("M") == changed > 0
        assert f"{changed} change" in card.text
        assert len(card.find_elements("css selector", "img")) == 6
        seen.append(changed)
    assert seen == sorted(seen)
    click(page, "#gallery-marks")
    assert shown(page, ".marks") == []
    click(page, 'input[name="group"][value="best"]')
    assert current(page).get_attribute("data-group") == "best"
    options = find(page, "#gallery-class option")
    assert options[1].text == HOSTILE
    options[1].click()
    assert current(page).get_attribute("data-class") == HOSTILE


@pytest.mark.parametrize("clipboard", [True, False])
def test_copies_are_the_csv_files(page, made, clipboard):
    if not clipboard:
        page.execute_script(
            "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'));"
        )
    files = {
        "summary": (
            "summary.csv",
            ("accuracy", "balanced_accuracy", "median_certified_radius", "n"),
        ),
        "class-0": ("per_class.csv", ("recall", "mean_certified_radius", "n")),
    }
    heads = {
        "accuracy": "Accuracy, %",
        "balanced_accuracy": "Balanced, %",
        "recall": "Recall, %",
        "median_certified_radius": "Median radius",
        "mean_certified_radius": "Mean radius",
        "n": "Samples",
    }
    for name, (file, columns) in files.items():
        assert copy(page, name).startswith("Copied ")
        rows, wanted = pasted(page), read_csv(made / "out" / file)
        for row, want in zip(rows, wanted, strict=False):
            assert next(iter(row.values())) in (want["run"], want.get("class"))
            assert [float(row[heads[c]]) for c in columns] == [float(want[c]) for c in columns]
    assert copy(page, "class-0") == "Copied 3 rows."
    assert pasted(page)[0]["Class"] == HOSTILE


def test_copied_curves_and_table_hold_the_exact_values(page, made, curves):
    copy(page, "curves")
    rows = pasted(page)
    for name in ("one", "two"):
        for row in rows:
            wanted = curves.get((name, int(row["radius"])), 0.0)
            assert float(row[name]) == pytest.approx(wanted, abs=1e-4)
    attacked = {int(row["radius"]): row["one under attack"] for row in rows}
    for radius in range(3):
        assert float(attacked[radius]) == pytest.approx(curves["one, under attack", radius])
    copy(page, "accuracy")
    rows = pasted(page)
    assert [row["Radius"] for row in rows] == ["one", "two", "best published", rows[-1]["Radius"]]
    for radius, value in list(rows[0].items())[1:]:
        wanted = curves.get(("one", int(radius)), 0.0)
        assert float(value) == pytest.approx(wanted, abs=1e-4)
    rows_of_paper = read_csv(made / "out" / "published.csv")
    published = [row for row in rows_of_paper if row["method"] == "RA_20^B"]
    click(page, "#every-row")
    copy(page, "accuracy")
    row = next(row for row in pasted(page) if row["Radius"] == "RA_20^B")
    assert [float(row[p["radius"]]) for p in published] == [
        float(p["certified_accuracy"]) for p in published
    ]
    click(page, 'input[data-toggle="run-0"]')
    copy(page, "accuracy")
    assert [row["Radius"] for row in pasted(page)[:2]] == ["two", "Box-NN (paper)"]


def test_where_nothing_can_be_copied_the_text_is_offered(page):
    page.execute_script(
        "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'));"
        "document.execCommand = () => false;"
    )
    assert "Ctrl+C" in copy(page, "summary")
    (area,) = shown(page, ".copy textarea")
    assert area.get_attribute("value").splitlines()[0].startswith("Run,")
    assert page.switch_to.active_element == area and area.accessible_name == "CSV to copy"


#: How much wider than its window the page is.
WIDER = "const page = document.documentElement; return page.scrollWidth - page.clientWidth;"
#: Tables that scroll, and what else lies beyond the right edge of the page.
LAYOUT = """
document.querySelectorAll('details').forEach((d) => { d.open = true; });
const regions = [...document.querySelectorAll('.scroll')];
const wide = (region) => region.scrollWidth > region.clientWidth;
const beyond = [...document.querySelectorAll('main *, header *')].filter((node) =>
    node.checkVisibility() && !node.closest('.scroll, .strip, .hidden, .tip')
    && node.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
return [regions.filter(wide).length, beyond.map((node) => node.outerHTML.slice(0, 80))];
"""


@pytest.mark.parametrize("width", [360, 390, 820, 1400])
@pytest.mark.parametrize("name", ["out", "wine-out"])
def test_only_wide_tables_scroll_sideways(browser, made, name, width):
    opened(browser, made / name, width=width, height=740)
    scrolling, beyond = browser.execute_script(LAYOUT)
    assert (browser.execute_script(WIDER), beyond) == (0, [])
    assert scrolling or width > 800
    browser.execute_script("document.getElementById('curves').scrollIntoView()")
    for radius in (0, 2, 4):
        hover(browser, radius)
        assert browser.execute_script(WIDER) == 0
        box = find(browser, "#tip")[0].rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    stops = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".map((r) => [r.tabIndex === 0, r.scrollWidth > r.clientWidth])"
    )
    assert all(stop == wide for stop, wide in stops)
    assert_quiet(browser)


@pytest.mark.parametrize("name", ["out", "wine-out"])
def test_everything_that_takes_the_focus_has_a_name(browser, made, name):
    opened(browser, made / name)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {}
    for node in nodes:
        focusable = any(trait["name"] == "focusable" for trait in node.get("properties", []))
        if focusable and node["role"]["value"] not in ("RootWebArea", "option"):
            named[node["nodeId"]] = node.get("name", {}).get("value", "")
    assert len(named) > 30
    assert [node for node, words in named.items() if not words.strip()] == []
    images = [node for node in nodes if node.get("role", {}).get("value") == "image"]
    assert images and all(node["name"]["value"] for node in images)
    tables = [node for node in nodes if node.get("role", {}).get("value") == "table"]
    assert tables and all(node["name"]["value"] for node in tables)


def test_light_and_dark_follow_the_system_until_they_are_chosen(browser, made):
    opened(browser, made / "out")
    assert brightness(browser) > 0.9
    emulate(browser, "dark")
    assert brightness(browser) < 0.2
    (theme,) = find(browser, "#theme")
    assert theme.get_attribute("aria-pressed") == "true"
    theme.click()
    assert brightness(browser) > 0.9
    browser.refresh()
    assert brightness(browser) > 0.9
    assert find(browser, "#theme")[0].get_attribute("aria-pressed") == "false"
    find(browser, "#theme")[0].click()
    browser.refresh()
    assert brightness(browser) < 0.2
    emulate(browser, "dark", media="print")
    assert brightness(browser) > 0.9
    assert len(shown(browser, ".card")) == 6
    assert shown(browser, "button") == []
    browser.execute_script("localStorage.clear()")
    emulate(browser, "light")
    assert_quiet(browser)


def test_without_a_script_everything_can_be_read(browser, made):
    off = {"value": True}
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", off)
    try:
        browser.get((made / "out" / "report.html").as_uri())
        assert len(shown(browser, "figure.card")) == len(find(browser, "figure.card")) > 20
        assert len(shown(browser, "#accuracy tr")) == 1 + 2 + 1 + 19 + 1
        assert shown(browser, "button") == shown(browser, "input") == []
        assert len(shown(browser, "#curves .line")) > 20
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_is_no_image_is_a_table_of_features(wine, made):
    from selenium.webdriver import Keys

    click(wine, 'input[name="group"][value="attacked"]')
    wine.execute_script("document.getElementById('next').focus()")
    press(wine, Keys.ARROW_RIGHT)
    card = current(wine)
    row = int(card.get_attribute("data-words").split(", ")[1].split()[1])
    file = open_attack(made / "wine-attack.zarr")
    changed = int(file.changed[list(file.row).index(row)])
    assert len(card.find_elements("css selector", "td.changed")) == min(changed, 12)
    name = card.find_element("css selector", "table").get_attribute("id")
    assert copy(wine, name) == "Copied 12 rows."
    copied = pasted(wine)
    assert sum(bool(line["Attacked"]) for line in copied) == min(changed, 12)
    adversarial = file.x[list(file.row).index(row)]
    for line in copied:
        if line["Attacked"]:
            wanted = adversarial[int(line["Feature"])]
            assert float(line["Attacked"]) == pytest.approx(wanted, rel=1e-3)
