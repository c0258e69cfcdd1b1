"""The house rules that no linter holds, read from the sources' syntax trees.

Each rule is a function from a parsed file (or text) to the complaints about it. Every rule is run on the
house, and shown to complain about a file that breaks it.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from grok1.megatron.installed import Line
from tests.foreign_objects import foreign_changes, last_name, nodes_of
from tests.limits import HANG_SECONDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOUSE = Path(__file__).resolve().parents[1]
ROOMS = ("grok1", "bench", "reports")

LINES = tuple(  # behind the door
    f"grok1/megatron/{name}.py" for name in ("line_0_12", "line_0_16", "line_0_19", "since_0_16")
)
DOOR, GROUPS = "grok1/megatron/door.py", "grok1/distributed/groups.py"
ACCELERATOR = "grok1/device/accelerator.py"  # the part of the seam that hands torch_npu and MindSpeed their words
SEAM = "grok1/device/seam.py"
MEASURING = "grok1/device/measuring.py"  # torch_npu's own profiler
KIND = "grok1/device/kind.py"
PATCHES = "grok1/megatron/patches.py"
INSTANCES = "grok1/megatron/instances.py"
PATCHING_ROOMS = ("grok1/device/", "grok1/megatron/")

# Changes that stand elsewhere: (file, the change). Each is the way that its library documents, or has its reason.
FOREIGN_CHANGES = {
    ("grok1/distributed/environment.py", "tempfile.tempdir"),  # the documented way to say where temporary files go
    ("bench/test_ops.py", "leaf.grad"),  # torch's own way to drop a gradient
    ("bench/peers.py", "tokens_PH.grad"),  # the same
    ("bench/peers.py", "probs_P.grad"),  # the same
    # how the standard library's XML elements are filled
    ("bench/judge/junit.py", "ElementTree.SubElement(case, 'system-out').text"),
    ("bench/options.py", "session.exitstatus"),  # how pytest's own plugins change it at the end of a session
    ("bench/session.py", "benchmark._mode"),  # pytest-benchmark has no public way to be handed times
}
ACCELERATOR_PACKAGES = {"megatron", "mindspeed", "torch_npu"}

# The edges, where the outside world is read; everything else is handed what it needs.
ENVIRONMENT_READERS = {
    KIND,  # what the launcher said
    MEASURING,  # OPENBLAS_CORETYPE
    ACCELERATOR,  # where CANN is installed
    GROUPS,
    "grok1/cli/progress.py",  # CI or a person's terminal
    "grok1/device/gloo.py",  # which interfaces to connect over
    "grok1/distributed/environment.py",  # checks what others read
    "grok1/distributed/launch.py",  # what the ranks inherit
    "grok1/distributed/rank_process.py",  # what a rank's own libraries read
    "grok1/distributed/rendezvous.py",  # how torchrun and Slurm tell a rank who it is
    "bench/measure.py",  # the allow-list of variables that a record keeps
    "bench/conftest.py",  # GITHUB_STEP_SUMMARY
    "reports/__main__.py",  # GITHUB_STEP_SUMMARY
}

DEVICE_WORDS = ("GROK1_DEVICE", "/dev/nvidiactl", "/dev/davinci_manager", "_grok1_device")
DEVICE_WORDS_ELSEWHERE = {
    ("bench/ab/checkouts.py", "GROK1_DEVICE"),  # unsets it for the runs of both sides
    ("bench/doctor/reference.py", "GROK1_DEVICE"),  # unsets it for the process that computes on the CPU
}
DEVICE_QUESTIONS = ("torch.cuda.is_available", "torch.accelerator.current_accelerator", "torch.version.hip")

ABOVE_THE_LAUNCHER = r"(bench|reports|tests|grok1\.(cli|fidelity|training|generation|model|kernels|weights|data))\b[.:]"

SHORT_LIMITS = {("tests/test_dependencies.py", "_INDEX_SECONDS")}  # after which it skips: no index answered

# [.] and [-] keep these expressions from matching their own source
MACHINE_PATH = re.compile(r"(?<![\w.:~/$}])/(?:work|tmp|root|home|Users|opt)(?:/|\b)")
REGISTRY = re.compile(r"pypi[.]|pythonhosted[.]|download[.]pytorch[.]|[-]index[-]url|find[-]links|[/]simple/", re.I)

Rule = Callable[[str, ast.Module], Iterator[str]]


def engine_has_one_door(path: str, tree: ast.Module) -> Iterator[str]:
    """Megatron is imported by door.py and the module of its line, and by patches.py to patch it; process groups are
    groups.py's, and their module too is patches.py's to patch."""
    for node in _nodes(tree):
        packages = {name.split(".")[0] for name in _imported(node)}
        if packages & ACCELERATOR_PACKAGES and path not in (DOOR, *LINES, PATCHES, ACCELERATOR, MEASURING, SEAM):
            yield f"{path}:{_line(node)} imports {', '.join(sorted(packages))}; ask grok1.megatron.door for the name"
        if _mentions(node, "parallel_state") and path not in (DOOR, *LINES, GROUPS, PATCHES):
            yield f"{path}:{_line(node)} uses parallel_state; ask grok1.distributed.groups's Ranks"


def only_two_rooms_patch(path: str, tree: ast.Module) -> Iterator[str]:
    """Nobody outside the two rooms for it changes a module, a class or an object that is not visibly ours."""
    if path.startswith(PATCHING_ROOMS):
        return
    for line, source in foreign_changes(tree):
        if (path, source) not in FOREIGN_CHANGES:
            yield f"{path}:{line} changes what is not ours: {source}; move it to {' or '.join(PATCHING_ROOMS)}"


def changes_say_for_what(path: str, tree: ast.Module) -> Iterator[str]:
    """Each public function of instances.py that changes an object says for which versions and on which devices."""
    if path != INSTANCES:
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        said = ast.get_docstring(node) or ""
        is_change = any(foreign_changes(ast.Module([node], [])))
        if is_change and not (
            re.search(r"megatron-core\s0\.12", said) and re.search(r"(?i)all\sdevices|CPU only", said)
        ):
            yield f"{path}:{node.lineno} {node.name}: say for which versions and on which devices"


def names_shadow_nothing(path: str, tree: ast.Module) -> Iterator[str]:
    """No module is named like the standard library's, nor after nothing in particular."""
    name = Path(path).stem
    if name in sys.stdlib_module_names and not name.startswith("__"):
        yield f"{path} shadows the standard library's {name}"
    if name in ("utils", "util", "helpers", "common", "misc"):
        yield f"{path}: name the file for what it knows"


def environment_is_read_at_the_edges(path: str, tree: ast.Module) -> Iterator[str]:
    """os.environ is for the files that talk to the outside world."""
    if path in ENVIRONMENT_READERS:
        return
    for node in _nodes(tree):
        if any(_mentions(node, name) for name in ("environ", "getenv", "putenv")):
            yield f"{path}:{_line(node)} touches the environment; pass the value in"


def one_place_knows_the_device(path: str, tree: ast.Module) -> Iterator[str]:
    """Which device a process is for is asked of kind.py: nobody else reads the variable, the device files or torch."""
    if path == KIND:
        return
    for node in _nodes(tree):
        word = node.value if isinstance(node, ast.Constant) else None
        if word in DEVICE_WORDS and (path, word) not in DEVICE_WORDS_ELSEWHERE:
            yield f"{path}:{_line(node)} names {word!r}; ask grok1.device.kind"
        asks_torch = isinstance(node, ast.Attribute) and ast.unparse(node) in DEVICE_QUESTIONS
        if asks_torch or _mentions(node, "KIND_VARIABLE"):
            yield f"{path}:{_line(node)} uses {ast.unparse(node)}; ask grok1.device.kind"


def launcher_names_no_entry(path: str, tree: ast.Module) -> Iterator[str]:
    """What ranks run is the caller's to say: grok1.distributed names no module above it, in words either."""
    if not path.startswith("grok1/distributed/"):
        return
    for node in _nodes(tree):
        words = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else _imported(node)
        for word in words:
            if re.match(ABOVE_THE_LAUNCHER, word):
                yield f"{path}:{_line(node)} names {word}; take it from the caller"


def text_names_no_machine(path: str, text: str) -> Iterator[str]:
    """Nothing that only holds on one machine: absolute paths, registries."""
    for number, line in enumerate(text.splitlines(), start=1):
        for found in filter(None, (MACHINE_PATH.search(line), REGISTRY.search(line))):
            yield f"{path}:{number} names {found.group()!r}, which other machines lack"


def pins_lie_in_ranges(requirements: list[str], pins: list[str]) -> Iterator[str]:
    """Each requirement has a pin on every Python we support, and each such pin is in its range."""
    pinned = [Requirement(line) for line in pins if line.strip() and not line.startswith("#")]
    for wanted in map(Requirement, requirements):
        for python in ("3.10", "3.11", "3.12", "3.13", "3.14"):
            here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
            if wanted.marker and not wanted.marker.evaluate(here):
                continue
            found = [p for p in pinned if _same(p, wanted) and (not p.marker or p.marker.evaluate(here))]
            versions = [str(pin.specifier).removeprefix("==") for pin in found]
            if len(versions) != 1 or not wanted.specifier.contains(versions[0]):
                yield f"{wanted} on Python {python}: pinned {versions or 'nowhere'}"


def one_place_asks_for_the_line(path: str, tree: ast.Module) -> Iterator[str]:
    """What differs between megatron's lines stands in a module of each; the door alone chooses one."""
    if path in (DOOR, "grok1/megatron/installed.py"):
        return
    known = r"line_\d+_\d+" if path in LINES else r"(line|since)_\d+_\d+"  # what some lines share is theirs
    for node in _nodes(tree):
        names = {name.rpartition(".")[2] for name in _imported(node)}
        names |= {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        if any(re.fullmatch(known, name) for name in names):
            yield f"{path}:{_line(node)} imports a line's module; ask grok1.megatron.door for the name"
        is_question = isinstance(node, ast.Compare) and "megatron_line" in ast.unparse(node)
        if is_question or _mentions(node, "package_info"):
            yield f"{path}:{_line(node)} asks for megatron's version; give each line's module what it needs"
        word = node.value if isinstance(node, ast.Constant) else None
        if isinstance(word, str) and word in get_args(Line):
            yield f"{path}:{_line(node)} names megatron's line {word}; ask grok1.megatron.installed what it can"


def limits_are_against_hangs(path: str, tree: ast.Module) -> Iterator[str]:
    """No test waits for a process only as long as a busy machine, or a slower Python, may take."""
    known = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in (each for each in _nodes(tree) if isinstance(each, ast.Call)):
        limits = [each.value for each in node.keywords if each.arg == "timeout"]
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("wait", "communicate"):
            limits += node.args[-1:]
        for limit in limits:
            named = limit.id if isinstance(limit, ast.Name) else None
            seconds = limit.value if isinstance(limit, ast.Constant) else known.get(str(named))
            if not isinstance(seconds, int | float) or seconds >= HANG_SECONDS:
                continue
            if (path, named) not in SHORT_LIMITS:
                yield f"{path}:{node.lineno} waits {seconds} s at most; take HANG_SECONDS of tests/limits.py"


RULES: list[Rule] = [
    engine_has_one_door,
    one_place_asks_for_the_line,
    only_two_rooms_patch,
    changes_say_for_what,
    names_shadow_nothing,
    environment_is_read_at_the_edges,
    one_place_knows_the_device,
    launcher_names_no_entry,
]


@pytest.fixture(scope="module", autouse=True)
def forgotten_afterwards() -> Iterator[None]:
    """Millions of nodes, which Python would look through again and again beside the tests that follow."""
    yield
    for known in (_parsed, _nodes, nodes_of):
        known.cache_clear()


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    sources = sorted(path for room in ROOMS for path in (HOUSE / room).rglob("*.py"))
    assert sources
    assert not [complaint for path in sources for complaint in _complaints(rule, HOUSE, path)]


def test_no_test_has_a_limit_that_a_busy_machine_reaches() -> None:
    sources = sorted((HOUSE / "tests").rglob("*.py"))
    assert sources
    assert not [each for path in sources for each in _complaints(limits_are_against_hangs, HOUSE, path)]


LOADED_BY_EVERY_PYTEST = ("conftest.py", "bench/options.py", "bench/places.py", "bench/installed/pytest_grok1/entry.py")


@pytest.mark.parametrize("path", LOADED_BY_EVERY_PYTEST)
def test_what_every_pytest_run_loads_imports_pytest_only(path: str) -> None:
    assert not _foreign_imports((HOUSE / path).read_text(encoding="utf-8"))


def test_what_every_command_imports_first_takes_no_time() -> None:
    tree = ast.parse((HOUSE / "grok1/cli/interruption.py").read_text(encoding="utf-8"))
    names = {name.split(".")[0] for node in tree.body for name in _imported(node)}
    assert names <= set(sys.stdlib_module_names)


def test_tracked_text_names_no_machine_and_no_registry() -> None:
    assert not [line for path, text in _tracked_texts() for line in text_names_no_machine(path, text)]


def test_pins_lie_within_the_declared_ranges() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (HOUSE / "constraints" / "dev.txt").read_text(encoding="utf-8").splitlines()
    assert not list(pins_lie_in_ranges(project["dependencies"] + project["optional-dependencies"]["dev"], pins))
    ascend = (HOUSE / "constraints" / "ascend.txt").read_text(encoding="utf-8").splitlines()
    assert not list(pins_lie_in_ranges(project["optional-dependencies"]["npu"], ascend))


CHANGES_OF_FOREIGN_OBJECTS = (
    "def f(config):\n    config.timers = None",
    "def f(config):\n    config.count += 1",
    "def f(config):\n    config.timers: int = 1",
    "def f(config):\n    config.inner.timers = None",
    "def f(config):\n    del config.timers",
    "def f(config):\n    a, config.timers = 1, 2",
    "def f(config):\n    for config.step in range(3): ...",
    "def f(config, file):\n    with file as config.file: ...",
    "def f(config):\n    setattr(config, 'timers', None)",
    "def f(config):\n    delattr(config, 'timers')",
    "def f(config):\n    object.__setattr__(config, 'timers', None)",
    "def f(stack, config):\n    stack.callback(setattr, config, 'timers', None)",
    "def f(config):\n    vars(config)['timers'] = None",
    "def f(config):\n    del vars(config)['timers']",
    "def f(config):\n    vars(config).pop('timers')",
    "def f(config):\n    vars(config).update(timers=None)",
    "def f(config):\n    config.__dict__['timers'] = None",
    "def f(module, hook):\n    module._forward_hooks[0] = hook",
    "def f(module):\n    del module.inner._forward_hooks[0]",
    "def f(module):\n    module._forward_hooks.clear()",
    "def f(parts, part):\n    parts._all.append(part)",
    "def f(config):\n    config.__dict__ |= {'timers': None}",
    "def f(config):\n    lambda other: setattr(other, 'timers', None)",
    "class Grok:\n    def __init__(self):\n        self.weight.shared = True",
    "class Grok:\n    def __init__(self):\n        self.output_layer.__class__ = Grok",
    "def f(parameters):\n    for each in parameters:\n        each.is_awaited = True",
    "def f(make):\n    made = make()\n    made.name = 1",
    "class Ours: ...\ndef f(make):\n    x = Ours()\n    x = make()\n    x.name = 1",
    "class Ours: ...\ndef f():\n    x = Ours()\n    for x in range(3):\n        x.name = 1",
    "from grok1.megatron.door import GPTModel\ndef f(x: GPTModel):\n    x.name = 1",
    "from grok1.megatron.protocols import DdpModel\ndef f(x: DdpModel):\n    x.name = 1",
    "from torch.nn import Linear\nx = Linear(1, 1)\nx.name = 1",
)
CHANGES_OF_OUR_OBJECTS = (
    "class Grok:\n    def __init__(self):\n        self.weight = 1",
    "class Grok:\n    @classmethod\n    def make(cls):\n        cls.made = 1",
    "def forward(ctx, x):\n    ctx.shape, ctx.scale = x.shape, 2",
    "class Ours: ...\nx = Ours()\nx.name = 1",
    "class Ours: ...\ndef f(x: Ours):\n    x.name += 1\n    setattr(x, 'name', 2)",
    "class Ours: ...\ndef f(x: 'Ours'):\n    def g():\n        x.name = 1",
    "class Ours: ...\ndef f(all):\n    x: Ours = all[0]\n    x.name = 1",
    "from grok1.device.traffic import TRAFFIC, Communication\ndef f(all):\n    x = Communication()\n    x.calls = 1",
    "class Ours: ...\nobject.__setattr__(self, 'name', 1)",
    "counts = {}\ncounts['a'] = 1\ncounts.pop('a')",
    "class Grok:\n    def forward(self, x):\n        self._kept[0] = x\n        self._all.append(x)",
)


@pytest.mark.parametrize("source", CHANGES_OF_OUR_OBJECTS)
def test_changes_of_what_is_visibly_ours_pass(source: str) -> None:
    assert not list(only_two_rooms_patch("grok1/model/model.py", ast.parse(source)))


def test_every_exception_still_stands() -> None:
    found = {
        (path, source)
        for path in {path for path, _ in FOREIGN_CHANGES}
        for _, source in foreign_changes(ast.parse((HOUSE / path).read_text(encoding="utf-8")))
    }
    assert found >= FOREIGN_CHANGES


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (engine_has_one_door, "grok1/model/model.py", "import megatron.core.models"),
        (engine_has_one_door, "bench/test_ops.py", "from megatron import core"),
        (engine_has_one_door, "grok1/model/model.py", "import importlib\nimportlib.import_module('megatron.core')"),
        (engine_has_one_door, "grok1/training/step.py", "from grok1.megatron.door import parallel_state"),
        (
            engine_has_one_door,
            "grok1/training/step.py",
            "from grok1.megatron import door\ndoor.parallel_state.destroy()",
        ),
        (one_place_asks_for_the_line, "grok1/model/model.py", "from grok1.megatron.line_0_16 import PATCHES"),
        (one_place_asks_for_the_line, "grok1/model/model.py", "from grok1.megatron import line_0_16"),
        (one_place_asks_for_the_line, "grok1/model/model.py", "from grok1.megatron.since_0_16 import WholeDispatcher"),
        (one_place_asks_for_the_line, LINES[2], "from grok1.megatron.line_0_16 import PATCHES"),
        (one_place_asks_for_the_line, "grok1/model/moe.py", "if megatron_line() == '0.12': ..."),
        (one_place_asks_for_the_line, "grok1/weights/folder.py", "now = megatron_line()\nif now in ('0.16',): ..."),
        (only_two_rooms_patch, "grok1/model/model.py", "import torch\ntorch.cuda.synchronize = None"),
        (only_two_rooms_patch, "grok1/model/model.py", "import numpy as np\nsetattr(np, 'product', np.prod)"),
        (only_two_rooms_patch, "bench/judge/gate.py", "from grok1.megatron.door import GPTModel\ndel GPTModel.forward"),
        (only_two_rooms_patch, "grok1/data/batches.py", "import torch\ndef f():\n    torch.a, x = 1, 2"),
        *((only_two_rooms_patch, "grok1/model/model.py", source) for source in CHANGES_OF_FOREIGN_OBJECTS),
        (changes_say_for_what, INSTANCES, "def f(config):\n    'CPU only.'\n    config.timers = None"),
        (changes_say_for_what, INSTANCES, "def f(config):\n    'megatron-core 0.12.'\n    del config.timers"),
        (names_shadow_nothing, "bench/statistics.py", ""),
        (names_shadow_nothing, "grok1/utils.py", ""),
        (environment_is_read_at_the_edges, "grok1/model/model.py", "import os\nos.environ['A'] = '1'"),
        (environment_is_read_at_the_edges, "bench/judge/gate.py", "from os import getenv"),
        (one_place_knows_the_device, "grok1/__main__.py", "import os\nos.environ['GROK1_DEVICE']"),
        (one_place_knows_the_device, "bench/session.py", "from grok1.device.kind import KIND_VARIABLE"),
        (one_place_knows_the_device, "grok1/distributed/launch.py", "import os\nos.path.exists('/dev/nvidiactl')"),
        (one_place_knows_the_device, "grok1/device/seam.py", "import torch\ntorch.cuda.is_available()"),
        (limits_are_against_hangs, "tests/test_it.py", "import subprocess\nsubprocess.run(['x'], timeout=20)"),
        (limits_are_against_hangs, "tests/test_it.py", "SECONDS = 60.0\ndef f(process): process.wait(SECONDS)"),
        (limits_are_against_hangs, "tests/test_it.py", "def f(process): process.communicate('', 5)"),
        (
            launcher_names_no_entry,
            "grok1/distributed/launch.py",
            "def launch(entry='grok1.training.run:run_rank'): ...",
        ),
        (launcher_names_no_entry, "grok1/distributed/preload.py", "import grok1.training.run"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(tmp_path: Path, rule: Rule, path: str, source: str) -> None:
    broken = tmp_path / path
    broken.parent.mkdir(parents=True)
    broken.write_text(source, encoding="utf-8")
    complaints = list(_complaints(rule, tmp_path, broken))
    assert complaints
    assert all(complaint.startswith(path) for complaint in complaints)


def test_the_files_that_may_do_so_are_left_alone() -> None:
    assert not list(engine_has_one_door(DOOR, ast.parse("from megatron.core import parallel_state")))
    assert not list(only_two_rooms_patch(SEAM, ast.parse("import torch\ntorch.cuda.synchronize = None")))
    assert not list(environment_is_read_at_the_edges(KIND, ast.parse("import os\nos.environ['A']")))
    assert not list(one_place_knows_the_device(KIND, ast.parse("import os\nos.environ['GROK1_DEVICE']")))


@pytest.mark.parametrize("text", ["see /" + "work/notes", "DATA=/" + "tmp/x", "(/" + "root)", "--index" + "-url x"])
def test_a_text_that_names_a_machine_is_refused(text: str) -> None:
    assert list(text_names_no_machine("README.md", text))


@pytest.mark.parametrize("text", ["results/tmp/x", "https://example.org/work/", "$HOME/work", "a /worker"])
def test_relative_paths_and_addresses_pass(text: str) -> None:
    assert not list(text_names_no_machine("README.md", text))


@pytest.mark.parametrize("pins", [[], ["a==3"], ["a==1.5; python_version < '3.12'"], ["a==1.5", "a==1.6"]])
def test_a_pin_outside_its_range_or_missing_is_named(pins: list[str]) -> None:
    assert list(pins_lie_in_ranges(["A>=1,<2"], pins))
    assert not list(pins_lie_in_ranges(["A>=1,<2"], ["a==1.5"]))


def test_a_conftest_that_imports_torch_is_refused() -> None:
    assert _foreign_imports("import pytest\nimport torch\nfrom bench.places import RUN_BENCH\n") == ["torch"]


def _complaints(rule: Rule, root: Path, path: Path) -> Iterator[str]:
    return rule(path.relative_to(root).as_posix(), _parsed(path.read_text(encoding="utf-8")))


@functools.cache
def _parsed(source: str) -> ast.Module:
    """Once for all rules."""
    return ast.parse(source)


@functools.cache
def _nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """Once for all rules too."""
    return tuple(ast.walk(tree))


def _foreign_imports(source: str) -> list[str]:
    """All but the standard library's, pytest, and those of ours that import no more than these."""
    names = {name for node in ast.walk(ast.parse(source)) for name in _imported(node)}
    names = {name for name in names if not name.startswith(("bench.places", "grok1.cli"))}
    return sorted({name.split(".")[0] for name in names} - {"pytest"} - set(sys.stdlib_module_names))


def _tracked_texts() -> Iterator[tuple[str, str]]:
    """Files in git or about to be; a binary file has no text."""
    command = ["git", "-c", f"safe.directory={HOUSE}", "ls-files", "-z", "-c", "-o", "--exclude-standard"]
    listed = subprocess.run(command, cwd=HOUSE, check=True, capture_output=True, text=True).stdout
    paths = [path for path in listed.split("\0") if path and (HOUSE / path).is_file()]
    assert paths
    for path in paths:
        content = (HOUSE / path).read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8")


def _imported(node: ast.AST) -> list[str]:
    """Modules that this node imports, by statement or by importlib."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and last_name(node.func).endswith(("import_module", "__import__")):
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def _mentions(node: ast.AST, name: str) -> bool:
    """Whether this very node (not its children) names it."""
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == name for alias in node.names)
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _same(pin: Requirement, wanted: Requirement) -> bool:
    return pin.name.lower().replace("_", "-") == wanted.name.lower().replace("_", "-")
