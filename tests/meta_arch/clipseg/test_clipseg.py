"""CLIPSeg beyond what all models are held to: both layouts of its weights, options, maps by rows, prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ovseg.checkpoint.loading import Weights
from ovseg.contract import CLASS_SCORES
from ovseg.errors import ConfigError, InputError, WeightsError
from ovseg.meta_arch.clipseg.decoder import PROMPTS_PER_PASS, Decoder, PromptMaps
from ovseg.meta_arch.clipseg.model import CLIPSeg
from ovseg.meta_arch.clipseg.prompting import crop, highlight, visual_prompt
from ovseg.meta_arch.clipseg.weights import from_transformers, official_name
from tests.meta_arch import models
from tests.meta_arch.models import picture, training_picture, words
from tests.meta_arch.tester import ask

SCORES = frozenset({CLASS_SCORES})


def build(folder, weights="", seed=3, **changes):
    return models.build("clipseg", folder, weights, seed, **changes)


def transformers_model(folder: Path, refined: bool, layers=(0, 2)):
    """Return a random ``CLIPSegForImageSegmentation`` of the sizes of a tiny CLIP."""
    transformers = pytest.importorskip("transformers")
    sizes = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    config = transformers.CLIPSegConfig(
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config={
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
        },
        projection_dim=sizes["embed_dim"],
        extract_layers=list(layers),
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        use_complex_transposed_convolution=refined,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = transformers.CLIPSegForImageSegmentation(config).eval()
        for weight in found.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    return found


@pytest.mark.parametrize("refined", [True, False])
def test_maps_are_those_of_transformers(deeper_clip, refined):
    theirs = transformers_model(deeper_clip, refined)
    cfg = models.config("clipseg", deeper_clip, REFINED=refined)
    own = CLIPSeg(**CLIPSeg.parts(cfg, Weights(theirs.state_dict(), "of transformers"))).eval()
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    prompts = torch.randn(2, own.clip.embed_dim, generator=generator)
    with torch.inference_mode():
        wanted = theirs(pixel_values=images, conditional_embeddings=prompts, interpolate_pos_encoding=True).logits
        seen = own.network(images)
        found = [
            own.decoder.logits(own.decoder(one, row[None], own.grid))[0] for one, row in zip(seen, prompts, strict=True)
        ]
    torch.testing.assert_close(torch.stack(found), wanted, atol=2e-4, rtol=1e-4)


def test_weights_of_transformers_bring_clip_along_and_lack_nothing(deeper_clip):
    state = dict(transformers_model(deeper_clip, refined=True).state_dict())
    cfg = models.config("clipseg", deeper_clip)
    own = CLIPSeg(**CLIPSeg.parts(cfg, Weights(state, "of transformers")))
    torch.testing.assert_close(
        own.clip.model.visual.conv1.weight, state["clip.vision_model.embeddings.patch_embedding.weight"]
    )
    removed = {key: value for key, value in state.items() if key != "decoder.layers.1.self_attn.k_proj.bias"}
    with pytest.raises(WeightsError, match=r"misses decoder\.blocks\.1\.self_attn\.in_proj_bias"):
        CLIPSeg(**CLIPSeg.parts(cfg, Weights(removed, "broken")))
    assert from_transformers(None) is None


def test_the_authors_decoder_loads_over_a_clip_of_the_config(deeper_clip, tmp_path):
    source = models.stirred(build(deeper_clip), 4)
    state = {official_name(k): v for k, v in source.state_dict().items() if k.startswith("decoder.")}
    state |= {"reduce.weight": torch.zeros(16, 32), "reduce.bias": torch.zeros(16)}  # which nothing calls
    torch.save(state, tmp_path / "decoder.pth")
    found = build(deeper_clip, tmp_path / "decoder.pth", seed=8)
    assert found.weights_hash == source.weights_hash
    torch.save({**state, "film_mul.more": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"unexpected film_mul\.more"):
        build(deeper_clip, tmp_path / "more.pth")
    CLIPSeg.check_head(models.config("clipseg", deeper_clip), Weights(source.state_dict(), "whole"))


@pytest.mark.parametrize("refined", [True, False])
def test_rows_of_maps_are_those_of_whole_maps(refined):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        decoder = Decoder(12, 6, 16, 1, layers=(0, 1), dim=8, decoder_heads=2, ffn=16, refined=refined).eval()
        features = torch.randn(PROMPTS_PER_PASS + 3, 8, 5, 4)
    with torch.inference_mode():
        whole, maps = decoder.logits(features).sigmoid(), PromptMaps(decoder, features)
        assert maps.grid == whole.shape[1:] == (80, 64)
        for first, last in ((0, 80), (0, 1), (15, 17), (30, 49), (79, 80)):
            torch.testing.assert_close(maps.rows(slice(first, last)), whole[:, first:last], atol=1e-6, rtol=1e-5)


def test_prompts_do_not_depend_on_each_other(deeper_clip):
    model = models.stirred(build(deeper_clip), 5)
    names = [f"thing {i}" for i in range(PROMPTS_PER_PASS + 2)]
    (every,) = ask(model, [picture(64, 80)], model.words(words(*names)), SCORES)
    (alone,) = ask(model, [picture(64, 80)], model.words(words(names[-1]), "threshold:0.5"), SCORES)
    torch.testing.assert_close(every.class_scores[-1:], alone.class_scores, atol=1e-5, rtol=1e-4)
    assert ((alone.labels == 0) == (alone.class_scores[0] >= 0.5)).all()


def test_texts_keep_the_lengths_of_the_text_tower(deeper_clip):
    model = build(deeper_clip)
    own = model.words(words("cat", "sofa"), templates="clipseg")
    torch.testing.assert_close(own.embeddings, model.clip.text(["a photo of a cat", "a photo of a sofa"]).float())


def test_options_that_do_not_fit_are_refused(deeper_clip):
    for changes, message in (
        ({"RESOLUTION": 65}, "resolution is 65; expected a multiple of the patches"),
        ({"LAYERS": [2, 0]}, r"layers are \[2, 0\]; expected blocks of CLIP in rising order"),
        ({"LAYERS": [0, 9]}, r"layers are \[0, 9\]; expected blocks from 0 to 3"),
        ({"CONDITION_AT": 2}, "condition_at is 2; expected a step from 0 to 1"),
        ({"DECODER_HEADS": 3}, "dim is 16 with 3 decoder_heads"),
        ({"NORMALISATION": "clop"}, "normalisation"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(deeper_clip, **changes)
    with pytest.raises(ConfigError, match="at least 4 pixels, and CLIP has 2"):
        Decoder(8, 8, 2, 1, dim=8, decoder_heads=2, refined=True)


def test_every_option_of_the_decoder_changes_maps():
    def maps(**options):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            own = Decoder(12, 6, 16, 1, layers=(0, 1), dim=8, decoder_heads=2, ffn=16, **options).eval()
            torch.manual_seed(3)
            seen = own.look([torch.randn(1, 5, 12), torch.randn(1, 5, 12)])[0]
            return own.logits(own(seen, torch.randn(2, 6), (2, 2)))

    plain = maps()
    for options in ({"condition_at": 1}, {"prompt_dim": 3}, {"extra_blocks": 1}, {"deepest_first": False}):
        assert not torch.allclose(plain, maps(**options)), options


def test_images_are_asked_for_what_they_show_and_for_others_drawn_at_each_step(deeper_clip):
    model, asked = build(deeper_clip, TRAIN_CLASSES=3).train(), []
    own = model.words(words(*(f"thing {i}" for i in range(30))))
    forward = model.decoder.forward
    model.decoder.forward = lambda seen, prompts, grid: asked.append(prompts) or forward(seen, prompts, grid)
    for _ in range(2):
        (loss,) = model.with_words(own)([training_picture(count=2)]).values()
        assert loss.isfinite()
    rows = [[int((own.embeddings - row).abs().sum(1).argmin()) for row in prompts] for prompts in asked]
    assert [len(one) for one in rows] == [3, 3] and all(one[:2] == [0, 1] for one in rows) and rows[0] != rows[1]


def test_a_prompt_of_an_oblong_picture_has_the_object_in_its_middle():
    image, mask = torch.zeros(3, 40, 90), torch.zeros(40, 90)
    image[:, 10:20, 60:80], mask[10:20, 60:80] = 1, 1
    found = crop(image, mask, 24)
    assert found.shape == (3, 24, 24)
    rows, columns = found[0].nonzero(as_tuple=True)
    assert (int(columns.min()), int(columns.max())) == (2, 21) and abs((rows.float().mean() - 11.5).item()) <= 1
    shown = highlight(torch.ones(3, 40, 90), mask)
    torch.testing.assert_close(shown[:, 15, 70], torch.ones(3))
    torch.testing.assert_close(shown[:, 30, 5], torch.full((3,), 0.1))
    torch.testing.assert_close(visual_prompt(image, mask, 24), crop(highlight(image, mask), mask, 24))
    with pytest.raises(InputError, match="the mask of a prompt is empty"):
        crop(image, torch.zeros(40, 90), 24)
