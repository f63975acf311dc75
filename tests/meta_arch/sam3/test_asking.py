"""How many phrases are asked at a time, and what is kept of their maps."""

from __future__ import annotations

import pytest
import torch

from ovseg.contract import CLASS_SCORES, INSTANCES
from ovseg.errors import ConfigError
from ovseg.meta_arch.sam3.asking import Budget
from ovseg.meta_arch.sam3.network import build_network
from tests.meta_arch.models import build, words
from tests.meta_arch.sam3.tiny import TINY
from tests.meta_arch.tester import NAMES, Largest, ask, assert_near, pictures

SCORES = frozenset({CLASS_SCORES})


def test_memory_changes_how_many_are_asked_at_a_time_and_nothing_else(sam3):
    asked, wanted = sam3.words(words(*NAMES)), ask(sam3, pictures()[:1], sam3.words(words(*NAMES)), sam3.gives)[0]
    whole = sam3.budget
    try:
        sam3.budget = Budget(max_memory=1e-6)
        assert whole.at_a_time(sam3.clip) > 100 and sam3.budget.at_a_time(sam3.clip) == 1
        found = ask(sam3, pictures()[:1], asked, sam3.gives)[0]
    finally:
        sam3.budget = whole
    assert_near(found, wanted)
    assert [own.class_id for own in found.instances] == [own.class_id for own in wanted.instances]
    with pytest.raises(ConfigError, match="max_memory is 0; expected a positive number of GB"):
        Budget(max_memory=0)


def test_the_masks_of_all_windows_are_counted():
    """Each of 6 queries may have a mask of 16 x 16 numbers in each window, beside the semantic map."""
    network = build_network(TINY, "tiny")
    kept = 4 * 16 * 16 * 7
    assert network.map_bytes(True) == kept and network.map_bytes(False) == 4 * 16 * 16
    budget = Budget(max_memory=5 * (network.phrase_bytes() + 12 * kept) / 1e9 * 1.001)
    assert budget.at_a_time(network, 12, True) == 5 < budget.at_a_time(network, 12) < budget.at_a_time(network)
    network.lower(torch.bfloat16)
    assert network.map_bytes(True) == kept and 5 < budget.at_a_time(network, 12, True) < 10


def test_what_is_kept_of_windows_stays_within_the_memory(folders, sam3, monkeypatch):
    """Every query counts, in each of the windows."""
    protocol = {"ASPECT": "keep", "SHORT_SIDE": 56, "LONG_SIDE": 84, "WINDOW": 28, "STRIDE": 28}
    sliding = build("sam3", folders["sam3"], protocol=protocol, CONFIDENCE=0.0)
    sliding.load_state_dict(sam3.state_dict())
    asked, encoded = sliding.words(words(*NAMES)), sliding.encode([pictures()[0]])
    each = sliding.clip.phrase_bytes() + 12 * sliding.clip.map_bytes(True)
    sliding.budget = Budget(max_memory=3.5 * each / 1e9)
    passes, network_ask = [], sliding.clip.ask

    def watched(seen, tokens, mask):
        passes.append(len(tokens))
        return network_ask(seen, tokens, mask)

    monkeypatch.setattr(sliding.clip, "ask", watched)
    sliding.answer(encoded, 0, (112, 168), asked)
    assert passes == [3] * 36  # of nine names, in twelve windows


@pytest.mark.parametrize("changes", [{"INSTANCE": False}, {"FUSION": "argmax"}])
def test_masks_that_nothing_is_made_of_are_not_computed(folders, sam3, monkeypatch, changes):
    model = build("sam3", folders["sam3"], CONFIDENCE=0.0, **changes)
    model.load_state_dict(sam3.state_dict())
    asked = model.words(words(*NAMES))
    wanted = ask(model, pictures()[:1], asked, model.gives)[0]
    assert wanted.instances
    monkeypatch.setattr(model.clip, "masks", None)
    found = ask(model, pictures()[:1], asked, SCORES)[0]
    assert torch.equal(found.labels, wanted.labels) and torch.equal(found.class_scores, wanted.class_scores)
    model.explain(model.encode(pictures()[:1]), 0, (20, 30), asked, (3, 4))
    with pytest.raises(TypeError):
        ask(model, pictures()[:1], asked, frozenset({INSTANCES}))


@pytest.mark.slow
def test_no_map_of_all_words_exists_however_many_there_are(sam3, monkeypatch):
    """847 words, as many as the largest vocabulary of a benchmark has, at the size of a photograph."""
    size = (300, 400)
    asked, encoded = sam3.words(words(*(f"thing {number}" for number in range(847)))), sam3.encode(pictures()[:1])
    monkeypatch.setattr(sam3, "budget", Budget(max_memory=64 * sam3.clip.phrase_bytes() / 1e9))
    with Largest() as largest:
        answer = sam3.answer(encoded, 0, size, asked)
    assert answer.labels.shape == size and len(answer.labels.unique()) > 1
    assert largest.numbers < 847 * size[0] * size[1] / 50
