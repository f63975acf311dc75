"""A tiny SAM 3 with weights of a seed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.meta_arch.models import MODELS


@pytest.fixture(scope="session")
def sam3(folders) -> Any:
    (case,) = (case for case in MODELS if case.name == "sam3")
    return case.build(folders)
