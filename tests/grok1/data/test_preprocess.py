"""The preprocess command: what it reads, what it writes, what it refuses, how it ends."""

import json
import re
import signal
import subprocess
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from grok1.data.documents import find_inputs, read_rows
from grok1.data.indexed import IndexedWriter, check_indexed, indexed_path
from grok1.data.preprocess import _encode, preprocess
from grok1.data.tokenizer import TokenizerKind, load_tokenizer
from tests.grok1.conftest import ROOT, grok1_command
from tests.limits import HANG_SECONDS

KIND: TokenizerKind = "SentencePiece"
TEXTS = ["Hello world", "", "one\n\ntwo", "caf\u00e9 \u4e2d\u6587", "x" * 5000, " "]
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def write_jsonl(path, texts, column="text"):
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return path


def write_parquet(path, texts, column="text"):
    parquet.write_table(pyarrow.table({column: pyarrow.array(texts, pyarrow.string())}), path)
    return path


def texts_of(path, column="text"):
    return [row.text for row in read_rows(path, column)]


def complaint_of(action):
    """The one line of a refusal, None where there was none; any other exception is a failure."""
    try:
        action()
    except ValueError as error:
        complaint = str(error)
    else:
        return None
    assert "\n" not in complaint
    return complaint


def pair(prefix):
    return [indexed_path(prefix, suffix).read_bytes() for suffix in (".bin", ".idx")]


def by_megatron(prefix, tokenizer, texts, append_eod):
    """The loop that Megatron-LM documents, through its own builder."""
    import torch

    from grok1.megatron.door import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(tokenizer.vocab_size))
    for text in texts:
        ids = tokenizer.tokenize(text)
        if ids:
            builder.add_item(torch.tensor(ids + [tokenizer.eod] * append_eod))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    return pair(prefix)


# --- what it writes ---


def test_a_document_that_its_tokenizer_ends_gets_no_second_end(tmp_path):
    class EndsByItself:
        eod = 7

        def tokenize(self, text):
            return [*range(len(text)), self.eod] if text else []

    (ended, empty) = _encode(cast(Any, EndsByItself()), True, ["abc", ""])
    assert (list(ended), list(empty)) == ([0, 1, 2, 7], [])


@pytest.mark.parametrize("append_eod", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_files_equal_what_megatrons_builder_writes(tmp_path, corpus, append_eod, workers):
    path = write_jsonl(tmp_path / "in.jsonl", TEXTS * 40)
    done = preprocess([path], tmp_path / "out", KIND, corpus.tokenizer_path, append_eod=append_eod, workers=workers)
    tokenizer = load_tokenizer(KIND, corpus.tokenizer_path)
    assert pair(done.prefix) == by_megatron(tmp_path / "theirs", tokenizer, TEXTS * 40, append_eod)
    assert done.documents == len(TEXTS) * 40


@pytest.mark.parametrize("vocab_size", [65499, 65500, 131072])
def test_the_token_width_follows_megatrons_choice(tmp_path, vocab_size):
    from grok1.megatron.door import DType, IndexedDataset

    with IndexedWriter(tmp_path / "out", vocab_size) as writer:
        writer.add_document(array("i", [1, vocab_size - 1]))
    dataset = IndexedDataset(str(tmp_path / "out"))
    assert dataset.index.dtype == DType.optimal_dtype(vocab_size)
    assert dataset[0].tolist() == [1, vocab_size - 1]
    assert check_indexed(tmp_path / "out").dtype == np.dtype(dataset.index.dtype).name


@pytest.mark.parametrize("wrong", [-1, 65536, 70001])
def test_an_id_that_the_file_cannot_hold_is_refused(tmp_path, wrong):
    """It became another id, without a word."""

    def write():
        with IndexedWriter(tmp_path / "out", 512) as writer:
            writer.add_document(array("i", [1]))
            writer.add_document(array("i", [1, wrong, 2]))

    assert re.match(rf"document 2 has token id {wrong}, which", complaint_of(write))
    assert not list(tmp_path.iterdir())


def test_every_format_gives_the_same_tokens(tmp_path, corpus):
    texts = ["one line", "another  line", "a third"]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    (tmp_path / "array.json").write_text(json.dumps([{"text": text} for text in texts]))
    files = [
        write_parquet(tmp_path / "in.parquet", texts),
        write_jsonl(tmp_path / "in.jsonl", texts),
        write_jsonl(tmp_path / "lines.json", texts),
        tmp_path / "array.json",
        tmp_path / "in.txt",
    ]
    written = set()
    for file in files:
        done = preprocess([file], tmp_path / file.name, KIND, corpus.tokenizer_path)
        written.add(tuple(pair(done.prefix)))
    assert len(written) == 1


def test_several_inputs_follow_each_other_and_a_limit_of_rows_ends_early(tmp_path, corpus):
    files = [write_jsonl(tmp_path / f"{name}.jsonl", [name] * 3) for name in "ab"]
    both = write_jsonl(tmp_path / "both.jsonl", ["a", "a", "a", "b"])
    sampled = preprocess(files, tmp_path / "sampled", KIND, corpus.tokenizer_path, max_rows=4)
    whole = preprocess([both], tmp_path / "whole", KIND, corpus.tokenizer_path)
    assert pair(sampled.prefix) == pair(whole.prefix)


def test_the_column_names_the_output(tmp_path, corpus):
    path = write_parquet(tmp_path / "in.parquet", ["some text"], "story")
    done = preprocess([path], tmp_path / "v1.5", KIND, corpus.tokenizer_path, text_column="story")
    assert done.prefix == tmp_path / "v1.5_story_document"
    assert check_indexed(done.prefix).documents == 1


# --- what it reads ---


@same_folder
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_json_lines_and_parquet_give_back_every_text(tmp_path, texts):
    assert texts_of(write_jsonl(tmp_path / "in.jsonl", texts)) == texts
    assert texts_of(write_parquet(tmp_path / "in.parquet", texts)) == texts


@same_folder
@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff"))))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_files_lines_are_its_documents(tmp_path, lines, end):
    (tmp_path / "in.txt").write_bytes(end.join(lines).encode())
    assert texts_of(tmp_path / "in.txt") == [line for line in lines if line.strip()]


@same_folder
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".jsonl", ".json", ".txt", ".parquet"]))
def test_arbitrary_bytes_are_read_or_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"in{suffix}"
    path.write_bytes(content)
    complaint = complaint_of(lambda: texts_of(path))
    assert complaint is None or str(path) in complaint


@same_folder
@given(where=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_parquet_is_read_or_refused_naming_the_file(tmp_path, where, byte):
    path = write_parquet(tmp_path / "in.parquet", ["some text", "more text"] * 20)
    content = bytearray(path.read_bytes())
    content[where % len(content)] = byte
    path.write_bytes(content)
    complaint = complaint_of(lambda: texts_of(path))
    assert complaint is None or str(path) in complaint


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"other": "x"}', "row 2: no column 'text'; it has other"),
        ('{"text": 3}', "row 2: column 'text' is int, not text"),
        ('{"text": null}', "row 2: column 'text' is NoneType"),
        ('{"text": "x"', "row 2: column 'text': broken JSON"),
        ('["x"]', "row 2: column 'text': the row is list, not a JSON object"),
        ('{"text": "\\ud800"}', "row 2: column 'text' holds half a surrogate pair"),
        ("[" * 100_000, "row 2: column 'text': broken JSON"),
        ("\udcff", "row 2: column 'text' is not UTF-8"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_row_is_named_and_leaves_nothing_behind(tmp_path, corpus, row, complaint, workers):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + row.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match="in.jsonl") as caught:
        preprocess([path], tmp_path / "out", KIND, corpus.tokenizer_path, workers=workers)
    assert complaint in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_bad_parquet_column_is_named(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["x", None], "n": [1, 2]}), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="row 2: column 'text' is NoneType"):
        texts_of(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="row 1: column 'n' is int"):
        texts_of(tmp_path / "in.parquet", "n")
    with pytest.raises(ValueError, match="no column 'story'; it has text, n"):
        texts_of(tmp_path / "in.parquet", "story")


def test_an_input_that_matches_nothing_or_has_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="matches no file"):
        find_inputs([str(tmp_path / "*.parquet")])
    (tmp_path / "in.csv").write_text("text\n")
    with pytest.raises(ValueError, match=r"ends in .csv, which is none of .parquet"):
        texts_of(tmp_path / "in.csv")


def test_globs_are_sorted_and_brackets_in_a_real_name_are_no_glob(tmp_path):
    for name in ("b.txt", "a.txt", "c[1].txt"):
        (tmp_path / name).write_text("x")
    found = find_inputs([str(tmp_path / "?.txt"), str(tmp_path / "c[1].txt")])
    assert [path.name for path in found] == ["a.txt", "b.txt", "c[1].txt"]


def test_input_without_any_text_is_refused(tmp_path, corpus):
    with pytest.raises(ValueError, match="nothing to train on"):
        preprocess([write_jsonl(tmp_path / "in.jsonl", ["", ""])], tmp_path / "out", KIND, corpus.tokenizer_path)
    assert not list(tmp_path.glob("*out*"))


# --- the command ---


def command_for(tmp_path, corpus, count, *more):
    path = write_jsonl(tmp_path / "in.jsonl", ["Hello world. " * 20] * count)
    return grok1_command(
        "preprocess", "--input", path, "--output-prefix", tmp_path / "out", "--tokenizer-type", KIND,
        "--tokenizer-name-or-path", corpus.tokenizer_path, "--log-interval", 100, *more,
    )  # fmt: skip


def test_the_command_writes_logs_and_counts(tmp_path, corpus):
    line = command_for(tmp_path, corpus, 250, "--json", tmp_path / "counts.json", "--no-append-eod")
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=HANG_SECONDS)
    assert [text.split(" (")[0] for text in done.stderr.splitlines()] == [
        "processed 100 documents",
        "processed 200 documents",
    ]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["tokens"] == check_indexed(tmp_path / "out_text_document").tokens
    assert "250 documents" in done.stdout


def test_bad_input_ends_the_command_with_one_line_and_code_2(tmp_path, corpus):
    line = command_for(tmp_path, corpus, 3, "--text-column", "story")
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no column 'story'" in done.stderr


@contextmanager
def started(line):
    """The command as from a terminal: one that a script put in the background would ignore Ctrl-C."""

    def restore():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=restore) as process:
        try:
            yield process
        finally:
            process.kill()  # where the test failed: a hanging command must not hang the test


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_command_leaves_no_process_and_no_output(tmp_path, corpus, how):
    line = command_for(tmp_path, corpus, 60_000, "--workers", 2)
    with started(line) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("processed 100 ")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        process.send_signal(how)
        process.communicate(timeout=HANG_SECONDS)
    _gone, alive = psutil.wait_procs(children, timeout=HANG_SECONDS)
    assert not alive
    assert not list(tmp_path.glob("out*"))
    if how == signal.SIGINT:  # nothing can tidy up after SIGKILL
        assert process.returncode == 130
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_worker_that_dies_ends_the_command_with_an_error(tmp_path, corpus):
    line = command_for(tmp_path, corpus, 60_000, "--workers", 2)
    with started(line) as process:
        assert process.stderr is not None
        process.stderr.readline()
        workers = [
            child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
        ]
        workers[-1].kill()
        _, rest = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 1
    assert "a tokenizing process died" in rest
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    ("text", "kilobytes"), [("Hello world " * 50, 16), ("Hello world", 4), ("a", 12)], ids=["tokens", "end", "index"]
)
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path, corpus, text, kilobytes):
    """At a limit of size, which fails as a full disk does: among the tokens, at their end, and in the index."""
    source = write_jsonl(tmp_path / "in.jsonl", [text] * 800)
    where = ["--input", source, "--output-prefix", tmp_path / "out" / "x"]
    words = grok1_command(
        "preprocess", *where, "--tokenizer-type", KIND, "--tokenizer-name-or-path", corpus.tokenizer_path
    )
    limited = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", *words]
    ended = subprocess.run(limited, capture_output=True, text=True, timeout=HANG_SECONDS, cwd=ROOT, check=False)
    assert ended.returncode == 2, ended.stderr
    said = (
        r"grok1: cannot write .*x_text_document\.bin and \.idx: File too large; the \d+ documents so far need \d+ bytes"
    )
    assert re.fullmatch(rf"{said}; free some space, or choose another prefix\n", ended.stderr)
    assert not list((tmp_path / "out").iterdir())


# --- the check before training ---


def small_pair(folder):
    with IndexedWriter(folder / "data", 512) as writer:
        for length in (3, 0, 5, 1):
            writer.add_document(array("i", range(length)))
    return folder / "data"


def test_a_whole_pair_is_described(tmp_path):
    info = check_indexed(small_pair(tmp_path))
    assert (info.sequences, info.documents, info.tokens, info.dtype) == (3, 4, 9, "uint16")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_file_is_refused(tmp_path, suffix):
    prefix = small_pair(tmp_path)
    indexed_path(prefix, suffix).unlink()
    with pytest.raises(ValueError, match=f"data{suffix} does not exist"):
        check_indexed(prefix)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_every_truncation_and_any_excess_is_refused(tmp_path, suffix):
    prefix = small_pair(tmp_path)
    path = indexed_path(prefix, suffix)
    content = path.read_bytes()
    for wrong in [*(content[:length] for length in range(len(content))), content + b"\0"]:
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"data{suffix}"):
            check_indexed(prefix)


@same_folder
@given(data=st.data())
def test_a_corrupted_index_is_refused_in_one_line(tmp_path, data):
    prefix = small_pair(tmp_path)
    path = indexed_path(prefix, ".idx")
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(1, 8))
    new = data.draw(st.binary(min_size=length, max_size=length))
    changed = bytes(content[:where] + new + content[where + length :])[: len(content)]
    path.write_bytes(changed)
    if changed == bytes(content):
        return
    complaint = complaint_of(lambda: check_indexed(prefix))
    if complaint is not None:
        assert str(prefix) in complaint
        return
    # only where documents end, and the name of an equally wide token, can change and still make sense
    info = check_indexed(prefix)
    assert (info.sequences, info.tokens) == (3, 9)


@pytest.mark.parametrize("where", [*range(34, 34 + 12 * 3), 34 + 12 * 3, 34 + 12 * 3 + 8 * 4])
def test_a_wrong_length_or_pointer_or_first_or_last_end_is_refused(tmp_path, where):
    prefix = small_pair(tmp_path)
    path = indexed_path(prefix, ".idx")
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"contradicts itself|data\.bin has"):
        check_indexed(prefix)


def test_an_old_index_never_meets_new_tokens(tmp_path, monkeypatch):
    """Stopped between the two renames, the pair is incomplete and so refused, not mismatched."""
    prefix = small_pair(tmp_path)
    replace = Path.replace

    def stop_at_the_index(path, target):
        if target.suffix == ".idx":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop_at_the_index)
    with pytest.raises(KeyboardInterrupt):
        small_pair(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        check_indexed(prefix)
