"""What can be seen without running anything: arrows, files, and nothing that executes what it reads."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# pickle in all its disguises, and text that becomes code
READS_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
EXECUTES = {"eval", "exec", "compile", "__import__"}
METHODS = {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
METHODS |= {"pd.read_pickle", "pandas.read_pickle", "os.system", "torch.jit.load", "torch.hub.load"}


def _trees(*folders: Path) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(path: Path, tree: ast.AST, source: Path) -> set[str]:
    """Full names of what a module imports, wherever in it, relative ones resolved."""
    names = set()
    package = path.relative_to(source.parent).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else node.module or ""
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_package_imports_another(package: Any, packages: list[Any]) -> None:
    others = {other.module for other in packages} - {package.module}
    for path, tree in _trees(package.folder / "src", package.folder / "tests", package.folder / "benchmarks"):
        names = {name.split(".")[0] for name in _imports(path, tree, path.parent)}
        assert not names & others, f"{path} imports {names & others}"


def test_the_core_imports_no_package(root: Path, packages: list[Any]) -> None:
    for path, tree in _trees(root / "shared-core"):
        names = {name.split(".")[0] for name in _imports(path, tree, path.parent)}
        assert not names & {package.module for package in packages}, path


def test_arrows_point_from_the_commands_to_the_method(package: Any) -> None:
    """Nothing imports the CLI; a module that reproduce or __init__ builds on imports neither CLI nor reproduce."""
    module = package.module
    imports = {
        ".".join(path.relative_to(package.source.parent).with_suffix("").parts): _imports(path, tree, package.source)
        for path, tree in _trees(package.source)
    }
    imports = {name.removesuffix(".__init__"): names for name, names in imports.items()}
    for name, names in imports.items():
        if name != f"{module}.__main__":
            assert f"{module}.cli" not in names, f"{name} imports the CLI"
            assert "shared_core.cli" not in names or name == f"{module}.cli", f"{name} imports shared_core.cli"
    method, more = set(), {name for name in imports if name == module or name.startswith(f"{module}.reproduce")}
    while more:  # all that the public API and the claims are built on
        method |= more
        more = {name for known in method for name in imports[known] if name in imports} - method
    for name in sorted(method):
        if not name.startswith(f"{module}.reproduce"):
            upwards = {found for found in imports[name] if found.startswith(f"{module}.reproduce")}
            assert not upwards, f"{name} imports {sorted(upwards)[0]}: claims import the method, not the other way"


def test_nothing_that_is_read_can_execute(package: Any, root: Path) -> None:
    for path, tree in _trees(package.source, root / "shared-core" / "src"):
        found = {name.split(".")[0] for name in _imports(path, tree, path.parent)} & READS_CODE
        assert not found, f"{path} imports {found}"
        for name, call in _calls(tree):
            where = f"{path}:{call.lineno}"
            assert name not in EXECUTES, f"{where} calls {name}"
            assert name not in METHODS, f"{where} calls {name}"
            given = {word.arg: word.value for word in call.keywords}
            for switch in ("trust_remote_code", "allow_pickle", "shell"):
                on = switch in given and not (isinstance(given[switch], ast.Constant) and not given[switch].value)  # type: ignore[attr-defined]
                assert not on, f"{where} sets {switch}"


def test_devices_are_chosen_by_the_core(package: Any) -> None:
    for path, tree in _trees(package.source):
        for name, call in _calls(tree):
            assert not name.endswith((".cuda", "cuda.is_available", "mps.is_available")), f"{path}:{call.lineno} {name}"


def test_the_public_api_is_all_there_and_light(package: Any) -> None:
    tree = ast.parse((package.source / "__init__.py").read_text(encoding="utf-8"))
    names = [node for node in tree.body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node.targets[0])]
    assert ast.get_docstring(tree), "the package says nothing of itself"
    assert names, f"{package.module} has no __all__"


@pytest.mark.parametrize("name", ["README.md", "pyproject.toml", "tests"])
def test_a_package_has_its_files(package: Any, name: str) -> None:
    assert (package.folder / name).exists()
    assert (package.source / "py.typed").exists()
    assert (package.source / "cli.py").exists()
    assert (package.source / "reproduce.py").exists() or (package.source / "reproduce" / "__init__.py").exists()
    assert [path.name for path in (package.folder / "src").iterdir() if path.suffix != ".egg-info"] == [package.module]


def test_a_packages_project_is_declared_as_all_are(package: Any) -> None:
    project = package.project
    assert project["name"] == package.name
    assert project["license"] == "MIT"
    assert project["readme"] == "README.md"
    assert project["requires-python"] == ">=3.11"
    assert project["scripts"] == {package.name: f"{package.module}.cli:main"}
    assert project["description"].strip()
    assert all(">=" in line for line in project["dependencies"]), "a dependency without a lower bound"
    everything = tomllib.loads((package.folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert everything["tool"]["uv"]["sources"]["shared-core"] == {"workspace": True}
    peers = {line.split(">")[0].split("[")[0] for line in everything.get("dependency-groups", {}).get("bench", [])}
    assert not peers & {line.split(">")[0].split("[")[0] for line in project["dependencies"]}, "a peer is a dependency"


def test_the_readme_is_that_of_the_package(package: Any) -> None:
    text = (package.folder / "README.md").read_text(encoding="utf-8")
    for part in (f"# {package.name}", f"pip install {package.name}", f"{package.name} reproduce", f"{package.module}"):
        assert part in text, f"the README has no {part!r}"


def test_recipes_are_mappings(package: Any) -> None:
    for path in sorted((package.folder / "recipes").glob("*.yaml")):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


def test_no_file_is_large(root: Path, package: Any) -> None:
    kept = [path for path in package.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not [path for path in kept if path.stat().st_size > 2**20]
