"""How models with masks run for users: lower precision by a policy, packed weights, compiled, the text tower away."""

from __future__ import annotations

import pytest
import torch

from ovseg.config import load_config
from ovseg.errors import ConfigError
from ovseg.meta_arch.mask_model import MaskModel
from ovseg.ops.linear_layers import PackedLinear, can_pack
from ovseg.segmenter import Segmenter
from ovseg.vocabulary import Vocabulary
from tests.meta_arch.fcclip import test_model as test_fcclip
from tests.meta_arch.san import test_model as test_san

CPU = torch.device("cpu")


@pytest.fixture(params=["san", "fcclip", "fcclip_resnet"])
def model(request, tiny_clip, tiny_convnext, tiny_resnet) -> MaskModel:
    if request.param == "san":
        return test_san.build(tiny_clip)
    return test_fcclip.build(tiny_convnext if request.param == "fcclip" else tiny_resnet)


def photo() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)}


def normalised(model: MaskModel) -> torch.Tensor:
    return model.batch([photo()]).images


def flat(found) -> list[torch.Tensor]:
    """All tensors of what `network` returns."""
    if isinstance(found, torch.Tensor):
        return [found]
    if not isinstance(found, tuple):
        found = found.values() if isinstance(found, dict) else vars(found).values()
    return [tensor for part in found for tensor in flat(part)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_for_the_trunk_alone(model, dtype):
    with torch.inference_mode():
        expected = flat(model.network(normalised(model)))
    before = model.state_dict()
    hashes = model.weights_hash
    assert model.place(CPU, dtype) is model and model.weights_hash == hashes
    lowered = {name for name, weight in model.state_dict().items() if weight.dtype != before[name].dtype}
    assert lowered and all(name.startswith("clip.model.visual.") for name in lowered)
    assert model.clip.text(["a word"]).dtype == torch.float32
    with torch.inference_mode():
        found = flat(model.network(normalised(model)))
        result = model([photo()])[0]
    assert all(tensor.dtype == torch.float32 for tensor in found)
    assert any(not torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for low, full in zip(found, expected, strict=True):
        assert (low - full).norm() < 0.1 * full.norm()
    assert result["scores"].isfinite().all() and result["scores"].dtype == torch.float32


def test_single_precision_changes_nothing(model):
    with torch.inference_mode():
        expected = flat(model.network(normalised(model)))
        found = flat(model.place(CPU, torch.float32).network(normalised(model)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")
def test_packed_weights_give_the_same_up_to_rounding(model):
    with torch.inference_mode():
        expected = flat(model.network(normalised(model)))
        model.pack()
        found = flat(model.network(normalised(model)))
    for packed, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(packed, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")
def test_packing_reaches_the_trunk_and_the_side_adapter(tiny_clip):
    model = test_san.build(tiny_clip)
    model.pack()
    packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
    assert {name.split(".")[0] for name in packed} == {"clip", "side_adapter"}
    assert not any(name.startswith("clip.model.transformer") for name in packed)


def test_the_network_is_one_graph_that_reads_no_value(model):
    images = normalised(model)
    with torch.inference_mode():
        expected = flat(model.network(images))
        model.compile_network(backend="aot_eager")
        found = flat(model.network(images))
        labels = model([photo()])[0]["labels"]
    for compiled, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
    assert labels.shape == (64, 96)


def test_words_change_without_compiling_again(tiny_clip):
    model = test_san.build(tiny_clip)
    model.compile_network(backend="eager")
    first = model([photo()])[0]["scores"]
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        model([photo()])
        model.set_vocabulary(Vocabulary.parse(["dog", "a very long list", "of other words", "x"]))
        assert not torch.equal(model([photo()])[0]["scores"], first)


def test_the_text_tower_leaves_once_words_are_embedded_and_comes_back_for_new_ones(model, monkeypatch):
    places = []
    move = model.clip.move_text
    monkeypatch.setattr(model.clip, "move_text", lambda device: (places.append(device), move(device)))
    model.text_cache = None
    model.set_vocabulary(Vocabulary.parse(["bird", "dog"]), "none")
    assert len(places) == 1  # it is where it is wanted; in training it stays
    model.place(CPU, torch.float32).set_vocabulary(Vocabulary.parse(["cat", "sofa"]), "none")
    assert places[1:] == [model.clip.device, CPU]
    model.set_vocabulary(Vocabulary.parse(["cat", "sofa"]), "none")
    assert len(places) == 3  # the same words cost nothing


def test_only_the_text_tower_moves(model):
    model.clip.move_text(torch.device("meta"))
    state = model.clip.model.state_dict()
    moved = {name for name, weight in state.items() if weight.is_meta}
    assert "token_embedding.weight" in moved and "positional_embedding" in moved
    assert not any(name.startswith(("visual.", "logit_")) for name in moved)
    with torch.inference_mode():
        assert len(model([photo()])[0]["labels"]) == 64  # images do not need it


def test_models_without_masks_say_that_they_are_neither_packed_nor_compiled(tiny_clip):
    from detectron2.modeling import build_model

    from ovseg.config import config_root

    cfg = load_config(
        config_root() / "training_free/sclip.yaml", {"MODEL": {"DEVICE": "cpu", "CLIP": {"FOLDER": str(tiny_clip)}}}
    )
    for option in ("packed", "compiled"):
        with pytest.raises(ConfigError, match=f"leave {option.removesuffix('d') if option == 'compiled' else option}"):
            Segmenter(build_model(cfg), "sclip", "cpu", **{option: True})
