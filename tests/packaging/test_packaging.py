"""What a user installs: the state layer under our own name, nothing under somebody else's, and nothing heavy at once.

The state layer lives in `tables/` and is imported as `dlq_stream.tables`: a wheel that ships a top-level `tables`
overwrites PyTables in the user's environment.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HEAVY = ("faust", "mode", "aiokafka", "pydantic", "rocksdict", "click")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel of what is here; the build tools are those of the environment."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    kept = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "dlq_stream", "tables")
    source.mkdir()
    for name in kept:
        origin = ROOT / name
        if origin.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, source / name, symlinks=True, ignore=ignored)
        elif origin.exists():
            shutil.copy(origin, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def modules_of(directory: str) -> set[str]:
    """The Python files of one package directory, without its subpackages."""
    return {path.name for path in (ROOT / directory).glob("*.py")}


def wheel_names(built: Path) -> set[str]:
    """The files that the wheel installs."""
    (wheel,) = built.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_carries_the_tables_under_our_name(built: Path) -> None:
    """Every module of tables/ is installed, once, as a part of dlq_stream."""
    names = wheel_names(built)
    assert {f"dlq_stream/tables/{module}" for module in modules_of("tables")} <= names
    assert not [name for name in names if name.startswith("tables")]
    assert {name.split("/")[0] for name in names} == {"dlq_stream", f"dlq_stream-{version('dlq-stream')}.dist-info"}


def test_the_wheel_is_complete(built: Path) -> None:
    """Every package of the tree, the marker for type checkers, and the licence are in it."""
    names = wheel_names(built)
    for package in PYPROJECT["tool"]["setuptools"]["packages"]:
        directory = package.replace(".", "/")
        assert {f"{directory}/{module}" for module in modules_of(directory)} <= names
    assert "dlq_stream/py.typed" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    """Who builds from the sdist gets what we publish."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {f"tables/{module}" for module in modules_of("tables")} <= names
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path / "dist"), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert wheel_names(tmp_path / "dist") == wheel_names(built)


def test_an_installed_wheel_works(built: Path, tmp_path: Path) -> None:
    """Away from the checkout the tables are importable, under our name only, and the version is the metadata's."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(site)!r})
import dlq_stream, dlq_stream.tables
assert dlq_stream.tables.__file__.startswith({str(site)!r}), dlq_stream.tables.__file__
spec = importlib.util.find_spec("tables")
assert spec is None or not (spec.origin or "").startswith({str(site)!r}), spec
print(dlq_stream.__version__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == PYPROJECT["project"]["version"]


def test_the_package_list_is_the_tree() -> None:
    """setuptools is told every package by name: none is forgotten, none is left over."""
    found = {"dlq_stream.tables"}
    for init in (ROOT / "dlq_stream").rglob("__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    assert sorted(found) == sorted(PYPROJECT["tool"]["setuptools"]["packages"])
    link = ROOT / "dlq_stream" / "tables"
    assert link.is_symlink()
    assert link.readlink() == Path("../tables")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after one statement."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    """`import dlq_stream` loads none of the dependencies, nor does asking for the version or the enumerations."""
    assert loaded_by("import dlq_stream").isdisjoint(HEAVY)
    assert loaded_by("import dlq_stream; dlq_stream.__version__").isdisjoint(HEAVY)
    assert loaded_by("from dlq_stream import DLQMessageStatus, ErrorCategory").isdisjoint(HEAVY)


def test_the_client_never_loads_faust() -> None:
    """An agent's process that reports failures carries neither Faust nor mode, nor any library of an adapter."""
    libraries = {"confluent_kafka", "faststream", "faust", "kafka", "mode"}
    for statement in (
        "import dlq_stream.client",
        "from dlq_stream import FailureReporter, SyncFailureReporter",
        "import dlq_stream.adapters",
    ):
        assert loaded_by(statement).isdisjoint(libraries)


@pytest.mark.parametrize("library", ["confluent", "faust", "faststream"])
def test_an_adapter_without_its_library_names_the_extra(library: str) -> None:
    """And every extra exists."""
    module = "confluent_kafka" if library == "confluent" else library
    code = f"import sys; sys.modules[{module!r}] = None; import dlq_stream.adapters.{library}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert f"ImportError: dlq_stream.adapters.{library}" in done.stderr
    assert f"pip install 'dlq-stream[{library}]'" in done.stderr
    assert library in PYPROJECT["project"]["optional-dependencies"]


def test_the_partitions_own_code_runs_without_faust() -> None:
    """Importing it, its parent package included, loads neither Faust nor aiokafka: the simulation runs this code."""
    assert loaded_by("import dlq_stream.runtime.partition").isdisjoint({"faust", "mode", "aiokafka"})


def test_core_imports_the_standard_library_only() -> None:
    """Not only none of the third parties that import-linter is told about: none at all, in functions neither."""
    for path in (ROOT / "dlq_stream" / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            for name in names:
                assert name.startswith("dlq_stream.core") or name.split(".")[0] in sys.stdlib_module_names, (path, name)


def test_public_names_resolve() -> None:
    """Every exported name exists, and a misspelt one is an AttributeError."""
    import dlq_stream

    for name in dlq_stream.__all__:
        assert getattr(dlq_stream, name) is not None
        assert name in dir(dlq_stream)
    assert dlq_stream.__version__ == version("dlq-stream") == PYPROJECT["project"]["version"]
    with pytest.raises(AttributeError, match="nonsense"):
        dlq_stream.nonsense  # noqa: B018
