"""MESS: photographs from above."""

from __future__ import annotations

from ovseg.data.benchmarks.base import Layout, register
from ovseg.data.benchmarks.labels import LabelSplit, by_value, table_of
from ovseg.data.benchmarks.mess import rules
from ovseg.data.benchmarks.mess.shared import CUT, UNCONFIRMED, by_hand, mess_set
from ovseg.data.benchmarks.pictures import by_colour
from ovseg.data.benchmarks.tiles import TiledSplit

POTSDAM = tuple(
    f"{row}_{n}" for row, last in ((2, 14), (3, 14), (4, 15), (5, 15), (6, 15), (7, 13)) for n in range(13, last + 1)
)
POTSDAM_COLOURS = {
    (255, 255, 255): 0,
    (0, 0, 255): 1,
    (0, 255, 255): 2,
    (0, 255, 0): 3,
    (255, 255, 0): 4,
    (255, 0, 0): 5,
}
UAVID_COLOURS = {
    (0, 0, 0): 0,
    (128, 0, 0): 1,
    (128, 64, 128): 2,
    (0, 128, 0): 3,
    (128, 128, 0): 4,
    (64, 0, 128): 5,
    (192, 0, 192): 6,
    (64, 64, 0): 7,
}
ISAID_COLOURS = {
    (0, 0, 0): 0,
    (0, 0, 63): 1,
    (0, 63, 63): 2,
    (0, 63, 0): 3,
    (0, 63, 127): 4,
    (0, 63, 191): 5,
    (0, 63, 255): 6,
    (0, 127, 63): 7,
    (0, 127, 127): 8,
    (0, 0, 127): 9,
    (0, 0, 191): 10,
    (0, 0, 255): 11,
    (0, 191, 127): 12,
    (0, 127, 191): 13,
    (0, 127, 255): 14,
    (0, 100, 155): 15,
}


def _potsdam(bands: str, folder: str) -> TiledSplit:
    rule = by_colour(POTSDAM_COLOURS, rounded=True)
    layouts = tuple(
        Layout(
            f"{start}{folder}/top_potsdam_{{}}_{bands}.tif",
            f"{labels}/top_potsdam_{{}}_label.tif",
            rule,
            lambda _: list(POTSDAM),
        )
        for start, labels in (("", "Labels"), ("Potsdam/", "Potsdam"), ("", "5_Labels_all"))
    )
    return TiledSplit(504, layouts)


register(
    mess_set(
        "isaid",
        "iSAID, 15 classes seen from above",
        ("isaid", "iSAID"),
        {
            "val": TiledSplit(
                4055,
                (
                    Layout(
                        "val/images/{}.png",
                        "raw_val/images/{}_instance_color_RGB.png",
                        by_colour(ISAID_COLOURS),
                    ),
                ),
            )
        },
        (
            by_hand(
                "validation images of DOTA (part1.zip)",
                "part1.zip",
                "isaid/val",
                "val/images",
                "https://captain-whu.github.io/iSAID/dataset.html",
            ),
            by_hand(
                "semantic masks of the validation images (images.zip; unpack them yourself)",
                "isaid_val_masks.zip",
                "isaid/raw_val",
                "raw_val/images",
                "https://captain-whu.github.io/iSAID/dataset.html",
            ),
        ),
        f"colours of its 15 classes, black is background 0; {CUT}; {UNCONFIRMED}",
        "non-commercial; images under Google Earth's terms",
        "Waqas Zamir et al., iSAID, CVPR Workshops 2019",
    ),
    mess_set(
        "isprs_potsdam",
        "ISPRS Potsdam, 5 classes seen from above and others",
        ("ISPRS_Potsdam",),
        {"test_irrg": _potsdam("IRRG", "3_Ortho_IRRG"), "test_rgb": _potsdam("RGB", "2_Ortho_RGB")},
        (
            by_hand(
                "Potsdam (after a request)",
                "Potsdam.zip",
                "ISPRS_Potsdam",
                "Potsdam",
                "https://www.isprs.org/education/benchmarks/UrbanSemLab/default.aspx",
                tuple(f"ISPRS_Potsdam/Potsdam/{name}.zip" for name in ("2_Ortho_RGB", "3_Ortho_IRRG", "5_Labels_all")),
            ),
        ),
        f"six colours, rounded, others are class 5; 14 photographs, infrared, red and green in MESS; {CUT}",
        "on request",
        "BSF Swissphoto, ISPRS test project on urban classification, 2012",
        background=5,
    ),
    mess_set(
        "floodnet",
        "FloodNet, 9 classes after a flood",
        ("FloodNet-Supervised_v1.0",),
        {
            "test": TiledSplit(
                5571,
                (
                    Layout(
                        "test/test-org-img/{}.jpg",
                        "test/test-label-img/{}_lab.png",
                        by_value(table_of({number: number for number in range(10)})),
                    ),
                ),
            )
        },
        (
            by_hand(
                "the folder test",
                "FloodNet-Supervised_v1.0.zip",
                ".",
                "test",
                "https://drive.google.com/drive/folders/1leN9eWVQcvWDVYwNb2GCo5ML_wBEycWD",
            ),
        ),
        f"8-bit PNG of class ids, background is 0; {CUT} (as JPEG in MESS, lossless here); {UNCONFIRMED}",
        "CDLA-Permissive 1.0",
        "Rahnemoonfar et al., FloodNet, IEEE Access 2021",
    ),
    mess_set(
        "uavid",
        "UAVid, 7 classes seen from drones and others",
        ("uavid_v1.5", "uavid_v1.5/uavid_v1.5_official_release_image"),
        {
            "val": TiledSplit(
                840,
                (
                    Layout(
                        "uavid_val/{}.png",
                        "uavid_val",
                        rules.beside_images(UAVID_COLOURS),
                        rules.in_images("uavid_val"),
                        ("uavid_val/*/Labels/*.png",),
                    ),
                ),
            )
        },
        (
            by_hand(
                "images (semantic labelling with images only)",
                "uavid_v1.5_official_release_image.zip",
                "uavid_v1.5",
                "uavid_val",
                "https://uavid.nl",
            ),
        ),
        f"eight colours, black is others 0; {CUT}",
        "CC BY-NC-SA 4.0",
        "Lyu et al., UAVid, ISPRS Journal 2020",
    ),
    mess_set(
        "worldfloods",
        "WorldFloods, land, water and clouds from space",
        ("WorldFloods",),
        {
            f"test_{bands}": LabelSplit(
                160, (Layout(f"images_detectron2/test/{bands}/{{}}.png", "annotations_detectron2/test/{}.png"),)
            )
            for bands in ("irrg", "rgb")
        },
        (
            by_hand(
                "the tiles that prepare_worldfloods.py of MESS makes of pictures with 13 bands",
                "WorldFloods.zip",
                ".",
                "images_detectron2",
                "https://github.com/blumenstiel/MESS",
            ),
        ),
        f"8-bit PNG of class ids as MESS makes them; 255 is ignored; {UNCONFIRMED}",
        "CC BY-NC 4.0",
        "Mateo-Garcia et al., Towards Global Flood Mapping, Scientific Reports 2021",
        background=-1,
    ),
)
