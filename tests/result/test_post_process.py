"""Results in the form of transformers' processors: compared with what one of those makes of the same masks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovseg.errors import InputError
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.result.post_process import (
    post_process_instance_segmentation,
    post_process_panoptic_segmentation,
    post_process_semantic_segmentation,
)
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

SIDE = 384  # at which Mask2Former's processor works
CLASSES = ["sky", "cat", "dog"]
# Class, score and place of each query; the places share no pixel.
QUERIES = (
    (1, 0.9, np.s_[200:300, 40:120]),
    (1, 0.8, np.s_[200:300, 200:280]),
    (0, 0.7, np.s_[:100, :]),
    (2, 0.3, np.s_[310:360, 300:360]),  # below the usual threshold
)


def masks() -> np.ndarray:
    found = np.zeros((len(QUERIES), SIDE, SIDE), dtype=bool)
    for mask, (_, _, place) in zip(found, QUERIES, strict=True):
        mask[place] = True
    return found


def outputs() -> SimpleNamespace:
    """What a Mask2Former would give: a query for each mask."""
    shares = torch.empty(1, len(QUERIES), len(CLASSES) + 1)
    for query, (class_id, score, _) in enumerate(QUERIES):
        shares[0, query], shares[0, query, class_id] = (1 - score) / len(CLASSES), score
    masked = torch.from_numpy(masks())[None].float() * 40 - 20
    return SimpleNamespace(class_queries_logits=shares.log(), masks_queries_logits=masked)


def result() -> Segmentation:
    labels, ids = np.full((SIDE, SIDE), -1, np.int32), np.zeros((SIDE, SIDE), np.int32)
    for number, (mask, (class_id, _, _)) in enumerate(zip(masks(), QUERIES, strict=True), 1):
        labels[mask], ids[mask] = class_id, number
    segments = tuple(
        PanopticSegment(number, class_id, class_id > 0, score) for number, (class_id, score, _) in enumerate(QUERIES, 1)
    )
    objects = tuple(
        Instance.from_mask(mask, class_id, score) for mask, (class_id, score, _) in zip(masks(), QUERIES, strict=True)
    )
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    return Segmentation.from_labels(
        labels, np.ones((SIDE, SIDE)), Vocabulary.parse(CLASSES), image, {}, Panoptic(ids, segments), objects
    )


@pytest.fixture(scope="module")
def processor():
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    return transformers.Mask2FormerImageProcessor()


def infos(found: dict) -> list[dict]:
    """Return what is said of segments but their scores, which a processor multiplies with those of masks."""
    return [{key: value for key, value in one.items() if key != "score"} for one in found["segments_info"]]


@pytest.mark.parametrize("size", [None, (SIDE, SIDE), (192, 192), (96, 768)])
def test_panoptic_segments_are_those_of_a_processor(processor, size) -> None:
    sizes = None if size is None else [size]
    theirs = processor.post_process_panoptic_segmentation(outputs(), label_ids_to_fuse={0}, target_sizes=sizes)
    ours = post_process_panoptic_segmentation(result(), target_sizes=sizes)
    assert len(ours) == len(theirs) == 1 and ours[0].keys() == theirs[0].keys()
    assert infos(ours[0]) == infos(theirs[0]) and [one["was_fused"] for one in infos(ours[0])] == [False, False, True]
    assert [one["score"] for one in ours[0]["segments_info"]] == [0.9, 0.8, 0.7]
    assert ours[0]["segmentation"].dtype == theirs[0]["segmentation"].dtype == torch.int32
    assert ours[0]["segmentation"].shape == theirs[0]["segmentation"].shape
    shown = ours[0]["segmentation"] > 0  # what is in no mask goes to any segment there
    assert (ours[0]["segmentation"] == theirs[0]["segmentation"])[shown].float().mean() > 0.97
    assert ours[0]["segmentation"].unique().tolist() == [0, 1, 2, 3]


def test_where_no_segment_is_left_the_map_says_so_as_there(processor) -> None:
    theirs = processor.post_process_panoptic_segmentation(outputs(), threshold=0.95, label_ids_to_fuse=set())[0]
    ours = post_process_panoptic_segmentation(result(), threshold=0.95)[0]
    assert ours["segments_info"] == theirs["segments_info"] == []
    assert ours["segmentation"].unique().tolist() == theirs["segmentation"].unique().tolist() == [-1]


@pytest.mark.parametrize("size", [None, (192, 100)])
def test_objects_are_those_of_a_processor(processor, size) -> None:
    sizes = None if size is None else [size]
    theirs = processor.post_process_instance_segmentation(outputs(), target_sizes=sizes)[0]
    ours = post_process_instance_segmentation(result(), target_sizes=sizes)[0]
    assert ours.keys() == theirs.keys() and [one.keys() for one in ours["segments_info"]] == [
        one.keys() for one in theirs["segments_info"]
    ]
    assert sorted(_places(ours)) == pytest.approx(sorted(_places(theirs)), abs=2)
    assert all(not one["was_fused"] for found in (ours, theirs) for one in found["segments_info"])
    assert sorted(one["id"] for one in ours["segments_info"]) == sorted(one["id"] for one in theirs["segments_info"])
    assert ours["segmentation"].min() == theirs["segmentation"].min() == -1


def _places(found: dict) -> list[float]:
    """Return a number for the place and the class of each object; theirs come in no order."""
    places = []
    for one in found["segments_info"]:
        rows, columns = torch.nonzero(found["segmentation"] == one["id"], as_tuple=True)
        places.append(1000.0 * one["label_id"] + rows.float().mean().item() + columns.float().mean().item())
    return places


def test_objects_that_overlap_are_whole_in_maps_of_their_own() -> None:
    first, second = np.zeros((2, 4, 4), dtype=bool)
    first[:3], second[2:] = True, True
    objects = (Instance.from_mask(first, 0, 0.9), Instance.from_mask(second, 1, 0.6))
    labels, image = np.zeros((4, 4), np.int32), np.zeros((4, 4, 3), np.uint8)
    own = Segmentation.from_labels(labels, np.ones((4, 4)), Vocabulary.parse(CLASSES), image, instances=objects)
    found = post_process_instance_segmentation(own)[0]
    assert found["segmentation"][:, 0].tolist() == [0, 0, 0, 1]
    maps = post_process_instance_segmentation([own], return_binary_maps=True)[0]["segmentation"]
    assert maps.dtype == torch.float32 and torch.equal(maps.bool(), torch.from_numpy(np.stack([first, second])))
    none = post_process_instance_segmentation(own, threshold=0.95, return_binary_maps=True)[0]
    assert none["segments_info"] == [] and none["segmentation"].unique().tolist() == [-1]


@pytest.mark.parametrize("size", [None, (192, 192)])
def test_label_maps_are_those_of_a_processor(processor, size) -> None:
    sizes = None if size is None else [size]
    theirs = processor.post_process_semantic_segmentation(outputs(), target_sizes=sizes)
    ours = post_process_semantic_segmentation(result(), target_sizes=sizes)
    assert len(ours) == len(theirs) and ours[0].shape == theirs[0].shape and ours[0].dtype == theirs[0].dtype
    shown = ours[0] >= 0  # a processor has a class for every pixel
    assert torch.equal(ours[0][shown], theirs[0][shown]) and 0 < shown.float().mean() < 1


def test_several_results_and_sizes() -> None:
    own = result()
    maps = post_process_semantic_segmentation([own, own], target_sizes=[(10, 20), (384, 384)])
    assert [tuple(one.shape) for one in maps] == [(10, 20), (384, 384)]
    assert torch.equal(maps[1], torch.from_numpy(own.labels).long())
    maps[1][:] = 7
    assert own.labels.max() < 7  # a map of its own
    with pytest.raises(InputError, match="there are 1 target sizes for 2 results; expected one for each"):
        post_process_semantic_segmentation([own, own], target_sizes=[(10, 20)])
    for size in ((0, 4), (3,), (2, 3, 4)):
        with pytest.raises(InputError, match=r"a target size is .*; expected height and width in pixels"):
            post_process_semantic_segmentation(own, target_sizes=[size])


def test_a_result_without_parts_says_which() -> None:
    own = result()
    plain = Segmentation.from_labels(own.labels, own.scores, own.classes, own.image, {"model": "mini"})
    with pytest.raises(InputError, match="mini gave no panoptic here"):
        post_process_panoptic_segmentation(plain)
    with pytest.raises(InputError, match="mini gave no instances here"):
        post_process_instance_segmentation(plain)
