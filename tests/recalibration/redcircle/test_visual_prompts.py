"""Marks: like Pillow's drawings, in the right place, in red."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from ovseg.recalibration.redcircle.visual_prompts import PROMPTS, VIEWS, blur, crop, ellipses, grey, mark

SIZE = (90, 120)


def picture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    small = torch.rand(1, 3, 6, 8, generator=generator)
    return torch.nn.functional.interpolate(small, SIZE, mode="bilinear")


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def test_the_circle_is_that_of_pillow():
    box = (20, 10, 100, 70)
    ours = mark(picture(), torch.tensor([box]).float(), "circle")[0, 0]
    drawn = pillow(picture()[0])
    ImageDraw.Draw(drawn).ellipse((20, 10, 99, 69), outline="red", width=1)
    ours, theirs = ((x - torch.tensor([1.0, 0, 0]).view(3, 1, 1)).abs().amax(0) < 0.01 for x in (ours, tensor(drawn)))
    near = torch.nn.functional.max_pool2d(theirs[None].float(), 3, 1, 1)[0] > 0
    assert (ours & ~near).sum() == 0  # never more than a pixel away
    assert 0.6 < ours.sum() / theirs.sum() < 1.6


def test_the_line_grows_with_the_image():
    boxes = torch.tensor([[100.0, 100, 900, 500]])
    marked = mark(torch.zeros(1, 3, 600, 1000), boxes, "circle")[0, 0, 0]
    assert marked[300, :500].sum() == 5 and marked[300, 100:105].all()


def test_blur_is_that_of_a_gaussian():
    image = picture()
    theirs = tensor(pillow(image[0]).filter(ImageFilter.GaussianBlur(8)))
    inner = (slice(None), slice(30, 60), slice(30, 90))  # Pillow approximates, most of all at the rim
    assert (blur(image, 8.0)[0] - theirs)[inner].abs().max() < 0.03
    flat = torch.full((1, 3, 9, 7), 0.3)
    torch.testing.assert_close(blur(flat), flat)


def test_grey_is_that_of_pillow():
    image = picture()
    theirs = tensor(pillow(image[0]).convert("L").convert("RGB"))
    assert (grey(image)[0] - theirs).abs().max() < 0.01


def test_crop_is_an_enlarged_box():
    image, boxes = picture(), torch.tensor([[0.0, 0, 120, 90], [40, 20, 100, 65]])
    whole, part = crop(image, boxes)[0]
    torch.testing.assert_close(whole, image[0], atol=1e-4, rtol=0)
    theirs = pillow(image[0]).resize((120, 90), Image.Resampling.BILINEAR, box=(40, 20, 100, 65))
    assert (part - tensor(theirs)).abs().max() < 0.01


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "crop"])
def test_the_middle_stays_and_every_box_has_its_own_image(view):
    images = torch.cat([picture(), picture().flip(3)])
    boxes = torch.tensor([[20.0, 10, 100, 70], [60, 40, 110, 80]])
    marked = mark(images, boxes, view)
    assert marked.shape == (2, 2, 3, *SIZE)
    for index, (x, y) in enumerate([(60, 40), (85, 60)]):
        torch.testing.assert_close(marked[:, index, :, y, x], images[:, :, y, x])
    same = (marked == images[:, None]).all(2)
    assert same[0, 0, 0, 0] == (view == "circle")


def test_a_box_of_a_pixel_and_one_beyond_the_image():
    boxes = torch.tensor([[5.0, 5, 6, 6], [-50, -50, 200, 200], [7, 7, 7, 7]])
    for view in VIEWS:
        assert mark(picture(), boxes, view).isfinite().all()
    assert ellipses(boxes, SIZE)[1].all()


def test_prompts_are_made_of_views():
    assert {view for views in PROMPTS.values() for view in views} == set(VIEWS)
