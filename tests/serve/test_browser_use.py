"""The page as people use it: files let fall and pasted, several tabs, haste, the keyboard alone."""

from __future__ import annotations

import re

import pytest

from tests.serve.browser import CHROMIUM_ALONE, WAIT, answered, ask, example, expect, names, opened
from tests.serve.conftest import encoded, make_photo, running

pytestmark = CHROMIUM_ALONE
LONG = ", ".join(f"thing {i} of {i * 7}" for i in range(12_000))


@pytest.fixture
def files(tmp_path):
    """Photographs on the disk."""
    paths = [tmp_path / f"fallen {number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(make_photo(160, 120, number), "PNG"))
    return [str(path) for path in paths]


def drop(tab, selector, files):
    """Let files fall on the middle of a part, as the window of a system does."""
    box = tab.locator(selector).first.bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    chrome = tab.context.new_cdp_session(tab)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": files, "dragOperationsMask": 1}
        chrome.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


@pytest.mark.parametrize("where", [".ov-target", ".ov-empty", "#ov-words textarea"])
def test_a_photograph_is_let_fall(tab, files, where):
    """On the place for it and beside it, where a browser by itself would leave the page for the file."""
    drop(tab, where, files[:1])
    tab.wait_for_selector('canvas[aria-label="The photograph fallen 0.png"]')
    assert tab.locator(".ov-target.ov-over").count() == 0
    drop(tab, ".ov-pane canvas", files[1:])
    tab.wait_for_selector('canvas[aria-label="The photograph fallen 1.png"]')


def test_several_files_are_no_photograph(tab, files):
    drop(tab, ".ov-target", files)
    expect(tab.locator("#ov-status")).to_contain_text("these are 2 files; this page takes one photograph at a time")


PASTE = """([bytes, name, kind, text]) => {
  const clipboardData = new DataTransfer();
  if (bytes) clipboardData.items.add(new File([new Uint8Array(bytes)], name, { type: kind }));
  if (text) clipboardData.setData("text/plain", text);
  const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
  (document.activeElement ?? document.body).dispatchEvent(event);
}"""


def test_a_photograph_is_pasted(tab):
    picture = list(encoded(make_photo(80, 60), "PNG"))
    tab.evaluate(PASTE, [picture, "image.png", "image/png", ""])
    tab.wait_for_selector('canvas[aria-label="The photograph image.png"]')
    tab.locator("#ov-words textarea").focus()
    # A table of an office program is text with a picture of it: here it is words.
    tab.evaluate(PASTE, [picture, "table.png", "image/png", "cat"])
    tab.evaluate(PASTE, [picture, "second.png", "image/png", ""])
    tab.wait_for_selector('canvas[aria-label="The photograph second.png"]')
    tab.evaluate(PASTE, [list(b"hello"), "a.txt", "text/plain", ""])
    tab.wait_for_timeout(300)
    assert tab.locator('canvas[aria-label="The photograph second.png"]').count() == 1


def test_two_tabs_on_one_photograph(browser, page):
    """Who asks about an answer that the other tab has replaced is told so, and never about another one."""
    for tab in opened(browser, page.address):
        example(tab)
        other = tab.context.new_page()
        other.goto(page.address)
        expect(other.locator("#ov-status")).to_contain_text("this is where you were", timeout=WAIT)
        ask(other, "boat, sea, ground")
        tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
        expect(tab.locator(".ov-why")).to_contain_text("answer A was changed meanwhile, perhaps in another tab")
        assert "water" in names(tab)
        tab.reload()
        expect(tab.locator(".ov-legend")).to_contain_text("sea", timeout=WAIT)
        tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
        expect(tab.locator(".ov-why strong")).to_have_text("sea")


@pytest.fixture(scope="module")
def patient():
    """A page that takes very many words, and so can be kept busy."""
    with running("--max-words", "60000") as found:
        yield found


def keep_busy(tab):
    """Ask of the example what takes long."""
    example(tab)
    tab.fill("#ov-words textarea", LONG)
    tab.click("#ov-go")
    expect(tab.locator("#ov-status .busy")).to_be_visible()


def test_long_work_can_be_stopped(browser, patient):
    for tab in opened(browser, patient.address):
        keep_busy(tab)
        tab.click("#ov-stop")
        expect(tab.locator("#ov-status")).to_contain_text("the request was cancelled", timeout=WAIT)


def test_a_new_photograph_ends_what_was_asked_of_the_old_one(browser, patient):
    for tab in opened(browser, patient.address):
        keep_busy(tab)
        tab.click('.ov-examples button[title="Example: desk"]')
        tab.wait_for_selector('canvas[aria-label^="Answer A for desk"]')
        answered(tab)
        assert "laptop" in names(tab)
        tab.wait_for_timeout(3000)  # the old answer would have come meanwhile
        assert tab.locator('canvas[aria-label^="Answer A for desk"]').count() == 1 and "laptop" in names(tab)


def test_a_reload_while_a_request_runs(browser, patient):
    """The photograph is still there with what was answered before, and new words are taken."""
    for tab in opened(browser, patient.address):
        keep_busy(tab)
        tab.reload()
        expect(tab.locator("#ov-status")).to_contain_text("this is where you were", timeout=WAIT)
        expect(tab.locator(".ov-legend")).to_contain_text("water", timeout=WAIT)
        ask(tab, "boat, sea, ground")
        assert "sea" in names(tab)


def test_what_is_gone_is_told_once(browser, page):
    """A tab that comes back after the photograph was dropped says so; the next time it is a fresh page."""
    for tab in opened(browser, page.address):
        tab.evaluate("localStorage.setItem('ovseg', 'a photograph of yesterday')")
        tab.reload()
        expect(tab.locator("#ov-status")).to_contain_text("not here any more", timeout=WAIT)
        tab.reload()
        tab.wait_for_selector(".ov-examples img")
        tab.wait_for_timeout(1000)
        assert tab.inner_text("#ov-status").strip() == ""


def test_own_words_after_a_preset_are_own_words(tab):
    tab.click("#ov-preset input")
    tab.get_by_role("option", name="voc20").click()
    expect(tab.locator("#ov-words textarea")).to_have_value("voc20")
    tab.locator("#ov-words textarea").press_sequentially(" x")
    expect(tab.locator("#ov-preset input")).to_have_value("own words")


def test_a_correction_by_the_keyboard_alone(tab):
    """After it one stands at the picture again, to go on to the next region."""
    example(tab)
    tab.locator(".ov-pane canvas").focus()
    for key in ("Shift+ArrowUp", "Shift+ArrowUp", "Enter"):
        tab.keyboard.press(key)
    expect(tab.locator(".ov-why strong")).to_have_text("water")
    tab.locator(".ov-correct input").focus()
    tab.keyboard.type("the open sea")
    tab.keyboard.press("Enter")
    expect(tab.locator(".ov-legend")).to_contain_text("the open sea")
    expect(tab.locator(".ov-pane canvas")).to_be_focused()
    expect(tab.locator(".ov-why")).to_contain_text("named by hand")


def test_the_score_of_a_label_is_told_from_the_raw_scores_of_words(tab):
    example(tab)
    tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
    expect(tab.locator(".ov-why strong")).to_have_text("water")
    told = tab.inner_text(".ov-why")
    sure = re.search(r"water · (\d\.\d\d) sure · row \d+", told)
    assert sure and float(sure[1]) <= 1
    best = float(tab.locator(".ov-top .ov-share").first.inner_text())
    assert ("sums over masks may exceed 1" in told) == (best > 1)
    assert re.search(r"water · \d\.\d\d sure", tab.inner_text(".ov-hover"))
