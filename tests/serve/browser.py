"""What the tests in a browser share; without a browser or Playwright they are skipped, and say so."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.serve.conftest import find_chromium

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM_ALONE = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_chromium(), reason="there is no Chromium here; install it, or name it by CHROMIUM"),
]
expect = playwright.expect
WAIT = 60_000


def launched() -> Iterator:
    """A Chromium without a window."""
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser, address, **options):
    """A fresh tab on the page, that fails the test if its scripts complain or ask another machine for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True, **options)
    context.set_default_timeout(WAIT)
    found, wrong = context.new_page(), []
    found.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    # What the server refuses is a line on the page, and for the browser an error; so is a page left amid a request.
    known = ("the server responded with", "AbortError: signal is aborted", "Connection errored out")
    found.on(
        "console",
        lambda line: line.type == "error" and not any(one in line.text for one in known) and wrong.append(line.text),
    )
    found.on(
        "request",
        lambda asked: asked.url.startswith((address, "data:", "blob:")) or wrong.append(f"elsewhere: {asked.url}"),
    )
    restored = []
    for end in ("requestfinished", "requestfailed"):  # Gradio's client breaks the line off when all is said
        found.on(end, lambda asked: "/queue/data" in asked.url and restored.append(asked))
    found.goto(address)
    found.wait_for_selector(".ov-examples img")
    deadline = time.monotonic() + WAIT / 1000
    while not restored and time.monotonic() < deadline:  # what is asked in that moment may get lost in the client
        found.wait_for_timeout(20)
    yield found
    context.close()
    assert wrong == [], wrong


def answered(tab) -> None:
    """Wait for an answer."""
    expect(tab.locator("#ov-status")).to_contain_text("done in", timeout=WAIT)


def example(tab, name="beach") -> None:
    """Click an example and wait for its answer."""
    tab.click(f'.ov-examples button[title="Example: {name}"]')
    tab.wait_for_selector(f'canvas[aria-label^="Answer A for {name}"]')
    answered(tab)


def ask(tab, words) -> None:
    """Type words, press Segment and wait for the answer."""
    tab.fill("#ov-words textarea", words)
    tab.evaluate("window.before = document.querySelector('.ov-pane canvas')")
    tab.click("#ov-go")
    tab.wait_for_function("document.querySelector('.ov-pane canvas') !== window.before")
    answered(tab)


def names(tab, pane=0) -> list[str]:
    """The classes of a legend."""
    return tab.locator(".ov-legend").nth(pane).locator("button .ov-name").all_inner_texts()


def colour(tab, x, y, pane=0) -> list[int]:
    """The colour of a pixel of what is drawn."""
    context = "document.querySelectorAll('.ov-pane canvas')[n].getContext('2d')"
    return tab.evaluate(f"([n, x, y]) => [...{context}.getImageData(x, y, 1, 1).data]", [pane, x, y])[:3]
