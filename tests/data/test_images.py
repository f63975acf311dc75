"""Every kind of image in, every kind of mistake told in one line."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ovseg.data.images import LoadedImage, expand_inputs, find_inputs, read_image
from ovseg.data.kinds import IMAGE_FORMATS
from ovseg.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[..., 0]
SMOOTH = np.stack(np.broadcast_arrays(np.arange(64) * 4, np.arange(48)[:, None] * 5, 90), -1).astype(np.uint8)
"""A picture that JPEG hardly changes."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def rgba(alpha: int) -> Image.Image:
    image = Image.fromarray(RGB).convert("RGBA")
    image.putalpha(alpha)
    return image


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.info["transparency"] = 1
    return image


DEEP = (np.arange(600, dtype=np.uint16).reshape(20, 30) * 109 + 7).astype(np.uint16)  # 7 .. 65298: 16 bits
TWELVE = (DEEP >> 4).astype(np.uint16)  # up to 4081: 12 bits

GOOD: dict[str, tuple[Any, np.ndarray]] = {
    # PIL, mode by mode
    "pil RGB": (Image.fromarray(RGB), RGB),
    "pil L": (Image.fromarray(GREY), grey3(GREY)),
    "pil 1": (Image.fromarray(GREY > 99), grey3((GREY > 99) * np.uint8(255))),
    "pil P": (Image.fromarray(GREY).convert("P"), grey3(GREY)),
    "pil P with transparency": (palette_with_transparency(), np.array([[[255, 0, 0], [255] * 3]], np.uint8)),
    "pil RGBA opaque": (rgba(255), RGB),
    "pil RGBA clear is white": (rgba(0), np.full_like(RGB, 255)),
    "pil LA clear is white": (Image.new("LA", (3, 2), (40, 0)), np.full((2, 3, 3), 255, np.uint8)),
    "pil LA opaque": (Image.new("LA", (3, 2), (40, 255)), np.full((2, 3, 3), 40, np.uint8)),
    "pil CMYK": (Image.new("CMYK", (3, 2), (255, 0, 0, 0)), np.full((2, 3, 3), (0, 255, 255), np.uint8)),
    "pil I;16": (Image.fromarray(DEEP), grey3(np.rint(DEEP / 257).astype(np.uint8))),
    "pil I": (Image.fromarray(DEEP.astype(np.int32)), grey3(np.rint(DEEP / 257).astype(np.uint8))),
    "pil I;16 of 12 bits": (Image.fromarray(TWELVE), grey3(np.rint(TWELVE / 4095 * 255).astype(np.uint8))),
    "pil F": (Image.fromarray(GREY.astype(np.float32) / 255), grey3(GREY)),
    "pil 1x1": (Image.new("RGB", (1, 1), (1, 2, 3)), np.array([[[1, 2, 3]]], np.uint8)),
    "pil 20000x10": (Image.new("RGB", (20000, 10)), np.zeros((10, 20000, 3), np.uint8)),
    # arrays
    "array uint8": (RGB, RGB),
    "array not contiguous": (RGB[:, ::-1], RGB[:, ::-1]),
    "array grey": (GREY, grey3(GREY)),
    "array bool": (GREY > 99, grey3((GREY > 99) * np.uint8(255))),
    "array int64 0..255": (RGB.astype(np.int64), RGB),
    "array uint16": (DEEP, grey3(np.rint(DEEP / 257).astype(np.uint8))),
    "array float32": (RGB.astype(np.float32) / 255, RGB),
    "array float64": (RGB / 255, RGB),
    "array float rounding": (np.full((2, 2, 3), 1.00005), np.full((2, 2, 3), 255, np.uint8)),
    # tensors
    "tensor uint8": (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    "tensor float": (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
    "tensor float16": (torch.full((3, 4, 5), 0.5, dtype=torch.float16), np.full((4, 5, 3), 128, np.uint8)),
    "tensor bfloat16": (torch.ones((3, 4, 5), dtype=torch.bfloat16), np.full((4, 5, 3), 255, np.uint8)),
    "tensor with gradient": (torch.zeros((3, 4, 5), requires_grad=True), np.zeros((4, 5, 3), np.uint8)),
    # encoded
    "file PNG": (io.BytesIO(encoded(Image.fromarray(RGB), "PNG")), RGB),
    "file 16-bit PNG": (io.BytesIO(encoded(Image.fromarray(DEEP), "PNG")), grey3(np.rint(DEEP / 257).astype(np.uint8))),
    "file 16-bit TIFF": (
        io.BytesIO(encoded(Image.fromarray(TWELVE), "TIFF")),
        grey3(np.rint(TWELVE / 16.0588).astype("u1")),
    ),
    "file 1-bit PNG": (io.BytesIO(encoded(Image.fromarray(GREY > 99), "PNG")), grey3((GREY > 99) * np.uint8(255))),
    "file GIF": (
        io.BytesIO(encoded(Image.new("RGB", (4, 3), (255, 0, 0)), "GIF")),
        np.full((3, 4, 3), (255, 0, 0), "u1"),
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_reads(case: str) -> None:
    source, expected = GOOD[case]
    if isinstance(source, io.BytesIO):
        source = io.BytesIO(source.getvalue())
    loaded = read_image(source)
    assert loaded.pixels.dtype == np.uint8 and loaded.pixels.flags.c_contiguous and loaded.pixels.flags.writeable
    np.testing.assert_array_equal(loaded.pixels, expected)
    assert (loaded.name, loaded.path) == ("image", None)
    told = next((text for part, text in TOLD.items() if part in case), "")
    assert [told in note for note in loaded.notes] == [True] * bool(told)


TOLD = {
    "transparency": "transparent parts became white",
    "clear is white": "transparent parts became white",
    "CMYK": "converted to RGB without a colour profile",
    "12 bits": "reach 4081 and were scaled as 12-bit ones",
    "16-bit TIFF": "reach 4081 and were scaled as 12-bit ones",
}
"""What is noted of which of the good cases; of the others nothing is."""


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("JPEG", "TIFF", "WEBP", "BMP", "PPM") for mode in ("RGB", "L")]
    + [("JPEG", "CMYK"), ("JPEG", "YCbCr"), ("TIFF", "CMYK")],  # Pillow 12 cannot read the YCbCr TIFF that it writes
)
def test_formats_and_modes(tmp_path: Path, kind: str, mode: str) -> None:
    suffix = IMAGE_FORMATS[kind][0]
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encoded(Image.fromarray(SMOOTH).convert(mode), kind))
    loaded = read_image(str(path))
    expected = grey3(np.asarray(Image.fromarray(SMOOTH).convert("L"))) if mode == "L" else SMOOTH
    assert np.abs(loaded.pixels.astype(int) - expected).mean() < 6
    assert (loaded.name, loaded.path) == (path.name, path)


def test_pixels_are_never_shared() -> None:
    source = RGB.copy()
    loaded = read_image(source)
    source[:] = 0
    np.testing.assert_array_equal(loaded.pixels, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        assert expected.shape == ((30, 20, 3) if orientation > 4 else (20, 30, 3))
        np.testing.assert_array_equal(read_image(image).pixels, expected)
    np.testing.assert_array_equal(read_image(path).pixels, expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_first_frame_with_a_note(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"film{IMAGE_FORMATS[kind][0]}"
    frames[0].save(
        path, format=kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    loaded = read_image(path)
    np.testing.assert_array_equal(loaded.pixels, np.full((6, 8, 3), (255, 0, 0), np.uint8))
    assert len(loaded.notes) == 1 and "3 frames" in loaded.notes[0]


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    with path.open("rb") as stream:
        assert read_image(stream).name == "photo.png"
    with Image.open(path) as image:
        assert read_image(image).name == "photo.png"
    assert read_image(path).path == path


def bomb() -> bytes:
    """Return a small PNG that claims 30000 x 30000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8))
JPEG = encoded(NOISE, "JPEG")
PNG = encoded(NOISE, "PNG")
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"This is no picture, not even a small one.\n", "holds text"),
    "page.png": ("<!doctype html><title>Not found — 404</title>".encode() * 40, "holds text"),
    "noise.jpg": (bytes(range(256)) * 4, "unknown format"),
    "head.jpg": (JPEG[:20], "damaged"),
    "tenth.jpg": (JPEG[: len(JPEG) // 10], "damaged"),
    "half.jpg": (JPEG[: len(JPEG) // 2], "damaged"),
    "nearly.jpg": (JPEG[: len(JPEG) * 98 // 100], "damaged"),
    "half.png": (PNG[: len(PNG) // 2], "damaged"),
    "bad_checksum.png": (PNG[:50] + bytes([PNG[50] ^ 255]) + PNG[51:], "damaged"),
    "half.gif": (encoded(NOISE, "GIF")[:9000], "damaged"),
    "half.webp": (encoded(NOISE, "WEBP")[:9000], "damaged"),
    "half.tif": (encoded(NOISE, "TIFF")[:9000], "damaged"),
    "bomb.png": (bomb(), r"more than 178,956,970 pixels"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "is a drawing or document"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("as_stream", [False, True])
def test_bad_files(tmp_path: Path, name: str, as_stream: bool) -> None:
    data, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with path.open("rb") as stream, pytest.raises(InputError, match=message) as caught:
        read_image(stream if as_stream else path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def nan_tensor() -> torch.Tensor:
    tensor = torch.zeros(3, 4, 5)
    tensor[1, 2, 3] = float("nan")
    return tensor


def closed() -> io.BytesIO:
    stream = io.BytesIO(PNG)
    stream.close()
    return stream


BAD_SOURCES: dict[str, tuple[Callable[[], Any], str]] = {
    "missing file": (lambda: "no/such/photo.jpg", "not found"),
    "empty path": (lambda: "", "empty path"),
    "zero byte in the path": (lambda: "a\0b.jpg", "check the path"),
    "endless path": (lambda: "a" * 5000 + ".jpg", "check the path"),
    "url": (lambda: "https://example.org/cat.jpg", "URLs are not fetched; download it"),
    "url as a path": (lambda: Path("https://example.org/cat.jpg"), "URLs are not fetched"),
    "url of a bucket": (lambda: "s3://bucket/cat.jpg", "URLs are not fetched"),
    "folder": (lambda: Path(__file__).parent, "is a folder"),
    "device": (lambda: "/dev/null", "not an ordinary file"),
    "none": (lambda: None, "got NoneType"),
    "number": (lambda: 7, "got int"),
    "bytes": (lambda: PNG, r"wrap bytes in io\.BytesIO"),
    "list": (lambda: [RGB], "got list"),
    "text stream": (lambda: io.StringIO("hello"), "open it with mode 'rb'"),
    "closed stream": (closed, "open it with mode 'rb'"),
    "empty pil": (lambda: Image.new("RGB", (0, 5)), "size 0x5"),
    "array of one line": (lambda: RGB.ravel(), r"shape \(1800,\)"),
    "array batch": (lambda: RGB[None], r"list\(array\)"),
    "array channels first": (lambda: RGB.transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
    "array RGBA": (lambda: np.zeros((4, 5, 4), np.uint8), "PIL.Image.fromarray"),
    "array one channel": (lambda: RGB[..., :1], r"array\[\.\.\., 0\]"),
    "array two channels": (lambda: RGB[..., :2], r"shape \(20, 30, 2\)"),
    "array empty": (lambda: np.zeros((0, 5, 3), np.uint8), "no pixels"),
    "array of floats to 255": (lambda: RGB.astype(np.float32), "divide by 255"),
    "array normalised": (lambda: RGB / 255 - 0.5, "undo the normalisation"),
    "array of NaN": (lambda: np.full((4, 5, 3), np.nan), "NaN or infinite"),
    "array of inf": (lambda: np.full((4, 5), np.inf), "NaN or infinite"),
    "array negative": (lambda: RGB.astype(int) - 300, "rescale"),
    "array too deep": (lambda: RGB.astype(int) * 1000, "rescale"),
    "array of text": (lambda: np.array([["a"]]), "holds <U1"),
    "array of objects": (lambda: np.array([[None]]), "holds object"),
    "array complex": (lambda: np.zeros((4, 5), complex), "holds complex128"),
    "tensor NaN": (nan_tensor, "NaN or infinite"),
    "tensor channels last": (lambda: torch.zeros(4, 5, 3), r"permute\(2, 0, 1\)"),
    "tensor batch": (lambda: torch.zeros(1, 3, 4, 5), r"list\(tensor\)"),
    "tensor grey": (lambda: torch.zeros(1, 4, 5), r"expand\(3, -1, -1\)"),
    "tensor two dims": (lambda: torch.zeros(4, 5), r"shape \(4, 5\)"),
    "tensor empty": (lambda: torch.zeros(3, 0, 5), "no pixels"),
    "tensor normalised": (lambda: torch.randn(3, 4, 5) * 9, "undo the normalisation"),
    "tensor complex": (lambda: torch.zeros(3, 4, 5, dtype=torch.complex64), "complex64"),
    "pil of NaN": (lambda: Image.fromarray(np.full((4, 5), np.nan, np.float32)), "NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources(case: str) -> None:
    make, message = BAD_SOURCES[case]
    with pytest.raises(InputError, match=message) as caught:
        read_image(make())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(PNG)

    def refuse(*_: Any) -> None:  # chmod would not stop the superuser, as whom containers run tests
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"secret\.png.*Permission denied.*permissions"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.data())
def test_damaged_bytes_never_raise_anything_else(kind: str, data: st.DataObject) -> None:
    whole = bytearray(ENCODED[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(whole)))
    try:
        loaded = read_image(io.BytesIO(bytes(whole[:cut])))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(loaded, LoadedImage) and loaded.pixels.ndim == 3 and loaded.pixels.dtype == np.uint8


ENCODED = {kind: encoded(Image.fromarray(RGB), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "c.webp"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "deep.png").write_bytes(PNG)
    return tmp_path


def test_expand_folder(folder: Path) -> None:
    expected = [folder / "a.JPG", folder / "b.png", folder / "c.webp"]
    assert expand_inputs(folder) == expand_inputs(str(folder)) == expected


def test_expand_lists_in_order(folder: Path) -> None:
    stream = io.BytesIO(PNG)
    given_list = [str(folder / "notes.txt"), (folder, [RGB]), stream, folder / "b.png"]
    found = expand_inputs(iter(given_list))
    assert found[:4] == [folder / "notes.txt", folder / "a.JPG", folder / "b.png", folder / "c.webp"]
    assert found[4] is RGB and found[5] is stream and found[6] == folder / "b.png"


def test_expand_single_objects(folder: Path) -> None:
    for source in (RGB, torch.zeros(3, 2, 2), NOISE, io.BytesIO(PNG)):
        (found,) = expand_inputs(source)
        assert found is source
    with (folder / "b.png").open("rb") as stream:  # a file is an iterator of its lines; it must not be taken for a list
        assert expand_inputs(stream) == [stream]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "got no images"),
        ([[], ()], "got no images"),
        ("missing.jpg", "not found"),
        (["https://example.org/a.jpg"], "URLs are not fetched"),
    ],
)
def test_expand_errors(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand_inputs(source)


def test_expand_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="holds no images"):
        expand_inputs(tmp_path)


def test_a_folder_in_a_folder_that_is_named_too_is_not_left_out(tmp_path: Path) -> None:
    for folder in ("a", "a/in", "a/out"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / folder / "x.png")
    found = find_inputs([tmp_path / "a", tmp_path / "a" / ".." / "a" / "in"])
    assert len(found.images) == 2 and found.folders == [tmp_path / "a" / "out"]


def test_an_empty_path_is_not_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    for read in (read_image, expand_inputs):
        with pytest.raises(InputError, match="empty path"):
            read("")


def test_several_where_one_is_expected_are_refused_with_the_mend() -> None:
    with pytest.raises(InputError, match="one image is expected here"):
        read_image(["a.jpg"])
    with pytest.raises(InputError, match=r"list\(array\)"):
        read_image(np.array(["a.jpg", "b.jpg"], dtype=object))
