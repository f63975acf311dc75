"""Pixel decoder and masked decoder."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.errors import ConfigError
from ovseg.proposals import pixel_decoder
from ovseg.proposals.attention import Attention
from ovseg.proposals.masked_decoder import MaskedDecoder
from ovseg.proposals.pixel_decoder import DeformableAttention, PixelDecoder
from ovseg.proposals.sine_position import sine_position

CHANNELS = {"res2": 6, "res3": 8, "res4": 10, "res5": 12}


def levels(batch=2, size=(64, 96), dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    sides = {f"res{i}": 2**i for i in range(2, 6)}
    return {
        name: torch.randn(batch, CHANNELS[name], size[0] // side, size[1] // side, generator=generator).to(dtype)
        for name, side in sides.items()
    }


DECODER = {"dim": 32, "queries": 7, "heads": 4, "decoder_ffn": 48, "decoder_layers": 4}


def heads(mask_dim=0, **options):
    torch.manual_seed(5)
    pixel = PixelDecoder(CHANNELS, dim=32, mask_dim=mask_dim, heads=4, encoder_ffn=48, encoder_layers=2)
    return pixel.eval(), MaskedDecoder(12, **{**DECODER, "mask_dim": mask_dim, **options}).eval()


def test_shapes_from_coarse_to_fine():
    pixel, decoder = heads()
    mask_features, scales = pixel(levels())
    assert mask_features.shape == (2, 32, 16, 24)
    assert [tuple(x.shape[1:]) for x in scales] == [(32, 2, 3), (32, 4, 6), (32, 8, 12)]
    found = decoder(scales, mask_features, every=True)
    assert len(found) == 5
    assert {(tuple(p.embeddings.shape), tuple(p.masks.shape)) for p in found} == {((2, 7, 12), (2, 7, 16, 24))}


@pytest.mark.parametrize("mask_dim", [20, 48])
def test_mask_features_may_have_another_width(mask_dim):
    pixel, decoder = heads(mask_dim)
    mask_features, scales = pixel(levels())
    assert mask_features.shape == (2, mask_dim, 16, 24) and {x.shape[1] for x in scales} == {32}
    last = decoder(scales, mask_features)[-1]
    assert (tuple(last.embeddings.shape), tuple(last.masks.shape)) == ((2, 7, 12), (2, 7, 16, 24))
    assert decoder.query_feat.weight.shape == (7, mask_dim) and len(decoder.input_proj) == 3
    # A projection that the caller has done before is the same as the decoder's own.
    projected = [project(level) for project, level in zip(decoder.input_proj, scales, strict=True)]
    decoder.input_proj = torch.nn.ModuleList()
    again = decoder(projected, mask_features)[-1]
    torch.testing.assert_close(again.masks, last.masks)
    torch.testing.assert_close(again.embeddings, last.embeddings)


def test_an_equal_width_needs_no_projection():
    names = [{name for name, _ in module.named_parameters()} for _, module in (heads(), heads(32))]
    assert names[0] == names[1] and not any(name.startswith("input_proj") for name in names[0])


def test_tokens_that_come_some_at_a_time_make_no_difference(monkeypatch):
    pixel, _ = heads()
    whole = pixel(levels())
    monkeypatch.setattr(pixel_decoder, "TOKENS", 50)
    parts = pixel(levels())
    torch.testing.assert_close(parts[0], whole[0])
    torch.testing.assert_close(parts[1], whole[1])


def test_the_last_prediction_is_the_same_without_the_others():
    pixel, decoder = heads()
    mask_features, scales = pixel(levels())
    alone, every = decoder(scales, mask_features), decoder(scales, mask_features, every=True)
    assert len(alone) == 1
    for one, other in zip(alone[-1], every[-1], strict=True):
        torch.testing.assert_close(one, other)


def test_images_of_a_batch_do_not_meet():
    pixel, decoder = heads()
    features = levels()
    both = decoder(*reversed(pixel(features)))[-1]
    for i in range(2):
        one = decoder(*reversed(pixel({name: x[i : i + 1] for name, x in features.items()})))[-1]
        torch.testing.assert_close(both.masks[i], one.masks[0], atol=1e-4, rtol=1e-4)


def test_a_mask_decides_where_to_look_and_an_empty_one_looks_everywhere():
    _, decoder = heads()
    x, pixels = torch.randn(1, 7, 32), torch.randn(1, 32, 9)
    allowed = decoder.allowed(x, pixels)
    masks = decoder.mask_embed(decoder.decoder_norm(x)) @ pixels
    some = (masks >= 0).any(-1)
    assert torch.equal(allowed[some], masks[some] >= 0) and allowed[~some].all()
    assert decoder.allowed(x, torch.zeros(1, 32, 9)).all()
    constant = decoder.mask_embed(decoder.decoder_norm(x))[:, :1].mT * -1.0
    assert decoder.allowed(x, constant.expand(1, 32, 9))[0, 0].all()


def test_masks_of_a_level_are_resized_masks():
    """Resizing the features and then taking products is resizing the products."""
    _, decoder = heads()
    x, features = torch.randn(1, 7, 32), torch.randn(1, 32, 16, 24)
    kernels = decoder.mask_embed(decoder.decoder_norm(x))
    masks = torch.einsum("bqc,bchw->bqhw", kernels, features)
    for size in ((2, 3), (4, 6), (8, 12)):
        small = F.interpolate(features, size, mode="bilinear", align_corners=False)
        wanted = F.interpolate(masks, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(torch.einsum("bqc,bchw->bqhw", kernels, small), wanted, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_weight_of_the_head():
    pixel, decoder = heads()
    mask_features, scales = pixel(levels())
    sum(p.embeddings.sum() + p.masks.sum() for p in decoder(scales, mask_features, every=True)).backward()
    without = [name for head in (pixel, decoder) for name, p in head.named_parameters() if p.grad is None]
    assert without == ["log_scale"]  # the classifier's, which is outside


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    pixel, decoder = heads()
    wanted = decoder(*reversed(pixel(levels())))[-1].masks
    pixel, decoder = pixel.to(dtype), decoder.to(dtype)
    found = decoder(*reversed(pixel(levels(dtype=dtype))))[-1].masks
    assert found.dtype == dtype and found.isfinite().all()
    assert F.cosine_similarity(found.float().flatten(), wanted.flatten(), dim=0) > 0.9


def test_the_pixel_decoder_stays_in_single_precision_under_autocast():
    pixel, decoder = heads()
    with torch.autocast("cpu", torch.bfloat16):
        mask_features, scales = pixel(levels())
        found = decoder(scales, mask_features)[-1]
    assert {x.dtype for x in (mask_features, *scales)} == {torch.float32}
    assert found.masks.isfinite().all()


def test_attention_is_that_of_torch():
    torch.manual_seed(6)
    own, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(own.state_dict())
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    allowed = torch.rand(2, 3, 5) > 0.4
    allowed[..., 0] = True
    wanted, _ = theirs(query, key, value, attn_mask=~allowed.repeat_interleave(4, 0))
    torch.testing.assert_close(own(query, key, value, allowed), wanted)
    torch.testing.assert_close(own(query, key, value), theirs(query, key, value)[0])


def test_offsets_start_in_all_directions():
    module = DeformableAttention(32, 4)
    offsets = module.offsets.bias.view(4, 3, 4, 2)
    assert offsets[0, 0].tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]]
    assert torch.equal(offsets.abs().amax(-1), torch.arange(1.0, 5).expand(4, 3, 4))


def test_sine_positions():
    found = sine_position((3, 5), 8)
    assert found.shape == (8, 3, 5)
    assert torch.equal(found[:4, :, 0], found[:4, :, 4]) and torch.equal(found[4:, 0], found[4:, 2])
    torch.testing.assert_close(found[0, :, 0], torch.tensor([1.0, 2, 3]).mul(2 * torch.pi / 3).sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, :, 0], torch.tensor([1.0, 2, 3]).mul(2 * torch.pi / 3).cos(), atol=1e-5, rtol=0)


def test_widths_that_do_not_work_are_refused():
    with pytest.raises(ConfigError, match="multiple of 32"):
        PixelDecoder(CHANNELS, dim=48)
    with pytest.raises(ConfigError, match="multiple of the heads"):
        DeformableAttention(32, 5)
