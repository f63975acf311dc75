from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import ovseg
from ovseg.errors import ConfigError, InputError, UnknownNameError, VocabularyError
from ovseg.vocabulary import ClassEntry, Vocabulary

WORDS = ["cat", "red chair|armchair", "window"]


@pytest.fixture(scope="module")
def segmenter(tiny_clip):
    return ovseg.load(tiny_clip, device="cpu")


def test_one_image(segmenter, photo, pixels):
    result = segmenter(photo, WORDS)
    assert result.labels.shape == (72, 96) and result.labels.dtype == np.int32
    assert result.scores.shape == (72, 96) and result.scores.dtype == np.float32
    assert 0 <= result.labels.min() and result.labels.max() <= 2
    assert result.classes.names == ["cat", "red chair", "window"]
    np.testing.assert_array_equal(result.image, np.asarray(Image.open(photo)))


def test_meta_says_what_made_the_result(segmenter, photo, tiny_clip):
    meta = segmenter(photo, WORDS, background="threshold:0.2", templates="simple").meta
    assert json.loads(json.dumps(meta)) == meta
    assert meta["model"] == str(tiny_clip) and meta["image"] == "photo.jpg" and meta["path"] == str(photo)
    assert meta["size"] == [72, 96] and meta["network_size"] == [336, 448]
    assert meta["weights_hash"] == segmenter.model.clip.weights_hash and len(meta["weights_hash"]) == 16
    assert meta["vocabulary_hash"] == Vocabulary.parse(WORDS).hash
    assert (meta["background"], meta["templates"]) == ("threshold:0.2", "simple")
    assert (meta["device"], meta["dtype"], meta["version"]) == ("cpu", "float32", ovseg.__version__)
    assert meta["settings"]["recalibration"] == "CLIP" and meta["settings"]["protocol"]["window"] == 224
    timings = meta["timings"]
    assert (
        timings["seconds"] == pytest.approx(sum(timings[part] for part in ("read", "preprocess", "model")), abs=2e-4)
        and min(timings["read"], timings["model"]) > 0
    )
    assert timings["words"] > 0 and meta["notes"] == [] and meta["settings"]["size_rule"]["short_side"] == 336


def test_one_gives_one_and_several_give_a_list(segmenter, photo, photos, pixels):
    assert not isinstance(segmenter(pixels, WORDS), list)
    assert len(segmenter([photo], WORDS)) == 1
    assert len(segmenter((path for path in [photo, photo]), WORDS)) == 2
    assert [result.meta["image"] for result in segmenter(photos, WORDS)] == ["a.jpg", "b.png", "c.webp"]
    with photo.open("rb") as file:
        assert segmenter(file, WORDS).meta["path"] is None


def test_one_image_is_one_image_for_every_entrance(segmenter, photo, photos, pixels):
    expected = segmenter(photo, WORDS).labels
    kinds = [
        str(photo),
        photo,
        Image.open(photo),
        np.asarray(Image.open(photo)),
        photo.open("rb"),
        segmenter.encode(photo).image,
    ]
    kinds.append(torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1))
    for source in kinds:
        (result,) = segmenter.stream(source, WORDS)
        np.testing.assert_array_equal(result.labels, expected)
    batch = np.stack([pixels, pixels[::-1]])
    for several in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), list(batch), (one for one in batch)):
        assert len(list(segmenter.stream(several, WORDS))) == 2
    assert len(segmenter(batch, WORDS)) == 2 and isinstance(segmenter(batch[:1], WORDS), list)
    folder = [result.meta["image"] for result in segmenter.stream(photos, WORDS)]
    assert folder == [result.meta["image"] for result in segmenter(str(photos), WORDS)] == ["a.jpg", "b.png", "c.webp"]


def test_without_words_every_entrance_says_the_same(segmenter, photo):
    calls = [
        lambda: segmenter(photo),
        lambda: segmenter(photo, want="class_scores"),
        lambda: segmenter.stream(photo),
        lambda: segmenter.stream([photo], None, want="class_scores"),
        lambda: segmenter.encode(photo).answer(want="class_scores"),
        lambda: segmenter.answer(segmenter.encode(photo)),
        lambda: segmenter.words(),
    ]
    said = set()
    for call in calls:
        with pytest.raises(VocabularyError, match="no classes were given") as error:
            call()
        said.add(str(error.value))
    assert len(said) == 1


def test_arrays_of_opencv(segmenter, pixels):
    expected = segmenter(pixels, WORDS)
    turned = np.ascontiguousarray(pixels[..., ::-1])
    tensor = torch.from_numpy(turned).permute(2, 0, 1)
    for source in (turned, tensor):
        for result in (
            segmenter(source, WORDS, channels="bgr"),
            next(segmenter.stream(source, WORDS, channels="bgr")),
            segmenter.encode(source, channels="bgr").answer(WORDS),
        ):
            np.testing.assert_array_equal(result.image, pixels)
            np.testing.assert_array_equal(result.labels, expected.labels)
    grey = segmenter(pixels[..., 0], WORDS, channels="bgr")
    np.testing.assert_array_equal(grey.image[..., 2], pixels[..., 0])
    for call in (segmenter, segmenter.stream):
        with pytest.raises(ConfigError, match="channels is 'grb'; expected one of rgb, bgr"):
            call(pixels, WORDS, channels="grb")
        with pytest.raises(ConfigError, match="expected one of them"):
            call(pixels, WORDS, channels="bgr", bands=(1, 2, 3))


def test_all_kinds_of_input_agree(segmenter, pixels):
    expected = segmenter(pixels, WORDS).labels
    for source in (Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        np.testing.assert_array_equal(segmenter(source, WORDS).labels, expected)


@pytest.mark.parametrize("method", ["", "sclip/", "naclip/"])
def test_batches_equal_singles(tiny_clip, photos, pixels, method):
    sources = [*sorted(photos.iterdir()), pixels]  # three of one size, one of another
    singles = [ovseg.load(f"{method}{tiny_clip}", device="cpu")(source, WORDS) for source in sources]
    together = ovseg.load(f"{method}{tiny_clip}", device="cpu", batch_size=4)(sources, WORDS)
    assert [result.meta["image"] for result in together] == [result.meta["image"] for result in singles]
    for one, other in zip(singles, together, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert (one.labels == other.labels).mean() > 0.999


def test_the_same_segmenter_switches_vocabularies(segmenter, photo):
    first = segmenter(photo, WORDS)
    turned = segmenter(photo, WORDS[::-1])
    np.testing.assert_array_equal(turned.labels, 2 - first.labels)
    other = segmenter(photo, ["sky", "grass"], background="words")
    assert other.classes.names == ["sky", "grass"] and other.meta["background"] == "words-v1"
    again = segmenter(photo, WORDS)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.meta["background"] == "none" and again.meta["templates"] == "openai80"


def test_the_same_words_are_embedded_once(segmenter, monkeypatch):
    words = segmenter.words(WORDS)
    monkeypatch.setattr("ovseg.meta_arch.worded_model.TextEmbedder", None)  # would fail when called
    assert segmenter.words(WORDS) is words and segmenter.words(words) is words
    with pytest.raises(TypeError):
        segmenter.words(WORDS, templates="simple")
    monkeypatch.undo()
    painted = Vocabulary((ClassEntry(("cat",), color=(1, 2, 3)), *Vocabulary.parse(WORDS)[1:]))
    assert segmenter.words(painted).vocabulary[0].color == (1, 2, 3)
    assert segmenter.words(WORDS).vocabulary[0].color != (1, 2, 3)


def test_a_call_leaves_no_words_behind(segmenter, photo):
    segmenter(photo, WORDS)
    with pytest.raises(VocabularyError, match="no classes were given"):
        segmenter(photo)


def test_an_encoded_image_answers_without_another_pass(segmenter, photo, monkeypatch):
    expected = [segmenter(photo, WORDS), segmenter(photo, "sky, grass", "words", "simple")]
    encoded = segmenter.encode(photo)
    monkeypatch.setattr(type(segmenter.model), "see", None)  # would fail when called
    found = [encoded.answer(WORDS), encoded.answer("sky, grass", "words", "simple")]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.scores, other.scores)
        assert one.classes == other.classes and one.meta["background"] == other.meta["background"]


def test_what_comes_out_of_a_pickle_is_answered_by_its_model(segmenter, photo, tiny_convnext):
    expected, words = segmenter(photo, WORDS), segmenter.words(WORDS)
    encoded, words = pickle.loads(pickle.dumps((segmenter.encode(photo), words)))
    np.testing.assert_array_equal(segmenter.answer(encoded, words).labels, expected.labels)
    with pytest.raises(ConfigError, match=r"photo\.jpg came out of a pickle .* use segmenter\.answer"):
        encoded.answer(WORDS)
    other = ovseg.load("mini", device="cpu")
    with pytest.raises(ConfigError, match=r"the image was encoded by model .* encode it anew"):
        other.answer(encoded, WORDS)


def test_mistakes_come_before_words_are_embedded(segmenter, photo, monkeypatch):
    encoded = segmenter.encode(photo)
    monkeypatch.setattr(segmenter, "words", lambda *_: pytest.fail("words were embedded"))
    for call in (segmenter, lambda _, *rest, **options: encoded.answer(*rest, **options)):
        with pytest.raises(UnknownNameError, match="unknown want 'panotpic'"):
            call(photo, WORDS, want="panotpic")
    with pytest.raises(InputError, match="not found"):
        segmenter("missing.jpg", WORDS)


def test_what_is_wanted_and_nothing_else(segmenter, photo):
    plain = segmenter(photo, WORDS)
    assert plain.class_scores is None and plain.meta["want"] == ["labels"]
    every = segmenter(photo, WORDS, want=["class_scores"])
    assert every.class_scores.shape == (3, 72, 96) and every.meta["want"] == ["class_scores", "labels"]
    np.testing.assert_array_equal(every.labels, plain.labels)
    np.testing.assert_allclose(every.class_scores.max(0), plain.scores, atol=1e-5)
    with pytest.raises(ConfigError, match="gives no panoptic; it gives class_scores, labels"):
        segmenter(photo, WORDS, want="panoptic")
    with pytest.raises(UnknownNameError, match="did you mean panoptic"):
        segmenter(photo, WORDS, want="panoptics")


def test_one_class_gets_contrast_words_and_says_so(segmenter, photo):
    result = segmenter(photo, "cat")
    assert result.classes.names == ["cat"] and set(np.unique(result.labels)) <= {-1, 0}
    assert len(result.meta["notes"]) == 1 and "contrast words (words-v1)" in result.meta["notes"][0]


def test_synonyms_are_max_merged(segmenter, photo):
    apart = segmenter(photo, ["cat", "armchair", "window"])
    merged = segmenter(photo, ["cat|window", "armchair"])
    np.testing.assert_array_equal(merged.labels == 1, apart.labels == 1)


@pytest.mark.parametrize(("dtype", "precision"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_on_the_cpu(tiny_clip, segmenter, photo, dtype, precision):
    half = ovseg.load(tiny_clip, device="cpu", dtype=dtype)
    result = half(photo, WORDS)
    lowered = {name for name, value in half.model.named_parameters() if value.dtype == precision}
    assert lowered and all(name.startswith("clip.model.visual.transformer.") for name in lowered)
    assert result.meta["dtype"] == str(precision).removeprefix("torch.")
    assert np.abs(result.scores - segmenter(photo, WORDS).scores).max() < 0.05


def test_device_is_honoured(tiny_clip):
    loaded = ovseg.load(tiny_clip, device=torch.device("cpu"), dtype=torch.float64)
    assert {p.device.type for p in loaded.model.parameters()} == {"cpu"} and loaded.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"dtype": torch.int8}, "dtype is torch.int8; expected"),
        ({"batch_size": 0}, "batch size is 0; expected at least 1"),
    ],
)
def test_settings_are_checked_before_weights_are_read(tmp_path, options, message):
    (tmp_path / "open_clip_config.json").write_text("no config at all")
    with pytest.raises(ConfigError, match=message):
        ovseg.load(tmp_path, **options)


def test_the_default_device_needs_a_gpu_only_where_asked(tiny_clip):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="not available here"):
        ovseg.load(tiny_clip, device="cuda")


def test_mistakes_of_a_call(tiny_clip, photo, pixels):
    fresh = ovseg.load(tiny_clip, device="cpu")
    with pytest.raises(VocabularyError, match="no classes were given"):
        fresh(photo, background="words")
    with pytest.raises(ConfigError, match="background or templates beside embedded words"):
        fresh(photo, fresh.words(WORDS), background="words")
    with pytest.raises(UnknownNameError, match="unknown template set 'simpel'; did you mean simple"):
        fresh(photo, WORDS, templates="simpel")
    nan = torch.zeros(3, 8, 8)
    nan[0, 0, 0] = torch.nan
    for wrong, message in (
        (nan, "NaN or infinite"),
        (torch.rand(3, 8), r"shape \(3, 8\); expected \(3, H, W\)"),
        (np.zeros((8,), np.uint8), r"shape \(8,\); expected \(H, W, 3\)"),
        (pixels[:0], "no pixels"),
        ([], "got no images"),
    ):
        with pytest.raises(InputError, match=message):
            fresh(wrong, WORDS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (10, 5000)])
def test_extreme_shapes(segmenter, shape):
    result = segmenter(np.full((*shape, 3), 90, np.uint8), WORDS)
    assert result.labels.shape == shape and result.overlay().width > 0


def test_stream_reports_broken_images_and_goes_on(tiny_clip, photos):
    (photos / "b.png").write_bytes(b"no picture")
    found: list[tuple[str, str]] = []
    segmenter = ovseg.load(tiny_clip, device="cpu", batch_size=2)
    words = segmenter.words(WORDS)
    results = segmenter.stream(sorted(photos.iterdir()), words, on_error=lambda s, e: found.append((s.name, str(e))))
    assert [result.meta["image"] for result in results] == ["a.jpg", "c.webp"]
    assert len(found) == 1 and found[0][0] == "b.png" and "holds text" in found[0][1]
    with pytest.raises(InputError, match="holds text"):
        list(segmenter.stream(sorted(photos.iterdir()), words))


@pytest.mark.parametrize("where", ["see", "label"])
def test_out_of_memory_is_an_error_of_the_image(segmenter, pixels, monkeypatch, where):
    def fail(*arguments):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    words = segmenter.words(WORDS)
    monkeypatch.setattr(segmenter.model, where, fail)
    found: list[str] = []
    assert list(segmenter.stream([pixels], words, on_error=lambda source, error: found.append(str(error)))) == []
    assert found == ["image does not fit into the memory of cpu; make it smaller, or use another device"]


def test_only_what_does_not_fit_is_left_out_of_a_batch(tiny_clip, photos, monkeypatch):
    segmenter = ovseg.load(tiny_clip, device="cpu", batch_size=4)
    see = segmenter.model.see

    def scarce(images):
        if images.shape[2] > images.shape[3]:  # c.webp alone is upright
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return see(images)

    monkeypatch.setattr(segmenter.model, "see", scarce)
    left_out: list[str] = []
    words, sources = segmenter.words(WORDS), sorted(photos.iterdir())
    found = segmenter.stream(sources, words, on_error=lambda source, error: left_out.append(source.name))
    assert [result.meta["image"] for result in found] == ["a.jpg", "b.png"] and left_out == ["c.webp"]
    with pytest.raises(InputError, match=r"^c\.webp does not fit"):
        list(segmenter.stream(sources, words))


def test_words_are_embedded_anew_for_other_weights(tiny_clip, pixels):
    segmenter = ovseg.load(tiny_clip, device="cpu")
    segmenter(pixels, WORDS)
    state = {key: value.clone() for key, value in segmenter.model.state_dict().items()}
    state["clip.model.logit_scale"] += 0.5
    segmenter.model.load_state_dict(state)
    assert segmenter(pixels, WORDS).meta["weights_hash"] == segmenter.model.weights_hash


def test_without_a_cache_folder_it_works_and_warns(tiny_clip, photo, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    segmenter = ovseg.load(tiny_clip, device="cpu")
    expected = segmenter(photo, "dog, tree").labels
    segmenter = ovseg.load(tiny_clip, device="cpu")
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="going on with embeddings in memory"):
        np.testing.assert_array_equal(segmenter(photo, "dog, tree").labels, expected)


def test_nothing_is_drawn_from_the_users_random_numbers(tiny_clip, photo):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        ovseg.load(tiny_clip, device="cpu")(photo, WORDS)
    assert torch.equal(torch.rand(1), expected)
