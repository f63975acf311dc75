"""The list of image-text models, against the lists of open_clip and our own names."""

from __future__ import annotations

import json

import open_clip
import pytest
import timm

from ovseg.cli import main
from ovseg.clip.activation import of_tag
from ovseg.clip.architectures import architecture
from ovseg.clip.folders import repository
from ovseg.zoo import resolve
from ovseg.zoo.backbones import Backbone, list_backbones

ROWS = [(family, write) for family in list_backbones() for write in family.write]


@pytest.mark.parametrize(("family", "write"), ROWS, ids=[write for _, write in ROWS])
def test_every_row_is_a_name(family, write):
    assert family.licence and family.languages
    if write == "path/to/folder" or write.startswith("clip:"):
        return
    if repository(write):
        assert resolve(f"clearclip/{write}").changes["MODEL"]["CLIP"] == {"FOLDER": write}
        return
    arch, _, tag = write.partition("/")
    assert architecture(arch)
    if tag != "FILE":
        assert tag in open_clip.list_pretrained_tags_by_model(arch)


def test_licences_are_those_that_timm_states_of_the_same_repositories():
    """OpenAI's own repository says MIT of its weights; timm has its own default for its copies of them."""
    compared, known = set(), timm.list_pretrained()
    for family, write in ROWS:
        arch, _, tag = write.partition("/")
        found = None if repository(write) else open_clip.get_pretrained_cfg(arch, tag)
        owner, _, name = (found or {}).get("hf_hub", "").strip("/").partition("/")
        if owner == "timm" and name in known and tag != "openai":
            assert family.licence.lower() == timm.get_pretrained_cfg(name).license, write
            compared.add(family.name)
    assert compared >= {"MetaCLIP", "OpenCLIP (LAION)"}


def test_a_licence_that_is_not_known_is_accounted_for():
    for family in list_backbones():
        assert family.licence != "unknown" or "licence" in family.note or "nothing" in family.note


def test_quickgelu_is_named_where_the_weights_need_it():
    """Every tag of the list loads: none is refused because its architecture has another activation."""
    for _, write in ROWS:
        arch, _, tag = write.partition("/")
        found = None if repository(write) else open_clip.get_pretrained_cfg(arch, tag)
        if found:
            of_tag(arch, tag, found)


@pytest.mark.parametrize(
    "name",
    [
        *"MetaCLIP DataComp CLIPA EVA-CLIP MobileCLIP SigLIP ViTamin DFN AltCLIP Chinese-CLIP".split(),
        *("LaCLIP", "SynthCLIP", "CLIPS", "OpenCLIP (LAION)", "SigLIP 2", "Perception Encoder"),
    ],
)
def test_the_field_is_in_it(name):
    assert name in [family.name for family in list_backbones()]


def test_the_list_fits_a_terminal(capsys):
    assert main(["models", "--backbones"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > len(ROWS) and max(map(len, lines)) <= 100
    assert "  ViT-B-16-quickgelu/metaclip_400m                      CC-BY-NC-4.0        en" in lines


def test_json(capsys):
    assert main(["models", "--backbones", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Backbone(**{**row, "write": tuple(row["write"])}) for row in rows] == list(list_backbones())
