from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg.clip.features import DenseFeatures
from ovseg.errors import ConfigError
from ovseg.vocabulary import Background, Queries, TextCache, TextEmbedder, TextOptions, Vocabulary
from ovseg.vocabulary.engineering import mix, unit

TEMPLATES = ["a {}", "the {}", "one {}"]
NONE = Background()
FILES: dict[str, dict[str, Any]] = {
    "auxiliary": {"Cat": "a furry animal {with} claws", "background": "what is left", "car": "a vehicle"},
    "descriptions": {"cat": ["A cat has whiskers.", "Cats sleep."], "zebra": ["Zebras have stripes."]},
    "subclasses": {"cat": ["tabby", "Kitten", "siamese", "tabby"], "dog": ["poodle"]},
}


class FakeClip:
    """Gives each prompt a vector of its own, of any length, and writes down what it was asked."""

    name, weights_hash = "fake", "0"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def text(self, texts: list[str], /) -> Tensor:
        self.prompts += texts
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        return torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) * 5 for seed in seeds])


def row(*prompts: str) -> Tensor:
    """The mean of prompts by hand."""
    return unit(unit(FakeClip().text(list(prompts))).mean(0))


def name_row(name: str) -> Tensor:
    return row(*(template.replace("{}", name) for template in TEMPLATES))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    for key, content in FILES.items():
        (tmp_path / f"{key}.json").write_text(json.dumps(content), encoding="utf-8")
    return {key: str(tmp_path / f"{key}.json") for key in FILES}


def embed(classes: str, background: Background = NONE, templates: Any = TEMPLATES, **options: Any) -> Queries:
    embedder = TextEmbedder(FakeClip(), templates, options=TextOptions(**options))
    return embedder.embed_vocabulary(Vocabulary.parse(classes), background)


def test_mixing_by_hand() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    auxiliary = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = mix(texts, auxiliary, torch.tensor([-1, 0, 1]), 0.25)
    assert torch.allclose(found, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.6]]))
    assert torch.equal(mix(texts, auxiliary, torch.tensor([0, 0, 0]), 0.0), texts)
    several = mix(texts.expand(4, -1, -1), auxiliary, torch.tensor([-1, 0, 1]), 0.25)
    assert torch.equal(several, found.expand(4, -1, -1))


def test_definitions_are_put_into_templates_and_shared_by_synonyms(files: dict[str, str]) -> None:
    sky = Background("words:sky", words=("sky",))
    found = embed("background, cat|kitten, dog", sky, auxiliary=files["auxiliary"], auxiliary_weight=0.3)
    definition = name_row("a furry animal {with} claws")
    expected = [
        name_row("background"),  # has an entry in the file, and stays as it is
        *(0.7 * name_row(name) + 0.3 * definition for name in ("cat", "kitten")),
        name_row("dog"),
        name_row("sky"),
    ]
    assert torch.allclose(found.embeddings, torch.stack(expected), atol=1e-6)
    assert found.query_to_class.tolist() == [0, 1, 1, 2, -1]
    assert found.embeddings[1].norm() < 0.99
    assert found.notes == ("auxiliary.json has no entry for 'dog'",)


def test_descriptions_take_the_place_of_all_names(files: dict[str, str]) -> None:
    found = embed("dog|puppy, cat|kitten", descriptions=files["descriptions"])
    expected = [name_row("dog"), name_row("puppy"), row("A cat has whiskers.", "Cats sleep.")]
    assert torch.allclose(found.embeddings, torch.stack(expected), atol=1e-6)
    assert found.query_to_class.tolist() == [0, 0, 1]


def test_descriptions_averaged_with_names(files: dict[str, str]) -> None:
    found = embed("dog, cat|kitten", descriptions=files["descriptions"], descriptions_with_templates=True)
    described = row("A cat has whiskers.", "Cats sleep.")
    expected = [name_row("dog"), unit(name_row("cat") + described), unit(name_row("kitten") + described)]
    assert torch.allclose(found.embeddings, torch.stack(expected), atol=1e-6)


def test_subclasses_are_further_queries(files: dict[str, str]) -> None:
    sky = Background("words:sky", words=("sky",))
    found = embed("car, cat|kitten", sky, subclasses=files["subclasses"])
    cat = name_row("cat")
    kinds = [(name_row(kind) + cat) / 2 for kind in ("kitten", "tabby", "siamese")]  # "Kitten" is there already
    expected = [name_row("car"), cat, *kinds, name_row("sky")]
    assert torch.allclose(found.embeddings, torch.stack(expected), atol=1e-6)
    assert found.query_to_class.tolist() == [0, 1, 1, 1, 1, -1]
    assert torch.equal(embed("car", subclasses=files["subclasses"]).embeddings, embed("car").embeddings)


def test_subclasses_rank_as_chils_defines_it(files: dict[str, str]) -> None:
    """The literal procedure: two softmaxes, each over all labels of its level, and their product."""
    tree = {"cat": ["cat", "tabby", "Kitten", "siamese"], "dog": ["dog", "poodle"], "car": ["car"]}
    found = embed(", ".join(tree), subclasses=files["subclasses"])
    images = unit(torch.randn(500, 16, generator=torch.Generator().manual_seed(0)))
    scale = 10
    of_classes = (scale * images @ torch.stack([name_row(name) for name in tree]).mT).softmax(1)
    rows = [name_row(kind) for kinds in tree.values() for kind in kinds]
    parents = torch.tensor([i for i, kinds in enumerate(tree.values()) for _ in kinds])
    product = (scale * images @ torch.stack(rows).mT).softmax(1) * of_classes[:, parents]
    scores = (2 * scale * images @ found.embeddings.mT).softmax(1)
    assert torch.equal(found.query_to_class[scores.argmax(1)], parents[product.argmax(1)])
    assert len(set(parents[product.argmax(1)].tolist())) == 3
    literal = product / product.sum(1, keepdim=True)
    for i in range(3):
        own = scores[:, found.query_to_class == i].sort(1).values
        assert torch.allclose(own, literal[:, parents == i].sort(1).values, atol=1e-5)


COMBINATIONS = [
    {**{key: key for key in chosen}, **({"descriptions_with_templates": True} if "descriptions" in chosen else {})}
    for size in range(4)
    for chosen in itertools.combinations(FILES, size)
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "+".join(options) or "plain")
def test_everything_combines_and_equal_weights_of_autoclip_change_nothing(
    files: dict[str, str], options: dict[str, Any]
) -> None:
    given = {key: files.get(key, value) for key, value in options.items()}
    sky = Background("words:sky", words=("sky",))
    plain = embed("cat|kitten, dog, car", sky, **given)
    auto = embed("cat|kitten, dog, car", sky, autoclip=1.0, **given)
    assert torch.allclose(auto.embeddings, plain.embeddings, atol=1e-6)
    assert torch.equal(auto.query_to_class, plain.query_to_class) and auto.notes == plain.notes
    cls = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(auto.rows(cls), plain.rows(cls).expand(2, -1, -1), atol=2e-3)
    weighed = embed("cat|kitten, dog, car", sky, autoclip=0.7, **given)
    assert (weighed.rows(cls)[0] - weighed.rows(cls)[1]).abs().max() > 0.01


@pytest.mark.parametrize("autoclip", [0.0, 0.85])
def test_second_call_asks_nothing(tmp_path: Path, files: dict[str, str], autoclip: float) -> None:
    options = TextOptions(**files, descriptions_with_templates=True, autoclip=autoclip)
    words, cache = Vocabulary.parse("cat|kitten, dog"), tmp_path / "cache"
    first = TextEmbedder(FakeClip(), TEMPLATES, TextCache(cache), options).embed_vocabulary(words, NONE)
    clip = FakeClip()
    again = TextEmbedder(clip, TEMPLATES, TextCache(cache), options).embed_vocabulary(words, NONE)
    assert clip.prompts == [] and torch.equal(first.embeddings, again.embeddings)
    cls = torch.randn(3, 16)
    assert torch.equal(first.rows(cls), again.rows(cls))


def test_rows_of_any_length_scale_their_scores() -> None:
    dense = DenseFeatures(torch.randn(1, 8, 3, 4), torch.randn(1, 8), (3, 4), None)  # type: ignore[arg-type]
    rows = unit(torch.randn(5, 8))
    lengths = torch.tensor([0.5, 1.0, 0.9, 2.0, 1.7])
    assert torch.allclose(dense.cosines(rows * lengths[:, None]), dense.cosines(rows) * lengths[:, None, None])
    assert torch.allclose(dense.cosines((rows * lengths[:, None])[None]), dense.cosines(rows * lengths[:, None]))


def test_options_are_recorded(files: dict[str, str]) -> None:
    assert TextOptions().to_json() == {}
    found = TextOptions(auxiliary=files["auxiliary"], autoclip=0.5).to_json()
    assert found.pop("auxiliary_hash") == hashlib.sha256(Path(files["auxiliary"]).read_bytes()).hexdigest()[:16]
    assert found == {"auxiliary": files["auxiliary"], "auxiliary_weight": 0.2, "autoclip": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary_weight": 1.5}, "auxiliary_weight is 1.5; expected a share between 0 and 1"),
        ({"autoclip": -0.1}, "autoclip is -0.1"),
        ({"autoclip": float("nan")}, "autoclip is nan"),
        ({"autoclip": 0.85, "descriptions": "descriptions_voc20.json"}, "descriptions take their place"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextOptions(**options)


def test_autoclip_needs_templates() -> None:
    with pytest.raises(ConfigError, match="but there is one; choose a larger set"):
        embed("cat, dog", templates="simple", autoclip=0.85)
