"""Which line of megatron-core is installed, and the refusal of those that this program was never run on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from grok1.config.load import ONE_RANK
from grok1.megatron import installed
from grok1.megatron.installed import check_has_grouped_experts, megatron_core_folder, megatron_line
from tests.limits import HANG_SECONDS
from tests.lines import LINE

REPOSITORY = Path(__file__).parents[3]


def _core(folder: Path, version: str, said: str | None = None) -> Path:
    """A megatron/core that only says its version."""
    core = folder / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "__init__.py").touch()
    names = ("MAJOR", "MINOR", "PATCH")
    lines = [f"{name} = {number}" for name, number in zip(names, version.split("."), strict=True)]
    (core / "package_info.py").write_text("\n".join(lines) if said is None else said)
    return core


def _found(monkeypatch: pytest.MonkeyPatch, core: Path | None) -> None:
    monkeypatch.setattr(installed, "megatron_core_folder", lambda: core)


def _with_triton(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: ModuleSpec("triton", None) if is_there else None)


@pytest.mark.parametrize(
    ("version", "line"),
    [("0.12.1", "0.12"), ("0.12.3", "0.12"), ("0.16.1", "0.16"), ("0.19.0", "0.19"), ("0.19.2", "0.19")],
)
def test_the_three_lines_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, line: str) -> None:
    _found(monkeypatch, _core(tmp_path, version))
    _with_triton(monkeypatch, is_there=True)
    assert megatron_line() == line
    assert megatron_line("cuda") == line


@pytest.mark.parametrize(
    "version", ["0.11.0", "0.13.1", "0.15.3", "0.17.0", "0.18.2", "0.20.0", "1.12.0", "0.120.0", "0.1.6"]
)
def test_another_line_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    _found(monkeypatch, _core(tmp_path, version))
    wanted = rf"^megatron-core {version} is installed in .*install .*0\.12.* or .*0\.16\..* or .*0\.19\."
    with pytest.raises(ValueError, match=wanted) as e:
        megatron_line()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("said", ["", "MAJOR = 0\nMINOR = x\nPATCH = 1\n", "VERSION = (0, 12, 1)\n"])
def test_a_megatron_that_does_not_say_its_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    _found(monkeypatch, _core(tmp_path, "0.12.1", said))
    with pytest.raises(ValueError, match="megatron-core unknown is installed in"):
        megatron_line()


def test_no_megatron_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, None)
    with pytest.raises(
        ValueError, match=r"megatron-core is not installed; install .*0\.12.* or .*0\.16\..* or .*0\.19\."
    ):
        megatron_line()


def test_0_19_is_refused_where_triton_is_missing_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _with_triton(monkeypatch, is_there=False)
    _found(monkeypatch, _core(tmp_path / "new", "0.19.2"))
    with pytest.raises(ValueError, match=r"megatron-core 0\.19\.2 does not import without the package triton, .*; in"):
        megatron_line()
    _found(monkeypatch, _core(tmp_path / "old", "0.16.1"))
    assert megatron_line() == "0.16"


def test_grouped_experts_are_refused_on_the_line_that_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _with_triton(monkeypatch, is_there=True)
    _found(monkeypatch, _core(tmp_path / "new", "0.19.2"))
    with pytest.raises(ValueError, match=r"grouped: megatron-core 0\.19 has no .*=sequential, or install .*0\.16"):
        check_has_grouped_experts()
    for version in ("0.12.3", "0.16.1"):
        _found(monkeypatch, _core(tmp_path / version, version))
        check_has_grouped_experts()


def test_an_npu_wants_the_line_that_mindspeed_patches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _with_triton(monkeypatch, is_there=True)
    for line in ("0.16", "0.19"):
        _found(monkeypatch, _core(tmp_path / line, f"{line}.1"))
        with pytest.raises(
            ValueError, match=rf"device npu with megatron-core {line}: MindSpeed patches .* 0\.12 alone"
        ):
            megatron_line("npu")
    _found(monkeypatch, _core(tmp_path / "old", "0.12.1"))
    assert megatron_line("npu") == "0.12"


def test_a_checkout_on_the_path_comes_before_the_wheel(tmp_path: Path) -> None:
    core = _core(tmp_path, "0.15.0")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    command = [sys.executable, "-m", "grok1", "train", "--recipe", "grok1-nano", "--steps", "1", "--device", "cpu"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"grok1: megatron-core 0.15.0 is installed in {core}, of a line that")
    assert done.stderr.count("\n") == 1


def test_the_line_is_the_one_that_an_import_would_find() -> None:
    folder = megatron_core_folder()
    assert folder is not None
    assert f"MINOR = {megatron_line().partition('.')[2]}\n" in (folder / "package_info.py").read_text(encoding="utf-8")


_BROKEN = {
    "RuntimeError of transformer_engine: it is not whole": 'raise RuntimeError("it is not whole")',
    "ImportError of transformer_engine: no extension": 'raise ImportError("no extension")',
    "ModuleNotFoundError of a_library_of_it: No module": "import a_library_of_it",
    # imports, and has nothing that megatron asks it for: whatever that is in each line
    "'transformer_engine' has no" if LINE == "0.19" else "of transformer": "",
}
# later lines take a package that misses another one for one that is not there
_DONE_WITHOUT = () if LINE == "0.12" else ("ModuleNotFoundError of a_library_of_it: No module",)


@pytest.mark.slow
@pytest.mark.parametrize("said", _BROKEN)
def test_a_broken_optional_package_is_named_in_one_line(tmp_path: Path, said: str) -> None:
    """Through the launcher: the forkserver imports megatron before any rank does, and must outlive it."""
    package = tmp_path / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text(_BROKEN[said])
    command = [sys.executable, "-m", "grok1", "train", "--recipe", "grok1-nano", "--steps", "1"]
    one_rank = [part for change in ONE_RANK for part in ("--set", change)]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"}
    run = subprocess.run([*command, *one_rank], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
    if said in _DONE_WITHOUT:
        assert run.returncode == 0, run.stderr
        return
    assert run.returncode == 1, run.stderr
    *_, last = run.stderr.strip().splitlines()
    assert last.startswith("grok1: megatron-core does not import here: "), run.stderr
    assert said in last
    assert "uninstall" in last
    assert "Traceback" not in run.stderr
