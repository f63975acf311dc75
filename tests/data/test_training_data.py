"""What a model is trained on: augmentations, mappers, and an order that depends on the step alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.config import load_config
from ovseg.data.augmentation import (
    ColorJitter,
    HorizontalFlip,
    PadTo,
    RandomCrop,
    ResizeScale,
    ResizeShortestEdge,
    build_augmentations,
    resize,
)
from ovseg.data.loader import Share, stream, training_batches
from ovseg.data.mappers import build_mapper
from ovseg.data.own_data import read_folder
from ovseg.errors import ConfigError, InputError, UnknownNameError


@pytest.fixture
def sample(pixels):
    ids = np.arange(72 * 96, dtype=np.int32).reshape(72, 96) // 1000
    return pixels, ids


def mapper_of(config, data, **changes):
    return build_mapper(load_config(config, {"INPUT": changes}), read_folder(data))


def test_resize_takes_the_nearest_id_as_pillow_does(sample):
    image, ids = sample
    for height, width in ((31, 53), (144, 192), (72, 96)):
        small, nearest = resize(image, ids, height, width)
        expected = Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(nearest, np.asarray(expected))
        assert small.shape == (height, width, 3)


def test_sizes(sample):
    rng = stream(1)
    shapes = {ResizeShortestEdge((36, 48), 1000)(*sample, rng)[1].shape for _ in range(20)}
    assert shapes == {(36, 48), (48, 64)}
    assert ResizeShortestEdge((72,), 64)(*sample, rng)[1].shape == (48, 64)
    assert 36 <= ResizeShortestEdge((36, 48), 1000, ranged=True)(*sample, rng)[1].shape[0] <= 48
    for _ in range(5):
        height, width = ResizeScale(0.5, 2.0, 96)(*sample, rng)[1].shape
        assert 48 <= width <= 192 and abs(height - 0.75 * width) <= 1
    image, ids = PadTo(100, 100)(*RandomCrop(40, 200)(*sample, rng), rng)
    assert ids.shape == (100, 100) and image.shape == (100, 100, 3)
    assert (ids[40:] == -1).all() and (ids[:, 96:] == -1).all() and (image[40:] == 128).all()


def test_image_and_ids_stay_together(sample):
    image = np.repeat(sample[1][..., None], 3, 2).astype(np.uint8)
    for change in (RandomCrop(20, 30), HorizontalFlip()):
        for seed in range(4):
            pixels, ids = change(image, sample[1], stream(seed))
            np.testing.assert_array_equal(pixels[..., 0], ids)


def test_colours(sample):
    image, ids = sample
    before = image.copy()
    changed = [ColorJitter()(image, ids, stream(seed))[0] for seed in range(16)]
    np.testing.assert_array_equal(image, before)
    assert all(one.dtype == np.uint8 and one.shape == image.shape for one in changed)
    assert sum(not np.array_equal(one, image) for one in changed) > 8
    np.testing.assert_array_equal(changed[3], ColorJitter()(image, ids, stream(3))[0])


def test_semantic_mapper(training_config, own_data):
    entry = mapper_of(training_config, own_data)(0, stream(5))
    instances, labels = entry["instances"], entry["sem_seg"]
    assert entry["image"].shape == (3, 32, 32) and entry["image"].dtype == torch.uint8
    assert (entry["height"], entry["width"]) == (40, 48) and instances.image_size == (32, 32)
    assert labels.dtype == torch.int64 and set(labels.unique().tolist()) <= {0, 1, 255}
    assert instances.gt_masks.dtype == torch.bool and len(instances.gt_classes) == len(instances.gt_masks)
    for label, mask in zip(instances.gt_classes, instances.gt_masks, strict=True):
        assert mask.any() and torch.equal(mask, labels == label)


def test_panoptic_mapper_has_a_mask_per_segment(training_config, own_data, write_coco):
    write_coco(own_data)
    changes = {"IMAGE_SIZE": 48, "MIN_SCALE": 1.0, "MAX_SCALE": 1.0, "RANDOM_FLIP": "none"}
    panoptic = mapper_of(training_config, own_data, DATASET_MAPPER_NAME="panoptic_lsj", **changes)(0, stream(0))
    assert panoptic["instances"].gt_classes.tolist() == [1, 0]  # the crowd is left out
    assert panoptic["instances"].gt_masks.shape == (2, 48, 48) and (panoptic["sem_seg"][40:] == 255).all()
    semantic = mapper_of(training_config, own_data, MIN_SIZE_TRAIN=(40,), CROP={"ENABLED": False})(0, stream(0))
    assert semantic["instances"].gt_classes.tolist() == [0, 1]


def test_wrong_settings(training_config):
    for changes, error in (
        ({"RANDOM_FLIP": "vertical"}, ConfigError),
        ({"MIN_SIZE_TRAIN_SAMPLING": "any"}, ConfigError),
        ({"CROP": {"TYPE": "relative"}}, ConfigError),
    ):
        with pytest.raises(error, match="expected"):
            build_augmentations(load_config(training_config, {"INPUT": changes}))
    with pytest.raises(UnknownNameError, match="did you mean semantic"):
        build_mapper(load_config(training_config, {"INPUT": {"DATASET_MAPPER_NAME": "semantics"}}), None)


def first(mapper, share, count, **options):
    return list(itertools.islice(training_batches([mapper], share, 3, **options), count))


def test_order_depends_on_the_step_alone(training_config, own_data):
    mapper = mapper_of(training_config, own_data)
    whole = first(mapper, Share(4), 7)
    names = [entry["file_name"] for batch in whole for entry in batch]
    assert sorted(names[:12]) == sorted(names[12:24]) and len(set(names[:12])) == 12 and names[:12] != names[12:24]
    parts = [first(mapper, Share(2, rank, 2), 7) for rank in (0, 1)]
    later = first(mapper, Share(4), 2, start=5, workers=1)
    for batch, again in ((whole[5], later[0]), (whole[6], later[1]), (whole[2], parts[0][2] + parts[1][2])):
        for one, other in zip(batch, again, strict=True):
            assert one["file_name"] == other["file_name"] and torch.equal(one["image"], other["image"])
            assert torch.equal(one["sem_seg"], other["sem_seg"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_when_its_turn_comes(training_config, own_data, workers):
    mapper = mapper_of(training_config, own_data)
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(own_data / "labels/05.png")
    with pytest.raises(InputError, match=r"^label .*05.png' holds the value 9"):
        first(mapper, Share(4), 3, workers=workers)
    with pytest.raises(ConfigError, match="expected some"):
        next(training_batches([], Share(1), 0))
