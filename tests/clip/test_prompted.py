"""Learnable words in a sentence: real words give what the text tower gives, and gradients reach them."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ClipSource, load_tower
from ovseg.clip.prompted import PromptedSentence, place_prompts
from ovseg.errors import ConfigError
from tests.conftest import write_vit_clip


@pytest.fixture
def clip(tmp_path):
    return load_tower(ClipSource(folder=str(write_vit_clip(tmp_path / "clip", 1, seed=2))))


def test_words_go_into_their_holes():
    template, holes = torch.arange(8.0).view(4, 2), torch.tensor([False, True, True, False])
    prompts = -torch.arange(1.0, 9).view(2, 2, 2)
    found = place_prompts(template, holes, prompts)
    assert found[:, 0].equal(template[:1].expand(2, -1)) and found[:, 3].equal(template[3:].expand(2, -1))
    assert found[:, 1:3].equal(prompts)


def test_a_real_word_gives_the_embedding_of_its_sentence(clip):
    prompted = PromptedSentence(clip, "a {} here", 1, 2)
    ids = clip.text_tokens(["cat", "dog"])[:, 1]
    with torch.no_grad():
        prompted.prompt_tokens.copy_(clip.model.token_embedding(ids)[:, None])
        expected = clip.model.encode_text(clip.text_tokens(["a cat here", "a dog here"]))
    found = prompted(clip.model)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert (prompted.prompt_tokens.grad.abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize("sentence", ["no place", "{} and {}"])
def test_a_sentence_has_one_place(clip, sentence):
    with pytest.raises(ConfigError, match="expected one"):
        PromptedSentence(clip, sentence, 1, 2)
