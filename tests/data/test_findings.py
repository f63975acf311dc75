"""Lines of a kind are those that differ in names, numbers and reasons alone."""

from __future__ import annotations

from ovseg.data.findings import brief, kind_of, kinds


def test_kinds():
    lines = [
        "label 'a/b.png' holds the value 7 (19 pixels); expected 0 to 1",
        "label 'it's.png' holds the value 12 (1 pixels); expected 0 to 1",
        "mask 'a.png' cannot be read (broken PNG file); make it anew",
        "mask '7 don't (2).png' cannot be read (truncated); make it anew",
    ]
    assert kind_of(lines[0]) == kind_of(lines[1]) != kind_of(lines[2]) == kind_of(lines[3])
    assert list(kinds(lines).values()) == [2, 2]


def test_brief_keeps_kinds_together():
    lines = [line for i in range(2009) for line in (f"image '{i}.jpg' is missing", f"label {i} is odd")]
    told = brief(lines, 2)
    assert told == [
        "image '0.jpg' is missing",
        "image '1.jpg' is missing",
        "and 2,007 more of this kind",
        "label 0 is odd",
        "label 1 is odd",
        "and 2,007 more of this kind",
    ]
    assert brief(lines[:4]) == [lines[0], lines[2], lines[1], lines[3]] and brief([]) == []
