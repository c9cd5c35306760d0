"""The page in a real browser: text appears token by token with its probabilities, pictures row by row, phones fit."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SECONDS = 60.0  # a browser on a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, served: SimpleNamespace) -> Iterator[Any]:
    """Yield the open page; an error of its script, or a request to elsewhere, fails the test."""
    page = browser.new_page(viewport={"width": 900, "height": 760})
    page.set_default_timeout(SECONDS * 1000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith((served.url, "data:")) else wrong.append(asked.url))
    page.goto(served.url)
    page.wait_for_selector("nav button")
    yield page
    page.close()
    assert not wrong


def test_write_ask_and_draw(page: Any, tmp_path: Path) -> None:
    """One visit, as a user makes it; JGPT_SCREENSHOTS=FOLDER keeps what it looked like."""
    shots = Path(os.environ.get("JGPT_SCREENSHOTS", tmp_path))
    page.fill("#prompt", "hello")
    page.fill("#text-seed", "3")
    page.click("#write")
    page.wait_for_selector("#written .t")
    page.wait_for_selector("#write:not(.stop)")
    tokens = page.query_selector_all("#written .t")
    assert page.text_content("#written").startswith("hello") and len(tokens) >= 1
    page.hover("#written .t:last-child")
    tip = page.text_content("#tip")
    assert page.is_visible("#tip") and "%" in tip
    assert 0 < float(tokens[-1].get_attribute("data-p")) <= 1
    page.screenshot(path=shots / "write.png")

    page.click("nav button:has-text('Ask')")
    page.fill("#question", "how are you?")
    page.press("#question", "Enter")
    page.wait_for_selector("#said .turn:nth-child(2) .t")
    page.wait_for_selector("#answer:not(.stop)")
    assert "how are you?" in page.text_content("#said .turn:nth-child(1)")
    page.screenshot(path=shots / "ask.png")

    page.click("nav button:has-text('Draw')")
    page.click(".chip:has-text('two')")
    page.fill("#pictures-n", "2")
    page.click("#draw")
    page.wait_for_selector("#pictures img[data-state=completed]")  # those before it are counted in data-seen
    page.wait_for_selector("#draw:not(.stop)")
    pictures = page.query_selector_all("#pictures img[data-state=completed]")
    assert len(pictures) == 2
    assert all(picture.evaluate("image => image.naturalWidth") == 4 for picture in pictures)
    assert all(int(picture.get_attribute("data-seen")) > 1 for picture in pictures)
    page.screenshot(path=shots / "draw.png")

    page.set_viewport_size({"width": 375, "height": 740})
    for name in ("Write", "Ask", "Draw"):
        page.click(f"nav button:has-text('{name}')")
        assert page.locator("html").evaluate("root => root.scrollWidth") <= 375, name
    page.screenshot(path=shots / "phone.png")


def test_mistakes_are_told(browser: Any, served: SimpleNamespace) -> None:
    page = browser.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.goto(served.url)
    page.wait_for_selector("nav button")
    page.fill("#prompt", "UPPER")
    page.click("#write")
    page.wait_for_selector("#problem:visible")
    assert "character 'U'" in page.text_content("#problem")
    page.close()
