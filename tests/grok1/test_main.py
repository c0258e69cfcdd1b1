"""The grok1 command as a stranger types it: help, exit codes, one line for each mistake."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grok1.cli import console
from grok1.commands.app import app
from grok1.config.load import ONE_RANK, recipe_names
from tests.grok1.conftest import ROOT, as_options, grok1_command, run_grok1
from tests.in_process import Command, command_of
from tests.limits import HANG_SECONDS
from tests.lines import NO_NPU, NO_NPU_REMEDY


def one_rank_words(corpus: tuple[Path, Path], *instead: str) -> list[str]:
    """grok1-nano on one rank; `instead` are options that replace or follow these."""
    prefix, tokenizer = corpus
    options = {"--recipe": "grok1-nano", "--device": "cpu", "--data": str(prefix), "--tokenizer": str(tokenizer)}
    kept = [word for name, value in options.items() if name not in instead for word in (name, value)]
    return [*kept, *as_options(ONE_RANK), *instead]


@pytest.fixture
def grok1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """grok1(words...) in this process, for what starts no rank and imports no torch: (exit code, output, errors)."""
    return command_of("grok1", lambda: console.run(app, "grok1", failures=(RuntimeError,)), monkeypatch, capsys)


def test_recipes_lists_every_recipe_with_its_hash() -> None:
    done = run_grok1("recipes")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == recipe_names()
    assert all(re.search(r" [0-9a-f]{12} ", line) for line in done.stdout.splitlines())


def test_recipes_shows_one_with_overrides(grok1: Command) -> None:
    shown = json.loads(grok1("recipes", "grok1-40b", "--set", "model.num_layers=2")[1])
    assert shown["model"]["num_layers"] == 2
    assert shown["counts"]["parameters"] == pytest.approx(11.45e9, rel=1e-3)


@pytest.mark.parametrize("command", [(), ("train",), ("recipes",), ("preprocess",)])
def test_help_teaches(command: tuple[str, ...], grok1: Command) -> None:
    code, output, _ = grok1(*command, "--help")
    assert code == 0
    assert "Usage" in output


@pytest.mark.parametrize(
    "words", [("--data", "a", "--data=b"), ("--load", "a", "--load", "a"), ("--steps=1", "--steps=1")]
)
def test_an_option_given_twice_is_refused_and_the_last_does_not_win(words: tuple[str, ...], grok1: Command) -> None:
    code, _, errors = grok1("train", *words)
    assert code == 2
    assert errors == f"grok1: {words[0].partition('=')[0]} is given 2 times, and only one can count; give it once\n"


def test_overrides_may_be_repeated(grok1: Command) -> None:
    _, output, _ = grok1("recipes", "grok1-nano", "--set", "training.seed=1", "--set", "training.seed=2")
    assert json.loads(output)["training"]["seed"] == 2


def test_train_says_the_job_each_step_and_a_summary_and_writes_json(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    done = run_grok1("train", *one_rank_words(corpus), "--steps", "3", "--json", str(target))
    assert done.returncode == 0, done.stderr
    first, *steps, last = done.stdout.splitlines()
    assert first.startswith("grok1-nano: ")
    assert [line.partition(" |")[0] for line in steps] == ["step 1/3", "step 2/3", "step 3/3"]
    for part in ("loss", "aux loss", "grad norm", "lr", "s/step", "tokens/s/p", "TFLOP/s/p", "MiB"):
        assert all(part in line for line in steps)
    assert last.startswith("done: 3 steps, 384 tokens | median ")
    assert last.endswith(f" | measurements {target}")
    written = json.loads(target.read_text())
    assert [step["step"] for step in written["steps"]] == [1, 2, 3]
    assert {"schema", "recipe", "recipe_hash", "layout", "software", "device", "ranks"} <= written.keys()


@pytest.mark.slow
def test_train_joins_a_job_that_torchrun_started(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    words = [*one_rank_words(corpus), "--set", "parallel.world_size=2", "--set", "parallel.pipeline=2"]
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "grok1", "train"]
        + [*words, "--steps", "2", "--json", str(target), "--index-cache", str(tmp_path / "index")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=HANG_SECONDS,
    )
    assert launched.returncode == 0, launched.stderr
    assert json.loads(target.read_text())["layout"]["pipeline"] == 2
    assert list((tmp_path / "index").glob("index-*"))


@pytest.mark.slow
def test_a_rank_under_torchrun_ends_before_python_takes_itself_apart(corpus: tuple[Path, Path]) -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    place |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    done = run_grok1("train", *one_rank_words(corpus), "--steps", "1", PYTHONVERBOSE="1", **place)
    assert (done.returncode, done.stdout.splitlines()[1][:8]) == (0, "step 1/1")
    assert "import 'torch'" in done.stderr
    assert "# clear sys.path" not in done.stderr  # there a gloo thread would abort the process, once in many runs


@pytest.mark.slow
def test_two_launchers_make_up_one_job_without_shared_storage(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    words = [*one_rank_words(corpus), "--set", "parallel.world_size=2", "--steps", "2", "--no-shared-storage"]
    words += ["--nnodes", "2", "--nproc-per-node", "1", "--master-port", str(port)]
    command = grok1_command("train", *words)
    target = tmp_path / "run.json"
    second = subprocess.Popen([*command, "--node-rank", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    first = run_grok1("train", *words, "--node-rank", "0", "--json", str(target))
    said_by_second, _ = second.communicate(timeout=HANG_SECONDS)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert json.loads(target.read_text())["layout"]["nodes"] == 2
    assert (len(first.stdout.splitlines()), said_by_second) == (4, "")


@pytest.mark.matrix(keep=4)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--save", "ck", "--no-shared-storage"], r"--save and --load need a disk that all nodes share"),
        (
            ["--save", "ck", "--set", "training.dtype=bf16", "--set", "training.reuse_fp32_parameters=true"],
            r"training.reuse_fp32_parameters with --save or --load",
        ),
        (["--recipe", "grok2"], r"unknown recipe 'grok2'; choose one of grok1-1gpu, grok1-314b"),
        (["--set", "parallel.tensor=5"], r"world_size 16 is not a multiple of tensor x pipeline 10"),
        (["--steps", "0"], r"--steps 0 is not positive"),
        (["--device", "tpu"], r"--device tpu is none of cpu, cuda, npu"),
        (["--device", "npu"], f"{NO_NPU}.*{NO_NPU_REMEDY}"),
        (["--device", "cuda"], r"device cuda: torch sees no GPU.*--device cpu"),
        (["--load", "nowhere"], r"nowhere holds no checkpoint"),
        (["--data", "nowhere"], r"nowhere"),
        (["--tokenizer", "nowhere"], r"tokenizer nowhere does not exist"),
        (["--set", "model.vocab_size=256"], r"tokenizer .* 512 entries, more than the recipe's vocab_size 256"),
        (
            ["--set", "data.split=1,999999,0"],
            r"leaves 0 of the \d+ documents of .* for training.*split=1,0,0 takes all",
        ),
        (["--index-cache", "/dev/null"], r"no place for the sample index: /dev/null cannot be written.*\d+ bytes free"),
        (["--set", "model.hidden_size=200000", "--set", "model.ffn_hidden_size=1000000"], r"needs about .* GiB"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_two(words: list[str], complaint: str, corpus: tuple[Path, Path]) -> None:
    words = words if "--steps" in words else ["--steps", "1", *words]
    is_layout = "parallel.tensor=5" in words
    done = run_grok1("train", *(["--recipe", "grok1-tiny", *words] if is_layout else one_rank_words(corpus, *words)))
    assert done.returncode == 2, done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_truncated_corpus_is_refused_and_left_alone(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    prefix, tokenizer = corpus
    cut = tmp_path / "cut"
    data = prefix.with_name(prefix.name + ".bin").read_bytes()[:-100]
    cut.with_name("cut.bin").write_bytes(data)
    cut.with_name("cut.idx").write_bytes(prefix.with_name(prefix.name + ".idx").read_bytes())
    done = run_grok1("train", *one_rank_words(corpus, "--data", str(cut), "--steps", "1"))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "cut.bin" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.bin", "cut.idx"]


@pytest.mark.slow
def test_a_corpus_of_another_vocabulary_is_refused(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    prefix, tokenizer = corpus
    foreign = tmp_path / "foreign"
    tokens = np.fromfile(f"{prefix}.bin", dtype=np.uint16)
    tokens[100] = 600
    tokens.tofile(f"{foreign}.bin")
    foreign.with_name("foreign.idx").write_bytes(Path(f"{prefix}.idx").read_bytes())
    done = run_grok1("train", *one_rank_words(corpus, "--data", str(foreign), "--steps", "1"))
    assert done.returncode == 2
    assert "foreign.bin holds token id 600, the recipe's vocab_size is 512" in done.stderr


@pytest.mark.slow
def test_a_checkpoint_of_another_layout_is_refused(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    assert run_grok1("train", *one_rank_words(corpus), "--steps", "1", "--save", str(tmp_path)).returncode == 0
    words = ["--load", str(tmp_path), "--set", "model.num_layers=4", "--steps", "2"]
    done = run_grok1("train", *one_rank_words(corpus), *words)
    assert done.returncode == 2
    assert "was written with model.num_layers=2, the recipe says 4" in done.stderr
