"""The benchmark of models that propose masks, on tiny ones: what it counts, prints, writes and fails on."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.common
import benchmarks.models as tool
import benchmarks.stages
from benchmarks.words import random_words, vocabulary_with_synonyms

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_empty, check_config
from ovseg.config import config_root
from ovseg.meta_arch.san.model import SAN
from tests.meta_arch.models import HEADS

RESULTS = {
    "san": ["normalise", "pad", "CLIP", "side adapter", "tokens of masks", "text classifier", "labels"],
    "fcclip": [
        "normalise",
        "pad",
        "trunk",
        "pixel decoder",
        "masked decoder",
        "what CLIP sees in masks",
        "text classifier",
        "CLIP's classifier",
        "ensemble",
        "labels",
        "segments and instances",
    ],
}
ON_REQUEST = ["labels and class maps"]
SMALL = ["--classes", "5", "--many-classes", "40", "--size", "64", "--output-size", "40x56", "--repeats", "2"]


@pytest.fixture(scope="module")
def configs(tiny_clip, tiny_convnext, tmp_path_factory) -> dict[str, str]:
    """Config files of tiny models by the names of the shipped ones that they are made from."""
    folder, found = tmp_path_factory.mktemp("configs"), {}
    parts = {"san": ("SAN", HEADS["SAN"], tiny_clip), "fcclip": ("FCCLIP", HEADS["FCCLIP"], tiny_convnext)}
    for name, (node, head, clip) in parts.items():
        path = folder / f"tiny_{name}.yaml"
        changes = {"CLIP": {"FOLDER": str(clip)}, node: head}
        path.write_text(yaml.safe_dump({"_BASE_": str(config_root() / tool.SHIPPED[name]), "MODEL": changes}))
        found[name] = str(path)
    return found


@pytest.fixture
def here(monkeypatch, tiny_clip) -> None:
    """Measure in this process, beside a tiny CLIP: fresh processes and full towers take seconds."""
    monkeypatch.setattr(tool, "in_fresh_process", lambda measure, case, *_: measure(case))
    monkeypatch.setattr(benchmarks.common, "random_clip", lambda arch, size: ViTClip.from_folder(tiny_clip))
    monkeypatch.setattr(benchmarks.common, "UNIT_SIZE", 32)


def arguments(configs: dict[str, str], *more: str) -> list[str]:
    return ["stages", "--models", ",".join(configs.values()), *SMALL, *more]


def case(config: str, classes: int = 5) -> tool.Case:
    return tool.Case(config, classes, 64, (40, 56))


@pytest.mark.parametrize("name", ["san", "fcclip"])
def test_every_stage_runs_once_for_an_image(configs, name):
    costs = tool.prepare(case(configs[name]))()
    calls = {stage: cost.calls for stage, cost in costs.items()}
    once = [*RESULTS[name], *ON_REQUEST, benchmarks.common.REST, benchmarks.common.WHOLE]
    assert calls == {**dict.fromkeys(once, 1), "text tower": 0}
    assert [stage for stage, cost in costs.items() if cost.extra] == ON_REQUEST
    assert all(cost.seconds > 0 for stage, cost in costs.items() if stage in once)


@pytest.mark.parametrize("name", ["san", "fcclip"])
def test_users_do_not_pay_for_the_map_of_every_class(configs, name):
    model = benchmarks.stages.build(configs[name])
    words = random_words(model, vocabulary_with_synonyms(5))
    stages = benchmarks.stages.kind_of(configs[name]).stages(model)
    costs = benchmarks.stages.call(model, torch.zeros(3, 64, 64), (64, 64), words, stages)
    assert [costs[stage].calls for stage in ON_REQUEST] == [0] and costs["labels"].calls == 1


def test_random_words_are_the_same_for_the_same_text_and_ask_no_tower(configs, monkeypatch):
    model = benchmarks.stages.build(configs["san"])
    monkeypatch.setattr(type(model.clip), "text", lambda *_: pytest.fail("the text tower was asked"))
    few, many = (random_words(model, vocabulary_with_synonyms(count)) for count in (3, 300))
    assert torch.equal(few.embeddings, many.embeddings[: len(few.embeddings)]) and len(few.texts) == 6
    assert len(many.embeddings.unique(dim=0)) == len(many.texts) and model.text_cache is None


@pytest.mark.usefixtures("here")
def test_prints_and_writes_what_it_measured(configs, tmp_path, capsys):
    path = tmp_path / "new folder/costs.json"
    assert benchmark.main(arguments(configs, "--limit-mb", "1000", "--json", str(path))) == 0
    report = json.loads(path.read_text())
    assert (report["classes"], report["many_classes"], report["output_size"]) == (5, 40, [40, 56])
    assert report["problems"] == []
    assert len(report["models"]) == len(configs)
    for found in report["models"]:
        rows = {row["stage"]: row for row in found["stages"]}
        assert list(rows)[-len(ON_REQUEST) :] == ON_REQUEST
        assert {stage for stage, row in rows.items() if row["share"] is None} == set(ON_REQUEST)
        assert rows["whole"]["share"] == 1 and rows["rest"]["extra_mib"] is None
        assert rows["whole"]["seconds"] > rows["labels"]["seconds"] > 0 and found["baseline_seconds"] > 0
        assert len(found["peak_mib"]) == 2 and set(found["growth_mb"]) == set(rows) - {"rest"}
    printed = capsys.readouterr().out
    assert "tiny_san: 64x64 pixels, 5 classes" in printed and "what CLIP sees in masks" in printed
    assert "results of 56 x 40 pixels take" in printed and "with 40" in printed


@pytest.mark.usefixtures("here")
def test_the_exit_status_tells_of_memory_that_grows(configs, capsys):
    assert benchmark.main([*arguments({"san": configs["san"]}), "--limit-mb", "-1000"]) == 1
    assert "FAIL" in (printed := capsys.readouterr().out) and "limit -1000 MB" in printed


@pytest.mark.usefixtures("here")
def test_the_exit_status_tells_of_a_stage_that_runs_twice(configs, capsys, monkeypatch):
    right = SAN.propose

    def twice(self, images):
        right(self, images)
        return right(self, images)

    monkeypatch.setattr(SAN, "propose", twice)
    assert benchmark.main([*arguments({"san": configs["san"]}), "--limit-mb", "1000"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "tokens of masks ran 2 times on one image; expected at most 1" in printed
    assert "text classifier ran" not in printed


def test_the_growth_of_a_stage_counts_below_the_peak_of_another():
    growth = {"trunk": 1.0, "labels": 70.0, "whole": 0.0}
    found = {"model": "san", "stages": [], "growth_mb": growth}
    assert tool.find_problems(found, 60) == ["san: many classes add 70 MB to labels; limit 60 MB"]
    assert tool.find_problems(found, 80) == []


def test_memory_is_measured_in_a_process_of_its_own(configs):
    costs = tool.weigh(case(configs["san"]), "san")
    assert costs["labels"].calls == 1 and 0 <= costs["whole"].bytes < 100 * 2**20


class Parts:
    """Has a function that calls another, and the clock that says how long they take."""

    def __init__(self):
        self.now = 0.0

    def outer(self):
        self.now += 2
        return self.inner() + 1

    def inner(self):
        self.now += 6
        self.held = mmap.mmap(-1, 20 * 2**20)  # memory that no allocator had before
        self.held.write(bytes(20 * 2**20))
        return 1


def test_a_stage_inside_another_is_not_counted_for_both(monkeypatch):
    parts = Parts()
    monkeypatch.setattr(benchmarks.common.time, "perf_counter", lambda: parts.now)
    stages = [benchmarks.common.Stage(name, parts, name) for name in ("outer", "inner")]
    with benchmarks.common.Recorder(stages, memory=True).running() as costs:
        assert parts.outer() == 2
    parts.outer()  # no longer recorded
    assert [costs[name].calls for name in ("outer", "inner")] == [1, 1]
    assert [costs[name].seconds for name in ("outer", "inner")] == [2, 6]
    assert costs["outer"].bytes >= costs["inner"].bytes > 18 * 2**20


def test_a_clip_without_weights_is_filled(tiny_clip):
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())["model_cfg"]
    clip = ViTClip(build_empty(config, "tiny", check_config), config, "tiny")
    benchmarks.stages.fill(clip)
    assert clip.logit_scale == pytest.approx(benchmarks.stages.SCALE)
    encoded = clip.model.encode_image(torch.randn(1, 3, 32, 32))
    assert encoded.isfinite().all() and 0.1 < encoded.std() < 10
    before = clip.weights_hash
    benchmarks.stages.fill(clip)
    assert clip.weights_hash == before


def test_the_shipped_configs_are_there():
    for name in tool.SHIPPED:
        assert benchmarks.stages.kind_of(str(config_root() / tool.SHIPPED[name])).stages


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--models", "sam"], "error: no config file 'sam'"),
        (["--models", str(config_root() / "training_free/sclip.yaml")], "expected SAN or FCCLIP"),
        (["--output-size", "big"], "'big' is no size; expected HEIGHTxWIDTH"),
        (["--size", "0"], "'0' is no count; expected 1 or more"),
        (["--json", "/dev/null/a.json"], "error: output folder '/dev/null' cannot be made"),
    ],
)
def test_mistakes(given, message, capsys):
    try:
        status: object = benchmark.main(["stages", *given])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err


def test_a_process_that_is_ended_is_told_in_one_line(monkeypatch):
    class Ended(benchmarks.common.ProcessPoolExecutor):
        def submit(self, *_):
            raise benchmarks.common.BrokenProcessPool

    monkeypatch.setattr(benchmarks.common, "ProcessPoolExecutor", Ended)
    with pytest.raises(benchmarks.common.EnvironmentProblem, match="fcclip was ended by the system; expected enough"):
        benchmarks.common.in_fresh_process(print, "", "fcclip")
