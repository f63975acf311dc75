"""datasets/README.md is what the registry says now."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_datasets_page as tool

from ovseg.data.benchmarks import BENCHMARKS


def test_the_page_is_up_to_date(capsys):
    assert tool.main(["--check"]) == 0, "run tools/make_datasets_page.py"
    assert "up to date" in capsys.readouterr().out


def test_every_download_and_every_name_is_on_it(tmp_path, monkeypatch):
    text = tool.page()
    for one in BENCHMARKS.values():
        assert f"\n## {one.name}: " in text and one.rule in text
        assert all((source.url or source.page) in text and source.what in text for source in one.sources)
    monkeypatch.setattr(tool, "PAGE", tmp_path / "README.md")
    assert tool.main(["--check"]) == 1 and tool.main([]) == 0 and tool.main(["--check"]) == 0
