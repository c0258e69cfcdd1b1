"""The commands on MindSpeed's real code: save and resume, convert, generate, profile, and the benchmark itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grok1.data.sample_corpus import SampleCorpus
from tests.conformance.conftest import Checkouts

TWO_RANKS = [
    word
    for change in (
        "parallel.world_size=2",
        "parallel.tensor=1",
        "parallel.pipeline=1",
        "parallel.expert=2",
        "parallel.expert_tensor=1",
    )
    for word in ("--set", change)
]


@pytest.fixture(scope="module")
def data(corpus: SampleCorpus) -> list[object]:
    """The words that name the corpus."""
    return ["--data", corpus.prefix, "--tokenizer", corpus.tokenizer_path]


def _train(checkouts: Checkouts, device: str, json_path: Path, data: list[object], *words: object) -> dict[str, Any]:
    shared = ("--recipe", "grok1-nano", *TWO_RANKS, *data, "--device", device, "--json", json_path)
    checkouts.run(device, "-m", "grok1", "train", *shared, *words)
    result: dict[str, Any] = json.loads(json_path.read_text(encoding="utf-8"))
    return result


def _losses(result: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in result["steps"]]


@pytest.fixture(scope="module")
def saved(checkouts: Checkouts, data: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps on NPUs."""
    folder = tmp_path_factory.mktemp("checkpoints")
    _train(checkouts, "npu", folder / "run.json", data, "--steps", "2", "--save", folder / "saved")
    return folder / "saved"


def test_a_resumed_run_is_the_uninterrupted_one(
    checkouts: Checkouts, data: list[object], saved: Path, tmp_path: Path
) -> None:
    whole = _train(checkouts, "npu", tmp_path / "whole.json", data, "--steps", "4")
    resumed = _train(checkouts, "npu", tmp_path / "resumed.json", data, "--steps", "4", "--load", saved)
    for name in ("step", "loss", "grad_norm"):
        assert [step[name] for step in resumed["steps"]] == [step[name] for step in whole["steps"][2:]]


def test_weights_are_converted_and_generate_what_they_generate_on_the_cpu(
    checkouts: Checkouts, data: list[object], saved: Path, tmp_path: Path
) -> None:
    published, back = tmp_path / "published", tmp_path / "back"
    checkouts.run("npu", "-m", "grok1", "convert", saved, published)
    checkouts.run("npu", "-m", "grok1", "convert", published, back, "--recipe", "grok1-nano", *TWO_RANKS)
    said = [
        _completions(checkouts, device, folder, data, tmp_path)
        for device, folder in (("npu", saved), ("cpu", saved), ("npu", back))
    ]
    assert said[0] == said[1] == said[2]


def _completions(checkouts: Checkouts, device: str, saved: Path, data: list[object], folder: Path) -> object:
    json_path = folder / f"{device}.json"
    words = ("--load", saved, "--prompt", "The language", "--max-new-tokens", "8", *data[2:], "--device", device)
    checkouts.run(device, "-m", "grok1", "generate", *words, "--json", json_path)
    return [each["text"] for each in json.loads(json_path.read_text(encoding="utf-8"))["completions"]]


def test_a_profiled_run_ends_well_and_leaves_its_trace(
    checkouts: Checkouts, data: list[object], tmp_path: Path
) -> None:
    words = ("--steps", "2", "--profile", "2", "--profile-dir", tmp_path / "traces")
    result = _train(checkouts, "npu", tmp_path / "run.json", data, *words)
    assert len(_losses(result)) == 2
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["rank-0-step-2.json.gz"]


def test_the_benchmark_records_a_run_on_the_npu(checkouts: Checkouts, data: list[object], tmp_path: Path) -> None:
    words = ("--benchmark", "--device", "npu", "--case", "grok1-nano", "--steps", "6", "--runs", "1", *TWO_RANKS)
    (tmp_path / "baselines").mkdir()
    folders = ("--results", tmp_path / "results", "--baselines", tmp_path / "baselines")
    checkouts.run("npu", "-m", "pytest", "bench/test_pretrain.py", *words, *data, *folders, "-p", "no:cacheprovider")
    records = [path for path in (tmp_path / "results").rglob("*.json") if "steps" in path.read_text(encoding="utf-8")]
    record = json.loads(records[0].read_text(encoding="utf-8"))
    assert record["device"]["kind"] == "npu"
    assert record["software"]["torch_npu"] == "2.7.1.post6"


def test_a_rank_alone_runs_and_exchanges_what_it_does_on_the_cpu(checkouts: Checkouts, tmp_path: Path) -> None:
    """Both ends of the pipeline: torch's fake process group takes an NPU's tensors and HCCL's options of groups."""
    for rank in (0, 15):
        found: dict[str, Any] = {}
        for device in ("cpu", "npu"):
            path = tmp_path / f"{device}-{rank}.json"
            words = ("--recipe", "grok1-nano", "--rank", rank, "--steps", "4", "--device", device, "--json", path)
            checkouts.run(device, "-m", "bench", "rank", *words, "--results", tmp_path)
            (found[device],) = json.loads(path.read_text(encoding="utf-8"))["runs"]
        assert found["npu"]["communication"] == found["cpu"]["communication"]
        assert found["npu"]["stage"] == rank // 8


def test_a_rank_is_calibrated(checkouts: Checkouts, tmp_path: Path) -> None:
    """Its operators and its step are timed; the collectives are not, as it is alone."""
    path = tmp_path / "device.json"
    words = ("--recipe", "grok1-nano", "--minutes", "0.1", "--device", "npu", "-o", path)
    checkouts.run("npu", "-m", "bench", "calibrate", *words)
    device = json.loads(path.read_text(encoding="utf-8"))
    assert device["name"] == "calibrated-npu"
    assert len(device["measured"]["operators"]) > 50
    assert device["measured"]["collectives"] == []
