"""A cohort as a folder: `records.safetensors`, `vocabulary.json`, `import.json`; it appears whole."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from shared_core.errors import InputError
from shared_core.files import write_json
from shared_core.run_folder import read_json

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.vocabulary import Vocabulary


def check_out(out: str | Path) -> Path:
    """Refuse to write over something.

    Raises:
        InputError: if `out` exists and is not an empty folder.
    """
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--out {path} is there already; give another or remove it")
    return path


def save_cohort(cohort: Cohort, out: str | Path) -> None:
    """Write the folder; it is made aside and renamed.

    Raises:
        InputError: if `out` exists and is not an empty folder.
    """
    path = check_out(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=".part"))
    try:
        codes = cohort.codes.tocsr()
        tensors: dict[str, np.ndarray] = {
            "indptr": codes.indptr.astype(np.int64), "indices": codes.indices.astype(np.int32),
            "columns": np.ascontiguousarray(cohort.columns),
        }  # fmt: skip
        if cohort.split is not None:
            tensors["split"] = cohort.split
        save_file(tensors, aside / "records.safetensors")
        write_json(aside / "vocabulary.json", cohort.vocabulary.to_json())
        write_json(aside / "import.json", cohort.info)
        aside.chmod(0o755)
        if path.exists():
            path.rmdir()
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_cohort(path: str | Path) -> Cohort:
    """Read what `save_cohort` wrote.

    Raises:
        InputError: if it is no cohort, or a file is damaged.
    """
    folder = Path(path)
    records, vocabulary = folder / "records.safetensors", folder / "vocabulary.json"
    if not records.exists() or not vocabulary.exists():
        raise InputError(f"{folder} is no cohort (records.safetensors and vocabulary.json); make one with import")
    names = Vocabulary.from_json(read_json(vocabulary), str(vocabulary))
    try:
        tensors = load_file(records)
        rows, indices, indptr = len(tensors["indptr"]) - 1, tensors["indices"], tensors["indptr"]
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(names.codes):
            raise InputError(f"{records} does not fit {vocabulary}")
        matrix = sparse.csr_matrix((np.ones(len(indices), np.uint8), indices, indptr), shape=(rows, len(names.codes)))
        info: dict[str, Any] = read_json(folder / "import.json") if (folder / "import.json").exists() else {}
        return Cohort(names, matrix, tensors["columns"], tensors.get("split"), info)
    except (SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{records} is damaged: {str(error).splitlines()[0]}") from error
