"""Where the public transcripts are, and a server that misbehaves on request."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def transcripts():
    """The folder of public transcripts: RAR_TRANSCRIPTS, or ../shared/data/rar beside the repository."""
    given = os.environ.get("RAR_TRANSCRIPTS")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data" / "rar"
    if not given and not folder.is_dir():  # a worktree lies one level deeper
        folder = REPOSITORY.parent.parent / "shared" / "data" / "rar"
    if not folder.is_dir():
        pytest.skip("no transcripts: set RAR_TRANSCRIPTS to a checkout of uclaml/Rephrase-and-Respond")
    return folder
