"""A disk without room: one line with path and bytes, nothing half-written, older steps whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from grok1.config.load import ONE_RANK
from grok1.data.sample_corpus import SampleCorpus
from grok1.weights.folder import StoredCheckpoint, abandon_step, partial_folder, start_step
from grok1.weights.space import NotWrittenError, check_space, free_bytes, whole_or_told
from tests.grok1.conftest import ROOT, as_options, grok1_command, run_grok1
from tests.limits import HANG_SECONDS


def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    check_space("it", tmp_path / "not" / "yet", 1)
    with pytest.raises(
        NotWrittenError, match=r"^it needs 1,152,921,504,606,846,976 bytes in .*/not, where [\d,]+ are free"
    ):
        check_space("it", tmp_path / "not", 1 << 60)
    assert free_bytes(tmp_path) > 0
    assert not (tmp_path / "not").exists()


def test_what_fails_while_it_is_written_is_undone_and_told(tmp_path: Path) -> None:
    (start_step(tmp_path, 3) / "half").write_bytes(b"1")
    with (
        pytest.raises(
            NotWrittenError, match=r"^it was not written to .*: No space left on device; it needs 5 bytes, "
        ) as told,
        whole_or_told("it", tmp_path, 5, lambda: abandon_step(tmp_path, 3), (OSError,)),
    ):
        raise OSError("No space left on device")
    assert "\n" not in str(told.value)
    assert not partial_folder(tmp_path, 3).exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_save_that_cannot_end_leaves_the_older_step_and_nothing_else(tmp_path: Path, corpus: SampleCorpus) -> None:
    """A limit on the size of files stands in for a full disk: torch's writer meets it in the middle of a shard."""
    words = ["train", "--recipe", "grok1-nano", "--device", "cpu", *as_options(ONE_RANK)]
    words += ["--data", str(corpus.prefix), "--tokenizer", str(corpus.tokenizer_path), "--save", str(tmp_path / "ck")]
    assert run_grok1(*words, "--steps", 1).returncode == 0
    before = StoredCheckpoint.open(tmp_path / "ck")
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 15000; exec "$@"', "bash", *grok1_command(*words, "--steps", 2)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key not in ("GROK1_DEVICE", "CI")},
        timeout=HANG_SECONDS,
        check=False,
    )
    assert limited.returncode == 1
    last = limited.stderr.splitlines()[-1]
    assert last.startswith("grok1: the checkpoint of step 2 was not written to")
    assert re.search("a file could not be written to its end|File too large", last)  # which file it is, is torch's
    assert "Traceback" not in limited.stderr
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == [
        "iter_0000001",
        "latest_checkpointed_iteration.txt",
    ]
    before.verify()
    assert StoredCheckpoint.open(tmp_path / "ck") == before
    done = run_grok1(*words[:-2], "--load", tmp_path / "ck", "--steps", 1, "--json", tmp_path / "none.json")
    assert done.returncode == 0
    assert json.loads((tmp_path / "none.json").read_text())["steps"] == []
    assert "holds step 1 and --steps is 1: there is nothing left to train" in done.stdout.splitlines()[-1]
    shard = before.step_folder / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    damaged = run_grok1(*words[:-2], "--load", tmp_path / "ck", "--steps", 2)
    assert damaged.returncode == 2
    assert "iter_0000001: __0_0.distcp is not what was written: its checksum differs" in damaged.stderr
    assert damaged.stderr.count("\n") == 1
