from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from ovseg import __version__
from ovseg.cli import COMMANDS, build_parser, main
from ovseg.result.files import STANDARD
from ovseg.result.formats import FORMATS
from ovseg.system.registry import names
from ovseg.vocabulary.templates import TEMPLATES


def shown_help(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def examples(text):
    return re.findall(r"^  (ovseg .+)$", text.partition("examples:\n")[2], re.MULTILINE)


@pytest.mark.parametrize("words", [(), *((command,) for command in COMMANDS)])
def test_help_shows_examples_that_parse(capsys, words):
    lines = examples(shown_help(capsys, *words))
    assert lines and all(line.startswith(" ".join(["ovseg", *words])) for line in lines)
    for line in lines:
        args = build_parser().parse_args(shlex.split(line)[1:])
        assert callable(args.run)


def test_examples_of_segment_work(capsys, tmp_path, monkeypatch, tiny_clip, photo, photos):
    """With the files that they name, and the tiny CLIP on the CPU in the place of models that are downloaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("cat\nsofa\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((photos / "b.png").read_bytes())
    (tmp_path / "mug.jpg").write_bytes(photo.read_bytes())
    seen = Image.open(photo).size
    mask = Image.new("L", seen)
    mask.paste(255, (seen[0] // 4, seen[1] // 4, seen[0] // 2, seen[1] // 2))
    mask.save(tmp_path / "mug_mask.png")
    written = set()
    for line in examples(shown_help(capsys, "segment")):
        words = shlex.split(line)[1:]
        model = [] if "zero_guidance/mini" in words else ["--model", str(tiny_clip)]
        assert main([*words, *model, "--device", "cpu"]) == 0, line
        written |= {path.name for path in (tmp_path / "out").glob("*.labels.png")}
        shutil.rmtree(tmp_path / "out")  # they share names, and --strict minds results of other images
    assert written == {f"{stem}.labels.png" for stem in ("a", "b", "c", "photo")}


def test_help_imports_nothing_heavy():
    code = (
        "import sys, ovseg.cli\n"
        "try: ovseg.cli.main(['segment', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'rich', 'detectron2', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_of_segment_lists_what_is_registered(capsys):
    """It is written out there, for the registries import what help does not."""
    text = " ".join(shown_help(capsys, "segment").split())
    assert f"{' | '.join(TEMPLATES)} (default" in text
    listed = text.partition("written for each image: ")[2].partition(" (default: ")
    assert sorted(listed[0].split(", ")) == names(FORMATS)
    assert listed[2].startswith(f"{','.join(STANDARD)})")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"ovseg {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["segmnt", "a.jpg"], "unknown command 'segmnt'; did you mean segment?"),
        (["segment", "a.jpg"], "the following arguments are required: --output"),
        (["segment", "a.jpg", "--classes", "cat", "--output", "o", "--batch-size", "two"], "invalid int value: 'two'"),
        (["models", "--jsno"], "unrecognized arguments: --jsno"),
        (["models", "--protocol", "voc21"], "--protocol is 'voc21' without a model; name it by --details"),
        (["models", "--details", "minni"], "unknown model 'minni'; did you mean mini"),
        (
            ["models", "--details", "sclip", "--protocol", "voc22"],
            "unknown protocol of sclip 'voc22'; did you mean voc21",
        ),
        (["models", "--details", "mini", "--protocol", "voc21"], "unknown protocol of mini 'voc21'; known: common"),
        (["models", "--details", "training_free/sclip/voc21.yaml"], "--model sclip/... --protocol voc21"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    try:
        status = main(words)
    except SystemExit as leave:
        status = leave.code
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_models(capsys):
    assert main(["models", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert cards[0]["name"] == "mini"
    assert {"code_licence", "weights_licence", "size_mb", "source", "installed"} <= cards[0].keys()
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(card["name"].partition("/")[0] in table for card in cards)


@pytest.mark.parametrize(
    ("name", "cards"), [("mini-clearclip", 2), ("sclip/mini", 2), ("naclip", 1), ("gem/ViT-L-14/openai", 1)]
)
def test_details_of_a_model(capsys, name, cards):
    assert main(["models", "--details", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"].startswith(name) and len(found["cards"]) == cards
    assert found["settings"]["PROTOCOL"]["SHORT_SIDE"] > 0
    assert main(["models", "--details", name]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == {key: value for key, value in found.items() if key != "sources"}
    assert "LOGIT_SCALE" in text and "# training_free/" in text


def test_details_of_a_folder_named_like_an_embedded_model(capsys, tmp_path, tiny_clip):
    (tmp_path / "mini").symlink_to(tiny_clip)
    for name in (tmp_path / "mini", f"sclip/{tmp_path}/mini"):
        assert main(["models", "--details", str(name), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert all(card["weights"] == "open_clip" for card in found["cards"])


@pytest.mark.parametrize(
    ("name", "section", "key", "value", "source"),
    [
        ("maftp-b", "MAFTPlus", "QUERIES", 100, None),
        (
            "maftp-l-pano",
            "MAFTPlus",
            "PANOPTIC",
            True,
            "maft_plus/maftp-l-pano.yaml (github.com/jiaosiyu1999/MAFT-Plus",
        ),
        ("fcclip-rn50", "FCCLIP", "VALID_MASKS_ONLY", True, "(github.com/bytedance/fc-clip"),
        ("mini", "SAN", "MASK_BIAS", 3.0, "yaml (ours)"),
    ],
)
def test_details_show_the_options_of_the_architecture(capsys, name, section, key, value, source):
    assert main(["models", "--details", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"][section][key] == value
    dotted = f"MODEL.{section}.{key}"
    assert source in found["sources"][dotted] if source else dotted not in found["sources"]


def test_details_say_where_settings_come_from(capsys):
    assert main(["models", "--details", "sclip", "--protocol", "voc21", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["PROTOCOL"]["LOGIT_SCALE"] == 65.0
    assert found["sources"]["MODEL.PROTOCOL.LOGIT_SCALE"].startswith(
        "training_free/sclip.yaml, BENCHMARKS.voc21 (github"
    )
    assert "MODEL.PROTOCOL.PAMR_STEPS" not in found["sources"]
    assert {"common", "voc21", "coco171"} <= set(found["protocols"])
    assert main(["models", "--details", "naclip", "--protocol", "common", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["PROTOCOL"]["PAMR_STEPS"], settings["PROTOCOL"]["WINDOW"]) == (0, 0)


def test_cache(capsys, tmp_path, monkeypatch, tiny_clip, photo):
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    main(["segment", str(photo), "--classes", "cat, dog", "--model", str(tiny_clip), "--output", str(tmp_path / "o")])
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert "tiny-clip" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out.startswith("cleared 0.0 MB in ")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_doctor_is_reachable(capsys):
    assert main(["doctor"]) in (0, 1)
    assert "torch" in capsys.readouterr().out


def test_missing_package(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.table", None)
    assert main(["cache"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "run `ovseg doctor`" in err


def test_a_reader_that_stops_early():
    command = f"{shlex.quote(sys.executable)} -m ovseg.cli models --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[" and done.stderr == ""


def test_a_terminal_without_emoji(photo, tmp_path, tiny_clip):
    command = [
        sys.executable,
        "-m",
        "ovseg.cli",
        "segment",
        photo,
        "--classes",
        "🦩, 👩‍👩‍👧",
        "--output",
        tmp_path / "o",
    ]
    command += ["--model", tiny_clip, "--templates", "simple", "--device", "cpu"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "OVSEG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"1 of 1 images segmented" in done.stdout
