"""MESS: medicine and engineering."""

from __future__ import annotations

from dataclasses import dataclass

from ovseg.data.benchmarks.base import Layout, Place, register
from ovseg.data.benchmarks.labels import LabelSplit, lines
from ovseg.data.benchmarks.mess import rules
from ovseg.data.benchmarks.mess.shared import UNCONFIRMED, by_hand, download, drive, mess_set
from ovseg.data.benchmarks.pictures import bright
from ovseg.vocabulary import Vocabulary

ANNOTATOR = "Annotator 1 (biologist second round of manual marks up)"
XRAY_PARTS = {
    "lungs": (0, "lung"),
    "bones": (24, "bones"),
    "mediastinum": (10, "mediastinum"),
    "diaphragm": (163, "diaphragm"),
}


@dataclass(frozen=True)
class XraySplit(LabelSplit):
    """A part of the body against all others.

    Attributes:
        part: Its name.
    """

    part: str = ""

    def classes(self, place: Place) -> Vocabulary:
        """Return others and the part."""
        return Vocabulary.parse([["others"], [self.part]])


def _xray(number: int, part: str) -> XraySplit:
    layout = Layout("images/{}.png", "paxray.json", rules.xray_part(number), rules.xrays)
    return XraySplit(180, (layout,), part=part)


MEDICINE = (
    mess_set(
        "kvasir_instrument",
        "Kvasir-Instrument, tools in endoscopy",
        ("kvasir-instrument",),
        {
            "test": LabelSplit(
                118, (Layout("images/{}.jpg", "masks/{}.png", bright(254), lines("test.txt"), ("test.txt",)),)
            )
        },
        (
            download(
                "images and labels, 170 MB",
                "kvasir-instrument.zip",
                ".",
                "masks",
                "https://datasets.simula.no/downloads/kvasir-instrument.zip",
                ("kvasir-instrument/images.tar.gz", "kvasir-instrument/masks.tar.gz"),
            ),
        ),
        "white is the tool; none ignored",
        "non-commercial",
        "Jha et al., Kvasir-Instrument, MMM 2021",
    ),
    mess_set(
        "chase_db1",
        "CHASE DB1, blood vessels of the eye",
        ("CHASEDB1",),
        {"test": LabelSplit(20, (Layout("{}.jpg", "{}_1stHO.png", bright(127), rules.after_first(8)),))},
        (
            download(
                "images and labels",
                "CHASEDB1.zip",
                "CHASEDB1",
                "*_1stHO.png",
                "https://staffnet.kingston.ac.uk/~ku15565/CHASE_DB1/assets/CHASEDB1.zip",
            ),
        ),
        "white is a vessel, by the first observer; all images but the first 8; none ignored",
        "CC BY 4.0",
        "Fraz et al., An Ensemble Classification-Based Approach, IEEE TBME 2012",
    ),
    mess_set(
        "cryonuseg",
        "CryoNuSeg, nuclei of cells",
        ("CryoNuSeg",),
        {
            "test": LabelSplit(
                30, (Layout("tissue images/{}.tif", f"{ANNOTATOR}/{ANNOTATOR}/mask binary/{{}}.png", bright(254)),)
            )
        },
        (
            by_hand(
                "images and labels",
                "CryoNuSeg.zip",
                "CryoNuSeg",
                "tissue images",
                "https://www.kaggle.com/datasets/ipateam/segmentation-of-nuclei-in-cryosectioned-he-images",
            ),
        ),
        "white is a nucleus, by the first annotator's second round; none ignored",
        "CC BY-NC-SA 4.0",
        "Mahbod et al., CryoNuSeg, Computers in Biology and Medicine 2021",
    ),
    mess_set(
        "paxray",
        "PAXRay-4, four parts of the chest, each for itself",
        ("paxray_dataset",),
        {f"test_{name}": _xray(*numbers) for name, numbers in XRAY_PARTS.items()},
        (
            by_hand(
                "images and labels",
                "paxray_dataset.zip",
                "paxray_dataset",
                "paxray.json",
                drive("19HPPhKf9TDv4sO3UV-nI3Jhi4nCv_Zyc"),
            ),
        ),
        f"one of 166 masks that overlap, against others 0; MESS takes the mean of the four splits; {UNCONFIRMED}",
        "CC BY-NC-SA 2.0",
        "Seibold et al., Detailed Annotations of Chest X-Rays via CT Projection, BMVC 2022",
        classes=Vocabulary.parse(["others", "lung"]),
    ),
)
ENGINEERING = (
    mess_set(
        "corrosion_cs",
        "Corrosion CS, three states of corroded steel",
        ("Corrosion Condition State Classification",),
        {"test": LabelSplit(44, (Layout("original/Test/images/{}.jpeg", "original/Test/masks/{}.png"),))},
        (
            download(
                "images and labels",
                "corrosion_cs.zip",
                ".",
                "original",
                "https://figshare.com/ndownloader/files/31729733",
            ),
        ),
        "8-bit PNG of class ids, others are 0; none ignored",
        "CC0",
        "Bianchi and Hebdon, Corrosion Condition State Semantic Segmentation Dataset, 2021",
    ),
    mess_set(
        "deepcrack",
        "DeepCrack, cracks",
        ("DeepCrack",),
        {"test": LabelSplit(237, (Layout("test_img/{}.jpg", "test_lab/{}.png", bright(254)),))},
        (
            download(
                "images and labels",
                "DeepCrack.zip",
                "DeepCrack",
                "test_lab",
                "https://github.com/yhlleo/DeepCrack/raw/master/dataset/DeepCrack.zip",
            ),
        ),
        "white is a crack; none ignored",
        "not stated (citation asked for)",
        "Liu et al., DeepCrack, Neurocomputing 2019",
    ),
    mess_set(
        "pst900",
        "PST900, four things underground, in thermal pictures",
        ("PST900_RGBT_Dataset",),
        {
            "test": LabelSplit(288, (Layout("test/thermal/{}.png", "test/labels/{}.png"),)),
            "test_rgb": LabelSplit(288, (Layout("test/rgb/{}.png", "test/labels/{}.png"),)),
        },
        (
            by_hand(
                "images and labels",
                "PST900_RGBT_Dataset.zip",
                ".",
                "test",
                drive("1hZeM-MvdUC_Btyok7mdF00RV-InbAadm"),
            ),
        ),
        "8-bit PNG of class ids, background is 0; MESS takes the thermal pictures; none ignored",
        "GPL-3.0",
        "Shivakumar et al., PST900, ICRA 2020",
    ),
    mess_set(
        "zerowaste",
        "ZeroWaste-f, four kinds of waste",
        ("zerowaste-f",),
        {
            "test": LabelSplit(
                929, (Layout("splits_final_deblurred/test/data/{}.PNG", "splits_final_deblurred/test/sem_seg/{}.PNG"),)
            )
        },
        (
            download(
                "images and labels",
                "zerowaste-f-final.zip",
                "zerowaste-f",
                "splits_final_deblurred",
                "https://zenodo.org/record/6412647/files/zerowaste-f-final.zip",
            ),
        ),
        "8-bit PNG of class ids, background is 0; none ignored",
        "CC BY-NC 4.0",
        "Bashkirova et al., ZeroWaste Dataset, CVPR 2022",
    ),
)
register(
    *MEDICINE,
    *ENGINEERING,
)
