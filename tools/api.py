"""The API reference from the docstrings: `python tools/api.py FOLDER`, pages that open from disk.

Packages import their names on first use, so that `NAME --help` is quick; here all are looked up first.
"""

import importlib
import sys
import warnings
from pathlib import Path

import pdoc

ROOT = Path(__file__).parents[1]
CORE = ("benchmark", "claims", "cli", "device", "errors", "files", "logging", "run_folder")


def main(out: Path) -> None:
    """Write a page for every package, with exactly its public names, and one for each module of the core."""
    # shape strings of jaxtyping are no names; pdoc prints them as they stand
    warnings.filterwarnings("ignore", message="Error parsing type annotation")
    names = [path.parent.name.replace("-", "_") for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]
    for name in names:
        module = importlib.import_module(name)
        for public in module.__all__:
            setattr(module, public, getattr(module, public))
    pdoc.render.configure(docformat="google", show_source=False, footer_text="Ten papers, ten packages")
    pdoc.pdoc(*names, *(f"shared_core.{name}" for name in CORE), output_directory=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
