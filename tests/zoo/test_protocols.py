"""Settings that were published for a benchmark, and what a config says of those of its base."""

from __future__ import annotations

import pytest

from ovseg.config import config_root
from ovseg.errors import UnknownNameError
from ovseg.zoo import model_config
from ovseg.zoo.names import list_protocols


def test_an_heir_can_withdraw_the_settings_of_a_benchmark():
    adapter = "fcclip-convnext-l-adapter"
    assert "cityscapes19" in list_protocols(config_root() / "fcclip/fcclip-convnext-l.yaml")
    assert list_protocols(config_root() / f"fcclip/{adapter}.yaml") == ["ade847", "pc459", "pc59", "voc20"]
    with pytest.raises(UnknownNameError, match=f"unknown protocol of {adapter} 'cityscapes19'"):
        model_config(adapter, protocol="cityscapes19")


@pytest.mark.parametrize("model", ["fcclip-convnext-l", "fcclip-rn50", "fcclip-convnext-l-adapter", "maftp-l-adapter"])
def test_what_was_measured_by_labels_alone_gives_labels_alone(model):
    for name in ("ade847", "pc459", "pc59", "voc20"):
        node = model_config(model, protocol=name).MODEL
        assert not (own := node[node.META_ARCHITECTURE]).PANOPTIC and not own.INSTANCES
    node = model_config(model).MODEL
    assert (own := node[node.META_ARCHITECTURE]).PANOPTIC and own.INSTANCES
