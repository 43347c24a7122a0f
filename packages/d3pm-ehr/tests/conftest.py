"""What the tests share: the oracle of the brief, and where the real survey may be."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def survey() -> Path:
    """The public-use survey, by D3PM_EHR_DATA or in ../shared/data/ehr beside the repository."""
    folder = Path(os.environ.get("D3PM_EHR_DATA", ROOT.parent / "shared" / "data" / "ehr"))
    if not (folder / "NHDS10.PU.txt.bz2").exists():
        pytest.skip("the NHDS 2010 public-use file is not here (set D3PM_EHR_DATA to its folder)")
    return folder
