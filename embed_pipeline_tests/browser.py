"""A real browser before Dagster's UI: Chromium without a window, driven as a person would."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_T = TypeVar("_T")


def missing() -> str | None:
    """What is not there of what a browser test needs, in words; None where all is."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install 'embed-pipeline[dev]'"
    if not any(map(shutil.which, _BROWSERS)) or not shutil.which("chromedriver"):
        return "there is no Chromium with its driver: apt-get install chromium chromium-driver"
    return None


@contextmanager
def browser(profile: Path, *, width: int = 1400, height: int = 900) -> Iterator[Chrome]:
    """A browser with a profile of its own, closed at the end."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(next(filter(None, map(shutil.which, _BROWSERS))))
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    chrome = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield chrome
    finally:
        chrome.quit()


def wait_for(
    chrome: Chrome, look: Callable[[Chrome], _T | None], what: str, seconds: float = 60.0, pause: float = 0.3
) -> _T:
    """Look until there is something; ``what`` is told where there never is."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(chrome, seconds, pause, ignored_exceptions=[StaleElementReferenceException])
    return waiting.until(look, f"did not see {what} within {seconds:.0f} s")  # type: ignore[return-value]


def button(label: str) -> Callable[[Chrome], WebElement | None]:
    """The button that bears this label, once it can be pressed."""

    def look(chrome: Chrome) -> WebElement | None:
        from selenium.webdriver.common.by import By

        for element in chrome.find_elements(By.TAG_NAME, "button"):
            if element.text.startswith(label) and element.is_displayed() and element.is_enabled():
                return element
        return None

    return look


def text(wanted: str) -> Callable[[Chrome], bool]:
    """Whether the page shows this text."""

    def look(chrome: Chrome) -> bool:
        from selenium.webdriver.common.by import By

        return wanted in chrome.find_element(By.TAG_NAME, "body").text

    return look


def open_ui(chrome: Chrome, url: str) -> None:
    """Open Dagster's UI and put away the window with which it greets a new visitor, if it does."""
    from selenium.common.exceptions import TimeoutException

    chrome.get(url)
    wait_for(chrome, text("Overview"), "the UI's menu")
    try:
        wait_for(chrome, button("Skip"), "the greeting", seconds=4).click()
    except TimeoutException:
        return
