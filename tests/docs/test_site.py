"""The site is built strictly, asks nothing of other machines, and shows what README and the repository link to."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ovseg
from tests.docs.blocks import ROOT

LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src")}
"""What a browser fetches by itself when it opens a page; of links the relations of `FETCHED` alone."""
FETCHED = {"stylesheet", "icon", "preload", "preconnect", "modulepreload", "shortcut icon"}


class Links(HTMLParser):
    """What a page loads, what it links to, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: text or "" for name, text in attrs}
        self.places.add(given.get("id", ""))
        for name, text in given.items():
            if (tag, name) in LOADED and (tag != "link" or given.get("rel") in FETCHED):
                self.loaded.append(text)
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mkdocs = pytest.importorskip("mkdocs.commands.build", reason="the extra docs is not installed")
    from mkdocs.config import load_config
    from mkdocs.utils import CountHandler

    folder = tmp_path_factory.mktemp("site")
    counter = CountHandler()
    counter.setLevel(logging.WARNING)
    logging.getLogger("mkdocs").addHandler(counter)
    try:
        mkdocs.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    finally:
        logging.getLogger("mkdocs").removeHandler(counter)
    assert counter.get_counts() == []
    return folder


@pytest.mark.slow
def test_every_page_is_whole_and_asks_nothing_of_others(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    for path, page in pages.items():
        for address in page.loaded:
            assert not urlsplit(address).netloc, f"{path.name} loads {address}"
        for address in page.linked + page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, f"{path.name} links to {address}"


@pytest.mark.slow
def test_styles_and_scripts_ask_nothing_of_others(site: Path) -> None:
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.slow
def test_what_is_linked_in_the_repository_is_shown(site: Path) -> None:
    """README is the first page, and a source file that a page links to is a page that shows it."""
    assert "label for every pixel" in (site / "index.html").read_text(encoding="utf-8")
    source = (site / "source/ovseg/recalibration/naclip.py.html").read_text(encoding="utf-8")
    assert "class NACLIP" in re.sub("<.*?>", "", source)
    assert "<td><code>cat|kitten, sofa</code></td>" in (site / "words.html").read_text(encoding="utf-8")
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in {*ovseg.__all__, "Segmenter.encode", "Vocabulary.parse"} - {"__version__"}:
        assert re.search(rf'id="ovseg\.[\w.]*{re.escape(name)}"', api), f"{name} is not on docs/api.md"
