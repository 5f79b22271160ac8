"""The page in a real browser: nothing on the console, nothing wider than a phone, in light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseg import schema
from edgeseg.community import submission
from edgeseg.data import load_data
from edgeseg.files import write_text
from edgeseg.report import write_report
from edgeseg.report.devices import render_devices
from edgeseg.report.training import write_training_report
from edgeseg.runtimes import record as records
from tests.devices import cold, failure, measured, proof, slow_camera, throttled
from tests.report.stored import Store, street
from tests.report.trained import SPEC, trained

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()), reason="no browser; apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium; pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=["results", "asked", "devices", "training"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A page and the number of its pictures."""
    folder = tmp_path_factory.mktemp(request.param)
    return PAGES[request.param](folder)


def results(folder: Path) -> tuple[Path, int]:
    store: Store = street(folder)
    name = "a_student_with_a_very_long_name_that_no_phone_can_hold_in_one_line_of_text"
    other = store.run(name, "runs/other")
    long = "out/a_folder_whose_name_is_long_too/onnx"
    artifact = store.artifact(other, long)
    store.record(long, artifact, 21.0)
    store.evaluation("runs/other", other)
    store.evaluation(long, artifact)
    store.search()
    (folder / f"{'broken' * 12}.json").write_text("{")
    return write_report(folder, folder / "report.html", max_p90_ms=30.0), 21


def asked(folder: Path) -> tuple[Path, int]:
    for name, make in {"held": throttled, "seen": slow_camera, "cold": cold}.items():
        records.write(folder / f"{name}.json", make(folder))
    schema.write(folder / "hang.json", failure(measured(folder), "hang", f"no word of /{'very' * 40}/long", None))
    return write_report(folder, folder / "report.html"), 0


def devices(folder: Path) -> tuple[Path, int]:
    found = [measured(folder, 20.0 + seed, protocol, seed) for seed, protocol in enumerate(("quick", "sustained:30s"))]
    return write_text(folder / "devices.html", render_devices([submission(one, proof(one), "ada") for one in found])), 0


def training(folder: Path) -> tuple[Path, int]:
    data = load_data(SPEC)
    write_training_report(trained(folder, data), folder / "training.html", data, count=1)
    return folder / "training.html", 3 + 2 * 3


PAGES = {"results": results, "asked": asked, "devices": devices, "training": training}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_page_fits_and_is_silent(browser: Any, page: tuple[Path, int], scheme: str, width: int, height: int) -> None:
    look = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", look)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page[0].as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.execute_script("return document.images.length") == page[1]
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper[4:-1].split(",")) < 200) == (scheme == "dark")


def test_text_in_charts_is_readable_on_a_phone(browser: Any, page: tuple[Path, int]) -> None:
    look = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", look)
    browser.get(page[0].as_uri())
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.phone svg')].map(s => 12 * s.clientWidth / s.viewBox.baseVal.width)"
    )
    assert sizes and min(sizes) >= 11


def test_page_asks_for_nothing_else(browser: Any, page: tuple[Path, int]) -> None:
    browser.get_log("performance")
    browser.get(page[0].as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {page[0].as_uri()}
