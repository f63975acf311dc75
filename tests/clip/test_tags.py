"""Where the weights of open_clip's tags are: every tag that it knows leads to files of the hub or to URLs."""

from __future__ import annotations

import re
from dataclasses import replace

import open_clip
import pytest

from ovseg.checkpoint.hub import OPEN, Source
from ovseg.clip.tags import fetch_tag, local_tag, tag_sources
from ovseg.errors import DownloadError
from tests.hub_double import HubDouble, sha256


@pytest.mark.parametrize(("arch", "tag"), open_clip.list_pretrained())
def test_every_tag_leads_somewhere(arch, tag):
    sources = tag_sources(open_clip.get_pretrained_cfg(arch, tag))
    assert sources and all(source.url or re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo) for source in sources)
    assert all(len(source.sha256) in (0, 8, 64) for source in sources)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"hf_hub": "a/b/"},
            [Source("a/b", "open_clip_model.safetensors"), Source("a/b", "open_clip_pytorch_model.bin")],
        ),
        ({"hf_hub": "a/b/c.bin"}, [Source("a/b", "c.safetensors"), Source("a/b", "c.bin")]),
        ({"hf_hub": "a/b/c.pt"}, [Source("a/b", "c.pt")]),
        ({"hf_hub": "a/b/c.safetensors", "url": ""}, [Source("a/b", "c.safetensors")]),
        (
            {"url": f"https://openaipublic.azureedge.net/clip/models/{'a1' * 32}/RN50.pt"},
            [Source(url=f"https://openaipublic.azureedge.net/clip/models/{'a1' * 32}/RN50.pt", sha256="a1" * 32)],
        ),
        (
            {"url": "https://github.com/mlfoundations/open_clip/releases/download/v0/vit-b-laion400m_e32-46683a32.pt"},
            [
                Source(
                    url="https://github.com/mlfoundations/open_clip/releases/download/v0/vit-b-laion400m_e32-46683a32.pt",
                    sha256="46683a32",
                )
            ],
        ),
        ({"url": "https://x.org/b16.pt"}, [Source(url="https://x.org/b16.pt")]),
    ],
)
def test_sources(config, expected):
    assert tag_sources(config) == [replace(one, gated_alternative=OPEN if one.repo else "") for one in expected]


def test_safetensors_then_the_pickle_then_the_url(tmp_path, monkeypatch):
    with HubDouble({"a/b": {}}, {f"openaipublic/{sha256(b'url')}/RN50.pt": b"url"}) as hub:
        hub.use(monkeypatch, tmp_path)
        config = {"hf_hub": "a/b/", "url": hub.url(f"openaipublic/{sha256(b'url')}/RN50.pt")}
        assert local_tag(config) is None and not hub.requests
        assert fetch_tag("RN50", "openai", config).read_bytes() == b"url"
        hub.requests.clear()
        assert fetch_tag("RN50", "openai", config) == local_tag(config) and not hub.requests
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "other"))
        hub.repos["a/b"]["open_clip_pytorch_model.bin"] = b"pickle"
        assert fetch_tag("RN50", "openai", config).read_bytes() == b"pickle"
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "third"))
        hub.repos["a/b"]["open_clip_model.safetensors"] = b"safe"
        assert fetch_tag("RN50", "openai", config).read_bytes() == b"safe"
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "fourth"))
        hub.gated["a/b"] = 401  # not a file that is missing: no other is taken in its place
        with pytest.raises(DownloadError, match=r"a/b is gated \(401\)"):
            fetch_tag("RN50", "openai", config)
