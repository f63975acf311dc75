"""One tester for all models: passes, precision, compiled, saved, Detectron2, the API and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity

import ovseg
from ovseg.checkpoint.trained import save_trained, trained_state
from ovseg.cli import main
from ovseg.contract import CLASS_SCORES, INSTANCES, PANOPTIC
from ovseg.errors import ConfigError
from ovseg.ops.linear_layers import can_pack
from ovseg.segmenter import Segmenter
from tests.meta_arch import tester
from tests.meta_arch.models import build, picture, training_picture, words
from tests.meta_arch.tester import NAMES, ask, assert_near, assert_same, pictures

CPU = torch.device("cpu")
SCORES = frozenset({CLASS_SCORES})
LEAST = {torch.bfloat16: 0.75, torch.float16: 0.99}
"""How alike low precision has to be; random heads make much of little."""


@pytest.fixture(scope="module")
def asked(built):
    return built.words(words(*NAMES), "sky, wall")


def likeness(found, wanted) -> float:
    """The cosine of class scores and those of full precision, for the image where it is smallest."""
    pairs = zip(found, wanted, strict=True)
    return min(float(cosine_similarity(*(one.class_scores.flatten() for one in pair), dim=0)) for pair in pairs)


class TestEveryModelAtWork:
    def test_images_of_one_size_share_their_passes(self, built):
        rows: list[int] = []

        def counted(method):
            return lambda *inputs: (rows.append(len(inputs[0])), method(*inputs))[1]

        def passes(images):
            rows.clear()
            built.encode(images)
            return list(rows)

        first, other, alike, small = pictures()
        with tester.replaced(built, "network", counted):
            alone, together = passes([first]), passes([first, alike])
            assert len(together) == len(alone) and sum(together) == 2 * sum(alone)
            mixed = passes([first, other, alike, small])
            assert mixed == [*together, *passes([other]), *passes([small])]

    def test_detectron2_gets_what_is_answered(self, ours, built, asked):
        told = built.with_words(asked)
        entries = [{"image": pictures()[0], "height": 50, "width": 61}, {"image": pictures()[1].float()}]
        sizes = [(50, 61), tester.SIZES[1]]
        assert not told.training and built.train().with_words(asked).training and not built.eval().training
        for entry, size, output in zip(entries, sizes, told(entries), strict=True):
            (answer,) = ask(built, [entry["image"].byte()], asked, ours.gives, size)
            wanted = {"labels", "scores", "sem_seg", *({"panoptic_seg"} if answer.panoptic else set())}
            assert output.keys() == wanted | ({"instances"} if answer.instances is not None else set())
            assert torch.equal(output["labels"], answer.labels) and torch.equal(output["scores"], answer.scores)
            assert torch.equal(output["sem_seg"], answer.class_scores) and output["sem_seg"].shape[1:] == size
            if answer.panoptic is not None:
                ids, infos = output["panoptic_seg"]
                assert np.array_equal(ids, answer.panoptic.ids)
                assert [info["category_id"] for info in infos] == [s.class_id for s in answer.panoptic.segments]
            if answer.instances is not None:
                masks = [own.mask() for own in answer.instances]
                assert np.array_equal(output["instances"].pred_masks, np.array(masks))
                assert output["instances"].pred_classes.tolist() == [own.class_id for own in answer.instances]

    def test_detectron2_without_words(self, built):
        for more in ({}, {"words": words("cat")}):
            with pytest.raises(ConfigError, match=r"image came without words; call model\.with_words\(") as caught:
                built([{"image": pictures()[0], **more}])
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_is_for_the_trunk_alone(self, ours, built, fresh, asked, dtype):
        before, wanted = built.state_dict(), ask(built, pictures()[:1], asked, SCORES)
        assert fresh.place(CPU, dtype) is fresh and fresh.weights_hash == built.weights_hash
        lowered = {name for name, weight in fresh.state_dict().items() if weight.dtype != before[name].dtype}
        assert lowered and all(name.startswith(ours.lowered) for name in lowered)
        assert torch.equal(ours.read(fresh, "a word"), ours.read(built, "a word"))
        found = ask(fresh, pictures()[:1], asked, SCORES)
        assert all(one.class_scores.isfinite().all() and one.scores.dtype == torch.float32 for one in found)
        assert any(not torch.equal(one.scores, other.scores) for one, other in zip(found, wanted, strict=True))
        assert likeness(found, wanted) > LEAST[dtype]

    def test_full_precision_changes_nothing(self, built, fresh, asked):
        fresh.place(CPU, torch.float32)
        assert_same(ask(fresh, pictures()[:1], asked, SCORES)[0], ask(built, pictures()[:1], asked, SCORES)[0])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_all_in_low_precision(self, built, fresh, asked, dtype):
        fresh.to(dtype)
        found = ask(fresh, pictures()[:1], fresh.words(words(*NAMES), "sky, wall"), SCORES)
        assert all(one.class_scores.isfinite().all() and one.class_scores.dtype == torch.float32 for one in found)
        assert likeness(found, ask(built, pictures()[:1], asked, SCORES)) > LEAST[dtype]

    def test_one_graph_or_a_reason(self, ours, built, fresh, asked):
        assert bool(fresh.not_compiled) != ours.graph
        if fresh.not_compiled:
            with pytest.raises(ConfigError, match=f"{ours.architecture} is not compiled: .*; leave compile out"):
                Segmenter(fresh, ours.name, "cpu", compiled=True)
            return
        if torch.__version__.startswith("2.4.") and ours.architecture == "TrainingFree":
            pytest.skip("torch.compile of 2.4 does not trace training-free methods, and says so")
        fresh.compile_network("eager")
        image = pictures()[:1]
        assert_near(ask(fresh, image, asked, SCORES)[0], ask(built, image, asked, SCORES)[0])
        others = fresh.words(words("dog", "a much longer list", "of other words", "x"))
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_near(ask(fresh, image, others, SCORES)[0], ask(built, image, others, SCORES)[0])

    @pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")
    def test_packed_weights_give_the_same_up_to_rounding(self, built, fresh, asked):
        fresh.pack()
        assert fresh.weights_hash == built.weights_hash
        for found, wanted in zip(
            ask(fresh, pictures()[:2], asked, SCORES), ask(built, pictures()[:2], asked, SCORES), strict=True
        ):
            assert_near(found, wanted, 1e-3)

    def test_weights_travel(self, ours, built, asked, folders, tmp_path):
        torch.save(built.state_dict(), tmp_path / "all.pth")
        other = ours.build(folders, seed=99)
        own = ours.architecture != "TrainingFree"
        assert (other.weights_hash != built.weights_hash) == own
        encoded = other.encode(pictures()[:1])
        other.load_state_dict(torch.load(tmp_path / "all.pth", weights_only=True))
        assert other.weights_hash == built.weights_hash
        assert_same(ask(other, pictures()[:1], asked, SCORES)[0], ask(built, pictures()[:1], asked, SCORES)[0])
        if own:
            with pytest.raises(ConfigError, match="encode it anew"):
                other.answer(encoded, 0, (9, 9), asked)

    def test_what_is_trained_is_all_that_has_to_be_kept(self, ours, built, asked, folders, tmp_path):
        trained = trained_state(built)
        assert bool(trained) == ours.trained
        if not trained:
            return
        save_trained(trained, tmp_path / "trained.safetensors")
        other = build(ours.file, folders[ours.clip], tmp_path / "trained.safetensors", **ours.changes)
        assert other.weights_hash == built.weights_hash
        assert_same(ask(other, pictures()[:1], asked, SCORES)[0], ask(built, pictures()[:1], asked, SCORES)[0])

    def test_the_hash_follows_the_weights(self, fresh):
        known, scale = {fresh.weights_hash}, getattr(fresh.clip, "logit_scale", 0)
        state = {key: value.clone() for key, value in fresh.state_dict().items()}
        encoded, embedded = fresh.encode(pictures()[:1]), fresh.words(words("cat", "dog"))
        image = ("clip.model.visual.", "clip.model.vision_encoder.")
        scales = [key for key in state if key == "clip.model.logit_scale"] or [list(state)[-1]]
        for key in (*scales, next(key for key in state if key.startswith(image))):
            state[key] += 0.5
            fresh.load_state_dict(state)
            known.add(fresh.weights_hash)
        assert len(known) == 3 and getattr(fresh.clip, "logit_scale", 1) != scale
        with pytest.raises(ConfigError, match="encode it anew"):
            fresh.answer(encoded, 0, (9, 9), embedded)
        with pytest.raises(ConfigError, match=r"the words were embedded by weights .* embed them anew"):
            fresh.answer(fresh.encode(pictures()[:1]), 0, (9, 9), embedded)
        for weight in [weight for weight in fresh.parameters() if weight.requires_grad][:1]:
            weight.data += fresh.train().training
            known.add(fresh.eval().weights_hash)
            assert len(known) == 4

    def test_training_reaches_what_is_to_be_learnt_and_nothing_else(self, ours, fresh):
        wanted = {name for name, weight in fresh.named_parameters() if weight.requires_grad}
        told = fresh.train().with_words(fresh.words(words("cat", "sofa|couch", "quark")))
        labelled = {"image": picture(64, 128, 3), "sem_seg": torch.full((64, 128), 255)}
        labelled["sem_seg"][:20], labelled["sem_seg"][20:40] = 1, 2
        batch = [training_picture(size=(64, 128)), labelled]
        if not ours.labels_teach:
            with pytest.raises(ConfigError, match=f"{ours.architecture} {ours.untaught}"):
                told(batch)
            return
        if not ours.trained:
            with pytest.raises(ConfigError, match=f"{ours.architecture} needs no training; use it as it is"):
                told(batch)
            return
        losses = told(batch)
        assert not fresh.clip.training and all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert {name for name, weight in fresh.named_parameters() if weight.grad is not None} == wanted
        assert wanted and all(name.startswith(fresh.head) for name in wanted)
        with pytest.raises(ConfigError, match=r"a training image has \['image', 'words'\]; expected 'instances' or"):
            told([{"image": picture(64, 128)}])

    def test_api_and_command_line(self, ours, built, folders, photo, tmp_path, capsys):
        trained = ours.architecture != "TrainingFree"
        if trained:
            save_file(built.state_dict(), tmp_path / "weights.safetensors")
        config = ours.write_config(tmp_path / "tiny.yaml", folders, tmp_path / "weights.safetensors" if trained else "")
        result = ovseg.load(config, "cpu")(photo, NAMES)
        assert result.labels.shape == (72, 96) and result.meta["weights_hash"] == built.weights_hash
        assert result.meta["settings"]["architecture"] == ours.architecture
        assert (result.panoptic is not None) == (PANOPTIC in ours.gives)
        assert (result.instances is not None) == (INSTANCES in ours.gives)
        command = ["segment", str(photo), "--classes", ", ".join(NAMES), "--model", str(config), "--device", "cpu"]
        assert main([*command, "--output", str(tmp_path / "out"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        labels = np.asarray(Image.open(tmp_path / "out/photo.labels.png")).astype(np.int64)
        np.testing.assert_array_equal(np.where(labels == 65535, -1, labels), result.labels)
        plain = json.loads(json.dumps(result.to_json()))
        assert {key for key in plain if told[key] != plain[key]} == {"meta"}
        if result.instances is not None:
            assert result.instances
            coco = COCO()
            coco.dataset = json.loads(json.dumps(result.to_coco_instances(7)))
            coco.createIndex()
            for number, own in enumerate(result.instances, 1):
                np.testing.assert_array_equal(coco.annToMask(coco.anns[number]), own.mask())
            found = coco.loadRes([{**row, "image_id": 7} for row in coco.dataset["annotations"]])
            assert len(found.getAnnIds([7])) == len(result.instances)
