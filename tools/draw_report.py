"""Draw docs/images/report.png: how the page of a report opens, and a sample that an attack changed.

``boxnn demo && python tools/draw_report.py boxnn-demo/report`` needs Selenium, Chromium and its
driver.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains

OUT = Path(__file__).parents[1] / "docs" / "images" / "report.png"
#: Width of the page; where the pointer is, as shares of the chart from its middle.
WIDTH, POINTER = 1120, (-0.05, 0.0)


def main(folder: Path) -> None:
    """Write the picture of a report."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("headless=new", "no-sandbox", "hide-scrollbars"):
        options.add_argument(f"--{word}")
    chrome = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        shape = {"width": WIDTH, "height": 1800, "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
        chrome.get((folder.resolve() / "report.html").as_uri())
        chrome.execute_script("document.querySelector('input[value=attacked]').click()")
        for _ in range(3):
            chrome.execute_script("document.getElementById('next').click()")
        curves = chrome.find_element("css selector", "section[aria-labelledby=curve-heading]")
        chart = chrome.find_element("id", "curves")
        where = (round(share * chart.rect["width"]) for share in POINTER)
        ActionChains(chrome).move_to_element_with_offset(chart, *where).perform()
        parts = [chrome.find_element("css selector", "header"), curves]
        parts.append(chrome.find_element("class name", "viewer"))
        pictures = [Image.open(io.BytesIO(part.screenshot_as_png)) for part in parts]
    finally:
        chrome.quit()
    whole = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, ((WIDTH - picture.width) // 2, top))
        top += picture.height
    whole.save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
