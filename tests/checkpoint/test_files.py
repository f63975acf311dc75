from __future__ import annotations

import gzip

import pytest
import torch

from ovseg.checkpoint.files import read_part, read_state_dict
from ovseg.errors import WeightsError


def test_a_part_of_a_training_checkpoint(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "iteration": 7}, tmp_path / "whole.pth")
    assert read_part(tmp_path / "whole.pth", "model").keys() == {"a"}
    torch.save({"a": torch.ones(2)}, tmp_path / "bare.pth")
    assert read_part(tmp_path / "bare.pth", "model").keys() == {"a"}


@pytest.mark.parametrize("state", [{"a": torch.ones(2), "b": "words"}, {"a": {"b": torch.ones(2)}}])
def test_what_is_no_tensor_is_named(tmp_path, state):
    torch.save({"model": state}, tmp_path / "part.pth")
    torch.save(state, tmp_path / "bare.pth")
    for read in (lambda: read_part(tmp_path / "part.pth", "model"), lambda: read_state_dict(tmp_path / "bare.pth")):
        with pytest.raises(WeightsError, match=r"\.pth holds '[ab]', which is no tensor; expected a state dict"):
            read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty; get it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-lfs keeps in its place"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "a web page"),
        (b'\n{"error": "Repository not found"}', r"text \('\{\"error\": \"Repository not found\"\}'\); get it again"),
        (b"Access denied", r"text \('Access denied'\)"),
        (gzip.compress(b"x", mtime=0), "an archive .* unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_lies_where_weights_should_is_told(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=said) as caught:
        read_state_dict(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_safetensors_whose_first_byte_is_a_letter(tmp_path):
    """A header of 60 bytes begins as a web page does."""
    for length in range(54, 127):
        header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'.ljust(length)
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        assert read_state_dict(tmp_path / "a.safetensors")["a"].shape == (0,)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [(torch.eye(2).to_sparse(), "a sparse tensor"), (torch.ones(2, device="meta"), "a place without values")],
)
def test_tensors_that_no_module_takes_are_named(tmp_path, tensor, said):
    torch.save({"w": tensor}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=f"holds 'w', which is {said}; expected dense tensors"):
        read_state_dict(tmp_path / "a.pt")
