"""Segments and objects of a result: checked, kept, drawn, and written as COCO has them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg.errors import InputError
from ovseg.result.objects import Instance, Panoptic, PanopticSegment, pack_masks
from ovseg.result.overlay import blend
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

WORDS = Vocabulary.parse([{"name": "cat", "is_thing": True}, {"name": "sky", "is_thing": False}])
IDS = np.array([[1, 1, 2, 2], [1, 1, 2, 0], [3, 3, 3, 0]], dtype=np.int32)
SEGMENTS = (
    PanopticSegment(1, 0, True, 0.9),
    PanopticSegment(2, 0, True, 0.8),
    PanopticSegment(3, 1, False, 0.7),
)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")


def make(panoptic=None, instances=None):
    labels = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    pixels = np.full((3, 4, 3), 100, np.uint8)
    return Segmentation.from_labels(
        labels, np.full((3, 4), 0.5), WORDS, pixels, {"image": "a.jpg"}, panoptic, instances
    )


def both():
    mask = IDS == 2
    return make(Panoptic(IDS, SEGMENTS), (Instance.from_mask(mask, 0, 0.25), Instance.from_mask(mask & False, 0, 0.0)))


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_masks_come_back(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) > 0.6
    packed = Instance.from_mask(mask, 3, 0.5)
    assert np.array_equal(packed.mask(), mask) and packed.area == mask.sum()
    rows, columns = np.nonzero(mask)
    if len(rows):
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert packed.bbox == box


def test_npz_keeps_everything(tmp_path):
    result = both()
    again = Segmentation.load(result.save(tmp_path / "a.npz"))
    assert np.array_equal(again.panoptic.ids, IDS) and again.panoptic.segments == SEGMENTS
    assert again.instances == result.instances
    plain = Segmentation.load(make().save(tmp_path / "b.npz"))
    assert plain.panoptic is None and plain.instances is None
    empty = Segmentation.load(make(Panoptic(IDS * 0, ()), ()).save(tmp_path / "c.npz"))
    assert empty.panoptic.segments == () and empty.instances == ()


def test_summary_names_them_only_where_they_are(tmp_path):
    summary = json.loads(both().save(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [segment["id"] for segment in summary["panoptic"]] == [1, 2, 3]
    assert summary["instances"][0]["bbox"] == [2, 0, 2, 2]
    assert "panoptic" not in make().to_json() and "instances" not in make().to_json()


def test_coco_panoptic_files(tmp_path):
    ids = IDS.astype(np.int32).copy()
    ids[ids == 3] = 70_000  # all three bytes
    segments = (*SEGMENTS[:2], PanopticSegment(70_000, 1, False, 0.7))
    picture = make(Panoptic(ids, segments)).save_panoptic(tmp_path / "a.png", image_id=7)
    colors = np.asarray(Image.open(picture)).astype(int)
    assert np.array_equal(colors[..., 0] + 256 * colors[..., 1] + 256**2 * colors[..., 2], ids)
    written = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (annotation,) = written["annotations"]
    assert annotation["image_id"] == 7 and annotation["file_name"] == "a.png"
    assert written["images"] == [{"id": 7, "file_name": "a.jpg", "width": 4, "height": 3}]
    last = annotation["segments_info"][2]
    assert (last["id"], last["category_id"], last["area"], last["bbox"]) == (70_000, 2, 3, [0, 2, 3, 1])
    assert [(c["id"], c["isthing"]) for c in written["categories"]] == [(1, 1), (2, 0)]


def test_coco_instances_are_read_by_its_tools(tmp_path):
    from pycocotools.coco import COCO

    path = tmp_path / "a.json"
    path.write_text(json.dumps(both().to_coco_instances(image_id=3)), encoding="utf-8")
    coco = COCO(path)
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert np.array_equal(coco.annToMask(first).astype(bool), IDS == 2)
    assert (first["category_id"], first["score"], second["area"]) == (1, 0.25, 0)


def test_borders_between_segments_of_one_class():
    labels, colors = np.zeros((1, 6), np.int32), np.array([[200, 0, 0]], np.uint8)
    image = np.full((1, 6, 3), 50, np.uint8)
    ids = np.array([[1, 1, 2, 2, 0, 0]], np.int32)
    plain, drawn = blend(image, labels, colors, 0.5), blend(image, labels, colors, 0.5, ids)
    changed = (plain != drawn).any(-1)
    assert changed.tolist() == [[False, False, True, False, False, False]]
    result = both()
    assert result.overlay(legend=False).size == (4, 3) and result.overlay().size[1] >= 3


def test_masks_are_packed_together():
    masks = np.stack([IDS == 1, IDS == 2, np.zeros_like(IDS, bool)])
    packed = [Instance(0, 0.5, *one) for one in pack_masks(masks)]
    assert [own.area for own in packed] == masks.sum((1, 2)).tolist()
    for own, mask in zip(packed, masks, strict=True):
        assert np.array_equal(own.mask(), mask) and own == Instance.from_mask(mask, 0, 0.5)
    assert packed[2].bbox == (0, 0, 0, 0) and pack_masks(masks[:0]) == []


def test_more_masks_than_a_byte_counts():
    masks = np.zeros((300, 2, 3), bool)
    masks[7:, 0, 0] = True
    assert [area for area, _, _ in pack_masks(masks)] == masks.sum((1, 2)).tolist()


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match=r"expected \(H, W\) int32"):
        Panoptic(IDS.astype(np.int64), SEGMENTS)
    with pytest.raises(InputError, match=r"shows the segments \[0, 1, 2, 3\]"):
        Panoptic(IDS, SEGMENTS[:2])
    with pytest.raises(InputError, match=r"expected \(3, 4\) to fit the labels"):
        make(Panoptic(IDS[:2], SEGMENTS[:2]))
    with pytest.raises(InputError, match="have classes 2 to 2; expected 0 to 1"):
        make(instances=(Instance.from_mask(IDS == 1, 2, 0.5),))
    for export in ("to_coco_panoptic", "to_coco_instances"):
        with pytest.raises(InputError, match=r"use a model that gives them"):
            getattr(make(), export)()
    with pytest.raises(InputError, match=r"expected a .png"):
        both().save_panoptic(tmp_path / "a.jpg")
