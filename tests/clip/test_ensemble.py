"""Several CLIPs as one tower: sums of the members' cosines, and weights that follow from members and words."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import ClipSource, load_tower, load_towers
from ovseg.clip.ensemble import Ensemble, Seen, nearness, shares
from ovseg.clip.hf.clip import HfClip
from ovseg.clip.tokens import DENSE
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.members import OverMembers
from ovseg.recalibration import build_recalibration
from ovseg.vocabulary import TextEmbedder, Vocabulary, parse_background
from tests.clip.narrow_hf import model_of, save
from tests.clip.towers import TOWERS, vit
from tests.fake_tower import FakeTower
from tests.words import make_words

VIT, RESNET = "ViT (OpenAI, LAION, MetaCLIP, DFN)", "ResNet"


@pytest.fixture(scope="module")
def pair() -> Ensemble:
    """Two ViTs of patches of 16 and of 8 pixels, other widths, means and activations."""
    other = vit("ViT-B-32", patch_size=8, image_size=32)(3)
    other.mean, other.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return Ensemble([TOWERS[VIT](3), other])


def words_of(clip: Ensemble, *names: str, background: str = "none"):
    embedder = TextEmbedder(clip, "vild14", None)
    return clip.weigh(
        embedder.embed_vocabulary(Vocabulary.parse(list(names)), parse_background(background)), embedder.embed_sentences
    )


def test_scores_are_the_weighted_sum_of_the_members_cosines(pair):
    queries = words_of(pair, "a cat", "a dog", "a red bus")
    rows, weights = pair.words_of(queries.embeddings)
    assert sum(weights) == pytest.approx(1) and all(weight > 0 for weight in weights) and weights[0] != weights[1]
    torch.testing.assert_close(torch.stack([part.norm(dim=-1) for part in rows]), torch.ones(2, 3))
    for index, tower in enumerate(pair.towers):
        own = TextEmbedder(tower, "vild14", None).embed(["a cat", "a dog", "a red bus"])
        torch.testing.assert_close(rows[index], own, atol=2e-3, rtol=0)  # templates are averaged side by side
    images = torch.randn(2, 3, 64, 96)
    dense = pair.dense(images)
    assert dense.features.shape == (2, pair.embed_dim, 4, 6)
    seen = dense.context.kept(Seen).members
    expected = sum(one.cosines(part) * weight for one, part, weight in zip(seen, rows, weights, strict=True))
    torch.testing.assert_close(dense.cosines(queries.embeddings), expected, atol=1e-5, rtol=1e-5)


def test_members_see_the_images_as_they_would_alone(pair):
    images = torch.randn(1, 3, 70, 101)
    seen = pair.dense(images).context.kept(Seen).members
    torch.testing.assert_close(seen[0].features, pair.towers[0].dense(images).features)
    own, _ = pair.shown(pair.towers[1], images, None)
    assert own.shape == (1, 3, 4 * 8, 6 * 8)
    rgb = torch.full((1, 3, 64, 64), 0.5)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (pair.mean, pair.std))
    own, _ = pair.shown(pair.towers[1], (rgb - mean) / std, None)
    torch.testing.assert_close(own, torch.zeros(1, 3, 32, 32), atol=1e-5, rtol=0)


def test_a_method_runs_on_each_member(pair):
    method = build_recalibration("sclip")
    over, images = OverMembers(method), torch.randn(2, 3, 64, 64)
    queries = words_of(pair, "a cat", "a dog")
    words = make_words(queries.embeddings)
    rows, weights = pair.words_of(queries.embeddings)
    expected = 0
    for tower, part, weight in zip(pair.towers, rows, weights, strict=True):
        own, _ = pair.shown(tower, images, None)
        expected = expected + weight * method.patch_scores(method.encode(tower, own), make_words(part))
    dense = over.encode(pair, images)
    torch.testing.assert_close(over.patch_scores(dense, words), expected)
    again = pickle.loads(pickle.dumps(dense)).rows(slice(1, 2)).at(pair)
    torch.testing.assert_close(over.patch_scores(again, words), expected[1:])


def test_regions_come_to_the_grid_of_every_member(pair):
    regions = torch.arange(64 * 64).reshape(1, 64, 64) + 2**40
    _, own = pair.shown(pair.towers[1], torch.randn(1, 3, 64, 64), regions)
    assert torch.equal(own, regions[:, ::2, ::2])


def test_weights_are_a_property_of_the_words(pair):
    first = words_of(pair, "a cat", "a dog")
    other = words_of(pair, "a violin", "an oboe")
    again = words_of(pair, "a cat", "a dog")
    assert torch.equal(first.embeddings, again.embeddings) and first.notes == again.notes
    assert pair.words_of(first.embeddings)[1] != pair.words_of(other.embeddings)[1]
    assert first.notes[-1].startswith("weights of the CLIPs, by how well each knows these words: ViT-B-16-quick")


class Knows(FakeTower):
    """Texts have a row of their word and one of the whole sentence, mixed; a stranger hears the sentence alone."""

    def __init__(self, marked: str, known: tuple[str, ...]) -> None:
        super().__init__()
        self.known, self.weights_hash, self.name = known, marked, marked

    def text(self, texts):
        return torch.stack([self.row(text) for text in texts])

    def row(self, text):
        word = next((word for word in self.known if word in text), None)
        own = 0.1 if word else 1.0
        return own * drawn(text, self.embed_dim) + (drawn(word, self.embed_dim) if word else drawn("", self.embed_dim))


def drawn(text, size):
    return F.normalize(torch.randn(size, generator=torch.Generator().manual_seed(zlib.crc32(text.encode()))), dim=0)


def test_a_member_that_knows_the_words_counts_more():
    clip = Ensemble([Knows("a", ("violin", "oboe")), Knows("b", ("violin", "oboe", "cat", "dog"))])
    one = clip.words_of(words_of(clip, "cat", "dog").embeddings)[1]
    both = clip.words_of(words_of(clip, "violin", "oboe").embeddings)[1]
    assert one[1] > 0.6 and both == pytest.approx([0.5, 0.5], abs=1e-5)


def test_a_trained_clip_counts_more_than_a_random_one(tiny_clip):
    clip = Ensemble([load_tower(ClipSource(folder=str(tiny_clip))), load_tower(ClipSource(folder="mini"))])
    for names in (("cup", "spoon", "table"), ("flamingo", "frog")):
        assert clip.words_of(words_of(clip, *names).embeddings)[1][1] > 0.55


def test_nothing_to_compare_gives_equal_weights(pair):
    assert shares([-1.0, -1.0]) == shares([0.0, 0.0]) == shares([0.7, -1.0]) == [0.5, 0.5]
    assert shares([3.0, 1.0]) == [0.75, 0.25]
    rows = F.normalize(torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]], [[1, 1], [1, 1]]]), dim=-1)
    assert nearness(rows, torch.tensor([0, 0, 0])) == -1
    assert nearness(rows[:2], torch.tensor([0, 1])) == 1  # no dispersion
    assert nearness(rows.flip(0)[:1].expand(2, -1, -1), torch.tensor([0, 1])) == 0  # no margin
    spread = F.normalize(torch.tensor([[[1.0, 0.5, 0], [1, -0.5, 0]], [[0, 0.5, 1], [0, -0.5, 1]]]), dim=-1)
    away = 1 - 1.25**-0.5
    assert nearness(spread, torch.tensor([0, 1])) == pytest.approx(1 / (1 + away))
    words = make_words(torch.eye(pair.embed_dim)[:2])
    told = pair.weigh(replace(words, texts=()), lambda texts: torch.ones(len(texts), pair.embed_dim))
    assert told.notes[-1].count("0.50") == 2


def test_what_is_no_ensemble(pair):
    tower = TOWERS[VIT](2)
    for members, message in (
        ([tower], "has 1 CLIPs; expected two or more"),
        ([tower, pair], "none of them an ensemble"),
        ([tower, TOWERS[VIT](2)], "has the same CLIP twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            Ensemble(members)
    assert pair.has == {DENSE} and pair.name == "clip:ViT-B-16-quickgelu+ViT-B-32"


def test_the_door(tiny_clip, tiny_resnet):
    folders = [str(tiny_clip), str(tiny_resnet)]
    node = {"ARCH": "", "PRETRAINED": "", "FOLDER": "", "ACTIVATION": "", "RESIZE_POSITION": False, "MEMBERS": folders}
    source = ClipSource.of(node)
    clip = load_towers(source, {DENSE}, "CLIP")
    assert isinstance(clip, Ensemble) and clip.dense(torch.randn(1, 3, 64, 64)).grid == (8, 8)
    with pytest.raises(ConfigError, match=r"SAN runs on one CLIP, and clip:.*\+.* are several; name one of them"):
        load_tower(source, (), "SAN")
    with pytest.raises(ConfigError, match=r"SCLIP needs .*tiny-resnet.* has not"):
        load_towers(source, build_recalibration("sclip").requires, "SCLIP")
    with pytest.raises(ConfigError, match=r"MODEL.CLIP.MEMBERS has 'openai'; expected a folder"):
        ClipSource.of({**node, "MEMBERS": ["openai", folders[0]]})
    with pytest.raises(ConfigError, match=r"MODEL.CLIP.MEMBERS has '3'; expected a folder"):
        ClipSource.of({**node, "MEMBERS": [3, folders[0]]})
    with pytest.raises(WeightsError, match="names no repository of the hub; expected hf:OWNER/NAME"):
        ClipSource.of({**node, "MEMBERS": ["hf:openai", folders[0]]})
    assert ClipSource.of({**node, "MEMBERS": ["mini", folders[0]]}).members[0] == ClipSource(folder="mini")
    resized = ClipSource.of({**node, "RESIZE_POSITION": True, "MEMBERS": ["mini", "ViT-B-16/openai"]})
    assert all(member.resize_position for member in resized.members)
    with pytest.raises(ConfigError, match="ACTIVATION is 'gelu' beside several CLIPs; leave it out"):
        ClipSource.of({**node, "ACTIVATION": "gelu"})


def test_a_member_that_has_not_learnt_the_script_says_so(tmp_path):
    clip = Ensemble([load_tower(ClipSource(folder="mini")), HfClip.from_folder(save(tmp_path, *model_of("altclip")))])
    (note,) = (note for note in words_of(clip, "猫", "犬", "空").notes if "hardly learnt" in note)
    assert note.startswith("mini has hardly learnt 3 of 3 texts")
    assert not [note for note in words_of(clip, "cat", "dog").notes if "hardly learnt" in note]


def test_how_members_normalise_images_is_part_of_what_they_are(tmp_path):
    towers = [vit("ViT-B-32", patch_size=size, image_size=32)(2) for size in (8, 16)]
    first = Ensemble(towers).weights_hash
    towers[1].mean = (0.5, 0.5, 0.5)
    assert Ensemble(towers).weights_hash != first
