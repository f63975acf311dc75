"""docs/words.md is the table of forms; each of its rows is a test, so that page and reader cannot drift apart."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from ovseg.errors import OvsegError, VocabularyError
from ovseg.vocabulary import Vocabulary, parse_background

PAGE = Path(__file__).parents[2] / "docs" / "words.md"
SIGNS = str.maketrans({"⏎": "\n", "␍": "\r", "⇥": "\t"})


class Form(NamedTuple):
    given: str
    example: str
    becomes: str
    says: list[str]


def rows() -> list[Form]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0] not in ("given", "---"):
            given, example, becomes, says = cells
            assert example[0] == example[-1] == "`"
            parts = [part for part in says.split(" + ") if part]
            found.append(Form(given, example[1:-1].translate(SIGNS), becomes.strip("`"), parts))
    return found


def read(form: Form, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Read an example as its row says, and return what it becomes and the notes."""
    if form.given == "background":
        policy = parse_background(form.example)
        assert parse_background(policy.policy) == policy
        return ", ".join(policy.words), policy.notes
    if form.given.startswith("file"):
        source = folder / form.given.split("`")[1]
        source.write_bytes(form.example.encode())
        assert Vocabulary.parse(str(source)).notes == Vocabulary.parse(source).notes  # as on the command line
    else:
        source = ast.literal_eval(form.example) if form.given == "list" else form.example
    words = Vocabulary.parse(source)
    again = Vocabulary.parse(words.to_json())
    assert (again, [entry.id for entry in again]) == (words, [entry.id for entry in words])
    ids = ["" if entry.id is None else f" ({entry.id})" for entry in words]
    return ", ".join(" = ".join(entry.names) + own for entry, own in zip(words, ids, strict=True)), words.notes


@pytest.mark.parametrize("form", rows(), ids=lambda form: f"{form.given}: {form.example}"[:60])
def test_every_form_of_the_page(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if form.becomes == "refused":
        with pytest.raises(OvsegError) as caught:
            read(form, tmp_path)
        message = str(caught.value)
        assert form.says and all(part in message for part in form.says), message
        assert message.isprintable()
        return
    becomes, notes = read(form, tmp_path)
    assert becomes == form.becomes
    assert len(notes) == len(form.says), notes
    assert all(any(part in note for note in notes) for part in form.says), notes
    assert all(note.isprintable() for note in notes)


def test_the_page_has_all_kinds() -> None:
    given = [form.given.split(" ")[0] for form in rows()]
    assert {kind: given.count(kind) > 5 for kind in ("text", "file", "list", "background")} == dict.fromkeys(
        ("text", "file", "list", "background"), True
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "latin-1", "cp932"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    words = ["喫茶", "猫"] if encoding == "cp932" else ["café", "kočka" if encoding != "latin-1" else "chaîne"]
    path = tmp_path / "words.txt"
    path.write_bytes("\r\n".join(words).encode(encoding))
    if encoding in ("utf-16-le", "utf-16-be", "latin-1", "cp932"):  # no mark: it may be anything
        with pytest.raises(VocabularyError, match="UTF-8"):
            Vocabulary.parse(path)
        return
    found = Vocabulary.parse(path)
    assert found.names == words
    assert [note.split(" ")[-1] for note in found.notes] == ([] if encoding == "utf-8-sig" else [encoding.upper()])


@pytest.mark.parametrize(
    ("start", "words"), [(b"PK\x03\x04..", "save the sheet as CSV"), (b"%PDF-1.7", "PDF"), (b"\x00\x01", "no text")]
)
def test_what_is_no_text(start: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "words.xlsx"
    path.write_bytes(start)
    with pytest.raises(VocabularyError, match=words):
        Vocabulary.parse(path)


def test_a_word_that_is_also_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    for path in ("cat", "lists/pets"):
        (tmp_path / path).write_text("tom\nfelix\n")
    with pytest.raises(VocabularyError, match=r"write './cat' for the file, or 'cat,' for the word"):
        Vocabulary.parse("cat")
    assert Vocabulary.parse("./cat").names == Vocabulary.parse("lists/pets").names == ["tom", "felix"]
    assert Vocabulary.parse("cat,").names == ["cat"]


def test_background_words_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "surroundings.txt"
    path.write_text("# mine\nsky\nwall\n")
    found = parse_background(str(path))
    assert found.words == ("sky", "wall") and found.notes == ("comments were left out: '# mine'",)
    assert parse_background(found.policy) == found


def test_ids_and_notes_change_no_equality_and_no_hash() -> None:
    plain, numbered = Vocabulary.parse("cat, dog"), Vocabulary.parse("7: cat, 3: dog")
    assert plain == numbered and plain.hash == numbered.hash and hash(plain) == hash(numbered)
    assert (plain.ids, numbered.ids) == (None, [7, 3])
    assert plain.notes == () and len(numbered.notes) == 2


def test_presets_have_no_ids_of_a_user() -> None:
    assert Vocabulary.parse("ade150").ids is None and Vocabulary.parse("ade150").notes == ()


def test_the_model_is_asked_with_spaces() -> None:
    words = Vocabulary.parse("traffic_light|stop_light, _")
    assert words.names == ["traffic_light", "_"]
    assert words.queries == ["traffic light", "stop light", "_"]
