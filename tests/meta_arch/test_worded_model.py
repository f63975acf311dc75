"""What models share beyond what all are held to: the text tower waits elsewhere while images are seen."""

from __future__ import annotations

import pytest
import torch

from ovseg.errors import ConfigError, InputError
from tests.meta_arch.models import build, picture, words
from tests.meta_arch.tester import ask

CPU = torch.device("cpu")


@pytest.fixture(params=["sclip", "fcclip"])
def model(request, tiny_clip, tiny_convnext):
    if request.param == "fcclip":
        return build("fcclip", tiny_convnext)
    return build("sclip", tiny_clip, protocol={"WINDOW": 48, "STRIDE": 24})


def test_the_text_tower_leaves_once_words_are_embedded_and_comes_back_for_new_ones(model, monkeypatch):
    places = []
    move = model.clip.move_text
    monkeypatch.setattr(model.clip, "move_text", lambda device: (places.append(device), move(device)))
    model.text_cache = None
    model.words(words("bird", "dog"), "none")
    assert places == [model.clip.device]  # it is where it is wanted; in training it stays
    model.place(CPU, torch.float32).words(words("cat", "sofa"), "none")
    assert places[1:] == [model.clip.device, CPU]


def test_images_do_not_need_the_text_tower(model):
    asked = model.words(words("cat", "sofa"))
    model.clip.move_text(torch.device("meta"))
    state = model.clip.model.state_dict()
    moved = {name for name, weight in state.items() if weight.is_meta}
    assert "token_embedding.weight" in moved and "positional_embedding" in moved
    assert not any(name.startswith(("visual.", "logit_")) for name in moved)
    assert ask(model, [picture(64, 64)], asked)[0].labels.shape == (64, 64)


def test_a_model_in_low_precision_is_not_brought_to_another(model):
    model.place(CPU, torch.bfloat16).place(CPU, torch.bfloat16)
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(ConfigError, match=r"in torch\.bfloat16 and asked for torch\.float.*load it anew"):
            model.place(CPU, dtype)


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (3, 0, 8)])
def test_an_image_of_another_shape_is_named(model, shape):
    with pytest.raises(InputError, match=r"got an image of shape \(.*\); expected \(3, h, w\) RGB"):
        model.encode([picture(64, 64), torch.zeros(shape)])


def test_a_batch_learns_one_list_of_words(tiny_convnext):
    model = build("fcclip", tiny_convnext).train()
    first, second = (model.words(words(*names)) for names in (["cat", "sofa"], ["dog", "river"]))
    with pytest.raises(ConfigError, match="came with different words"):
        model([{"image": picture(64, 64), "words": own} for own in (first, second)])


def test_without_a_compiler_nothing_is_compiled(model, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"there is no C\+\+ compiler to compile with; .*, or leave compile out"):
        model.compile_network()


def test_what_cannot_be_compiled_is_one_line_at_the_first_image(model):
    def broken(graph, inputs):
        raise RuntimeError("no working\ncompiler was found\n\nand much more")

    model.compile_network(broken)
    with pytest.raises(
        ConfigError, match=r"cannot be compiled here .*no working compiler was found.*; leave"
    ) as caught:
        model.encode([picture(64, 64)])
    assert "\n" not in str(caught.value) and "much more" not in str(caught.value)
    torch.compiler.reset()
