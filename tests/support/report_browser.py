"""How the tests of the report drive a browser: what is shown, pointing, typing, copying."""

from __future__ import annotations

import csv
import io
import json
import time

import numpy as np

COPY = "button[data-copy]"


def opened(browser, folder, width=1280, height=900, scheme="light"):
    shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    emulate(browser, scheme)
    browser.get((folder / "report.html").as_uri())
    return browser


def emulate(browser, scheme, media=""):
    """Prefer light or dark, and no motion, so that a click does not meet a page that scrolls."""
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def assert_quiet(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    assert browser.execute_script("return window.broken === undefined")
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def shown(browser, selector):
    # Chromium calls parts of an SVG visible that are not displayed; their box is empty.
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter((node) => {"
        "const box = node.getBoundingClientRect();"
        "return node.checkVisibility() && box.width + box.height > 0; });",
        selector,
    )


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def click(browser, selector):
    (element,) = find(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def tip(browser):
    """The values beside the crosshair: name -> percent, and the radius."""
    head, *lines = browser.execute_script(
        "const tip = document.getElementById('tip'); if (tip.hidden) { return ['']; }"
        "return [...tip.children].map((node) => [...node.children].map((n) => n.textContent));"
    )
    assert head == []
    radius = browser.execute_script("return document.querySelector('#tip b').textContent")
    return int(radius.split()[1]), {name: float(value[:-2]) for _, name, value in lines}


def hover(browser, radius):
    """Move the pointer to a radius, over the middle of the chart."""
    from selenium.webdriver import ActionChains

    (chart,) = find(browser, "#curves")
    data = browser.execute_script("return JSON.parse(document.getElementById('data').textContent)")
    area, view, last = data["area"], data["view"], data["last"]
    scale = chart.rect["width"] / view[0]
    x = (area["left"] + area["width"] * radius / last) * scale - chart.rect["width"] / 2
    ActionChains(browser).move_to_element_with_offset(chart, round(x), 0).perform()


def current(page):
    (card,) = shown(page, ".card")
    return card


def pasted(page):
    text = page.execute_script("return navigator.clipboard.readText();")
    return list(csv.DictReader(io.StringIO(text)))


def copy(page, name):
    """Press a copy button and wait until it says that it has copied."""
    selector = f'{COPY}[data-copy="{name}"]'
    click(page, selector)
    status = find(page, f"{selector} + [role=status]")[0]
    until = time.monotonic() + 10
    while not status.text and time.monotonic() < until:
        time.sleep(0.02)
    return status.text


def brightness(browser):
    plot = find(browser, "header")[0].screenshot_as_png
    from matplotlib.image import imread

    return float(np.median(imread(io.BytesIO(plot), format="png")[..., :3]))
