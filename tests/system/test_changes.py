"""What has changed between two nested mappings, in words."""

from ovseg.system.values import changes, flat


def test_changes_are_said_by_dotted_keys() -> None:
    before = {"a": 1, "b": {"c": "x", "d": [1]}, "gone": True}
    now = {"a": 1, "b": {"c": "y", "d": [1]}, "new": ""}
    assert changes(before, now) == ["b.c was x, is y", "gone was true, is null", 'new was null, is ""']
    assert changes(before, before) == [] and flat({"a": {}, "b": {"c": 1}}) == {"a": {}, "b.c": 1}


def test_long_values_are_cut() -> None:
    assert changes({"a": "x" * 99}, {"a": 0}) == [f"a was {'x' * 57}..., is 0"]
