"""Images are told apart by their path below the folder of images, never by their stem."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ovseg.data.dataset import SEMANTIC, Dataset, identity_lookup
from ovseg.vocabulary import Vocabulary


def dataset(*files: str, root: str = "") -> Dataset:
    records = [{"file_name": file, "image_id": number} for number, file in enumerate(files)]
    classes = Vocabulary.parse(["cat"])
    return Dataset("d", classes, SEMANTIC, records, identity_lookup(1), np.zeros(1, np.int32), root=root)


def test_names_hold_the_folders_below_the_root() -> None:
    data = dataset("/d/images/site0/0001.jpg", "/d/images/site1/0001.jpg", root="/d/images")
    assert [data.image_name(one) for one in data.records] == ["site0/0001.jpg", "site1/0001.jpg"]


def test_without_a_root_it_is_the_innermost_common_folder_and_stays_when_images_are_left_out() -> None:
    data = dataset("/d/a/1.jpg", "/d/b/1.png")
    part = replace(data, records=data.records[:1])
    assert Path(part.root) == Path("/d") and part.image_name(part.records[0]) == "a/1.jpg"
