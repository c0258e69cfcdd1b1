"""What the project asks installers for: nothing that only tests need, and something that they can resolve."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from grok1.megatron.installed import Line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOUSE = Path(__file__).resolve().parents[1]
ROOMS = ("grok1", "bench", "reports")
MODULES = {"markdown-it-py": "markdown_it", "megatron-core": "megatron"}  # where the module is called otherwise
# asked for without an import: a plugin of pytest, and what transformers reads fast tokenizers with
NEVER_IMPORTED = {"pytest-benchmark", "tokenizers"}
_INDEX_SECONDS = 300  # some hundred packages are asked for
_UNREACHED = ("Failed to fetch", "error sending request", "dns error", "Could not connect", "timed out")


def project() -> dict[str, Any]:
    """The [project] table."""
    table: dict[str, Any] = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def imported(sources: list[str]) -> set[str]:
    """The first parts of all modules that these sources import."""
    found: set[str] = set()
    for node in (each for source in sources for each in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def unused(requirements: list[str], modules: set[str]) -> Iterator[str]:
    """Names of requirements that no source imports."""
    for name in (Requirement(each).name for each in requirements):
        if MODULES.get(name, name.replace("-", "_")) not in modules and name not in NEVER_IMPORTED:
            yield name


def test_what_is_installed_imports_each_of_its_dependencies() -> None:
    sources = [path.read_text(encoding="utf-8") for room in ROOMS for path in (HOUSE / room).rglob("*.py")]
    assert not list(unused(project()["dependencies"], imported(sources)))


def test_a_test_tool_among_the_dependencies_is_named() -> None:
    found = imported(["import torch.nn\nfrom pydantic import Field\nfrom . import here"])
    assert list(unused(["torch>=2", "pydantic", "hypothesis>=6", "pytest-benchmark"], found)) == ["hypothesis"]


def without_a_run(claims: dict[str, Any], page: str) -> Iterator[str]:
    """What the [project] table claims and no row of docs/versions.md has: a Python, an end of torch's range, a line."""
    rows = re.findall(r"^\| (3\.\d+)\.\d+ \| (\d+\.\d+)\.\d+[^|]* \| (\d+\.\d+)\.\d+ \| 20", page, re.M)
    pythons, torches, lines = (set(each) for each in zip(*rows, strict=True))
    claimed = SpecifierSet(claims["requires-python"])
    yield from (f"Python 3.{n}" for n in range(30) if claimed.contains(f"3.{n}.9") and f"3.{n}" not in pythons)
    (torch,) = (each for each in map(Requirement, claims["dependencies"]) if each.name == "torch")
    in_range = [f"2.{n}" for n in range(99) if torch.specifier.contains(f"2.{n}.9")]
    yield from (f"torch {each}" for each in (in_range[0], in_range[-1]) if each not in torches)
    yield from (f"megatron-core {each}" for each in get_args(Line) if each not in lines)


def test_what_is_claimed_was_run() -> None:
    assert not list(without_a_run(project(), (HOUSE / "docs" / "versions.md").read_text(encoding="utf-8")))


def test_a_claim_without_a_run_is_named() -> None:
    claims = {"requires-python": ">=3.11,<3.14", "dependencies": ["torch>=2.7,<2.14"]}
    page = "| 3.13.0 | 2.13.0, CPU build | 0.12.3 | 2026-11-27 |\n| 3.12.1 | 2.11.0 | 0.19.2 | 2026-11-27 |\n"
    assert list(without_a_run(claims, page)) == ["Python 3.11", "torch 2.7", "megatron-core 0.16"]


def test_no_lock_of_one_registry_is_kept() -> None:
    """A uv.lock names the host of the registry in every line; constraints/hashes.txt is the lock."""
    command = ["git", "-c", f"safe.directory={HOUSE}", "ls-files", "uv.lock"]
    assert not subprocess.run(command, cwd=HOUSE, check=True, capture_output=True, text=True).stdout
    assert "uv.lock" in (HOUSE / ".gitignore").read_text(encoding="utf-8").splitlines()


def without_hashes(text: str) -> tuple[list[str], list[str]]:
    """The pins of a file of requirements with hashes, and what is wrong with it."""
    pins, complaints = [], []
    for entry in text.replace("\\\n", " ").splitlines():
        pin, *hashes = entry.split(" --hash=")
        pins.append(" ".join(pin.split()))
        if not hashes or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip()) for each in hashes):
            complaints.append(f"{pins[-1]}: no hashes, or other words")
    return pins, complaints


@pytest.mark.parametrize(("name", "pinned"), [("hashes.txt", "dev.txt"), ("hashes-megatron.txt", "megatron-*.txt")])
def test_each_pin_but_torchs_has_hashes(name: str, pinned: str) -> None:
    """Another line's are in a file of their own, as one package has one version in what uv installs at once."""
    files = sorted((HOUSE / "constraints").glob(pinned))
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    pins, complaints = without_hashes((HOUSE / "constraints" / name).read_text(encoding="utf-8"))
    assert not complaints
    assert pins == [line for line in lines if not line.startswith(("#", "torch=="))], (
        "make them anew: constraints/README.md"
    )


def test_the_tool_that_plants_faults_is_pinned_with_hashes() -> None:
    pins, complaints = without_hashes((HOUSE / "constraints" / "mutants.txt").read_text(encoding="utf-8"))
    assert not complaints
    assert "cosmic-ray" in {Requirement(each).name for each in pins}
    makefile = (HOUSE / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes --requirement constraints/mutants.txt" in makefile


def test_a_pin_without_a_hash_is_named() -> None:
    text = f"a==1 ; python_version < '3' \\\n    --hash=sha256:{'0' * 64}\nb==2\nc==3 \\\n    --hash=sha256:12\n"
    assert without_hashes(text) == (
        ["a==1 ; python_version < '3'", "b==2", "c==3"],
        ["b==2: no hashes, or other words", "c==3: no hashes, or other words"],
    )


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that uv has locked, for every Python and system that the project names."""
    folder = tmp_path_factory.mktemp("locked")
    for name in ("pyproject.toml", "README.md"):
        shutil.copyfile(HOUSE / name, folder / name)
    try:
        done = _uv(folder, "lock")
    except subprocess.TimeoutExpired:
        pytest.skip(f"no answer from the package index within {_INDEX_SECONDS} s")
    if done.returncode and "No solution found" not in done.stderr and any(each in done.stderr for each in _UNREACHED):
        pytest.skip("no package index answers")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_uv_finds_versions_for_every_system(locked: Path) -> None:
    development = _exported(locked, "--group", "dev")
    assert development["hypothesis"]
    assert all(each.startswith("2.") and each != "2.7.1" for each in development["torch"])
    assert "torch-npu" not in development
    assert "hypothesis" not in _exported(locked, "--no-dev")


@pytest.mark.slow
def test_the_npu_extra_has_its_own_torch_and_is_for_linux(locked: Path) -> None:
    linux, newest, mac = (
        _exported(locked, "--no-dev", "--extra", "npu", on={"python_full_version": python, "sys_platform": system})
        for python, system in (("3.13.9", "linux"), ("3.14.9", "linux"), ("3.13.9", "darwin"))
    )
    assert linux["torch"] == ["2.7.1"]
    assert all(each.startswith("2.7.1") for each in linux["torch-npu"])
    assert "torch-npu" not in newest  # which it has no build for
    assert "torch-npu" not in mac


def _exported(folder: Path, *words: str, on: dict[str, str] | None = None) -> dict[str, list[str]]:
    """The versions of each package in the lock, with these options; `on`, only those of such a machine."""
    done = _uv(folder, "export", "--frozen", "--no-hashes", "--no-emit-project", "--no-annotate", "--no-header", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, version, marker = re.fullmatch(r"([\w.-]+)==(\S+)(?: ; (.*))?", line).groups()  # type: ignore[union-attr]
        if on is None or marker is None or Marker(marker).evaluate(on):
            found.setdefault(name, []).append(version)
    return found


def _uv(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        pytest.skip("there is no uv")
    command = [uv, *words, "--python", sys.executable, "--no-python-downloads", "--no-progress"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INDEX_SECONDS, check=False)
