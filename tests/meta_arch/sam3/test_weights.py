"""Checkpoints of SAM 3: the authors' names, transformers' folder with its tracker, and what does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.sam3.network import build_network
from ovseg.meta_arch.sam3.weights import open_network, read, to_transformers
from tests.meta_arch.sam3.tiny import TINY, write_config


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    return build_network(TINY, "tiny")


def test_a_folder_of_transformers_with_its_tracker(network, tmp_path):
    state = {f"detector_model.{key}": value.contiguous() for key, value in network.model.state_dict().items()}
    save_file({**state, "tracker_model.memory": torch.zeros(2)}, tmp_path / "model.safetensors")
    whole = {"model_type": "sam3_video", "detector_config": TINY}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    found = open_network(str(tmp_path), layer_norm_eps=0.0)
    assert found.weights_hash == network.weights_hash
    assert found.notes == ("model.safetensors: 1 tensors of the tracker of videos were left out",)
    authors = open_network(str(tmp_path / "model.safetensors"))
    assert authors.config.vision_config.backbone_config.layer_norm_eps == 1e-5
    assert authors.weights_hash != network.weights_hash


def test_the_authors_names_and_packed_projections(network, tmp_path):
    """Their names are those of the golden case; packed tensors are taken apart, and the rest keeps its shape."""
    case = load_file("tests/golden/sam3_dense/native_text_only.safetensors")
    state = {key.removeprefix("state_dict."): value for key, value in case.items() if key.startswith("state_dict.")}
    renamed = to_transformers(state)
    assert renamed.keys() | {"detr_decoder.reference_points.weight"} == network.model.state_dict().keys() - set(
        key for key in network.model.state_dict() if "layers.2." in key and key not in renamed
    ) | {key for key in renamed if "layers.2." in key}
    packed = state["transformer.encoder.layers.0.self_attn.in_proj_weight"]
    own = [renamed[f"detr_encoder.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(own), packed)
    table = "backbone.vision_backbone.trunk.pos_embed"
    assert torch.equal(renamed["vision_encoder.backbone.embeddings.position_embeddings"], state[table][:, 1:])
    torch.save({"model": {f"detector.{key}": value for key, value in state.items()}}, tmp_path / "sam3.pt")
    assert read(tmp_path / "sam3.pt").state.keys() == renamed.keys()


def test_what_does_not_fit_is_named(network, tmp_path):
    state = {key: value.contiguous() for key, value in network.model.state_dict().items()}
    state.pop("detr_decoder.presence_token.weight")
    save_file({**state, "another": torch.zeros(1)}, tmp_path / "model.safetensors")
    write_config(tmp_path)
    with pytest.raises(WeightsError, match=r"does not fit SAM 3: it misses detr_decoder.presence_token.weight; it has"):
        open_network(str(tmp_path))
    write_config(tmp_path, model_type="clip")
    with pytest.raises(ConfigError, match="is of model_type 'clip'; expected sam3, as facebook/sam3 has it"):
        open_network(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds no weights"):
        open_network(str(tmp_path))


def test_a_config_that_transformers_refuses(tmp_path):
    folder = write_config(tmp_path, detr_encoder_config={"hidden_size": "wide"})
    with pytest.raises(ConfigError, match="transformers cannot build SAM 3 from its config"):
        open_network("", config=str(folder))
