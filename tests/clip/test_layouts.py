"""Weights as users have them: each layout loads equal to its source, or is refused by what it looks like."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovseg.checkpoint.clip_files import read_clip, recognise
from ovseg.checkpoint.files import only_tensors
from ovseg.clip import ClipSource, ViTClip, load_tower
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import OvsegError, WeightsError
from tests.clip.tiny import TINY
from tests.clip.towers import TOWERS

State = dict[str, Tensor]
Writer = Callable[[State, Path], Path]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(4)
    model = build_model({**TINY, "quick_gelu": True}, "tiny")
    return {key: value + 0.05 * torch.randn_like(value) for key, value in model.state_dict().items()}


def saved(make: Callable[[State], Any], name: str = "w.pt", **options: Any) -> Writer:
    """Return what saves a content that is made of a state dict by `torch.save`."""

    def write(state: State, folder: Path) -> Path:
        torch.save(make(state), folder / name, **options)
        return folder / name

    return write


def prefixed(*prefixes: str) -> Callable[[State], State]:
    return lambda state: {f"{''.join(prefixes)}{key}": value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def optimizer(state: State) -> dict[str, Any]:
    return {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def hugging_face(state: State) -> State:
    """Name the tensors of open_clip as transformers does; `test_hugging_face.py` holds this against transformers."""
    found = {}
    for key, value in state.items():
        side = "vision_model" if key.startswith("visual.") else "text_model"
        name = key.removeprefix("visual.")
        if name.startswith("transformer.resblocks."):
            _, _, layer, rest = name.split(".", 3)
            place = f"{side}.encoder.layers.{layer}."
            if rest.startswith("attn.in_proj_"):
                for part, own in zip("qkv", value.chunk(3), strict=True):
                    found[f"{place}self_attn.{part}_proj.{rest.removeprefix('attn.in_proj_')}"] = own.clone()
                continue
            for old, new in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                rest = f"{new}{rest.removeprefix(old)}" if rest.startswith(f"{old}.") else rest
            found[f"{place}{rest}"] = value
            continue
        simple = {
            "visual.class_embedding": "vision_model.embeddings.class_embedding",
            "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
            "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
            "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
            "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
            "visual.ln_post.weight": "vision_model.post_layernorm.weight",
            "visual.ln_post.bias": "vision_model.post_layernorm.bias",
            "visual.proj": "visual_projection.weight",
            "text_projection": "text_projection.weight",
            "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
            "positional_embedding": "text_model.embeddings.position_embedding.weight",
            "ln_final.weight": "text_model.final_layer_norm.weight",
            "ln_final.bias": "text_model.final_layer_norm.bias",
        }
        turned = key in ("visual.proj", "text_projection")
        found[simple.get(key, key)] = value.T.contiguous() if turned else value
    found["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    return found


def safetensors(state: State, folder: Path) -> Path:
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


def scripted(state: State, folder: Path) -> Path:
    model = build_model({**TINY, "quick_gelu": True}, "tiny")
    model.load_state_dict(state)
    inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 12, dtype=torch.long))
    traced = torch.jit.trace(model.eval(), inputs, strict=False, check_trace=False)
    torch.jit.save(traced, folder / "w.pt")
    return folder / "w.pt"


def openai(state: State) -> State:
    return {**state, **{key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}}


def pickled(make: Callable[[State], Any], protocol: int) -> Writer:
    def write(state: State, folder: Path) -> Path:
        (folder / "w.pkl").write_bytes(pickle.dumps(make(state), protocol=protocol))
        return folder / "w.pkl"

    return write


def arrays(state: State) -> dict[str, Any]:
    return {"model": {key: value.numpy() for key, value in state.items()}, "matching_heuristics": True}


def numpy_archive(state: State, folder: Path, dtype: str = "f4") -> Path:
    np.savez(folder / "w.npz", **{key: value.numpy().astype(dtype) for key, value in state.items()})
    return folder / "w.npz"


def sharded(ending: str, name: str = "") -> Writer:
    """Return what writes three parts with an index beside them."""

    def write(state: State, folder: Path) -> Path:
        theirs = hugging_face(state)
        keys, stem, places = sorted(theirs), "model" if ending == "safetensors" else "pytorch_model", {}
        for part in range(3):
            file = f"{stem}-{part + 1:05}-of-00003.{ending}"
            own = {key: theirs[key] for key in keys[part::3]}
            (save_file if ending == "safetensors" else torch.save)(own, folder / file)
            places |= dict.fromkeys(own, file)
        index = folder / f"{stem}.{ending}.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
        return folder if name == "folder" else index

    return write


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {**prefixed("model.")(state), "loss_fn.weight": torch.ones(3)},
        "optimizer_states": [optimizer(state)],
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.1)}},
    }


LAYOUTS: dict[str, Writer] = {
    "open_clip, safetensors": safetensors,
    "open_clip, a state dict": saved(dict),
    "open_clip, ordered": saved(OrderedDict, "w.bin"),
    "open_clip, the old format of torch.save": saved(dict, "w.pth", _use_new_zipfile_serialization=False),
    "open_clip, a custom text tower": saved(
        lambda state: {key if key.startswith(("visual.", "logit")) else f"text.{key}": v for key, v in state.items()}
    ),
    "a training of open_clip": saved(
        lambda state: {
            "epoch": 5,
            "name": "run",
            "state_dict": prefixed("module.")(state),
            "optimizer": optimizer(state),
            "scaler": {"scale": 65536.0},
        }
    ),
    "OpenAI, TorchScript": scripted,
    "OpenAI, a state dict": saved(openai),
    "CLIPModel, safetensors": lambda state, folder: safetensors(hugging_face(state), folder),
    "CLIPModel, bin": saved(hugging_face, "pytorch_model.bin"),
    "CLIPModel, shards of safetensors": sharded("safetensors"),
    "CLIPModel, shards of bin": sharded("bin"),
    "CLIPModel, a folder of shards": sharded("safetensors", "folder"),
    "CLIPModel in another model": saved(lambda state: {"state_dict": prefixed("clip_model.")(hugging_face(state))}),
    "compiled": saved(prefixed("_orig_mod.")),
    "compiled, then distributed, in a model": saved(prefixed("module._orig_mod.model.")),
    "distributed, then compiled": saved(lambda state: {"model": prefixed("_orig_mod.module.")(state)}),
    "in a model, under clip.": saved(lambda state: {"model_state_dict": prefixed("clip.")(state), "step": 3}),
    "nested twice": saved(lambda state: {"model": {"state_dict": state, "step": torch.tensor(3)}, "epoch": 1}),
    "PyTorch Lightning": saved(lightning, "w.ckpt"),
    "an average alone": saved(lambda state: {"model_ema": prefixed("module.")(state)}),
    "an average beside the weights": saved(lambda state: {"state_dict": zeros(state), "state_dict_ema": state}),
    "an average with its own fields": saved(
        lambda state: {"model": zeros(state), "ema": {"module": state, "decay": 0.999}, "epoch": 3}
    ),
    "an average of some tensors": saved(
        lambda state: {
            "model": {key: value if key.startswith("visual.") else value * 0 for key, value in state.items()},
            "ema": {key: value for key, value in state.items() if not key.startswith("visual.")},
        }
    ),
    "an average under its shadow": saved(
        lambda state: {"model": zeros(state), "ema": {"decay": 0.999, "shadow": state}}
    ),
    "an average of torch.optim.swa_utils": saved(
        lambda state: {"model": {**prefixed("module.")(state), "n_averaged": torch.tensor(3)}}
    ),
    "an average beside its counters": saved(
        lambda state: {
            **prefixed("online_model.")(zeros(state)),
            **prefixed("ema_model.")(state),
            **{key: torch.tensor(1) for key in ("initted", "step")},
        }
    ),
    "compiled, sharded and checkpointed inside": saved(
        lambda state: {
            key.replace("visual.", "visual._orig_mod.").replace(
                "resblocks.0.", "resblocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."
            ): value
            for key, value in state.items()
        }
    ),
    "in a mapping called clip": saved(lambda state: {"clip": state, "epoch": 3}),
    "a pickle that is called safetensors": saved(dict, "w.safetensors"),
    "NumPy's archive of another machine": lambda state, folder: numpy_archive(state, folder, ">f4"),
    "an average by a short prefix": saved(
        lambda state: {**prefixed("net.")(zeros(state)), **prefixed("avg_net.")(state)}
    ),
    "an average by its prefix": saved(
        lambda state: {**prefixed("model.")(zeros(state)), **prefixed("ema_model.")(state)}
    ),
    "NumPy in a pickle (Detectron2)": pickled(arrays, 2),
    "NumPy in a pickle of protocol 5": pickled(arrays, 5),
    "NumPy in torch.save": saved(arrays),
    "NumPy's archive": numpy_archive,
    "tensors in a pickle of Python's": pickled(lambda state: {"state_dict": state}, 4),
    "with records of a framework": saved(lambda state: {"state_dict": state, "args": SimpleNamespace(lr=1)}),
    "with a mask of older versions": saved(lambda state: {**state, "attn_mask": torch.full((12, 12), -torch.inf)}),
}
HALF = (torch.float16, torch.bfloat16)


def embeddings(clip: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    with torch.inference_mode():
        return clip.model.encode_image(images), clip.text(["a cat", "two dogs"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_loads_equal_to_its_source(layout, state, arches, tmp_path):
    path = LAYOUTS[layout](state, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        clip = ViTClip.load("Tiny-quickgelu", path)
    own = clip.model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    source = ViTClip.from_config({**TINY, "quick_gelu": True}, state)
    for ours, theirs in zip(embeddings(clip), embeddings(source), strict=True):
        assert torch.equal(ours, theirs)
    averaged = "average" in layout and "alone" not in layout and "swa_utils" not in layout
    assert any("is taken, not" in note for note in clip.notes) == averaged
    beside = {
        "PyTorch Lightning": "loss_fn.weight",
        "an average of torch.optim.swa_utils": "n_averaged",
        "an average beside its counters": "initted, step",
    }.get(layout)
    told = [note for note in clip.notes if "left out what a training keeps beside it: " in note]
    assert [note.rpartition(": ")[2] for note in told] == ([beside] if beside else [])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", ["open_clip, safetensors", "OpenAI, a state dict", "CLIPModel, safetensors"])
def test_half_precision_becomes_float32(layout, dtype, state, arches, tmp_path):
    path = LAYOUTS[layout]({key: value.to(dtype) for key, value in state.items()}, tmp_path)
    clip = ViTClip.load("Tiny-quickgelu", path)
    assert clip.dtype == torch.float32
    for key, value in clip.model.state_dict().items():
        assert torch.equal(value, state[key].to(dtype).float()), key


def test_eight_bits_are_read_as_the_numbers_they_are(state, arches, tmp_path):
    low = {key: value.to(torch.float8_e4m3fn) for key, value in state.items()}
    clip = ViTClip.load("Tiny-quickgelu", saved(lambda _: low)(state, tmp_path))
    assert torch.equal(clip.model.visual.proj, state["visual.proj"].to(torch.float8_e4m3fn).float())


def names(*known: str, **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(known, torch.ones(2)), **more}


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "SAN": (
        names("side_adapter_network.vit_model.norm.weight", "clip_visual_extractor.conv1.weight", "ov_classifier.x"),
        "a model of SAN: --model san-vit-b-16",
    ),
    "FC-CLIP": (
        {"model": names("backbone.clip_model.visual.trunk.stem.0.weight", "sem_seg_head.predictor.x.weight")},
        "under 'backbone.clip_model.': it looks like a model of FC-CLIP",
    ),
    "Mask2Former": (names("backbone.res2.0.conv1.weight", "sem_seg_head.pixel_decoder.x"), "a mask head of Detectron2"),
    "Detectron2": (
        {"model": {"backbone.bottom_up.stem.conv1.weight": np.ones(2), "roi_heads.x": np.ones(2)}, "__author__": "x"},
        "a detector of Detectron2",
    ),
    "BLIP": ({"model": names("visual_encoder.cls_token", "text_encoder.x", "text_decoder.x")}, "looks like BLIP"),
    "DINOv2": (names("cls_token", "pos_embed", "register_tokens", "blocks.0.ls1.gamma"), "DINOv2"),
    "DINO": (
        {"student": names("module.backbone.x"), "teacher": names("module.backbone.cls_token"), "epoch": 1},
        "is no CLIP: it holds student, teacher, epoch",
    ),
    "MAE": ({"model": names("cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight")}, "without texts"),
    "SAM": (names("image_encoder.pos_embed", "prompt_encoder.x", "mask_decoder.x"), "Segment Anything"),
    "Stable Diffusion": (
        {"state_dict": names("model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.text_model.x")},
        "a diffusion model",
    ),
    "UNet": (names("conv_in.weight", "down_blocks.0.x", "mid_block.x"), "a diffusion model"),
    "ResNet": (names("conv1.weight", "layer1.0.conv1.weight", "fc.weight"), "a ResNet that classifies images"),
    "optimizer alone": (
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "epoch": 3},
        "an optimizer's state",
    ),
    "image tower alone": (names("visual.proj", "visual.conv1.weight"), "the image tower of a CLIP alone"),
    "image tower of transformers": (names("vision_model.embeddings.class_embedding"), "of transformers alone"),
    "AltCLIP": (
        names("text_model.roberta.embeddings.x", "vision_model.embeddings.class_embedding", "logit_scale"),
        "give its whole folder",
    ),
    "Chinese-CLIP": (names("visual.proj", "bert.embeddings.x", "logit_scale"), "Chinese-CLIP"),
    "EVA-CLIP": (names("visual.blocks.0.attn.q_proj.weight", "text.ln_final.weight"), "EVA-CLIP"),
    "MobileCLIP": (names("image_encoder.model.x", "text_encoder.x", "logit_scale"), "MobileCLIP-S1/datacompdr"),
    "big_vision": (names("params/img/x", "params/txt/x"), "weights of JAX"),
    "LLaVA": (names("language_model.x", "multi_modal_projector.x"), "a vision-language model"),
    "LoRA": (names("base_model.model.visual.x.lora_A.weight", "base_model.model.visual.x.lora_B.weight"), "a LoRA"),
    "quantised": (names("visual.conv1.weight", "visual.proj.SCB", "ln_final.weight"), "quantised weights"),
    "two models, none an average": (
        {**names("remapped.visual.proj", "model.visual.proj")},
        "several CLIPs, under 'model.', 'remapped.'",
    ),
    "two models": (
        {**names("student.visual.proj", "teacher.visual.proj")},
        "several CLIPs, under 'student.', 'teacher.'",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_checkpoint_says_what_it_looks_like(kind, arches, tmp_path):
    content, message = FOREIGN[kind]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message) as error:
        ViTClip.load("Tiny", tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_a_clip_model_without_its_scale_misses_that(state, arches, tmp_path):
    path = saved(lambda _: {key: value for key, value in hugging_face(state).items() if key != "logit_scale"})
    with pytest.raises(WeightsError, match=r"does not fit Tiny-quickgelu/w: it misses logit_scale; is it"):
        ViTClip.load("Tiny-quickgelu", path(state, tmp_path))


def test_numbers_that_no_tensor_holds_are_refused():
    with pytest.raises(WeightsError, match="holds 'x', which is no tensor"):
        only_tensors({"x": np.ones(2, np.longdouble)}, "w.pt")


@pytest.mark.parametrize("family", TOWERS)
def test_no_tower_of_ours_looks_foreign(family):
    model = getattr(TOWERS[family](2), "model", None)
    if type(model).__module__.startswith("open_clip"):
        own = model.state_dict()
        found = recognise(prefixed("module.")(dict(own)), "w.pt").tensors
        assert found.keys() == own.keys()


class Runs:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.mark}",)


def in_the_storage(content: Any, path: Path) -> Path:
    """Write a pickle whose tensor is a pickle that runs something, as Python's own pickles keep them."""
    inner = pickle.dumps(content["bad"])

    class Hidden:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, (inner,)

    path.write_bytes(pickle.dumps({"state_dict": {"visual.proj": Hidden()}}))
    return path


HOSTILE: dict[str, Callable[[State, Runs, Path], Path]] = {
    "beside": lambda state, bad, folder: saved(lambda _: {**state, "bad": bad})(state, folder),
    "in state_dict": lambda state, bad, folder: saved(lambda _: {"state_dict": {**state, "x": bad}})(state, folder),
    "in an average": lambda state, bad, folder: saved(lambda _: {"model": state, "ema": [bad]})(state, folder),
    "as an optimizer": lambda state, bad, folder: saved(lambda _: {"state_dict": state, "optimizer": bad})(
        state, folder
    ),
    "as a key": lambda state, bad, folder: saved(lambda _: {"state_dict": state, (bad,): 1})(state, folder),
    "old format": lambda state, bad, folder: saved(
        lambda _: {"state_dict": state, "bad": bad}, _use_new_zipfile_serialization=False
    )(state, folder),
    "pkl": lambda state, bad, folder: pickled(lambda _: {"model": {"x": bad}}, 4)(state, folder),
    "protocol 0": lambda state, bad, folder: pickled(lambda _: {"model": bad}, 0)(state, folder),
    "protocol 5": lambda state, bad, folder: pickled(lambda _: {"model": bad}, 5)(state, folder),
    "in a storage": lambda state, bad, folder: in_the_storage({"bad": bad}, folder / "w.pkl"),
    "in an array": lambda state, bad, folder: saved(lambda _: {"a": np.array([bad], dtype=object)})(state, folder),
}


@pytest.mark.parametrize("place", HOSTILE)
def test_a_file_runs_nothing(place, state, tmp_path):
    mark = tmp_path / "mark"
    path = HOSTILE[place](state, Runs(mark), tmp_path)
    with pytest.raises(WeightsError, match=r"could run code|cannot be read"):
        read_clip(path)
    assert not mark.exists()


def test_a_shard_runs_nothing(state, tmp_path):
    mark = tmp_path / "mark"
    index = sharded("bin")(state, tmp_path)
    torch.save({"x": Runs(mark)}, tmp_path / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(WeightsError, match="could run code"):
        read_clip(index)
    archive = tmp_path / "a.npz"
    np.savez(archive, a=np.array([Runs(mark)], dtype=object))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_clip(archive)
    assert not mark.exists()


def test_an_archive_of_torchscript_that_names_no_data_says_so(state, tmp_path):
    """Its states are a pickle as all are, and its code is no reason to load it another way."""
    mark, path = tmp_path / "mark", tmp_path / "w.pt"
    torch.save({"a": Runs(mark)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w") as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
        root = plain.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/constants.pkl", pickle.dumps(()))
        archive.writestr(f"{root}/code/__torch__.py", "class M(Module):\n  __parameters__ = []\n")
    with pytest.raises(WeightsError, match=r"it names posix.system, which is no data and could run code") as error:
        read_clip(path)
    assert not mark.exists() and "torch.load" not in str(error.value)


def test_mistakes_with_shards(state, tmp_path):
    index = sharded("safetensors")(state, tmp_path)
    part = tmp_path / "model-00002-of-00003.safetensors"
    with pytest.raises(WeightsError, match=r"part 2 of 3; give the index, model.safetensors.index.json, or the folder"):
        read_clip(part)
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**places, "more": part.name}}))
    with pytest.raises(WeightsError, match="names more, which its files do not hold"):
        read_clip(index)
    index.write_text(json.dumps({"weight_map": {**places, "more": "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match=r"names '\.\./secret.safetensors'; expected files beside it"):
        read_clip(index)
    index.write_text(json.dumps({"weight_map": {**places, "more": "x" * 300}}))
    with pytest.raises(WeightsError, match=r"names x+, which are missing"):
        read_clip(index)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="is no index of weights"):
        read_clip(index)
    index.write_text(json.dumps({"weight_map": places}))
    part.unlink()
    with pytest.raises(WeightsError, match=r"names model-00002-of-00003.safetensors, which are missing; get all 3"):
        read_clip(index)


def test_a_tar_of_the_first_pytorch_is_refused(tmp_path):
    (tmp_path / "sys_info").write_bytes(b"x")
    with tarfile.open(tmp_path / "w.pth.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tmp_path / "sys_info", "sys_info")
    with pytest.raises(WeightsError, match=r"a tar of PyTorch 0\.1"):
        read_clip(tmp_path / "w.pth.tar")


def source(path: Path, **changes: Any) -> ClipSource:
    return ClipSource("Tiny-quickgelu", str(path), **changes)


@pytest.fixture
def larger(state, tmp_path) -> Iterator[Path]:
    """A file with position embeddings of 4 x 4 patches and 20 tokens, where Tiny has 2 x 2 and 12."""
    torch.manual_seed(6)
    tables = {"visual.positional_embedding": torch.randn(17, 32), "positional_embedding": torch.randn(20, 16)}
    torch.save({**state, **tables}, tmp_path / "larger.pt")
    return tmp_path / "larger.pt"


def test_position_embeddings_of_another_size(larger, state, arches):
    import open_clip

    message = (
        "larger.pt has position embeddings of .*4 x 4 patches.*, Tiny-quickgelu/larger of .*2 x 2 patches.*; "
        "name the architecture of the file, or set MODEL.CLIP.RESIZE_POSITION to True"
    )
    with pytest.raises(WeightsError, match=message):
        load_tower(source(larger))
    clip = load_tower(source(larger, resize_position=True))
    assert "larger.pt: position embeddings of 4 x 4 patches were resized to 2 x 2 patches" in clip.notes
    assert "larger.pt: position embeddings of 20 tokens were resized to 12 tokens" in clip.notes
    theirs, model = torch.load(larger), build_model({**TINY, "quick_gelu": True}, "tiny")
    open_clip.model.resize_pos_embed(theirs, model)
    open_clip.model.resize_text_pos_embed(theirs, model)
    for key in ("visual.positional_embedding", "positional_embedding"):
        torch.testing.assert_close(clip.model.state_dict()[key], theirs[key])


def test_a_table_that_is_no_square(state, arches, tmp_path):
    torch.save({**state, "visual.positional_embedding": torch.ones(8, 32)}, tmp_path / "w.pt")
    with pytest.raises(OvsegError, match="of 8 patches in no square cannot be resized to 2 x 2 patches"):
        load_tower(source(tmp_path / "w.pt", resize_position=True))
