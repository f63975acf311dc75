"""The network of SAM 3 taken apart, against transformers' own; its text tower under two threads; its dtypes."""

from __future__ import annotations

import threading

import pytest
import torch

from ovseg.clip.text_tokens import TextTokens
from ovseg.meta_arch.sam3.network import SeenImage, build_network, doubled
from ovseg.meta_arch.sam3.texts import unpack
from ovseg.system.device import CPU
from tests.meta_arch.models import picture, words
from tests.meta_arch.sam3.tiny import TINY


def corners(boxes):
    centre, size = boxes.split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def test_a_convolution_of_doubled_maps_is_one_of_the_maps():
    generator = torch.Generator().manual_seed(0)
    maps, weight = torch.randn(2, 5, 4, 7, generator=generator), torch.randn(3, 5, 3, 3, generator=generator)
    twice = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(doubled(maps, weight), torch.conv2d(twice, weight, padding=1), atol=1e-4, rtol=0)


def test_a_phrase_is_answered_as_transformers_answers_it_alone(sam3):
    """With its dummy box, which brings the geometry token; and without, as it is by itself."""
    network, asked = sam3.clip, sam3.words(words("cat", "a very large sofa"), templates="none")
    pixels = network.normal(picture(56, 56)[None])
    tokens, mask = unpack(asked.embeddings, network.channels)
    with torch.inference_mode():
        seen = SeenImage(*(one[0] for one in network.see(pixels)))
        theirs = network.model.get_vision_features(pixel_values=pixels)
        for own, boxes in ((seen, {}), (seen._replace(geometry=None), None)):
            found = network.ask(own, tokens, mask)
            for row in range(2):
                dummy = {"input_boxes": torch.zeros(1, 1, 4), "input_boxes_labels": torch.full((1, 1), -10)}
                ids = TextTokens({"context_length": 32})(["cat", "a very large sofa"])[row : row + 1]
                real = torch.arange(ids.shape[1]) <= ids.argmax(1, keepdim=True)
                alone = network.model(
                    vision_embeds=theirs, input_ids=ids, attention_mask=real, **(dummy if boxes is not None else {})
                )
                torch.testing.assert_close(found.scores[row], alone.pred_logits[0], atol=1e-4, rtol=0)
                torch.testing.assert_close(network.semantic(found)[row], alone.semantic_seg[0, 0], atol=1e-4, rtol=0)
                every = torch.arange(found.scores.shape[1])
                torch.testing.assert_close(network.masks(found, row, every), alone.pred_masks[0], atol=1e-4, rtol=0)
                torch.testing.assert_close(corners(found.boxes[row]), alone.pred_boxes[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_an_image_has_one_row_the_mean_of_the_level_of_its_patches(precision):
    torch.manual_seed(1)
    network = build_network(TINY, "tiny")
    pixels = network.normal(picture(40, 90)[None])
    with torch.inference_mode():
        wanted = network.model.get_vision_features(pixel_values=pixels).fpn_hidden_states[2].mean((2, 3))
        if precision != torch.float32:
            network.lower(precision)
        found = network.pooled(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5 if precision == torch.float32 else 0.03, rtol=0)


def test_the_text_tower_is_not_moved_under_a_thread_that_reads(monkeypatch):
    network = build_network(TINY, "tiny")
    entered, go_on, moved = threading.Event(), threading.Event(), threading.Event()
    forward = network.model.text_encoder.forward

    def slow(**given):
        entered.set()
        assert go_on.wait(60)
        return forward(**given)

    monkeypatch.setattr(network.model.text_encoder, "forward", slow)
    ids, mask = torch.tensor([[49406, 320, 49407]]), torch.ones(1, 3, dtype=torch.bool)
    reader = threading.Thread(target=network.read, args=(ids, mask))
    mover = threading.Thread(target=lambda: (network.move_text(CPU), moved.set()))
    reader.start()
    assert entered.wait(60)
    mover.start()
    assert not moved.wait(0.2)
    go_on.set()
    reader.join(60)
    assert moved.wait(60)


def test_reading_fetches_the_text_tower_back(monkeypatch):
    network, places = build_network(TINY, "tiny"), []
    move = network.move_text
    monkeypatch.setattr(network, "move_text", lambda device: (places.append(device), move(device)))
    network.read(torch.tensor([[49406, 320, 49407]]), torch.ones(1, 3, dtype=torch.bool))
    assert places == [network.device]
