"""The page in a real browser: one of this machine, without a window."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.browser import CHROMIUM_ALONE, WAIT, ask, colour, example, expect, names, opened
from tests.serve.conftest import encoded, make_photo

pytestmark = CHROMIUM_ALONE
NASTY = '<img src=x onerror="document.title=1">'


def test_an_example_is_answered_with_one_click(tab):
    example(tab)
    assert {"sand", "water"} <= set(names(tab))
    assert tab.input_value("#ov-words textarea").startswith("sailboat, turtle|tortoise")
    before = colour(tab, 20, 20)
    tab.locator(".ov-alpha").fill("0")
    untouched = colour(tab, 20, 20)
    assert before != untouched
    example(tab, "desk")
    assert "laptop" in names(tab)


def test_words_of_ones_own_on_a_photograph_of_ones_own(tab, tmp_path):
    pixels = make_photo(320, 200)
    tab.set_input_files(
        ".ov-target input", {"name": "mine.png", "mimeType": "image/png", "buffer": encoded(pixels, "PNG")}
    )
    expect(tab.locator("#ov-status")).to_contain_text("type the words to look for", timeout=WAIT)
    tab.wait_for_selector('canvas[aria-label="The photograph mine.png"]')
    assert colour(tab, 100, 100) == pytest.approx(pixels[100, 100].tolist(), abs=24)
    ask(tab, "sky|blue sky, grass, a stone wall")
    assert set(names(tab)) <= {"sky", "grass", "a stone wall"} and names(tab)
    ask(tab, "bus, tree")
    assert "was not looked at again" in tab.inner_text("#ov-status")
    assert set(names(tab)) <= {"bus", "tree"}


def test_a_preset_fills_the_words(tab):
    example(tab)
    tab.click("#ov-preset input")
    tab.get_by_role("option", name="voc20").click()
    expect(tab.locator("#ov-words textarea")).to_have_value("voc20")
    tab.click("#ov-go")
    expect(tab.locator(".ov-legend")).to_contain_text("more word", timeout=WAIT)


def test_a_click_says_why(tab):
    example(tab)
    tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
    expect(tab.locator(".ov-why strong")).to_have_text("water")
    rows = tab.locator(".ov-top li")
    expect(rows).to_have_count(5)
    assert rows.nth(0).inner_text().startswith("water")
    assert re.search(r"ahead of the second by \d", tab.inner_text(".ov-why"))
    assert "by “" in tab.inner_text(".ov-top")


def test_everything_is_reached_by_the_keyboard(tab):
    example(tab)
    tab.locator(".ov-mode").focus()
    reached = set()
    for _ in range(14):
        reached.add(tab.evaluate("document.activeElement.className || document.activeElement.tagName"))
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    assert {"ov-mode", "ov-alpha"} <= reached
    for key in ("ArrowUp", "ArrowUp", "Shift+ArrowLeft", "Enter"):
        tab.keyboard.press(key)
    expect(tab.locator(".ov-top li").first).to_be_visible()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    expect(tab.locator('.ov-legend button[aria-pressed="true"]')).to_have_count(1)
    tab.locator(".ov-target input").focus()
    assert tab.evaluate("getComputedStyle(document.querySelector('.ov-target')).outlineStyle") != "none"


def test_one_class_at_a_time_and_heat_maps(tab):
    example(tab)
    water = colour(tab, 300, 20)
    tab.locator(".ov-legend button", has_text="sand").click()
    red, green, blue = colour(tab, 300, 20)
    assert red == green == blue != water  # what is not sand is the grey photograph
    tab.click(".ov-all")
    assert colour(tab, 300, 20) == water
    tab.select_option(".ov-mode", "sure")
    assert colour(tab, 300, 20) != water
    expect(tab.locator(".ov-legend")).to_contain_text("score of each label")
    tab.select_option(".ov-mode", "heat")
    expect(tab.locator(".ov-legend")).to_contain_text("scores of sand")
    high, low = colour(tab, 30, 300), colour(tab, 300, 20)
    assert high[0] > low[0] and high[1] > low[1]  # yellow on the sand, dark on the water


def test_two_answers_side_by_side(tab):
    example(tab)
    tab.click("#ov-compare button")
    tab.check("#ov-twice input")
    tab.fill("#ov-words-b textarea", "boat, sea, ground")
    tab.click("#ov-go")
    tab.wait_for_selector(".ov-difference canvas")
    share = re.search(r"Difference · (\d+)% of the pixels", tab.inner_text(".ov-difference figcaption"))
    assert share and 0 < int(share[1]) <= 100
    assert tab.locator(".ov-pane canvas").count() == 3
    assert "water" in names(tab, 0) and "sea" in names(tab, 1)
    tab.locator(".ov-pane canvas").nth(1).click(position={"x": 150, "y": 30})
    expect(tab.locator(".ov-why strong")).to_have_text("sea")
    tab.uncheck("#ov-twice input")
    tab.click("#ov-go")
    expect(tab.locator(".ov-pane canvas")).to_have_count(1, timeout=WAIT)


def test_downloads(tab, tmp_path):
    example(tab)
    for label, suffix in (
        ("labels", ".png"),
        ("overlay", ".png"),
        ("png palette", ".png"),
        ("report", ".json"),
        ("coco", ".json"),
    ):
        link = tab.locator(".ov-links a", has_text=re.compile(rf"^{label}" + ("" if label == "coco" else "$"))).first
        with tab.expect_download() as waiting:
            link.click()
        content = Path(waiting.value.path()).read_bytes()
        assert waiting.value.suggested_filename.startswith("beach") and waiting.value.suggested_filename.endswith(
            suffix
        )
        if suffix == ".png":
            assert min(Image.open(io.BytesIO(content)).size) > 100
        else:
            assert json.loads(content)


def test_a_correction_survives_a_reload_and_is_exported(tab):
    example(tab)
    tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
    tab.fill(".ov-correct input", "the open sea")
    tab.click(".ov-rename")
    expect(tab.locator(".ov-legend")).to_contain_text("the open sea")
    assert "water" not in names(tab)
    tab.reload()
    expect(tab.locator("#ov-status")).to_contain_text("this is where you were", timeout=WAIT)
    expect(tab.locator(".ov-legend")).to_contain_text("the open sea")
    assert tab.input_value("#ov-words textarea").startswith("sailboat")
    with tab.expect_download() as waiting:
        tab.locator(".ov-links a", has_text="dataset").click()
    assert waiting.value.suggested_filename == "beach.dataset.zip"
    tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
    expect(tab.locator(".ov-why")).to_contain_text("named by hand")
    tab.click(".ov-undo")
    expect(tab.locator(".ov-legend")).to_contain_text("water")


def test_mistakes_are_one_line_beside_the_button(tab):
    tab.click("#ov-go")
    expect(tab.locator("#ov-status")).to_contain_text("open a photograph first")
    tab.set_input_files(".ov-target input", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no image"})
    expect(tab.locator("#ov-status")).to_contain_text("holds text, not an image")
    example(tab)
    tab.fill("#ov-words textarea", "cat, cat")
    tab.click("#ov-go")
    expect(tab.locator("#ov-status")).to_contain_text("duplicate names: 'cat'")
    expect(tab.locator("#ov-status [role=alert]")).to_be_visible()
    expect(tab.locator(".ov-legend")).to_contain_text("sand")  # the answer before is still there


def test_names_are_text_everywhere(tab):
    """In the legend, in reasons, in corrections, in messages: nothing of a name is run or loaded."""
    example(tab)
    ask(tab, f"{NASTY}|<b>bold|water|sea, sand|beach")
    assert NASTY in names(tab)
    tab.locator(".ov-pane canvas").click(position={"x": 300, "y": 40})
    expect(tab.locator(".ov-why strong")).to_have_text(NASTY)
    tab.fill(".ov-correct input", "<script>document.title=2")
    tab.click(".ov-rename")
    expect(tab.locator(".ov-legend")).to_contain_text("<script>document.title=2")
    tab.fill("#ov-words textarea", f"{NASTY}, {NASTY}")
    tab.click("#ov-go")
    expect(tab.locator("#ov-status")).to_contain_text("<img src=x onerror=")
    assert tab.title() == "ovseg" and tab.locator("img[src=x]").count() == 0 and tab.locator(".ov-view b").count() == 0


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overlaps_and_letters_are_readable(browser, page, width, scheme, tmp_path):
    for tab in opened(browser, page.address, color_scheme=scheme):
        tab.set_viewport_size({"width": width, "height": 844})
        example(tab, "street")
        tab.locator(".ov-pane canvas").click(position={"x": 100, "y": 90})
        tab.wait_for_selector(".ov-top li")
        tab.click("#ov-compare button")
        tab.check("#ov-twice input")
        tab.click("#ov-go")
        tab.wait_for_selector(".ov-difference canvas")
        tab.wait_for_timeout(400)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = ".ov-head, .ov-drop, #ov-words, #ov-model, #ov-background, #ov-compare, #ov-go, #ov-stop, #ov-status, "
        boxes += ".ov-bar, .ov-pane canvas, .ov-legend, .ov-why, .ov-files, .ov-notes li"
        assert tab.evaluate(OVERLAPS, boxes) == []
        assert tab.evaluate(FAINT, ".ov-view, .ov-drop, .ov-head, #ov-status, #ov-words, #ov-go") == []
        assert tab.evaluate("[...document.images].filter((one) => !one.alt).length") == 0
        assert tab.evaluate("[...document.querySelectorAll('canvas')].filter((c) => !c.ariaLabel).length") == 0
        picture = np.asarray(Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("L"))
        assert picture.shape[1] == width and (picture.mean() > 128) == (scheme == "light")


# Pairs of parts whose boxes share more than two pixels each way.
OVERLAPS = """(selector) => {
  const parts = [...document.querySelectorAll(selector)].filter((one) => one.getClientRects().length);
  const found = [];
  parts.forEach((one, i) => parts.slice(i + 1).forEach((other) => {
    if (one.contains(other) || other.contains(one)) return;
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 2 && high > 2) found.push(`${one.id || one.className} and ${other.id || other.className}`);
  }));
  return found;
}"""
# Texts whose contrast to their ground is below 4.5 to 1 (WCAG 2 AA), but for what is switched off.
FAINT = """(selector) => {
  const channel = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const found = parse(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const root of document.querySelectorAll(selector)) for (const node of root.querySelectorAll('*')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.disabled || !node.getClientRects().length) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const told = `${node.className || node.tagName} ${ratio.toFixed(2)}: ${node.textContent.slice(0, 30)}`;
    if (ratio < 4.5) found.push(told);
  }
  return found;
}"""
