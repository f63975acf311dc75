"""The house: who may import whom, what the rooms are called, how large a file may be; all read from the source.

Imports count wherever they stand: at the top of a file, in a function, or for types alone. An import of a package is
one of its ``__init__``, an import of a file is one of that file. What a package finds by being in its folder
(registration) is no import, nor is the table of names by which `ovseg` fetches its own API.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "ovseg"

# From the ground up; rooms of one line may import each other one way only.
FLOORS = (
    ("errors", "_version"),
    ("config", "system", "refinement", "losses"),
    ("vocabulary", "ops", "checkpoint"),
    ("clip", "proposals", "aggregation", "data", "doctor"),
    ("result", "guides"),
    ("contract", "regions"),
    ("segmenter", "labelling"),
    ("recalibration",),
    ("meta_arch",),
    ("zoo",),
    ("jobs",),
    ("evaluation",),
    ("engine", "export"),
    ("serve", "cli"),
    ("__init__",),  # the API; inside of the package nobody asks it
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = {"__init__.py", "segmenter.py", "contract.py", "errors.py", "config.py", "doctor.py", "_version.py", "py.typed"}
FOLDERS = {room for room in FLOOR if f"{room}.py" not in FILES} | {"assets"}
HOMES = ("recalibration", "meta_arch")
LINES, FUNCTION_LINES, DEPTH = 400, 60, 3
DEVICES = ("cpu", "cuda", "mps")


class Import(NamedTuple):
    """One import inside the package, by the dotted names of both files."""

    source: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.source.replace('.', '/')}:{self.line} imports {self.target}"


def dotted(path: Path, house: Path) -> str:
    return ".".join(path.relative_to(house.parent).with_suffix("").parts)


def sources(house: Path) -> list[Path]:
    return sorted(path for path in house.rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(house: Path) -> list[Import]:
    """Return all imports of files of a package by files of it."""
    known = {dotted(path, house) for path in sources(house)}
    bound = {
        name: names_of(house.parent / f"{name.replace('.', '/')}.py") for name in known if name.endswith("__init__")
    }

    def file_of(module: str) -> str | None:
        return next((name for name in (module, f"{module}.__init__") if name in known), None)

    def targets(node: ast.AST) -> Iterator[str | None]:
        if isinstance(node, ast.Import):
            yield from (file_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            for alias in node.names:
                own = alias.name in bound.get(f"{module}.__init__", ())  # the package has it, whatever files are called
                yield (None if own else file_of(f"{module}.{alias.name}")) or file_of(module)

    found = set()
    for path in sources(house):
        for node in ast.walk(tree_of(path)):
            found |= {Import(dotted(path, house), node.lineno, target) for target in targets(node) if target}
    return sorted(one for one in found if one.source != one.target)


def names_of(path: Path) -> set[str]:
    """Return the names that the top of a file binds by definitions and by imports from files."""
    found = set[str]()
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """Return the strongly connected parts of a graph that have more than one node."""
    after: dict[str, set[str]] = {}
    for source, target in edges:
        after.setdefault(source, set()).add(target)

    def reach(start: str) -> set[str]:
        seen, left = set[str](), [start]
        while left:
            fresh = after.get(left.pop(), set()) - seen
            seen |= fresh
            left += fresh
        return seen

    reached = {node: reach(node) for node in after}
    parts = {frozenset(other for other in seen if node in reached.get(other, ())) for node, seen in reached.items()}
    return sorted((set(part) for part in parts if len(part) > 1), key=min)


def room_of(name: str) -> str:
    return name.split(".")[1]


def within(imports: list[Import], part: set[str]) -> list[str]:
    return [str(one) for one in imports if {one.source, one.target} <= part]


def circles_of_files(imports: list[Import]) -> list[str]:
    return [line for part in circles({(i.source, i.target) for i in imports}) for line in within(imports, part)]


def circles_of_rooms(imports: list[Import]) -> list[str]:
    between = [one for one in imports if room_of(one.source) != room_of(one.target)]
    found = circles({(room_of(one.source), room_of(one.target)) for one in between})
    return [str(i) for part in found for i in between if {room_of(i.source), room_of(i.target)} <= part]


def upward(imports: list[Import]) -> list[str]:
    """Return the imports of a room on a higher floor; rooms that have no floor are another test's."""
    rooms = [(FLOOR.get(room_of(one.source)), FLOOR.get(room_of(one.target)), one) for one in imports]
    return [str(one) for source, target, one in rooms if source is not None and target is not None and source < target]


def home_of(name: str) -> str:
    """Return the file or folder of a room that a file belongs to, such as ``meta_arch.san``."""
    return ".".join(name.split(".")[1:3])


def registered(house: Path, room: str) -> set[str]:
    """Return the homes of a room: those of its files and folders that put a class into a registry."""
    return {
        home_of(dotted(path, house))
        for path in sources(house / room)
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef) and any("REGISTRY" in ast.unparse(one) for one in node.decorator_list)
    }


def sideways(house: Path, imports: list[Import], room: str) -> list[str]:
    """Return imports of a home by anything else in its room but the ``__init__`` that lists them."""
    homes, listing = registered(house, room), f"{room}.__init__"
    inside = [one for one in imports if room_of(one.source) == room_of(one.target) == room]
    pairs = [(home_of(one.source), home_of(one.target), one) for one in inside]
    return [str(one) for source, target, one in pairs if target in homes and source not in (target, listing)]


def strangers(house: Path) -> list[str]:
    """Return what lies in the root of the package and should not."""
    return sorted(
        path.name
        for path in house.iterdir()
        if path.name not in (FOLDERS if path.is_dir() else FILES) and path.name != "__pycache__"
    )


def too_large(folder: Path) -> list[str]:
    """Return files and functions that are too long, and folders that are too deep."""
    found = []
    for path in sources(folder):
        name, lines = path.relative_to(folder.parent), len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINES:
            found.append(f"{name} has {lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    found.append(f"{name}:{node.lineno} {node.name} has {length} lines")
        if len(name.parts) - 2 > DEPTH:
            found.append(f"{name} lies {len(name.parts) - 2} folders deep")
    return found


def devices_and_asserts(house: Path) -> list[str]:
    """Return where devices are named outside of the one file for it, and asserts, which ``python -O`` leaves out."""
    found = []
    for path in sources(house):
        tree, name = tree_of(path), path.relative_to(house.parent)
        attributes = {id(call.args[1]) for call in ast.walk(tree) if _is_hasattr(call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found.append(f"{name}:{node.lineno} asserts")
            if isinstance(node, ast.Constant) and node.value in DEVICES and id(node) not in attributes:
                if path != house / "system/device.py":
                    found.append(f"{name}:{node.lineno} names the device {node.value}")
    return sorted(found)


def _is_hasattr(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return imports_of(HOUSE)


def check(found: list[str], what: str) -> None:
    assert not found, f"{len(found)} {what}:\n" + "\n".join(found)


def test_no_circle_of_files(imports: list[Import]) -> None:
    check(circles_of_files(imports), "imports are in a circle of files")


def test_no_circle_of_rooms(imports: list[Import]) -> None:
    check(circles_of_rooms(imports), "imports are in a circle of rooms")


def test_no_import_goes_up(imports: list[Import]) -> None:
    check(upward(imports), "imports go against the order of rooms")


def test_every_room_has_a_name() -> None:
    check(strangers(HOUSE), "things in the root of the package are no rooms")


@pytest.mark.parametrize("room", HOMES)
def test_no_import_goes_sideways(imports: list[Import], room: str) -> None:
    assert len(registered(HOUSE, room)) > 3
    check(sideways(HOUSE, imports, room), f"imports of {room} leave a home for another")


@pytest.mark.parametrize("folder", ["ovseg", "tools", "datasets"])
def test_nothing_is_too_large(folder: str) -> None:
    check(too_large(ROOT / folder), "things are too large")


def test_devices_are_named_in_one_file_and_nothing_is_asserted() -> None:
    check(devices_and_asserts(HOUSE), "devices or asserts are in the way")


def test_the_tests_find_what_they_look_for(tmp_path: Path) -> None:
    house = tmp_path / "ovseg"
    long = "def long():\n" + "    pass\n" * FUNCTION_LINES
    register = "@X_REGISTRY.register()\nclass {}:\n    pass\n"
    for name, text in {
        "__init__.py": "",
        "attic.py": "",
        "errors.py": "def f():\n    from ovseg.clip.a import x\n",  # up
        "clip/__init__.py": "from ovseg.clip.a import x",
        "clip/a.py": "import typing\nif typing.TYPE_CHECKING:\n    from ovseg.clip import b\n",
        "clip/b.py": "from ovseg.clip import x",  # by __init__ and a, in a circle
        "data/__init__.py": "import ovseg.clip.b",
        "proposals/__init__.py": "from ovseg import data\n" + long,
        "clip/c.py": "from ovseg import proposals",  # clip, proposals, data: a circle of rooms
        "meta_arch/one.py": "from ovseg.meta_arch.two.model import Two\n" + register.format("One"),
        "meta_arch/two/model.py": "from ovseg.meta_arch.base import x\n" + register.format("Two"),
        "meta_arch/base.py": "\n" * LINES + "x = 1",
        "system/a/b/c/d/e.py": "",
        "system/device.py": "x = 'cuda'",
        "refinement/x.py": "x = 'cuda'\nassert x\nhasattr(x, 'cpu')",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    found = imports_of(house)
    assert circles_of_files(found) == [
        "ovseg/clip/__init__:1 imports ovseg.clip.a",
        "ovseg/clip/a:3 imports ovseg.clip.b",
        "ovseg/clip/b:1 imports ovseg.clip.__init__",
    ]
    assert circles_of_rooms(found) == [
        "ovseg/clip/c:1 imports ovseg.proposals.__init__",
        "ovseg/data/__init__:1 imports ovseg.clip.b",
        "ovseg/proposals/__init__:1 imports ovseg.data.__init__",
    ]
    assert upward(found) == ["ovseg/errors:2 imports ovseg.clip.a"]
    assert sideways(house, found, "meta_arch") == ["ovseg/meta_arch/one:1 imports ovseg.meta_arch.two.model"]
    assert strangers(house) == ["attic.py"]
    assert too_large(house) == [
        "ovseg/meta_arch/base.py has 401 lines",
        f"ovseg/proposals/__init__.py:2 long has {FUNCTION_LINES + 1} lines",
        "ovseg/system/a/b/c/d/e.py lies 5 folders deep",
    ]
    assert devices_and_asserts(house) == [
        "ovseg/refinement/x.py:1 names the device cuda",
        "ovseg/refinement/x.py:2 asserts",
    ]
