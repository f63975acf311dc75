"""Things picked by clicks in a real browser."""

from __future__ import annotations

from tests.serve.browser import CHROMIUM_ALONE, WAIT, colour, example, expect

pytestmark = CHROMIUM_ALONE
SEA = {"x": 300, "y": 40}


def test_a_click_picks_a_thing_and_is_taken_back(tab):
    example(tab)
    before = colour(tab, 300, 60)
    tab.locator(".ov-pane canvas").click(position=SEA)
    names = tab.locator(".ov-picked li .ov-name")
    expect(names).to_have_count(5, timeout=WAIT)
    expect(names.first).to_have_text("water")
    expect(tab.locator(".ov-point")).to_contain_text("by 1 click,")
    assert colour(tab, 300, 60) != before
    tab.locator(".ov-pane canvas").click(position={"x": 320, "y": 50}, modifiers=["Shift"])
    expect(tab.locator(".ov-point")).to_contain_text("by 2 clicks", timeout=WAIT)
    tab.locator(".ov-pane canvas").click(position={"x": 60, "y": 250}, modifiers=["Alt"])
    expect(tab.locator(".ov-point")).to_contain_text("by 3 clicks", timeout=WAIT)
    tab.keyboard.press("Control+z")
    expect(tab.locator(".ov-point")).to_contain_text("by 2 clicks", timeout=WAIT)
    tab.click(".ov-point-undo")
    expect(tab.locator(".ov-point")).to_contain_text("by 1 click,", timeout=WAIT)
    tab.click(".ov-point-clear")
    expect(names).to_have_count(0, timeout=WAIT)
    assert colour(tab, 300, 60) == before


def test_clicks_by_the_keyboard_and_without_modifiers(tab):
    example(tab)
    tab.locator(".ov-pane canvas").focus()
    tab.keyboard.press("Enter")
    expect(tab.locator(".ov-point")).to_contain_text("by 1 click,", timeout=WAIT)
    tab.select_option(".ov-how", "more")
    tab.locator(".ov-pane canvas").click(position=SEA)
    expect(tab.locator(".ov-point")).to_contain_text("by 2 clicks", timeout=WAIT)
