from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovseg.errors import ConfigError
from ovseg.vocabulary import TextCache
from ovseg.vocabulary import cache as module
from ovseg.vocabulary.cache import MANY_SHARDS, text_space

SPACE = text_space("fake", "0", "torch.float32", ["a {}"])


def row(text: str) -> torch.Tensor:
    return torch.randn(16, generator=torch.Generator().manual_seed(sum(text.encode()) + len(text)))


def fill(cache: TextCache, texts: list[str]) -> None:
    cache.put(SPACE, texts, torch.stack([row(text) for text in texts]))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def known(folder: Path, texts: list[str]) -> list[str]:
    """Return which texts a new process would find, all with the right values."""
    found = TextCache(folder).get(SPACE, texts)
    assert all(torch.equal(value, row(text)) for text, value in found.items())
    return [text for text in texts if text in found]


def test_round_trip_and_listing(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    texts = ["cat", "🐱", "قطة", 'a\\b"c']
    assert cache.get(SPACE, texts) == {} and cache.entries() == [] and cache.size() == 0
    fill(cache, texts)
    assert known(tmp_path, [*texts, "unknown"]) == texts
    assert cache.get(text_space("other", "0", "torch.float32", ["a {}"]), texts) == {}
    (entry,) = cache.entries()
    assert (entry.model, entry.templates, entry.texts) == ("fake", 1, 4)
    assert entry.size == entry.path.stat().st_size == cache.size()
    assert cache.clear() == entry.size and cache.entries() == [] and known(tmp_path, texts) == []
    assert TextCache(tmp_path / "absent").clear() == 0


def test_default_folder_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    monkeypatch.delenv("OVSEG_TEXT_CACHE_MB", raising=False)
    assert TextCache().folder == tmp_path / "text" and TextCache().limit == 512_000_000
    monkeypatch.setenv("OVSEG_TEXT_CACHE_MB", "2.5")
    assert TextCache().limit == 2_500_000 and TextCache(limit_mb=1).limit == 1_000_000
    for bad in ("lots", "-1", "nan", "inf"):
        monkeypatch.setenv("OVSEG_TEXT_CACHE_MB", bad)
        with pytest.raises(ConfigError, match="OVSEG_TEXT_CACHE_MB"):
            TextCache()


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        del data[-20:]
    elif how == "header":
        data[:8] = b"\xff" * 8
    elif how == "empty":
        data.clear()
    elif how == "one bit":
        data[-3] ^= 4
    elif how == "noise":
        data[:] = os.urandom(len(data))
    path.write_bytes(data)
    if how == "foreign":
        save_file({"weights": torch.zeros(3)}, path)
    elif how == "foreign header":
        save_file({"embeddings": torch.zeros(3)}, path, {"texts": "3", "checksum": "", "model": "", "templates": "1"})


@pytest.mark.parametrize("how", ["truncated", "header", "empty", "one bit", "noise", "foreign", "foreign header"])
@pytest.mark.parametrize("seen_before", [False, True])
def test_damaged_files_are_replaced_with_one_warning(tmp_path: Path, how: str, seen_before: bool) -> None:
    fill(TextCache(tmp_path), ["cat"])
    fill(TextCache(tmp_path), ["dog"])
    fill(TextCache(tmp_path), ["cow"])
    cache = TextCache(tmp_path)
    if seen_before:
        cache.get(SPACE, ["cat", "dog", "cow"])
    whole = next(path for path in shards(tmp_path) if TextCache(tmp_path)._header(path).rows == {"cow": 0})  # type: ignore[union-attr]
    broken = [path for path in shards(tmp_path) if path != whole]
    for path in broken:
        damage(path, how)
    with pytest.warns(RuntimeWarning, match="damaged") as told:
        assert list(cache.get(SPACE, ["cat", "dog", "cow"])) == ["cow"]
    assert len(told) == 1 and shards(tmp_path) == [whole]
    fill(cache, ["cat", "dog"])
    assert known(tmp_path, ["cat", "dog", "cow"]) == ["cat", "dog", "cow"]


def test_eviction_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, limit_mb=1)
    for age, text in enumerate(["cat", "dog", "cow", "hen"]):
        before = set(shards(tmp_path))
        fill(cache, [text])
        (new,) = set(shards(tmp_path)) - before
        os.utime(new, (1000 + age, 1000 + age))
    cache.get(SPACE, ["cat"])  # now the most recent
    size = shards(tmp_path)[0].stat().st_size
    small = TextCache(tmp_path, limit_mb=2.5 * size / 1e6)
    small.evict()
    assert known(tmp_path, ["cat", "dog", "cow", "hen"]) == ["cat", "hen"]
    fill(small, ["pig"])
    assert small.size() <= small.limit and "pig" in known(tmp_path, ["pig"])
    none = TextCache(tmp_path, limit_mb=0)
    fill(none, ["fox"])
    assert none.size() == 0


def test_only_own_files_are_touched(tmp_path: Path) -> None:
    precious = tmp_path / "models" / "weights.safetensors"
    precious.parent.mkdir()
    save_file({"weights": torch.zeros(1000)}, precious)
    cache = TextCache(tmp_path, limit_mb=0)
    fill(cache, ["cat"])
    assert cache.size() == 0 and cache.entries() == []
    cache.clear()
    assert precious.exists()


def test_many_small_files_are_merged(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    texts = [f"thing {i}" for i in range(3 * MANY_SHARDS)]
    for text in texts:
        fill(cache, [text])
        assert len(shards(tmp_path)) <= MANY_SHARDS + 1
    assert known(tmp_path, texts) == texts
    other = TextCache(tmp_path)
    other.get(SPACE, texts)  # knows the headers of files that then vanish
    for path in shards(tmp_path):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert other.get(SPACE, texts) == {}


def test_ten_thousand_texts_are_few_files_and_quick(tmp_path: Path) -> None:
    texts = [f"thing {i}" for i in range(10_000)]
    rows = torch.randn(10_000, 512)
    cache = TextCache(tmp_path)
    for start in range(0, 10_000, 1024):
        cache.put(SPACE, texts[start : start + 1024], rows[start : start + 1024])
    assert len(shards(tmp_path)) == 10
    start_time = time.perf_counter()
    found = TextCache(tmp_path).get(SPACE, texts)
    assert time.perf_counter() - start_time < 3
    assert torch.equal(torch.stack([found[text] for text in texts]), rows)


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TextCache(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="cannot be written") as told:
        fill(cache, ["cat"])
        fill(cache, ["dog"])
    assert len(told) == 1
    assert cache.get(SPACE, ["cat", "dog", "cow"]).keys() == {"cat", "dog"} and cache.entries() == []  # in memory


WORKER = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {here!r})
from ovseg.vocabulary import TextCache
from ovseg.vocabulary.cache import text_space
space = text_space("fake", "0", "torch.float32", ["a {{}}"])
def row(text):
    return torch.randn(16, generator=torch.Generator().manual_seed(sum(text.encode()) + len(text)))
torch.set_num_threads(1)
cache = TextCache(sys.argv[1])
own = int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range({rounds}):
    texts = [f"own {{own}} {{i}}", f"shared {{i}}"]
    found = cache.get(space, texts)
    for text, value in found.items():
        assert torch.equal(value, row(text)), text
    missing = [text for text in texts if text not in found]
    cache.put(space, missing, torch.stack([row(text) for text in missing])) if missing else None
print("done", flush=True)
"""


def start(folder: Path, own: int, rounds: int) -> subprocess.Popen[str]:
    code = "import warnings; warnings.simplefilter('error')\n" + WORKER.format(here=os.getcwd(), rounds=rounds)
    command = [sys.executable, "-c", code, str(folder), str(own)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_four_processes_at_once(tmp_path: Path) -> None:
    workers = [start(tmp_path, own, 40) for own in range(4)]
    for worker in workers:
        assert worker.stdout and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [worker.communicate()[0] for worker in workers] == ["done\n"] * 4
    texts = [f"own {own} {i}" for own in range(4) for i in range(40)] + [f"shared {i}" for i in range(40)]
    assert known(tmp_path, texts) == texts
    assert not list(tmp_path.glob("*/.*"))


def test_threads_share_a_cache_that_merges_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY_SHARDS", 2)
    every = [f"own {user} {i}" for user in range(8) for i in range(30)]
    cache = TextCache(tmp_path)

    def work(user: int) -> None:
        for i in range(30):
            fill(cache, [f"own {user} {i}"])
            assert all(torch.equal(value, row(text)) for text, value in cache.get(SPACE, every).items())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert known(tmp_path, every) == every


def test_kill_nine_leaves_a_valid_cache(tmp_path: Path) -> None:
    worker = start(tmp_path, 0, 100_000)
    assert worker.stdin and worker.stdout and worker.stdout.readline() == "ready\n"
    worker.stdin.write("go\n")
    worker.stdin.flush()
    deadline = time.monotonic() + 20
    while len(shards(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(known(tmp_path, [f"shared {i}" for i in range(1000)])) >= 2


def test_killed_between_write_and_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TextCache(tmp_path)
    fill(cache, ["cat"])
    leftover = shards(tmp_path)[0].parent / f".{'0' * 32}.tmp"
    leftover.write_bytes(shards(tmp_path)[0].read_bytes()[:50])  # half a file, its writer is dead
    assert known(tmp_path, ["cat", "dog"]) == ["cat"] and len(cache.entries()) == 1
    cache.evict()
    assert leftover.exists()  # perhaps its writer is only slow
    os.utime(leftover, (1000, 1000))
    cache.evict()
    assert not leftover.exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        fill(cache, ["dog"])
    assert not list(tmp_path.glob("*/.*")) and known(tmp_path, ["cat", "dog"]) == ["cat"]
