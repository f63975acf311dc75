"""A recommended model that stands in for the released one: the same card, repository, file and architecture, narrowed.

The released checkpoint has 631 MB. Here CLIP and head have the same parts with fewer and thinner blocks and random
weights, in the layout of the authors' file; what is fetched, how it is said, checked and read is the real thing.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import yaml

from ovseg.config import config_root
from ovseg.meta_arch.san.weights import official_name
from ovseg.zoo import auto, build, card, resolve
from ovseg.zoo.aliases import recommended

REPO, FILE = "Mendel192/san", "san_vit_b_16.pth"
_SAN = {
    **{"FRONT_BLOCKS": 1, "WIDTH": 24, "DEPTH": 2, "HEADS": 2, "IMAGE_SIZE": 64, "QUERIES": 6, "CHANNELS": 16},
    **{"HIDDEN": 16, "FUSION": ["0->0", "1->1"], "SUPERVISED_BLOCKS": [2]},
}


def narrow(folder: Path, patch: pytest.MonkeyPatch) -> bytes:
    """Narrow the recommended model for this process, and return the file that its authors would have released."""
    real = open_clip.get_model_config
    small = real("ViT-B-16-quickgelu")
    small["vision_cfg"] |= {"layers": 2, "width": 32, "head_width": 16}
    small["text_cfg"] |= {"layers": 1, "width": 32, "heads": 2}
    small["embed_dim"] = 32
    patch.setattr(
        "open_clip.get_model_config", lambda name: dict(small) if name == "ViT-B-16-quickgelu" else real(name)
    )
    config = folder / f"{recommended()}.yaml"
    protocol = {"SHORT_SIDE": 64, "LONG_SIDE": 128}
    own = {"_BASE_": str(config_root() / "san/san-vit-b-16.yaml"), "MODEL": {"SAN": _SAN, "PROTOCOL": protocol}}
    config.write_text(yaml.safe_dump(own), encoding="utf-8")
    cards = tuple(replace(one, config=str(config)) if one.name == recommended() else one for one in card.list_models())
    patch.setattr(card, "_cards", lambda: cards)
    patch.setattr(auto, "_CHOSEN", {})
    random = open_clip.CLIP(**small).state_dict()
    clip = folder / "random.pt"
    torch.save(random, clip)
    untrained = resolve(config, overrides={"MODEL": {"CLIP": {"PRETRAINED": str(clip)}}})
    model = build(untrained, untrained=True)
    content = {"model": {official_name(key, model.front_blocks): value for key, value in model.state_dict().items()}}
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
