"""CLIPs of SLIP's code: its modules, rebuilt here, against the tower that reads their weights."""

from __future__ import annotations

import timm
import torch

from ovseg.checkpoint.clip_files import recognise
from ovseg.checkpoint.slip import SLIP
from ovseg.clip import ViTClip
from ovseg.clip.architectures import OWN
from ovseg.clip.open_clip_internals import build_model


def test_embeddings_are_those_of_the_source():
    config = OWN["ViT-B-16-SLIP"].model_cfg | {"embed_dim": 24}
    config["vision_cfg"] = config["vision_cfg"] | {"timm_model_name": "test_vit", "image_size": 160}
    config["text_cfg"] = config["text_cfg"] | {"width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(2)
    visual = timm.create_model("test_vit", num_classes=0).eval()
    projection = torch.randn(visual.num_features, 24)
    text = {key: value for key, value in build_model(config, "x").state_dict().items() if not key.startswith("visual.")}
    state = {**text, **{f"visual.{key}": value for key, value in visual.state_dict().items()}}
    state = {f"module.{key}": value for key, value in {**state, "image_projection": projection}.items()}
    found = recognise({"state_dict": {**state, "module.image_mlp.bn1.weight": torch.ones(3)}, "epoch": 3}, "best.pt")
    assert found.layout == SLIP
    assert found.notes == ("best.pt: left out what a training keeps beside it: image_mlp.bn1.weight",)
    clip = ViTClip.from_config(config, found.tensors, "slip")
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        expected = visual(images) @ projection
        torch.testing.assert_close(clip.model.encode_image(images), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(clip.dense(images).cls, expected, atol=1e-4, rtol=1e-4)


def test_the_whole_architecture_is_built():
    with torch.device("meta"):
        own = build_model(OWN["ViT-B-16-SLIP"].model_cfg, "SLIP").state_dict()
    assert own["visual.head.proj.weight"].shape == (512, 768) and len([k for k in own if ".blocks." in k]) == 12 * 12
