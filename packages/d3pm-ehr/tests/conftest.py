"""What the tests share: the oracle of the brief, and where the real survey may be."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def survey() -> Path:
    """The public-use survey, by D3PM_EHR_DATA or in ../shared/data/ehr beside the repository."""
    named = os.environ.get("D3PM_EHR_DATA")
    folders = [Path(named)] if named else [place / "shared" / "data" / "ehr" for place in ROOT.parents]
    for folder in folders:
        if (folder / "NHDS10.PU.txt.bz2").exists():
            return folder
    pytest.skip("the NHDS 2010 public-use file is not here (set D3PM_EHR_DATA to its folder)")
