from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from ovseg.errors import ConfigError, EnvironmentProblem, UnknownNameError
from ovseg.system.registry import Kind, build, check_options, find, fits, names, options_of, register_all, spelling


class Base:
    def __init__(self, *, residual: bool | None = None, name: str = "base"):
        self.residual, self.name = residual, name


class Sieve(Base):
    def __init__(self, *, mesh: float, sides: tuple[int, ...] = (), name: str = "sieve", **common: Any):
        super().__init__(name=name, **common)
        self.mesh, self.sides = mesh, sides


class Sealed(Base):
    def __init__(self, *, depth: int = 1):
        super().__init__()


def pump(*, strokes: int = 3, mode: Literal["in", "out"] = "in") -> tuple[int, str]:
    return strokes, mode


TOOLS: Kind[Any] = Kind("tool", {"Sieve": Sieve, "pump": pump, "Sealed": Sealed})


def test_names_and_any_case():
    assert names(TOOLS) == ["Sealed", "Sieve", "pump"]
    assert find(TOOLS, "SIEVE") is Sieve and spelling(TOOLS, "PUMP") == "pump"
    with pytest.raises(UnknownNameError, match=r"^unknown tool 'seave'; did you mean Sieve"):
        find(TOOLS, "seave")
    with pytest.raises(UnknownNameError, match="did you mean hammer"):
        find(TOOLS, "hamer", besides=["hammer"])


def test_only_what_counts():
    registry = [("Sieve", Sieve), ("int", int)]
    assert names(Kind("tool", registry, lambda one: issubclass(one, Base))) == ["Sieve"]
    assert names(Kind("tool", registry)) == ["Sieve", "int"]


def test_options_of_classes_that_hand_them_on():
    assert options_of(Sieve).keys() == {"mesh", "sides", "name", "residual"}
    assert options_of(Sieve)["name"].default == "sieve"  # the nearest class counts
    assert options_of(Sealed).keys() == {"depth"}  # it hands nothing on
    sieve = build(TOOLS, "sieve", {"mesh": 2, "sides": [1, 2], "residual": False})
    assert (sieve.mesh, sieve.sides, sieve.residual, sieve.name) == (2, (1, 2), False, "sieve")
    assert build(TOOLS, "pump") == (3, "in")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sieve", {"mesh": 1.0, "side": [1]}, "unknown option 'side' of Sieve; did you mean sides"),
        ("sieve", {"xyz": 1}, "unknown option 'xyz' of Sieve; known: mesh, name, residual, sides"),
        ("sieve", {}, r"Sieve is missing a required option 'mesh' \(float\); give it"),
        ("sieve", {"mesh": "1"}, r"option mesh is '1' \(str\); expected float"),
        ("sieve", {"mesh": True}, r"option mesh is True \(bool\); expected float"),
        ("sieve", {"mesh": None}, r"option mesh is None \(None\); expected float"),
        ("sieve", {"mesh": 1.0, "sides": [1, "2"]}, r"sides is \[1, '2'\] \(list\); expected tuple\[int, ...\]"),
        ("sieve", {"mesh": 1.0, "residual": "no"}, r"residual is 'no' \(str\); expected None or bool"),
        ("pump", {"strokes": 2.5}, r"strokes is 2.5 \(float\); expected int"),
        ("pump", {"mode": "up"}, r"mode is 'up' \(str\); expected 'in' or 'out'"),
    ],
)
def test_mistakes_are_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(TOOLS, name, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected", "good"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, bool, True),
        (None, None, True),
        (None, float | None, True),
        (3, str | float, True),
        ((1, 2), tuple[float, float], True),
        ([1, 2, 3], tuple[float, float], False),
        ([1, 2], Sequence[int], True),
        ("ab", Sequence[str], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        ({"a": 1}, dict, True),
        (Path("x"), str | Path, True),
        (object(), Any, True),
        ([1], tuple, True),
        (1, Literal[1, 2], True),
        (1.0, Literal[1, 2], False),
    ],
)
def test_types(value, expected, good):
    assert fits(value, expected) is good


def test_what_has_no_type_takes_everything():
    def maker(*, free=1):
        return free

    assert check_options("maker", options_of(maker), {"free": [1]}) == {"free": [1]}


SOURCE = """
{first}
from ovseg.errors import OvsegError
def maker(*, width: float = 1.0, kind: int | None = None): return width
"""


@pytest.mark.parametrize("first", ["", "from __future__ import annotations"])
def test_types_are_read_with_and_without_the_future(first):
    space: dict[str, Any] = {"__name__": "brand_new"}
    exec(compile(SOURCE.format(first=first), "brand_new.py", "exec", dont_inherit=True), space)
    kind: Kind[Any] = Kind("maker", {"maker": space["maker"]})
    assert build(kind, "maker", {"width": 2, "kind": 3}) == 2
    with pytest.raises(ConfigError, match=r"width is '2' \(str\); expected float"):
        build(kind, "maker", {"width": "2"})
    with pytest.raises(ConfigError, match=r"kind is 2.0 \(float\); expected None or int"):
        build(kind, "maker", {"kind": 2.0})


def test_a_type_that_exists_for_type_checkers_alone():
    def maker(*, width: Nowhere = 1):  # noqa: F821
        return width

    with pytest.raises(EnvironmentProblem, match=r"option types of maker cannot be read .*Nowhere.*; import what"):
        options_of(maker)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a file, a sub-package and a module for what they add; and a folder of a user."""
    home, own = tmp_path / "toolbox", tmp_path / "own"
    (home / "drills").mkdir(parents=True)
    own.mkdir()
    (home / "__init__.py").write_text("FOUND = []\n")
    (home / "saw.py").write_text("from toolbox import FOUND\nFOUND.append('saw')\n")
    (home / "drills/__init__.py").write_text("from toolbox import FOUND\nFOUND.append('drills')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OWN_TOOLS", str(own))
    yield own
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolbox"]:
        del sys.modules[name]


def test_being_in_the_folder_is_enough(package):
    (package / "axe.py").write_text("from toolbox import FOUND\nFOUND.append('axe')\n")
    for _ in range(2):  # a second time finds nothing new, and is no mistake
        register_all("toolbox", "OWN_TOOLS")
    assert sys.modules["toolbox"].FOUND == ["drills", "saw", "axe"]


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("axe.py", "def broken(:", r"'axe' in .*own cannot be imported \(SyntaxError"),
        ("axe.py", "raise RuntimeError('two\\nlines')", r"'axe' in .*own cannot be imported \(RuntimeError: two\)"),
        ("saw.py", "", "'saw' in .*own is called like another file of toolbox; rename it"),
    ],
)
def test_mistakes_in_a_folder_of_a_user(package, file, source, message):
    (package / file).write_text(source)
    with pytest.raises(EnvironmentProblem, match=message):
        register_all("toolbox", "OWN_TOOLS")


def test_a_folder_that_is_none(package, monkeypatch):
    monkeypatch.setenv("OWN_TOOLS", str(package / "nowhere"))
    with pytest.raises(EnvironmentProblem, match=r"OWN_TOOLS names '.*nowhere', which is no folder; correct or unset"):
        register_all("toolbox", "OWN_TOOLS")


def test_every_kind_of_the_package_can_be_listed():
    from ovseg.data.benchmarks.registry import KIND as BENCHMARKS
    from ovseg.evaluation.robustness.corruptions import KIND as CORRUPTIONS
    from ovseg.guides import GUIDES
    from ovseg.meta_arch import ARCHITECTURES
    from ovseg.recalibration import RECALIBRATIONS
    from ovseg.regions import REGIONS
    from ovseg.vocabulary.background import BACKGROUNDS

    kinds = (BENCHMARKS, CORRUPTIONS, GUIDES, ARCHITECTURES, RECALIBRATIONS, REGIONS, BACKGROUNDS)
    assert len({kind.word for kind in kinds}) == len(kinds)
    for kind, one in zip(kinds, ("VOC20", "Fog", "TIMM", "san", "gem", "sam", "WORDS"), strict=True):
        assert spelling(kind, one).casefold() == one.casefold()
        assert len(names(kind)) == len({name.casefold() for name in names(kind)})
        with pytest.raises(UnknownNameError, match=f"^unknown {kind.word} 'nosuchname'; "):
            find(kind, "nosuchname")
