"""The seam between methods and towers: other leading tokens than CLIP's, and towers that lack what a method needs."""

from __future__ import annotations

import pickle
import threading

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import ViTClip
from ovseg.clip.conv_clip import ConvClip
from ovseg.clip.features import Need
from ovseg.clip.tokens import CLASS_TOKEN, DENSE, LEVELS
from ovseg.contract import CLASS_SCORES
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.losses.criterion import SetCriterion
from ovseg.meta_arch.san.model import SAN
from ovseg.meta_arch.san.side_adapter import SideAdapter
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration import Recalibration, build_recalibration, list_recalibrations
from ovseg.vocabulary import Vocabulary
from tests.fake_tower import DIM, PATCH, FakeTower
from tests.words import make_words

VARIANTS = [
    *((name, {}) for name in list_recalibrations()),
    ("MaskCLIP", {"ks_thresh": 0.9}),
    ("NACLIP", {"attention": "nonly"}),
    ("ClearCLIP", {"last_n_layers": 3}),
    ("CLIP_Surgery", {"surgery": "redundant"}),
    ("CLIPer", {"windows": [16, 8], "half_position": True}),
    ("ProxyCLIP", {"residual": True, "feed_forward": True}),
    ("ResCLIP", {"attention": "sclip", "residual": True}),
]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in VARIANTS]
NEED_A_CLASS_TOKEN = {"CLIP_Decomposition", "CLIPtrase", "CorrCLIP", "FALIP", "Zero_Guidance"}
NEED_FEATURES_ALONE = {"CLIP", "MaskCLIP", "PixelCLIP", "RedCircle"}


def pictures(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 4 * PATCH, 5 * PATCH, generator=torch.Generator().manual_seed(3))


def scores(tower: FakeTower, method: Recalibration, images: torch.Tensor) -> torch.Tensor:
    columns = torch.arange(images.shape[3]) * 3 // images.shape[3]
    regions = columns.expand(len(images), images.shape[2], -1) if method.uses_regions else None
    texts = F.normalize(torch.randn(3, DIM, generator=torch.Generator().manual_seed(4)), dim=1)
    words = make_words(texts)
    with torch.inference_mode():
        dense = method.encode(tower, images, regions)
        assert all(maps.isfinite().all() for maps in method.region_maps(dense, words))
        return method.patch_scores(dense, words)


@pytest.fixture(scope="module", params=[(False, 0), (False, 2), (True, 4)], ids=["none", "registers", "all"])
def tower(request) -> FakeTower:
    return FakeTower(*request.param)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_every_method_runs_whatever_leads_the_tokens_or_is_refused(tower, name, options, monkeypatch):
    method, images = build_recalibration(name, **options), pictures()
    if name in NEED_A_CLASS_TOKEN and CLASS_TOKEN not in tower.has:
        monkeypatch.setattr(tower, "embed", lambda *_: pytest.fail("it ran before it was refused"))
        with pytest.raises(
            ConfigError, match=f"^{name} needs a class token.*, which fake has not; use .*ViT-B-16"
        ) as e:
            scores(tower, method, images)
        assert "\n" not in str(e.value)
        with pytest.raises(ConfigError, match=f"^{name} needs a class token"):
            training_free(tower, method)
        return
    together = scores(tower, method, images)
    assert together.shape == (2, 3, 4, 5) and together.isfinite().all()
    alone = torch.cat([scores(tower, method, image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_methods_that_need_a_class_token_say_so():
    needs = {name: build_recalibration(name).requires for name in list_recalibrations()}
    alone = {DENSE}
    assert {name for name in needs if needs[name] == alone} == NEED_FEATURES_ALONE
    assert {name for name in needs if needs[name] - Recalibration.requires - alone} == NEED_A_CLASS_TOKEN


@pytest.mark.parametrize(
    ("name", "options"),
    [("MaskCLIP", {"ks_thresh": 0.5}), ("MaskCLIP", {"residual": False}), ("CLIP", {"feed_forward": True})],
)
def test_what_changes_a_block_needs_one(tiny_resnet, name, options):
    clip = ConvClip.from_folder(tiny_resnet)
    with pytest.raises(ConfigError, match=f"^{name} needs tokens of patches"):
        clip.check_method(build_recalibration(name, **options))
    with pytest.raises(ConfigError, match=r"^what records tokens needs tokens of patches"):
        clip.dense(pictures(), need=Need(hidden=(0,)))


@pytest.mark.parametrize(
    "name", ["SCLIP", "ClearCLIP", "NACLIP", "ITACLIP", "ResCLIP", "ProxyCLIP", "MaskCLIP", "CLIP_DINOiser"]
)
def test_leading_tokens_that_no_patch_sees_do_not_shift_places(name, monkeypatch):
    """Where nobody looks at the registers, a tower with some gives the patches what one without gives them."""
    plain, led = FakeTower(), FakeTower(registers=2)
    for block in led.blocks:
        monkeypatch.setattr(block, "qkv", lambda tokens, own=block.qkv: apart(*own(tokens)))
        monkeypatch.setattr(block, "scale", (1 / block.scale**2 + 1) ** -0.5)
    torch.testing.assert_close(
        scores(led, build_recalibration(name), pictures()),
        scores(plain, build_recalibration(name), pictures()),
        atol=1e-4,
        rtol=1e-4,
    )


def apart(query, key, value):
    """Add a dimension to queries and keys in which the two registers lie far from all patches."""
    side = torch.ones_like(key[..., :1])
    side[:, :, :2] = -1
    grown = (1 + 1 / key.shape[-1]) ** 0.25  # for attention divides by the root of the dimension
    return torch.cat([grown * query, 40 * side], -1), torch.cat([grown * key, 40 * side], -1), value


def training_free(tower: FakeTower, method: Recalibration) -> TrainingFree:
    parts = {"size_rule": SizeRule(32, 64), "protocol": Protocol(0, 0, "none"), "rule": ScoreRule(40.0)}
    return TrainingFree(clip=tower, recalibration=method, templates="none", background="none", **parts).eval()


def test_a_model_runs_from_words_to_labels(tower):
    model = training_free(tower, build_recalibration("NACLIP"))
    words = model.words(Vocabulary.parse(["cat", "sofa"]))
    encoded = pickle.loads(pickle.dumps(model.encode([255 * torch.rand(3, 32, 48)])))
    answer = model.answer(encoded, 0, (50, 70), words, frozenset({CLASS_SCORES}))
    assert answer.labels.shape == (50, 70) and answer.class_scores.shape == (2, 50, 70)


def san(tower: FakeTower) -> SAN:
    adapter = SideAdapter(
        tower.width, 3, width=24, depth=2, heads=2, patch=PATCH, image_size=32, queries=5, fusion=("0->0", "3->1"),
        supervised_blocks=(2,), channels=8, hidden=8,
    )  # fmt: skip
    torch.manual_seed(0)
    return SAN(
        clip=tower, side_adapter=adapter, criterion=SetCriterion(), size_rule=SizeRule(32, 64), templates="none",
        background="none", front_blocks=5, clip_resolution=1.0, size_divisibility=PATCH,
    ).eval()  # fmt: skip


def test_san_asks_for_a_class_token_and_for_nothing_else(tower):
    if CLASS_TOKEN not in tower.has:
        with pytest.raises(ConfigError, match=r"^SAN needs a class token, which fake has not; use .*ViT-B-16"):
            san(tower)
        return
    model = san(tower)
    answer = model.answer(
        model.encode([255 * torch.rand(3, 32, 48)]), 0, (32, 48), model.words(Vocabulary.parse("a, b"))
    )
    assert answer.labels.shape == (32, 48) and answer.scores.isfinite().all()


@pytest.mark.parametrize("name", list_recalibrations())
def test_a_pyramid_refuses_methods_of_tokens(tiny_convnext, name):
    clip, method = ConvClip.from_folder(tiny_convnext), build_recalibration(name)
    if name in NEED_FEATURES_ALONE:
        assert clip.dense(pictures(), method).grid == (1, 1)
        return
    message = (
        f"^{name} needs tokens of patches.*, which tiny-convnext.* has not; use a vision transformer such as .*, "
        "or what runs on this one: CLIP, MaskCLIP, PixelCLIP, RedCircle$"
    )
    with pytest.raises(ConfigError, match=message):
        clip.dense(pictures(), method)


def test_towers_refuse_what_they_have_not(tiny_convnext, tiny_resnet, tiny_clip):
    for folder in (tiny_convnext, tiny_resnet):
        clip = ConvClip.from_folder(folder)
        assert clip.has == {DENSE, LEVELS}
        for ask in (lambda c: c.blocks, lambda c: c.embed(pictures(), "bicubic")):
            with pytest.raises(ConfigError, match="has not; use a vision transformer such as"):
                ask(clip)
    for ask in (lambda c: c.channels, lambda c: c.levels(pictures()), lambda c: c.pool(pictures(), pictures())):
        with pytest.raises(ConfigError, match="needs levels of feature maps, which tiny-clip has not; use a ConvNeXt"):
            ask(ViTClip.from_folder(tiny_clip))


def test_parts_of_tokens():
    tower, tokens = FakeTower(class_token=True, registers=2), torch.arange(2 * 7 * 3).view(2, 7, 3)
    cls, patches = tower.split(tokens)
    assert torch.equal(cls, tokens[:, :1]) and torch.equal(patches, tokens[:, 3:])
    assert torch.equal(torch.cat([tower.leading(tokens), patches], 1), tokens)
    assert torch.equal(torch.cat(tower.class_and_rest(tokens), 1), tokens)
    heads = torch.randn(2, 4, 7, 5)
    assert torch.equal(tower.split(heads)[1], heads[:, :, 3:])
    pairs = torch.randn(2, 4, 4)
    assert torch.equal(tower.patch_pairs(tower.with_leading(pairs)), pairs)
    assert FakeTower(registers=2).split(tokens)[0] is None
    with pytest.raises(ConfigError, match="needs a class token"):
        FakeTower().class_and_rest(tokens)


def test_threads_may_embed_and_move_texts_at_once(tiny_clip):
    """A tower that moves while another thread embeds would find its weights on two devices."""
    clip = ViTClip.from_folder(tiny_clip)
    expected, failed, inside = clip.text(["a cat"]), [], []
    encode = clip.model.encode_text

    def watched(tokens):
        inside.append(1)
        failed.extend(["two at once"] if len(inside) > 1 else [])
        found = encode(tokens)
        inside.pop()
        return found

    clip.model.encode_text = watched
    clip._tokens = None

    def work() -> None:
        for _ in range(5):
            if not torch.equal(clip.text(["a cat"]), expected):
                failed.append("another embedding")
            clip.move_text(torch.device("cpu"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
