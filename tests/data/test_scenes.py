"""Scenes are composed exactly, reproducibly, and described by what can be seen in them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from ovseg.data.scenes.bank import Bank, match_description, photo_bank, read_sprite
from ovseg.data.scenes.captions import TEMPLATES, caption
from ovseg.data.scenes.composer import Composer, SceneBatch, draw_concepts
from ovseg.data.scenes.concepts import Concept, read_concepts
from ovseg.data.scenes.textures import STUFF, make_texture
from ovseg.errors import InputError

FLAMINGO, FROG, LEMON, TOMATO, WHALE = range(5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def grey_bank(tiny_bank: Bank) -> Bank:
    """The same objects over plain grey, so that every coloured pixel belongs to an object."""
    plain = (torch.full_like(x, 128) for x in (tiny_bank.textures, tiny_bank.photos))
    return Bank(tiny_bank.concepts, tiny_bank.sprites, tiny_bank.sprite_concept, *plain)


def test_equal_generators_give_equal_scenes(tiny_bank: Bank) -> None:
    concepts = torch.tensor([[LEMON, FROG, -1], [WHALE, -1, TOMATO]])
    one, same, other = (Composer(tiny_bank, 48)(concepts, seeded(seed)) for seed in (1, 1, 2))
    for field in dataclasses.fields(SceneBatch):
        assert torch.equal(getattr(one, field.name), getattr(same, field.name)), field.name
    assert not torch.equal(one.images, other.images) and not torch.equal(one.instances, other.instances)


@pytest.mark.parametrize("size", [32, 96, 160])
def test_shapes_and_ranges(tiny_bank: Bank, size: int) -> None:
    concepts = torch.tensor([[LEMON, FROG, -1, -1], [-1, -1, -1, -1], [WHALE, -1, TOMATO, FLAMINGO]])
    scene = Composer(tiny_bank, size)(concepts, seeded(0))
    assert scene.images.shape == (3, 3, size, size) and scene.images.dtype == torch.float32
    assert 0 <= scene.images.min() and scene.images.max() <= 1 and scene.images.std() > 0.05
    assert scene.instances.shape == scene.stuff.shape == (3, size, size)
    assert torch.equal(scene.concepts, concepts)
    assert ((scene.visible >= 0) & (scene.visible <= 1)).all()
    assert (scene.visible[concepts < 0] == 0).all()
    for row, ids in enumerate(concepts):
        filled = {slot + 1 for slot, c in enumerate(ids.tolist()) if c >= 0}
        assert set(scene.instances[row].unique().tolist()) <= filled | {0}
    assert scene.stuff.min() >= -1 and scene.stuff.max() < len(STUFF)


def test_masks_are_where_the_colour_is(grey_bank: Bank) -> None:
    """Light, shadow and noise never swap a full and an empty channel, so colour tells object from grey ground."""
    pool, size = torch.tensor([FLAMINGO, FROG, LEMON, TOMATO, WHALE]), 96
    concepts = torch.stack([pool[torch.randperm(5, generator=seeded(i))][:4] for i in range(12)])
    scene = Composer(grey_bank, size)(concepts, seeded(5))
    checked = 0
    for row in range(len(concepts)):
        image, covered = scene.images[row], (scene.instances[row] > 0).float()
        for slot in range(4):
            mask = (scene.instances[row] == slot + 1).float()
            inside = -F.max_pool2d(-mask[None, None], 3, 1, 1)[0, 0] > 0  # without the blended edge of one pixel
            full = grey_bank.sprites[concepts[row, slot], :3, 64, 64] > 0
            assert (image[full].amin(0) - image[~full].amax(0))[inside].gt(0.1).all()
            checked += int(inside.sum())
        outside = F.max_pool2d(covered[None, None], 3, 1, 1)[0, 0] == 0
        assert (image.amax(0) - image.amin(0))[outside].lt(0.1).all()
    assert checked > 0.1 * 12 * size**2


def place(monkeypatch: pytest.MonkeyPatch, *placements: tuple[float, float, float]) -> None:
    """Put the object of each slot at a centre (-1..1) with a side as a share of the image, upright."""
    rows = torch.tensor([[[x, y, size, 0.0, 1.0, 1.0] for x, y, size in placements]])
    monkeypatch.setattr(Composer, "_placements", lambda self, concepts, generator: rows)


def test_later_slots_cover_earlier_ones(tiny_bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, (0, 0, 0.5), (0, 0, 0.5), (-1, 0, 0.25))
    scene = Composer(tiny_bank, 96)(torch.tensor([[FROG, FROG, FROG]]), seeded(0))  # the frog is a square
    assert scene.visible[0, 0] == 0
    assert scene.visible[0, 1] > 0.97
    assert scene.visible[0, 2] == pytest.approx(0.5, abs=0.06)  # half outside
    expected = torch.zeros(96, 96, dtype=torch.long)
    expected[24:72, 24:72] = 2
    expected[36:60, :12] = 3
    assert (scene.instances[0] != expected).sum() <= 4


def test_every_drawing_of_a_concept_is_used(grey_bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, (0, 0, 0.8))
    composer = Composer(grey_bank, 32)
    areas = {int((composer(torch.tensor([[LEMON]]), seeded(i)).instances > 0).sum()) // 100 for i in range(12)}
    assert len(areas) == 2  # a diamond and a disc


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 99))
def test_draw_concepts_repeats_only_when_the_pool_is_used_up(size: int, counts: list[int], seed: int) -> None:
    pool = torch.arange(size) * 3 + 1
    drawn = draw_concepts(pool, torch.tensor(counts), 5, seeded(seed))
    assert drawn.shape == (len(counts), 5)
    assert [(row >= 0).tolist() for row in drawn] == [[slot < count for slot in range(5)] for count in counts]
    order = drawn[drawn >= 0].tolist()
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        assert len(set(chunk)) == len(chunk) and set(chunk) <= set(pool.tolist())
    assert torch.equal(drawn, draw_concepts(pool, torch.tensor(counts), 5, seeded(seed)))


def described(concepts: list[int], visible: list[float], ground: int, count: int = 200) -> SceneBatch:
    """The same scene many times; captions look at nothing but these fields."""
    stuff = torch.full((count, 4, 4), -1)
    stuff[:, -1] = ground
    return SceneBatch(
        torch.empty(count, 3, 4, 4),
        torch.zeros_like(stuff),
        stuff,
        torch.tensor([concepts]).expand(count, -1),
        torch.tensor([visible]).expand(count, -1),
    )


ALL = {"grass", "lawn", "sky", "blue sky"}


def contents(text: str) -> str:
    """What a caption says without its template; the longest template that fits."""
    found = [re.fullmatch(re.escape(t).replace(r"\{\}", "(.+)"), text) for t in sorted(TEMPLATES, key=len)]
    return [match[1] for match in found if match][-1]


def test_captions_name_what_is_visible(tiny_bank: Bank) -> None:
    batch = described([LEMON, FROG, TOMATO, WHALE, -1], [0.9, 0.5, 0.34, 0.35, 0.0], list(STUFF).index("sand"))
    texts = [contents(text) for text in caption(batch, tiny_bank, seeded(0))]
    bare = [text for text in texts if text in ("sand", "beach")]  # now and then only the ground is named
    assert 0.01 < len(bare) / len(texts) < 0.15
    texts = [text for text in texts if text not in bare]
    lists, grounds = zip(*([*text.split(" on "), ""][:2] for text in texts), strict=True)
    lemon, frog, whale = {"lemon", "citrus", "sour fruit"}, {"frog", "toad"}, {"whale"}
    sizes = set()
    for text in lists:
        names = re.split(", | and ", text)
        sizes.add(len(names))
        if len(names) == 1:
            assert names[0] in lemon | frog | whale
        else:
            assert re.fullmatch(r"[a-z ]+, [a-z ]+ and [a-z ]+", text)
            assert names[0] in lemon and names[1] in frog and names[2] in whale
    assert sizes == {1, 3} and set(grounds) == {"", "sand", "beach"}
    assert {name for text in lists for name in re.split(", | and ", text)} == lemon | frog | whale
    assert caption(batch, tiny_bank, seeded(0)) == caption(batch, tiny_bank, seeded(0))


def test_captions_of_two_objects_and_of_none(tiny_bank: Bank) -> None:
    two = {contents(t) for t in caption(described([WHALE, FLAMINGO], [1, 1], -1), tiny_bank, seeded(1))}
    assert two == {"whale", "flamingo", "whale and flamingo"}
    ground = caption(described([FROG, -1], [0.1, 0], list(STUFF).index("grass")), tiny_bank, seeded(2))
    assert {contents(text) for text in ground} == {"grass", "lawn"}
    assert all("scene" in text for text in caption(described([-1], [0], -1), tiny_bank, seeded(3)))


def test_captions_of_bare_grounds_name_both(tiny_bank: Bank) -> None:
    batch = described([-1], [0], list(STUFF).index("grass"))
    batch.stuff[:, 0] = list(STUFF).index("sky")
    texts = {contents(text) for text in caption(batch, tiny_bank, seeded(4))}
    assert texts == {f"{a} and {b}" for p in (("grass", "lawn"), ("sky", "blue sky")) for a in p for b in ALL - {*p}}


@pytest.mark.parametrize("name", STUFF)
def test_textures(name: str) -> None:
    texture = make_texture(name, 3)
    assert texture.shape == (256, 256, 3) and texture.dtype == np.uint8
    assert texture.std() > 2
    assert np.array_equal(texture, make_texture(name, 3))
    assert not np.array_equal(texture, make_texture(name, 4))


def emoji(name: str | None, subcategory: str, *short: str, category: str = "Animals & Nature") -> dict[str, Any]:
    image = f"{(name or 'none').lower().replace(' ', '-')}.png"
    return {"name": name, "category": category, "subcategory": subcategory, "image": image, "short_names": list(short)}


RULES = {
    "categories": ["Animals & Nature", "Travel & Places"],
    "drop_subcategories": ["place-map"],
    "keep_from_sky_time_sound": ["fire"],
    "extra": ["compass"],
    "drop": ["racing car"],
    "rename": {"automobile": "car", "elephant": "elephant"},
    "synonyms": {"cat": ["kitten", "kitty"], "car": ["motor car", "vehicle", "banger"], "lion": ["big cat", "kitten"]},
}
EMOJI = [
    emoji("CAT", "animal-mammal", "cat2"),
    emoji("CAT FACE", "animal-mammal", "cat"),
    emoji("LION FACE", "animal-mammal", "lion_face"),
    emoji("AUTOMOBILE", "transport-ground", "car", "red_car", category="Travel & Places"),
    emoji("ONCOMING AUTOMOBILE", "transport-ground", "oncoming_automobile", category="Travel & Places"),
    emoji("RACING CAR", "transport-ground", "racing_car", category="Travel & Places"),
    emoji("WORLD MAP", "place-map", "map", category="Travel & Places"),
    emoji("COMPASS", "place-map", "compass", category="Travel & Places"),
    emoji("FIRE", "sky & weather", "fire", category="Travel & Places"),
    emoji("FOG", "sky & weather", "fog", category="Travel & Places"),
    emoji("GRINNING FACE", "face-smiling", "grinning", category="Smileys & Emotion"),
    emoji("CLOCK FACE", "place-other", "clock_1930", category="Travel & Places"),
    emoji(None, "animal-bug", "nameless", category="Flags"),
]


@pytest.fixture
def concepts(tmp_path: Path) -> dict[str, Concept]:
    (tmp_path / "emoji.json").write_text(json.dumps(EMOJI))
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    found = read_concepts(tmp_path / "emoji.json", tmp_path / "rules.json")
    assert [(c.group, c.name) for c in found] == sorted((c.group, c.name) for c in found)
    return {concept.name: concept for concept in found}


def test_concepts_are_kept_dropped_and_renamed(concepts: dict[str, Concept]) -> None:
    assert list(concepts) == ["cat", "lion", "car", "clock face", "compass", "fire"]


def test_drawings_of_one_thing_are_merged(concepts: dict[str, Concept]) -> None:
    assert concepts["cat"].images == ["cat", "cat-face"]
    assert concepts["car"].images == ["automobile", "oncoming-automobile"]


def test_synonyms_are_words_and_stand_for_one_concept(concepts: dict[str, Concept]) -> None:
    assert concepts["cat"].synonyms == ["kitten", "kitty", "cat face"]
    assert concepts["lion"].synonyms == ["lion face", "big cat"]  # "kitten" is taken by the cat
    assert concepts["car"].synonyms[0] == "automobile" and len(concepts["car"].synonyms) == 3
    assert concepts["clock face"].synonyms == ["clock"]
    words = [word for c in concepts.values() for word in (c.name, *c.synonyms)]
    assert len(set(words)) == len(words)


def test_the_novel_split_is_a_stable_hash_of_the_name(tiny_bank: Bank) -> None:
    assert [concept.name for concept in tiny_bank.concepts if concept.novel] == ["cup", "leaf"]
    assert 0.08 < np.mean([Concept(f"thing {i}", "g").novel for i in range(1000)]) < 0.16


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A grey wolf.", 0),
        ("A polar bear!", 1),
        ("Grizzly bear", 2),
        ("wolf", 0),
        ("A T-Rex.", 3),
        ("A wolf in the snow.", None),
        ("Werewolf", None),
        ("", None),
    ],
)
def test_match_description(text: str, found: int | None) -> None:
    assert match_description(text, {"wolf": 0, "polar bear": 1, "bear": 2, "t-rex": 3}) == found


def test_bank_round_trip(tiny_bank: Bank, tmp_path: Path) -> None:
    tiny_bank.save(tmp_path / "bank.safetensors")
    loaded = Bank.load(tmp_path / "bank.safetensors")
    assert loaded.concepts == tiny_bank.concepts
    for name in ("sprites", "sprite_concept", "textures", "photos"):
        assert torch.equal(getattr(loaded, name), getattr(tiny_bank, name)), name
    assert loaded.texture_class.bincount().tolist() == [24] * len(STUFF)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_bank_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no bank of Scenes .*ovseg datasets scenes") as caught:
        Bank.load(path)
    assert "\n" not in str(caught.value)


def test_read_sprite_crops_to_what_is_visible(tmp_path: Path) -> None:
    pixels = np.zeros((60, 40, 4), np.uint8)
    pixels[10:30, 5:15] = (200, 100, 50, 255)  # 10 wide, 20 high
    pixels[50, 30, 3] = 20  # a haze that does not count
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sprite = read_sprite(tmp_path / "a.png")
    assert sprite is not None and sprite.shape == (4, 128, 128) and sprite.dtype == torch.uint8
    ys, xs = torch.nonzero(sprite[3] > 128, as_tuple=True)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (0, 127, 32, 95)
    assert sprite[:, 64, 64].tolist() == [200, 100, 50, 255]
    Image.new("RGBA", (8, 8)).save(tmp_path / "empty.png")
    assert read_sprite(tmp_path / "empty.png") is None


def test_photo_bank_without_a_match(tiny_bank: Bank, tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("A spaceship.\n")
    with pytest.raises(InputError, match="no stamp"):
        photo_bank(tiny_bank, tmp_path)
