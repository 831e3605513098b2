"""Takes the pictures in docs/images from a running instance.

EMBED_SUBMIT_AUTOMATICALLY=false embed-pipeline dev --port 3111   # with a failed and a changed file in its library
python docs/screenshots.py http://127.0.0.1:3111 --embedded talk.mp4 --failed broken.mp4 --changed song.wav
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from embed_pipeline_tests.browser import browser, button, open_ui, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

_IMAGES = Path(__file__).parent / "images"
_LOCATION = "__repository__@embed_pipeline.definitions"
_COLOURS = 160


def save(chrome: Chrome, name: str) -> None:
    """Keep what the browser shows, with few colours: a page of text needs no more, and the file is small."""
    page = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    path = _IMAGES / f"{name}.png"
    page.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def ask(ui: str, query: str) -> dict[str, Any]:
    """Ask the UI's own API."""
    request = urllib.request.Request(
        f"{ui}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
        return data


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ui")
    parser.add_argument("--embedded", required=True, help="A media file that is embedded.")
    parser.add_argument("--failed", required=True, help="A media file that failed.")
    parser.add_argument("--changed", required=True, help="A media file that has changed since it was embedded.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile), width=1300, height=860) as chrome:
        open_ui(chrome, options.ui)
        # Before the backfill, which leaves runs under way.
        _graph(chrome, options.ui)
        _backfill(chrome, options.ui)
        page = f"{options.ui}/assets"
        _page(chrome, f"{page}/segment_embeddings?view=partitions&partition={options.embedded}", "partition")
        _picture(chrome)
        _page(chrome, f"{page}/embedding_tasks?view=partitions&partition={options.failed}", "failed-partition")
        _page(chrome, f"{page}/embedding_tasks?view=checks", "checks")
        _page(chrome, f"{page}/embeddings_table?view=overview", "embeddings-table")
        # Low enough to leave out where the file lies on whoever's machine this is.
        chrome.set_window_size(1300, 700)
        _page(chrome, f"{page}/embedding_tasks?view=partitions&partition={options.changed}", "stale-partition")
        chrome.set_window_size(1300, 860)
        _page(chrome, f"{options.ui}/automation", "automation")
        _page(chrome, f"{options.ui}/locations/{_LOCATION}/sensors/media_discovery_sensor", "sensor")


def _settled(chrome: Chrome) -> None:
    """Wait until the page has shown the same words for three looks; it loads in parts."""
    seen: list[str] = []

    def same(chrome: Chrome) -> bool:
        seen.append(chrome.find_element("tag name", "body").text)
        return len(seen) > 3 and len(set(seen[-3:])) == 1

    wait_for(chrome, same, "a page that has loaded", pause=1.0)


def _page(chrome: Chrome, url: str, name: str) -> None:
    chrome.get(url)
    _settled(chrome)
    save(chrome, name)


def _graph(chrome: Chrome, ui: str) -> None:
    # The nodes tell most when the graph has the window to itself.
    chrome.set_window_size(1900, 700)
    chrome.get(f"{ui}/asset-groups/")
    _settled(chrome)
    save(chrome, "graph")
    chrome.set_window_size(1300, 860)


def _picture(chrome: Chrome) -> None:
    wait_for(chrome, _link("Show Markdown"), "the link to the picture").click()
    _settled(chrome)
    save(chrome, "self-similarity")


def _link(label: str) -> Callable[[Chrome], WebElement | None]:
    def look(chrome: Chrome) -> WebElement | None:
        found = chrome.find_elements("xpath", f"//*[contains(text(), '{label}')]")
        return found[0] if found else None

    return look


def _backfill(chrome: Chrome, ui: str) -> None:
    chrome.get(f"{ui}/assets/segment_embeddings?view=partitions")
    wait_for(chrome, button("Materialize"), "Materialize").click()
    wait_for(chrome, button("All"), "All").click()
    _settled(chrome)
    save(chrome, "launch")
    wait_for(chrome, button("Launch"), "Launch").click()

    def ended(_: Chrome) -> str | None:
        query = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id status } } } }"
        (latest,) = ask(ui, query)["partitionBackfillsOrError"]["results"]
        return str(latest["id"]) if latest["status"].startswith("COMPLETED") else None

    backfill = wait_for(chrome, ended, "the end of the backfill", seconds=300)
    _page(chrome, f"{ui}/runs/b/{backfill}", "backfill")


if __name__ == "__main__":
    main()
