"""What `make venv` says and makes on each kind of machine, seen by stand-ins for the interpreter and for uv."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.limits import HANG_SECONDS

HOUSE = Path(__file__).resolve().parents[1]
TOOLS = "awk bash cat cp date dirname grep head make mkdir mktemp rm sed sh tail touch"
# An interpreter of some version, of which only the answers to constraints/install.sh are there.
PYTHON = """#!/bin/sh
echo "${0##*/} $VERSION $*" >>"$LOG"
case "$*" in
*base_prefix*) echo "$VERSION" ;;
*version_info*) echo "$VERSION" ;;
*ensurepip*) exit "$NO_ENSUREPIP" ;;
*Python.h*) exit "$NO_HEADERS" ;;
*"-m venv"*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
*" download "*) exit "$NO_WHEEL" ;;
*no-build-isolation*) [ -z "$PIP_BUILD_CONSTRAINT" ] || exit 2 ;; # as pip 26 does
*" install "*"$UNBUILT"*) [ -z "$UNBUILT" ] || echo "ERROR: No matching distribution found for $UNBUILT" >&2 ;;
*"pip check"*) [ -z "$UNFIT" ] || { echo "$UNFIT"; exit 1; } ;;
*"-m pytest"*) echo "$SAID" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $UV_PYTHON_PREFERENCE $*" >>"$LOG"
[ -z "$NO_DOWNLOAD" ] || { echo "error: no such host" >&2; exit 2; }
[ "$2" != find ] || echo "$BIN/managed-$3"
"""
REMEDY = "name a Python 3.10 to 3.14 with make PYTHON=python3.11, or install uv, which brings one"

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS.split()), reason="no make, or none of the usual programs"
)


@dataclass
class Machine:
    """A checkout beside a folder of programs, which is all of PATH."""

    root: Path

    @property
    def log(self) -> list[str]:
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []

    def program(self, name: str, script: str = "#!/bin/sh\n", **said: str) -> None:
        path = self.root / "bin" / name
        lines = script.split("\n", 1)
        path.write_text("\n".join([lines[0], *(f"{key}='{value}'" for key, value in said.items()), lines[1]]))
        path.chmod(0o755)

    def python(self, name: str, version: str, **said: str) -> None:
        usual = {"NO_ENSUREPIP": "0", "NO_HEADERS": "0", "NO_WHEEL": "1", "UNBUILT": "", "SAID": "ran", "UNFIT": ""}
        self.program(name, PYTHON, VERSION=version, LOG=str(self.root / "log"), **(usual | said))

    def uv(self, no_download: str = "") -> None:
        self.program("uv", UV, LOG=str(self.root / "log"), BIN=str(self.root / "bin"), NO_DOWNLOAD=no_download)
        for version in ("3.11", "3.12"):
            self.python(f"managed-{version}", version, NO_WHEEL="0" if version == "3.11" else "1")

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *words],
            cwd=self.root / "checkout",
            env={"PATH": str(self.root / "bin"), "TMPDIR": str(self.root)},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in (
        "Makefile",
        "pyproject.toml",
        "constraints/dev.txt",
        "constraints/hashes.txt",
        "constraints/hashes-megatron.txt",
        "constraints/install.sh",
        ".ci/matrix",
        ".ci/cells",
    ):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HOUSE / name, tmp_path / "checkout" / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS.split():
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    made = Machine(tmp_path)
    made.program("g++")
    return made


@pytest.mark.parametrize(
    ("version", "said", "cause"),
    [
        ("3.9", {}, "python3 is Python 3.9, and the code needs 3.10 or newer"),
        ("3.15", {}, "python3 is Python 3.15, for which torch 2.13.0 has no build (3.10 to 3.14 have)"),
        (
            "3.13",
            {"NO_ENSUREPIP": "1"},
            "python3 cannot make virtual environments (Debian: apt install python3.13-venv)",
        ),
        ("", {}, "python3 is missing or does not start"),
    ],
)
def test_an_interpreter_that_cannot_be_used_is_named_or_replaced_by_uv(
    machine: Machine, version: str, said: dict[str, str], cause: str
) -> None:
    if version:
        machine.python("python3", version, **said)
    refused = machine.make("venv")
    assert refused.stderr.splitlines()[0].startswith(f"error: {cause}: name a Python 3.10 to 3.14"), refused
    assert refused.returncode
    assert not (machine.root / "checkout/.venv").exists()

    machine.uv()
    done = machine.make("venv")
    assert f"note: {cause}. uv's Python 3.12 is taken instead: {machine.root}/bin/managed-3.12\n" in done.stdout
    assert done.returncode == 0
    assert (machine.root / "checkout/.venv/.ready").exists()
    assert "uv only-managed python install 3.12" in machine.log


def test_a_uv_that_cannot_download_is_said(machine: Machine) -> None:
    machine.uv(no_download="1")
    done = machine.make("venv")
    assert done.returncode
    assert "and uv could not bring Python 3.12 (error: no such host): name a Python" in done.stderr


@pytest.mark.parametrize(
    ("lacking", "cause"),
    [
        ("g++", "g++ is missing (Debian: apt install g++)"),
        ("headers", "the headers of Python are missing (Debian: apt install python3.13-dev)"),
    ],
)
def test_what_compiling_megatron_lacks_is_named_before_anything_is_installed(
    machine: Machine, lacking: str, cause: str
) -> None:
    machine.python("python3", "3.13", NO_HEADERS="1" if lacking == "headers" else "0")
    if lacking == "g++":
        (machine.root / "bin/g++").unlink()
    refused = machine.make("venv")
    assert refused.returncode
    assert refused.stderr.startswith(
        f"error: {cause}; megatron-core 0.12.3 has no wheel for Python 3.13 and is compiled: install that, or name"
    )
    assert not [line for line in machine.log if " install " in line]

    machine.uv()
    version = "3.11" if lacking == "g++" else "3.12"
    assert f"uv's Python {version} is taken instead" in machine.make("venv").stdout
    assert f"python {version} " in machine.log[-1]


def test_no_compiler_is_needed_where_megatron_has_a_wheel(machine: Machine) -> None:
    machine.python("python3", "3.11", NO_WHEEL="0")
    (machine.root / "bin/g++").unlink()
    done = machine.make("venv")
    assert done.returncode == 0, done.stderr


def test_a_package_without_a_build_is_named(machine: Machine) -> None:
    machine.python("python3", "3.14", UNBUILT="torch==2.13.0")
    done = machine.make("venv")
    assert "error: torch==2.13.0 has no build for Python 3.14 on this machine" in done.stderr
    assert done.returncode
    assert not (machine.root / "checkout/.venv/.ready").exists()


def test_a_cell_has_a_folder_of_its_own_with_its_pins(machine: Machine) -> None:
    machine.python("python3", "3.13")
    other = "# differs\nmegatron-core==0.16.1\nHuggingface_Hub==9\n"
    (machine.root / "checkout/constraints/megatron-0.16.txt").write_text(other)
    machine.make("venv")
    done = machine.make("test", "TORCH=2.7.1", "MEGATRON=0.16")
    assert done.returncode == 0, done.stderr
    pins = {
        name: set((machine.root / "checkout" / name / "pins.txt").read_text().splitlines())
        for name in (".venv", ".venv-3.13-torch2.7.1-megatron0.16")
    }
    usual, cell = pins.values()
    assert usual == set((HOUSE / "constraints/dev.txt").read_text().splitlines())
    assert cell - usual == {"megatron-core==0.16.1", "torch==2.7.1", "Huggingface_Hub==9"}
    dropped = {
        "megatron-core",
        "torch",
        "huggingface-hub",
        "setuptools",
    }  # of setuptools, each torch takes what it needs
    assert {pin.split("==")[0] for pin in usual - cell} == dropped


def test_only_files_whose_hash_is_kept_are_installed_but_torchs_and_pins_that_are_new(machine: Machine) -> None:
    machine.python("python3", "3.13")
    own = (HOUSE / "constraints/megatron-0.16.txt").read_text()
    (machine.root / "checkout/constraints/megatron-0.16.txt").write_text(f"{own}Huggingface_Hub==9\n")
    machine.make("venv")
    installs = [re.sub(r".* install -qq ", "", line) for line in machine.log if " install " in line]
    usual = "--no-deps --only-binary numpy,pyarrow,scipy --require-hashes --requirement .venv/hashed.txt"
    assert installs[:2] == [usual, "torch==2.13.0"]
    hashes = (HOUSE / "constraints/hashes.txt").read_text()
    assert (machine.root / "checkout/.venv/hashed.txt").read_text() == hashes
    assert not (machine.root / "checkout/.venv/unhashed.txt").read_text()

    machine.make("venv", "TORCH=2.7.1", "MEGATRON=0.16")
    cell = machine.root / "checkout/.venv-3.13-torch2.7.1-megatron0.16"
    assert (cell / "unhashed.txt").read_text() == "Huggingface_Hub==9\n"
    rest = re.sub(r"^(megatron-core|huggingface-hub)==(.*\\\n)*.*\n", "", hashes, flags=re.M)
    kept = (HOUSE / "constraints/hashes-megatron.txt").read_text()
    (own,) = re.findall(r"^megatron-core==0\.16(?:.*\\\n)*.*\n", kept, re.M)
    assert (cell / "hashed.txt").read_text() == rest + own
    assert any(line.endswith(f"--no-deps --requirement {cell.name}/unhashed.txt") for line in machine.log)


def test_a_cell_that_cannot_be_made_says_so_and_takes_no_other_python(machine: Machine) -> None:
    machine.python("python3", "3.13")
    machine.uv()
    assert "error: TORCH=new is no version" in machine.make("venv", "TORCH=new").stderr
    assert "there are no pins for it in constraints/megatron-0.99.txt" in machine.make("venv", "MEGATRON=0.99").stderr
    (machine.root / "bin/g++").unlink()
    refused = machine.make("test", "TORCH=2.7.1")
    assert refused.stderr.startswith("error: g++ is missing")
    assert not any("uv " in line for line in machine.log)


def test_an_engine_that_is_a_folder_or_pinned_makes_no_pins_of_its_own(machine: Machine) -> None:
    machine.python("python3", "3.13")
    machine.make("venv", "MEGATRON=0.12")
    machine.make("venv", "MEGATRON=checkouts/Megatron-LM")
    made = [path.parent.name for path in sorted((machine.root / "checkout").glob(".venv*/.ready"))]
    assert made == [".venv", ".venv-3.13-megatron0.12"]
    pins = {(machine.root / "checkout" / name / "pins.txt").read_text() for name in made}
    assert pins == {(HOUSE / "constraints/dev.txt").read_text()}


def test_another_interpreter_that_is_named_makes_the_folder_anew(machine: Machine) -> None:
    machine.python("python3", "3.11")
    machine.python("newer", "3.13")
    for words in (("venv",), ("venv",), ("venv", "PYTHON=python3")):
        machine.make(*words)
    assert sum("-m venv" in line for line in machine.log) == 1
    machine.make("test", "PYTHON=newer")
    assert any(line.startswith("newer 3.13 -m venv --clear .venv") for line in machine.log)
    assert machine.make("test").stdout == (
        ".venv/bin/python -m pytest tests/ --ignore tests/nodes --numprocesses 2 --dist loadfile "
        '--max-worker-restart 0 --benchmark-disable -m "not slow" \nran\n'
    )


def test_the_matrix_prints_a_row_for_each_cell(machine: Machine) -> None:
    (machine.root / "checkout/constraints/megatron-0.16.txt").write_text("megatron-core==0.16.1\n")
    machine.python("python3.13", "3.13", SAID="1 failed, 20 passed, 3 skipped, 2 errors in 61.70s (0:01:01)")
    done = machine.make("matrix", "CELLS=3.13/2.13.0/0.12 3.12/2.13.0/0.12")
    rows = done.stdout.splitlines()
    day = rows[2].split(" | ")[3]
    assert rows[2:] == [
        f"| 3.13 | 2.13.0 | 0.12 | {day} | 20 | 3 | 3 | 61 |",
        f"| 3.12 | 2.13.0 | 0.12 | {day} | not run: error: python3.12 is missing or does not start: {REMEDY} | | | |",
    ]
    assert done.returncode

    machine.python("python3.11", "3.11", SAID="4 passed in 0.70s")
    done = machine.make("matrix")
    named = [line for line in (HOUSE / ".ci/cells").read_text().splitlines() if not line.startswith("#")]
    assert len(done.stdout.splitlines()) == 2 + len(named)
    assert f"| 3.11 | 2.13.0 | 0.16 | {day} | 4 | 0 | 0 | 0 |" in done.stdout


@pytest.mark.parametrize(("of", "cell_is_made"), [("nvidia-modelopt", True), ("grok1-bench", False)])
def test_pins_that_do_not_fit_are_borne_in_a_cell_of_another_torch_only(
    machine: Machine, of: str, cell_is_made: bool
) -> None:
    machine.python("python3", "3.13", UNFIT=f"{of} 1 has requirement torch>=2.8, but you have torch 2.7.1.")
    assert machine.make("venv").returncode
    done = machine.make("venv", "TORCH=2.7.1")
    assert (done.returncode == 0) is cell_is_made
    assert "has requirement torch>=2.8" in done.stderr
