"""MESS: animals and plants."""

from __future__ import annotations

from ovseg.data.benchmarks.base import Layout, register
from ovseg.data.benchmarks.labels import LabelSplit
from ovseg.data.benchmarks.mess import rules
from ovseg.data.benchmarks.mess.shared import by_hand, download, drive, mess_set
from ovseg.data.benchmarks.pictures import by_colour

SUIM_COLOURS = {(255 * (number >> 2 & 1), 255 * (number >> 1 & 1), 255 * (number & 1)): number for number in range(8)}
FIELD_TESTS = (1, 3, 4, 9, 10, 13, 15, 21, 22, 26, 28, 29, 30, 32, 35, 39, 44, 47, 48, 54, 60)
register(
    mess_set(
        "suim",
        "SUIM, seven classes under water and the water",
        ("SUIM",),
        {"test": LabelSplit(110, (Layout("TEST/images/{}.jpg", "TEST/masks/{}.bmp", by_colour(SUIM_COLOURS)),))},
        (
            by_hand(
                "test images and labels", "TEST.zip", "SUIM", "TEST/masks", drive("1diN3tNe2nR1eV3Px4gqlp6wp3XuLBwDy")
            ),
        ),
        "eight colours, black is the water 0; none ignored",
        "not stated for the images (code: MIT)",
        "Islam et al., Semantic Segmentation of Underwater Imagery, IROS 2020",
    ),
    mess_set(
        "cub_200",
        "CUB-200, 200 kinds of birds",
        ("CUB_200_2011",),
        {
            "test": LabelSplit(
                5794,
                (
                    Layout(
                        "images/{}.jpg",
                        "segmentations/{}.png",
                        rules.birds,
                        rules.bird_tests,
                        ("classes.txt", "images.txt", "train_test_split.txt"),
                    ),
                ),
            )
        },
        (
            download(
                "images, 1.1 GB",
                "CUB_200_2011.tgz",
                ".",
                "images",
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            ),
            download(
                "labels",
                "segmentations.tgz",
                "CUB_200_2011",
                "segmentations",
                "https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz",
            ),
        ),
        "brighter than 128 is the bird of the folder, the rest is background 0; names of its own list; none ignored",
        "non-commercial research and education",
        "Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011",
        classes=rules.bird_classes,
    ),
    mess_set(
        "cwfid",
        "CWFID, crop and weed",
        ("cwfid",),
        {
            "test": LabelSplit(
                21,
                (
                    Layout(
                        "images/{}_image.png",
                        "annotations/{}_annotation.png",
                        by_colour({(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2}),
                        lambda _: [f"{number:03}" for number in FIELD_TESTS],
                    ),
                ),
            )
        },
        (
            by_hand(
                "the repository (git clone as ROOT/cwfid)",
                "cwfid.zip",
                "cwfid",
                "annotations",
                "https://github.com/cwfid/dataset",
            ),
        ),
        "red is crop 1, green is weed 2, black the ground 0; the 21 images of MESS's list; none ignored",
        "non-commercial",
        "Haug and Ostermann, A Crop/Weed Field Image Dataset, ECCV Workshops 2014",
    ),
)
