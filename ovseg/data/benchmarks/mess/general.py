"""MESS: streets, people, food, waters and paintings."""

from __future__ import annotations

from ovseg.data.benchmarks.base import Layout, register
from ovseg.data.benchmarks.labels import LabelSplit, by_value, counted_from_one, lines, table_of
from ovseg.data.benchmarks.mess import rules
from ovseg.data.benchmarks.mess.shared import UNCONFIRMED, by_hand, download, drive, mess_set
from ovseg.data.benchmarks.street import EVALUATED
from ovseg.data.dataset import VOID

STREETS = (
    mess_set(
        "bdd100k",
        "BDD100K, 19 classes of streets",
        ("bdd100k",),
        {"val": LabelSplit(1000, (Layout("images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png"),))},
        tuple(
            by_hand(f"{what} (after registration)", file, ".", provides, "https://bdd-data.berkeley.edu")
            for what, file, provides in (
                ("10K images", "bdd100k_images_10k.zip", "images/10k"),
                ("semantic labels", "bdd100k_sem_seg_labels_trainval.zip", "labels/sem_seg"),
            )
        ),
        "8-bit PNG (masks) of train ids as in Cityscapes; 255 is ignored",
        "non-commercial",
        "Yu et al., BDD100K, CVPR 2020",
        background=-1,
    ),
    mess_set(
        "dark_zurich",
        "Dark Zurich, 19 classes of streets at night and unlabelled",
        ("Dark_Zurich",),
        {
            "val": LabelSplit(
                50,
                (
                    Layout(
                        "rgb_anon/val/night/GOPR0356/{}_rgb_anon.png",
                        "gt/val/night/GOPR0356/{}_gt_labelIds.png",
                        rules.dark_zurich(table_of({255: VOID, 0: 0} | {n: i + 1 for i, n in enumerate(EVALUATED)})),
                        needs=("gt/val/night/GOPR0356/*_gt_invGray.png",),
                    ),
                ),
            )
        },
        (
            download(
                "images and labels",
                "Dark_Zurich_val_anon.zip",
                "Dark_Zurich",
                "gt",
                "https://data.vision.ee.ethz.ch/csakarid/shared/GCMA_UIoU/Dark_Zurich_val_anon.zip",
            ),
        ),
        "Cityscapes' ids, 0 (unlabelled) is a class; what invGray marks with 255 is ignored",
        "non-commercial (text in the archive)",
        "Sakaridis et al., Guided Curriculum Model Adaptation, ICCV 2019",
    ),
)
PEOPLE_AND_ART = (
    mess_set(
        "mhp_v1",
        "MHP v1, 18 parts of people and their clothes",
        ("LV-MHP-v1",),
        {
            "test": LabelSplit(
                980,
                (
                    Layout(
                        "images/{}.jpg",
                        "annotations",
                        rules.people,
                        lines("test_list.txt"),
                        ("test_list.txt", "annotations/*.png"),
                    ),
                ),
            )
        },
        (
            by_hand(
                "images and labels",
                "LV-MHP-v1.zip",
                ".",
                "annotations",
                drive("1hTS8QJBuGdcppFAr_bvW2tsD9hW_ptr5"),
            ),
        ),
        "a PNG of class ids for each person, the largest id wins; none ignored",
        "non-commercial",
        "Li et al., Multiple-Human Parsing in the Wild, 2017",
    ),
    mess_set(
        "foodseg103",
        "FoodSeg103, 103 ingredients",
        ("FoodSeg103",),
        {"test": LabelSplit(2135, (Layout("Images/img_dir/test/{}.jpg", "Images/ann_dir/test/{}.png"),))},
        (
            by_hand(
                "images and labels (unpack them with the password of this page)",
                "FoodSeg103.zip",
                ".",
                "Images",
                "https://xiongweiwu.github.io/foodseg103.html",
            ),
        ),
        "8-bit PNG of class ids, background is 0; none ignored",
        "Apache 2.0",
        "Wu et al., A Large-Scale Benchmark for Food Image Segmentation, ACM MM 2021",
    ),
    mess_set(
        "atlantis",
        "ATLANTIS, 56 classes of waters and what is near",
        ("atlantis/atlantis", "atlantis"),
        {
            "test": LabelSplit(
                1296,
                (Layout("images/test/{}.jpg", "masks/test/{}.png", by_value(counted_from_one(56))),),
                also=(1295,),
            )
        },
        (
            by_hand(
                "the repository (git clone in ROOT)",
                "atlantis.zip",
                ".",
                "masks",
                "https://github.com/smhassanerfani/atlantis",
            ),
        ),
        "8-bit PNG counts classes from 1, 0 is ignored; the publishers count 1296 test images, MESS 1295",
        "images under Flickr's terms",
        "Erfani et al., ATLANTIS, Environmental Modelling & Software 2022",
        background=-1,
    ),
    mess_set(
        "dram",
        "DRAM, 11 classes in paintings",
        ("DRAM_processed",),
        {
            "test": LabelSplit(
                718,
                (
                    Layout(
                        "test/{}.jpg",
                        "labels/{}.png",
                        by_value(
                            table_of(
                                {255: VOID, **dict.fromkeys(range(21), 11)}
                                | {n: i for i, n in enumerate((3, 4, 5, 8, 9, 10, 12, 13, 15, 16, 17))}
                            )
                        ),
                    ),
                ),
            )
        },
        (
            by_hand(
                "DRAM_processed.zip, which holds a RAR archive (unpack that with unrar)",
                "DRAM_processed.zip",
                "DRAM_processed",
                "labels",
                "https://faculty.runi.ac.il/arik/site/artseg/Dram-Dataset.html",
            ),
        ),
        f"ids of VOC; 11 of its classes, the others are background 11; 255 is ignored; {UNCONFIRMED}",
        "non-commercial",
        "Cohen et al., Semantic Segmentation in Art Paintings, Eurographics 2022",
        background=11,
    ),
)
register(
    *STREETS,
    *PEOPLE_AND_ART,
)
