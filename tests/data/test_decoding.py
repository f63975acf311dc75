"""Sound pixels, whose metadata may be broken, and which may have other bands or bits than a photograph's."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from ovseg.data.images import find_inputs, read_image
from ovseg.data.kinds import FOREIGN, IMAGE_SUFFIXES, missing_reader, open_image, why_unreadable
from ovseg.data.metadata import broken_chunks, without_metadata
from ovseg.data.orientation import turn, turn_back
from ovseg.errors import InputError
from ovseg.system.warned import collected, keep

RGB = np.stack(np.broadcast_arrays(np.arange(64) * 4, np.arange(48)[:, None] * 5, 90), -1).astype(np.uint8)
UPRIGHT = "taken as upright"
TIFF_HEAD = b"II*\0\x08\0\0\0"


def encoded(kind: str, pixels: np.ndarray = RGB, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png_with(*chunks: bytes, at: int = 33) -> bytes:
    whole = encoded("PNG")
    return whole[:at] + b"".join(chunks) + whole[at:]


def jpeg_with(marker: int, data: bytes) -> bytes:
    whole = encoded("JPEG", quality=95)
    return whole[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + whole[2:]


def entry(kind: int, value: bytes, count: int = 1) -> bytes:
    """EXIF data with one entry, the orientation."""
    body = struct.pack("<HHHI", 1, 274, kind, count) + value.ljust(4, b"\0") + bytes(4)
    return b"Exif\0\0" + TIFF_HEAD + body


def webp_with(kind: bytes, data: bytes) -> bytes:
    options = {"exif": data} if kind == b"EXIF" else {"xmp": data}
    return encoded("WEBP", lossless=True, **options)


XMP = b'<x:xmpmeta xmlns:x="x"><r:RDF xmlns:r="r"><r:D xmlns:tiff="t" tiff:Orientation="%d"/></r:RDF></x:xmpmeta>'
MEND = {
    "PNG text with a wrong checksum": (png_with(chunk(b"tEXt", b"a\0bc", 0)), 1, r"metadata are broken \(tEXt\)"),
    "PNG profile with a wrong checksum": (png_with(chunk(b"iCCP", b"p\0\0abc", 0)), 1, r"broken \(iCCP\)"),
    "PNG time with a wrong checksum": (png_with(chunk(b"tIME", b"abcdefg", 1)), 1, r"broken \(tIME\)"),
    "PNG text with a wrong checksum behind the pixels": (
        png_with(chunk(b"tEXt", b"a\0bc", 0), at=-12),
        1,
        r"broken \(tEXt\); its pixels are sound",
    ),
    "PNG EXIF that is none": (png_with(chunk(b"eXIf", b"not a tiff header at all")), 1, UPRIGHT),
    "PNG text without end": (png_with(chunk(b"zTXt", b"abc\0\0" + b"x" * 20)), 1, ""),
    "JPEG EXIF that is none": (jpeg_with(0xE1, b"Exif\0\0NOTTIFF" * 3), 1, UPRIGHT),
    "JPEG EXIF that is cut": (jpeg_with(0xE1, entry(3, b"\6\0")[:18]), 1, UPRIGHT),
    "JPEG orientation is text": (jpeg_with(0xE1, entry(2, b"AAAA", 4)), 1, "'AAAA', expected 1 to 8"),
    "JPEG orientation is 9": (jpeg_with(0xE1, entry(3, b"\x09\0")), 1, "'9', expected 1 to 8"),
    "JPEG orientation is 6 as text": (jpeg_with(0xE1, entry(2, b"6\0", 2)), 6, "turned by 90 degrees to the right"),
    "JPEG EXIF header twice": (jpeg_with(0xE1, b"Exif\0\0" + entry(3, b"\6\0")), 6, "turned by 90 degrees"),
    "JPEG EXIF fine but for other entries": (
        jpeg_with(0xE1, b"Exif\0\0" + TIFF_HEAD + struct.pack("<HHHI", 2, 274, 3, 1) + b"\x08\0\0\0" + b"\xff" * 12),
        8,
        "turned by 90 degrees to the left",
    ),
    "JPEG upright by EXIF": (jpeg_with(0xE1, entry(3, b"\1\0")), 1, ""),
    "JPEG orientation in XMP": (encoded("JPEG", quality=95, xmp=XMP % 3), 3, "by 180 degrees, as its XMP"),
    "JPEG XMP is garbage": (encoded("JPEG", quality=95, xmp=b"garbage <"), 1, "XMP data cannot be read"),
    "JPEG profile is garbage": (encoded("JPEG", quality=95, icc_profile=b"garbage" * 30), 1, "profile cannot be read"),
    "JPEG application data cut short": (jpeg_with(0xE2, b"MPF\0ab"), 1, ""),
    "WEBP EXIF as Python's text": (webp_with(b"EXIF", b"b'Exif\\x00\\x00II*'"), 1, UPRIGHT),
    "WEBP EXIF header twice": (webp_with(b"EXIF", b"Exif\0\0" + entry(3, b"\3\0")), 3, "180 degrees"),
    "TIFF turned by EXIF": (encoded("TIFF", tiffinfo={274: 6}), 6, "turned by 90 degrees to the right"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", MEND)
def test_broken_metadata_cost_no_pixels(case: str, tmp_path: Path) -> None:
    data, orientation, note = MEND[case]
    path = tmp_path / f"odd.{case.split()[0].lower()}"
    path.write_bytes(data)
    loaded = read_image(path)
    expected = turn(RGB, orientation)
    assert loaded.pixels.shape == expected.shape
    assert np.abs(loaded.pixels.astype(int) - expected).mean() < 3
    if note:
        (found,) = [line for line in loaded.notes if str(path) in line]
        assert np.any([part in found for part in (note, note.replace("\\", ""))])
    else:
        assert loaded.notes == ()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_without_metadata_pixels_are_the_same(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(kind, exif=exif, icc_profile=b"x" * 200)
    bare = without_metadata(data)
    assert bare is not None and len(bare) < len(data)
    with Image.open(io.BytesIO(bare)) as image, Image.open(io.BytesIO(data)) as before:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(before))
        assert not image.getexif()
    assert without_metadata(bare) == bare and broken_chunks(io.BytesIO(data)) == []
    assert without_metadata(data[:40]) is None or without_metadata(data[:40]) != data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_and_back(orientation: int) -> None:
    np.testing.assert_array_equal(turn_back(turn(RGB, orientation), orientation), RGB)
    image = Image.fromarray(RGB)
    image.getexif()[274] = orientation
    np.testing.assert_array_equal(read_image(image).pixels, turn(RGB, orientation))


def test_a_large_picture_is_read_in_strips_like_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovseg.data import decoding

    exif = Image.Exif()
    exif[274] = 7
    data = [encoded("PNG", exif=exif), encoded("PNG", np.dstack([RGB, RGB[..., 0]]))]
    expected = [read_image(io.BytesIO(one)).pixels for one in data]
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 100)
    for one, pixels in zip(data, expected, strict=True):
        np.testing.assert_array_equal(read_image(io.BytesIO(one)).pixels, pixels)


ELEVEN = RGB.astype(np.uint16) << 3
FIVE = np.dstack([RGB, RGB[..., ::-1][..., :2]])  # bands 4 and 5 are 3 and 2


def opencv(ending: str, pixels: np.ndarray) -> bytes:
    import cv2

    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(ending, pixels[..., order])[1].tobytes()


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        tiff(ELEVEN, photometric="rgb"),
        tiff(ELEVEN, photometric="rgb", compression="zlib"),
        tiff(ELEVEN.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        opencv(".tif", ELEVEN),  # LZW
        opencv(".png", ELEVEN),
        opencv(".ppm", ELEVEN),
        opencv(".jp2", ELEVEN),
    ],
    ids=["tiff", "deflate", "planes", "lzw", "png", "ppm", "jp2"],
)
def test_colour_of_many_bits_is_scaled_by_its_true_range(data: bytes) -> None:
    loaded = read_image(io.BytesIO(data))
    expected = np.rint(ELEVEN * (255 / 2047))
    assert np.abs(loaded.pixels - expected).max() <= 2  # JPEG 2000 loses a little
    (note,) = loaded.notes
    assert "16-bit values reach 20" in note and "11-bit" in note


def test_colour_of_all_bits_is_scaled_without_a_note() -> None:
    loaded = read_image(io.BytesIO(opencv(".png", RGB.astype(np.uint16) * 257)))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert loaded.notes == ()


@pytest.mark.parametrize("premultiplied", [False, True])
def test_transparency_of_many_bits_is_on_white(premultiplied: bool) -> None:
    alpha = np.zeros(RGB.shape[:2], np.uint16)
    alpha[:, ::2] = 65535
    deep = RGB.astype(np.uint16) * 257
    kind = "assocalpha" if premultiplied else "unassalpha"
    data = tiff(np.dstack([deep * (alpha[..., None] > 0), alpha]), photometric="rgb", extrasamples=[kind])
    loaded = read_image(io.BytesIO(data))
    np.testing.assert_array_equal(loaded.pixels, np.where(alpha[..., None] > 0, RGB, 255))
    assert len(loaded.notes) == 1 and "became white" in loaded.notes[0]


MANY = {
    "chunky": tiff(FIVE, photometric="rgb"),
    "planes": tiff(FIVE.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"),
    "deflate": tiff(FIVE, photometric="rgb", compression="zlib"),
    "16 bits": tiff(FIVE.astype(np.uint16) * 257, photometric="rgb"),
    "floats": tiff((FIVE / 255).astype(np.float32), photometric="rgb"),
    "four": tiff(FIVE[..., :4], photometric="rgb", extrasamples=["unspecified"]),
}


@pytest.mark.parametrize("case", MANY)
def test_bands(case: str) -> None:
    data = MANY[case]
    loaded = read_image(io.BytesIO(data))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    (note,) = loaded.notes
    assert f"has {4 if case == 'four' else 5} bands, of which 1, 2, 3 were used" in note and "--bands" in note
    turned = read_image(io.BytesIO(data), bands=(3, 2, 1))
    np.testing.assert_array_equal(turned.pixels, RGB[..., ::-1])
    assert turned.notes == ()
    if case != "16 bits":  # there the range of this band alone counts
        np.testing.assert_array_equal(read_image(io.BytesIO(data), bands=[4]).pixels[..., 1], RGB[..., 2])
    with pytest.raises(InputError, match="expected numbers from 1 to"):
        read_image(io.BytesIO(data), bands=(6, 1, 2))


def test_bands_of_everything_else() -> None:
    blue_first = RGB[..., ::-1]
    for source in (io.BytesIO(encoded("PNG")), Image.fromarray(RGB), RGB):
        np.testing.assert_array_equal(read_image(source, bands=(3, 2, 1)).pixels, blue_first)
    np.testing.assert_array_equal(read_image(FIVE, bands=(5, 2, 4)).pixels, FIVE[..., [4, 1, 3]])
    for wrong in ((1, 2), (0, 1, 2), "ab", (1, 2, 3, 4), 3):
        with pytest.raises(InputError, match="expected three numbers from 1"):
            read_image(io.BytesIO(encoded("PNG")), bands=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"bands=\(1, 2, 3\)"):
        read_image(FIVE)


def test_the_limit_of_pixels_is_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("PNG")
    with pytest.raises(InputError, match=r"64x48, more than 3,000 pixels; .* --max-pixels 3072"):
        read_image(io.BytesIO(data), max_pixels=3000)
    with pytest.raises(InputError, match="more than 3,000 pixels"):
        read_image(io.BytesIO(MANY["planes"]), max_pixels=3000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own is of no concern
    np.testing.assert_array_equal(read_image(io.BytesIO(data)).pixels, RGB)


@pytest.mark.parametrize("suffix", [".jpe", ".jfif", ".mpo", ".tga", ".j2k", ".jp2", ".JPE"])
def test_files_of_a_folder_by_their_suffix(suffix: str, tmp_path: Path) -> None:
    kind = {"j": "JPEG2000", "t": "TGA"}.get(suffix[1] if suffix in (".tga", ".j2k", ".jp2") else "", "JPEG")
    (tmp_path / f"a{suffix}").write_bytes(encoded(kind, **({"quality": 95} if kind == "JPEG" else {})))
    (path,) = find_inputs(tmp_path).images
    assert np.abs(read_image(path).pixels.astype(int) - RGB).mean() < 3


def test_two_pictures_in_an_mpo(tmp_path: Path) -> None:
    for name, notes in (("drone.MPO", 1), ("phone.jpg", 0)):
        other = [Image.fromarray(255 - RGB)]
        Image.fromarray(RGB).save(tmp_path / name, format="MPO", save_all=True, append_images=other, quality=95)
        loaded = read_image(tmp_path / name)
        assert np.abs(loaded.pixels.astype(int) - RGB).mean() < 3 and len(loaded.notes) == notes


def test_raw_files_are_never_their_previews(tmp_path: Path) -> None:
    """A raw file is a TIFF that begins with a small preview."""
    preview = encoded("TIFF")
    (tmp_path / "a.NEF").write_bytes(preview)
    (tmp_path / "b.tif").write_bytes(encoded("TIFF", tiffinfo={50706: b"\1\4\0\0"}))
    (tmp_path / "c.dng").write_bytes(b"II*\0" + bytes(99))
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="camera's raw file; develop it"):
            read_image(path)


def test_heic_says_what_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    (tmp_path / "a.jpg").write_bytes(head)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is HEIC.*pip install 'ovseg\[heif\]'"):
        read_image(tmp_path / "a.jpg")
    assert "pillow-heif" in why_unreadable(".heic") and why_unreadable(".jpg") == ""
    assert missing_reader(b"\0\0\0\x10ftypisom\0\0\0\0") == ""


def test_heic_is_read_where_the_package_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(RGB)).save(tmp_path / "a.heic", quality=95)
    assert np.abs(read_image(tmp_path / "a.heic").pixels.astype(int) - RGB).mean() < 6


def test_kinds_that_are_read_are_not_foreign() -> None:
    assert not IMAGE_SUFFIXES & FOREIGN.keys()
    with pytest.raises(LookupError):
        open_image(io.BytesIO(b"nothing" * 9), b"nothing" * 9, "x.bin")


def test_warnings_go_to_whoever_reads() -> None:
    assert not keep("nobody listens")
    with collected() as lines:
        assert keep(UserWarning("odd\n file")) and keep("odd file")
        with collected() as inner:
            assert keep("within")
    assert lines == ["odd file"] and inner == ["within"] and not keep("again")


def test_orientation_is_heeded_beside_other_metadata_that_are_broken(tmp_path: Path) -> None:
    turned, text = entry(3, b"\6\0"), chunk(b"tEXt", b"a\0bc", 0)
    whole = encoded("JPEG", quality=95, exif=turned)
    at = 2 + 2 + int.from_bytes(whole[4:6], "big")
    segments = (b"\xff\xe2\0\x0eICC_PROFILE\0", b"\xff\xee\0\x07Adobe", b"\xff\xe0\0\x06JFIF")
    for data in (
        png_with(chunk(b"eXIf", turned[6:]), text),
        png_with(text, chunk(b"eXIf", turned[6:])),
        *(whole[:at] + segment + whole[at:] for segment in segments),
    ):
        loaded = read_image(io.BytesIO(data))
        assert loaded.pixels.shape == (64, 48, 3)
        assert np.abs(loaded.pixels.astype(int) - turn(RGB, 6)).mean() < 3
        assert [note for note in loaded.notes if "turned" in note]
        assert [note for note in loaded.notes if "broken" in note and "upright" not in note]


@pytest.mark.parametrize("kind", ["IDAT", "IHDR"])
def test_pixels_with_a_wrong_checksum_are_damaged(kind: str) -> None:
    data = bytearray(png_with())
    at = data.index(kind.encode())
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 1  # its checksum
    with pytest.raises(InputError, match=f"damaged \\(wrong checksum of {kind}"):
        read_image(io.BytesIO(bytes(data)))


@pytest.mark.parametrize("bits", [8, 16])
def test_png_without_an_end_is_whole_and_one_with_fewer_pixels_is_not(bits: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**bits, (32, 32, 3)).astype(f">u{bits // 8}")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, bits, 2, 0, 0, 0))
    loaded = read_image(io.BytesIO(start + chunk(b"IDAT", packed)))
    assert np.abs(loaded.pixels - pixels / ((2**bits - 1) / 255)).max() <= 0.5
    for text in (b"", chunk(b"tEXt", b"a\0bc", 0)):
        with pytest.raises(InputError, match="is damaged \\("):
            read_image(io.BytesIO(start + text + chunk(b"IDAT", packed[: len(packed) // 2])))


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("kind", ["tif", "png"])
def test_transparency_has_as_many_bits_as_the_colours(bits: int, kind: str, tmp_path: Path) -> None:
    most, path = 2**bits - 1, tmp_path / f"deep.{kind}"
    values = np.full((4, 6, 4), most, dtype=np.uint16)
    values[..., 1:3] = 0
    values[2:, :, 3] = 0
    if kind == "tif":
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"])
    else:
        cv2.imwrite(str(path), values[..., [2, 1, 0, 3]])
    loaded = read_image(path)
    np.testing.assert_array_equal(loaded.pixels[:2], np.broadcast_to((255, 0, 0), (2, 6, 3)))
    np.testing.assert_array_equal(loaded.pixels[2:], np.full((2, 6, 3), 255))
    assert any("transparent parts" in note for note in loaded.notes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_white_may_be_zero(dtype: type, tmp_path: Path) -> None:
    most = 255 if dtype == np.uint8 else 4095
    values = np.rint(np.linspace(0, most, 48)).astype(dtype).reshape(6, 8)
    tifffile.imwrite(tmp_path / "white.tif", most - values, photometric="miniswhite")
    loaded = read_image(tmp_path / "white.tif")
    assert np.abs(loaded.pixels[..., 0] - values * (255 / most)).max() <= 0.51


def test_one_grey_of_16_bits_stands_for_transparent() -> None:
    rows = np.array([[0, 257, 65535], [0, 512, 30000]], dtype=">u2")
    raw = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", b"\0\0") + chunk(b"IDAT", raw) + chunk(b"IEND", b"")
    loaded = read_image(io.BytesIO(data))
    assert loaded.pixels[..., 0].tolist() == [[255, 1, 255], [255, 2, 117]]
    assert "transparent" in loaded.notes[0]


def test_tga_that_leaves_its_alpha_at_zero_keeps_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.tga"
    Image.fromarray(np.dstack([RGB, np.zeros_like(RGB[..., :1])])).save(path)
    loaded = read_image(path)
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert "all of it is transparent" in loaded.notes[0]


def test_many_bands_are_read_without_a_word_on_stderr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 8), np.uint8), photometric="minisblack", planarconfig="contig")
    assert read_image(tmp_path / "a.tif").pixels.shape == (4, 5, 3)
    assert not caplog.records
