"""The classifier of masks: masks of one's own, names and parts that are left out, and its files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.cli import main
from ovseg.clip.alpha import AlphaTower, fill, normalise_alpha, to_official
from ovseg.clip.mask_prompts import MaskPrompts
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.meta_arch.mask_classifier.looks import Look
from ovseg.meta_arch.mask_classifier.masks import checked, find_parts, of_ids, read, resized
from ovseg.meta_arch.mask_classifier.request import encode_masks
from ovseg.proposals.looks import boxes_of, cut, squares
from ovseg.zoo import load

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import name_masks

CONFIG = "alpha_clip/masks_mini.yaml"


@pytest.fixture(scope="module")
def segmenter():
    return load(CONFIG, device="cpu", dtype="fp32")


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def test_masks_and_ids_are_read_alike(tmp_path):
    ids = np.zeros((6, 8), np.uint8)
    ids[:3], ids[4:, 2:] = 3, 7
    Image.fromarray(ids).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.stack([ids == 3, ids == 7]))
    np.savez(tmp_path / "a.npz", np.stack([ids == 3, ids == 7]))
    for ending in ("png", "npy", "npz"):
        assert np.array_equal(read(tmp_path / f"a.{ending}").numpy(), np.stack([ids == 3, ids == 7]))
    (tmp_path / "b.npy").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "b.npy")


def test_masks_that_cannot_be_named_are_refused():
    with pytest.raises(InputError, match="mask 1 of 2 has no pixel"):
        checked(np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)]))
    with pytest.raises(InputError, match=r"4 x 4 and the image is 5 x 5"):
        checked(np.ones((1, 4, 4), bool), (5, 5))
    with pytest.raises(InputError, match="at least one mask"):
        checked(np.zeros((4, 4), np.int64))


def test_a_small_mask_does_not_vanish():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[0, 11, 17] = masks[1, 5:30] = True
    assert resized(masks, (10, 10)).flatten(1).any(1).all()
    assert len(of_ids(torch.tensor([[0, -1], [2, 2]]))) == 2


def test_a_part_is_one_by_its_own_area_in_a_better_mask_of_its_class():
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    masks[0, :8], masks[1, :4, :4], masks[2, :4, :4] = True, True, True
    classes, scores = torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.5, 0.4])
    assert find_parts(masks, classes, scores, 0.8).tolist() == [False, True, False]
    assert not find_parts(masks, classes, scores, 0.0).any()
    assert not find_parts(masks, classes, torch.tensor([0.1, 0.5, 0.4]), 0.8).any()  # the whole is no part of its part


def test_frames_go_from_the_box_to_the_whole_image():
    mask = torch.zeros(1, 20, 40, dtype=torch.bool)
    mask[0, 4:8, 10:20] = True
    assert boxes_of(mask).tolist() == [[10, 4, 20, 8]]
    assert squares(boxes_of(mask), (20, 40), 0.0).tolist() == [[10, 1, 20, 11]]
    assert squares(boxes_of(mask), (20, 40), 1.0).tolist() == [[0, -10, 40, 30]]
    inside = cut(mask[None].float(), torch.tensor([[10.0, 4.0, 14.0, 8.0]]), 4)
    assert inside.shape == (1, 1, 4, 4) and inside.min() > 0.4


def test_masks_of_ones_own_take_the_place_of_proposals(segmenter, photo):
    masks = np.zeros((2, 60, 80), bool)
    masks[0, :, :40], masks[1, :, 40:] = True, True
    encoded = encode_masks(segmenter, photo, masks)
    found = encoded.answer("cat, sky, boat", want=["instances", "panoptic"])
    assert len(encoded.encoded.images[0].embeddings) == 2
    assert len(np.unique(found.labels[:, :38])) == 1 and len(np.unique(found.labels[:, 42:])) == 1
    assert encode_masks(segmenter, photo, masks).answer("cat, sky").labels.shape == (60, 80)
    with pytest.raises(InputError, match="give masks of its size"):
        encode_masks(segmenter, photo, masks[:, :50])


def test_other_models_take_no_masks(photo):
    with pytest.raises(ConfigError, match="finds its masks itself and takes none"):
        encode_masks(load("mini", device="cpu"), photo, np.ones((1, 60, 80), bool))


def test_names_and_scenes_are_limited_to_those_of_the_image(segmenter, photo):
    model, words = segmenter.model, segmenter.words("cat, dog, boat, tree", "sky, wall, room")
    seen = segmenter.encode(photo).encoded.images[0]
    try:
        model.top_names, model.scenes = 2, 1
        columns = model.shares(seen, words)[:, :-1] > 0
    finally:
        model.top_names, model.scenes = 0, 0
    assert columns[0].sum() == 3 and (columns == columns[0]).all()
    assert (words.column_class[columns[0]] >= 0).sum() == 2


def test_a_released_tower_is_loaded_strictly(segmenter):
    tower = AlphaTower(segmenter.model.clip.tower)
    torch.nn.init.normal_(tower.conv1_alpha.weight)
    image, masks = torch.randn(1, 3, 96, 96), normalise_alpha(torch.rand(3, 1, 96, 96))
    with torch.no_grad():
        wanted = tower(image, masks)
        torch.testing.assert_close(tower(image.expand(3, -1, -1, -1), masks), wanted, atol=1e-5, rtol=1e-5)
    state = {f"module.{key}": value.clone() for key, value in to_official(tower).items()}
    other = AlphaTower(segmenter.model.clip.tower)
    fill(other, state, "a file")
    torch.testing.assert_close(other.conv1_alpha.weight, tower.conv1_alpha.weight)
    with pytest.raises(WeightsError, match="misses"):
        fill(other, {key: value for key, value in state.items() if "ln_pre" not in key}, "a file")
    with pytest.raises(InputError, match="of the same size"):
        tower(image, masks[..., :88])


def test_the_look_alpha_needs_weights():
    with pytest.raises(WeightsError, match="has no trained weights"):
        load("alpha_clip/alphaclip_mini.yaml", device="cpu")


def test_mask_prompts_are_read_from_their_file(tmp_path, segmenter, photo):
    clip = segmenter.model.clip
    prompts = MaskPrompts.for_clip(clip, depth=2)
    torch.nn.init.normal_(prompts.embedding, std=0.5, generator=torch.Generator().manual_seed(0))
    torch.save({"model": prompts.state_dict()}, tmp_path / "prompts.pth")
    options = {
        "MODEL": {"WEIGHTS": str(tmp_path / "prompts.pth"), "MaskClassifier": {"LOOK": "prompted", "MARGINS": []}}
    }
    prompted = load(CONFIG, device="cpu", dtype="fp32", overrides=options)
    assert torch.equal(prompted.model.look.prompts.embedding, prompts.embedding)
    assert prompted.model.weights_hash != segmenter.model.weights_hash
    image, mask = normalise(torch.from_numpy(photo).permute(2, 0, 1) / 255, clip.mean, clip.std), torch.zeros(1, 60, 80)
    mask[:, 10:40, 20:50] = 1
    mask[:, 10:30, 35:50] = 0  # a corner of its box is blank
    with torch.inference_mode():
        found = prompted.model.look(clip, image, mask.bool())
        zero = Look(clip, "prompted", ())(clip, image, mask.bool())
    assert not torch.allclose(found, zero)
    with pytest.raises(ConfigError, match="give --prompts FILE"):
        name_masks.make("prompted", name_masks.parse_args(["x", "--looks", "prompted"]))
    assert torch.equal(
        name_masks.make("prompted", name_masks.parse_args(["x", "--prompts", str(tmp_path / "prompts.pth")]))[
            1
        ].prompts.embedding,
        prompts.embedding,
    )


def test_the_command_names_masks(tmp_path, photo, capsys):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(np.repeat([[1], [2]], [30, 30], 0).repeat(80, 1).astype(np.uint8)).save(tmp_path / "masks.png")
    asked = ["segment", str(tmp_path / "photo.png"), "--classes", "cat, sky", "--model", CONFIG, "--device", "cpu"]
    assert main([*asked, "--masks", str(tmp_path / "masks.png"), "--output", str(tmp_path / "out")]) == 0
    assert main([*asked, "--masks", str(tmp_path / "none.png"), "--output", str(tmp_path / "out")]) != 0
    assert "none.png" in capsys.readouterr().err
