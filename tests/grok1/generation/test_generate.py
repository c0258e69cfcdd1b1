"""A trained checkpoint continues prompts: the same tokens with a cache, in a batch and in every layout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grok1.config.load import ONE_RANK, load_recipe
from grok1.data.tokenizer import load_tokenizer
from grok1.distributed.launch import RankFailedError, launch
from grok1.generation.job import GenerateJob, Sampling, generation_recipe, prepare_generate, read_prompts
from grok1.generation.result import GenerationResult, transcript
from tests.grok1.conftest import Train, run_grok1
from tests.grok1.opened_files import opened_below
from tests.grok1.weights.sealing import seal_again
from tests.limits import HANG_SECONDS

PROMPTS = ["Below is", "The function returns", "an object of the class that was made by"]
NEW = 12  # with the longest prompt's 15 tokens within grok1-nano's sequence of 32
# large weights and little training: every token then hangs on every other, and a slip changes the text
LIVELY = "model.init_std=0.3"
XAI = (
    "model.activation=geglu",
    "model.attention_logit_cap=30.0",
    "model.tie_embeddings=true",
    "model.router=softmax_then_topk",
    "model.aux_loss_coefficient=0.0",
    "model.embedding_multiplier=1.0",  # tied and enlarged, an embedding this lively predicts itself for ever
    "model.init_std=0.2",
)
KEYS = ["checkpoint_step", "completions", "prefill_seconds", "decode_step_seconds", "decode_tokens_per_second"]
KEYS += ["sampling", "tokenizer", "layout", "device", "software"]
KEYS_OF_COMPLETION = ["prompt", "prompt_tokens", "text", "tokens", "finish_reason"]
KEYS_OF_PARTS = {
    "sampling": ["max_new_tokens", "temperature", "top_p", "seed"],
    "layout": ["world_size", "tensor", "expert", "expert_tensor", "data"],
    "device": ["kind", "name", "memory_bytes", "peak_flops_per_second", "peak_source", "dtype"],
}
TWO_STAGES = (*ONE_RANK, "parallel.world_size=2", "parallel.pipeline=2")

Prepare = Callable[..., GenerateJob]


@pytest.fixture(scope="module")
def saved(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two pipeline stages."""
    folder = tmp_path_factory.mktemp("saved")
    train(2, *TWO_STAGES, LIVELY, save=folder)
    return folder


@pytest.fixture(scope="module")
def prepare(saved: Path, corpus: tuple[Path, Path]) -> Prepare:
    """prepare(prompts, overrides, load=..., recipe=..., temperature=...): a job on the small checkpoint."""

    def made(
        prompts: list[str] | None = None,
        overrides: tuple[str, ...] = (),
        load: Path = saved,
        recipe: str | None = None,
        tokenizer: Path | None = corpus[1],
        **sampling: Any,
    ) -> GenerateJob:
        chosen = Sampling(**{"max_new_tokens": NEW, **sampling})
        return prepare_generate(load, PROMPTS if prompts is None else prompts, chosen, recipe, overrides, tokenizer)

    return made


def run(job: GenerateJob, entry: str = "grok1.generation.decode:run_rank") -> Any:
    return launch(job, job.sized, "cpu", entry=entry, timeout_seconds=HANG_SECONDS)


def tokens(result: GenerationResult) -> list[list[int]]:
    return [list(each.tokens) for each in result.completions]


@pytest.fixture(scope="module")
def greedy(prepare: Prepare) -> GenerationResult:
    """The prompts' likeliest continuations in one batch on one rank: what every layout must reproduce."""
    result: GenerationResult = run(prepare())
    return result


# ---- the same tokens every way -----------------------------------------------------------------------


def test_the_cache_changes_no_token(greedy: GenerationResult, prepare: Prepare) -> None:
    assert tokens(greedy) == run(prepare(), "tests.grok1.generation.generate_entries:recompute")
    assert len({tuple(row) for row in tokens(greedy)}) == len(PROMPTS)
    lively = [row for row in tokens(greedy) if len(set(row)) > NEW // 2]  # equality of others would say little
    assert len(lively) >= 2  # what is generated hangs on the corpus, which is each Python's own


def test_a_prompt_in_a_batch_gets_what_it_gets_alone(greedy: GenerationResult, prepare: Prepare) -> None:
    assert [tokens(run(prepare([prompt])))[0] for prompt in PROMPTS] == tokens(greedy)


@pytest.mark.matrix(keep=1)
@pytest.mark.parametrize(
    "layout",
    [
        ("world_size=2", "tensor=2", "expert_tensor=2"),
        ("world_size=2", "expert=2"),
        ("world_size=2", "expert_tensor=2"),
        ("world_size=2", "tensor=2", "expert=2"),
        ("world_size=2", "tensor=2", "expert=2", "dispatcher=allgather", "kernels.dispatch=megatron"),
        ("world_size=4", "tensor=2", "expert=2", "expert_tensor=2"),
    ],
    ids=["TP2 ETP2", "EP2 DP2", "ETP2 DP2", "TP2 EP2", "TP2 EP2 allgather", "TP2 EP2 ETP2 DP2"],
)
def test_every_layout_gives_the_tokens_of_one_rank(
    layout: tuple[str, ...], greedy: GenerationResult, prepare: Prepare
) -> None:
    overrides = (*ONE_RANK, *(setting if "." in setting else f"parallel.{setting}" for setting in layout))
    assert tokens(run(prepare(overrides=overrides))) == tokens(greedy)


@pytest.mark.slow
def test_the_shipped_layout_gives_the_tokens_of_one_rank(greedy: GenerationResult, prepare: Prepare) -> None:
    result = run(prepare(recipe="grok1-nano", overrides=(LIVELY,)))
    layout = result.as_json()["layout"]
    assert layout == {"world_size": 8, "tensor": 4, "expert": 2, "expert_tensor": 4, "data": 2}
    assert tokens(result) == tokens(greedy)


def test_one_prompt_keeps_two_replicas_in_step(greedy: GenerationResult, prepare: Prepare) -> None:
    layout = ("parallel.world_size=2", "parallel.pipeline=1", "parallel.expert=2")
    assert tokens(run(prepare(PROMPTS[1:2], layout))) == tokens(greedy)[1:2]


@pytest.mark.slow
def test_xais_maths_give_the_same_tokens_with_and_without_a_cache(
    train: Train, prepare: Prepare, tmp_path: Path
) -> None:
    train(2, *ONE_RANK, *XAI, save=tmp_path)
    cached = tokens(run(prepare(load=tmp_path)))
    assert cached == run(prepare(load=tmp_path), "tests.grok1.generation.generate_entries:recompute")
    split = (*ONE_RANK, "parallel.world_size=2", "parallel.tensor=2", "parallel.expert=2")
    assert cached == tokens(run(prepare(load=tmp_path, overrides=split)))
    assert all(len(set(row)) > NEW // 2 for row in cached)


@pytest.mark.slow
def test_bfloat16_weights_generate(train: Train, prepare: Prepare, tmp_path: Path) -> None:
    train(2, *ONE_RANK, LIVELY, "training.dtype=bf16", save=tmp_path)
    split = (*ONE_RANK, "parallel.world_size=2", "parallel.tensor=2", "parallel.expert_tensor=2")
    result = run(prepare(load=tmp_path, overrides=split))
    assert [len(row) for row in tokens(result)] == [NEW] * len(PROMPTS)
    assert result.device["dtype"] == "bf16"


# ---- sampling and stopping ---------------------------------------------------------------------------


def test_the_likeliest_tokens_alone_are_the_greedy_ones(greedy: GenerationResult, prepare: Prepare) -> None:
    assert tokens(run(prepare(temperature=1.0, top_p=1e-6))) == tokens(greedy)


@pytest.mark.slow
def test_a_seed_draws_the_same_tokens_in_every_layout_and_another_seed_others(prepare: Prepare) -> None:
    first = tokens(run(prepare(temperature=1.5, seed=3)))
    split = (*ONE_RANK, "parallel.world_size=4", "parallel.tensor=2", "parallel.expert=2")
    assert first == tokens(run(prepare(temperature=1.5, seed=3, overrides=split)))
    assert first != tokens(run(prepare(temperature=1.5, seed=4)))


def test_one_prompt_given_twice_gets_two_samples(prepare: Prepare) -> None:
    first, second = tokens(run(prepare(PROMPTS[:1] * 2, temperature=1.5)))
    assert first != second


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    recipe = load_recipe("grok1-nano", ONE_RANK)
    found = launch(None, recipe, "cpu", entry="tests.grok1.generation.generate_entries:frequencies")
    assert found["plain"] == pytest.approx([0.5, 0.2, 0.3], abs=2e-3)
    assert found["cold"] == pytest.approx([0.25 / 0.38, 0.04 / 0.38, 0.09 / 0.38], abs=2e-3)
    assert found["coldest"] == found["likeliest"] == [1.0, 0.0, 0.0]
    assert found["two likeliest"] == pytest.approx([0.625, 0.0, 0.375], abs=2e-3)


def test_a_row_stops_at_the_end_token_and_the_others_go_on(greedy: GenerationResult, prepare: Prepare) -> None:
    rows = tokens(greedy)
    end = next(token for token in rows[0] if token not in rows[1] + rows[2])
    layout = ("parallel.world_size=2", "parallel.pipeline=1", "parallel.expert=2")
    ended = run(dataclasses.replace(prepare(overrides=layout), end_token=end))
    assert tokens(ended) == [rows[0][: rows[0].index(end)], rows[1], rows[2]]
    assert [each.finish_reason for each in ended.completions] == ["eos", "length", "length"]
    alone = run(dataclasses.replace(prepare(PROMPTS[:1]), end_token=end))
    assert len(alone.decode_step_seconds) == rows[0].index(end)  # with its only row the run stops


def test_no_token_is_chosen_that_the_tokenizer_lacks(greedy: GenerationResult, prepare: Prepare) -> None:
    entries = max(max(row) for row in tokens(greedy))
    assert max(max(row) for row in tokens(run(dataclasses.replace(prepare(), vocabulary=entries)))) < entries


def test_weights_that_are_not_numbers_end_the_run(prepare: Prepare) -> None:
    with pytest.raises(RankFailedError, match="gives logits that are not finite"):
        run(prepare(), "tests.grok1.generation.generate_entries:spoilt")


# ---- what is reported --------------------------------------------------------------------------------


def test_the_result_says_what_was_made_and_how_fast(greedy: GenerationResult) -> None:
    assert [each.prompt for each in greedy.completions] == PROMPTS
    assert greedy.checkpoint_step == 2
    assert greedy.layout.world_size == 1  # the two stages became one
    longest, shortest = (pick(each.prompt_tokens for each in greedy.completions) for pick in (max, min))
    assert len(greedy.decode_step_seconds) == longest - shortest + NEW - 1
    assert greedy.decode_tokens_per_second is not None
    decoded = len(PROMPTS) * NEW - 1  # the prefill chose the shortest prompt's first
    assert greedy.decode_tokens_per_second * sum(greedy.decode_step_seconds) == pytest.approx(decoded)


def test_a_completion_continues_its_prompt_letter_by_letter(prepare: Prepare, corpus: tuple[Path, Path]) -> None:
    tokenizer = load_tokenizer("SentencePiece", corpus[1])
    completions = run(prepare(" ".join(PROMPTS).split())).completions
    for each in completions:
        whole = tokenizer.detokenize([*tokenizer.tokenize(each.prompt), *each.tokens])
        assert each.prompt + each.text == whole
    assert any(each.text.startswith(" ") for each in completions)  # which its tokens alone would not give


def test_a_transcript_steers_no_terminal(greedy: GenerationResult) -> None:
    first = dataclasses.replace(greedy.completions[0], text="a\x1b[2Jb\nc")
    shown = transcript(dataclasses.replace(greedy, completions=(first,)))
    assert "a?[2Jb\nc" in shown
    assert "\x1b" not in shown


def test_the_command_prints_and_writes_the_completions(
    saved: Path, corpus: tuple[Path, Path], greedy: GenerationResult, tmp_path: Path
) -> None:
    prompts, target = tmp_path / "prompts.txt", tmp_path / "out.json"
    prompts.write_text("\n".join(PROMPTS[1:]) + "\n")
    words = ["--load", str(saved), "--prompt", PROMPTS[0], "--prompts-file", str(prompts), "--device", "cpu"]
    done = run_grok1(
        "generate", *words, "--tokenizer", str(corpus[1]), "--max-new-tokens", str(NEW), "--json", str(target)
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(target.read_text())
    assert [each["tokens"] for each in written["completions"]] == tokens(greedy)
    assert list(written) == ["schema", "recipe", *KEYS]
    assert [list(each) for each in written["completions"]] == [KEYS_OF_COMPLETION] * len(PROMPTS)
    assert {name: list(written[name]) for name in KEYS_OF_PARTS} == KEYS_OF_PARTS
    assert all(prompt in done.stdout for prompt in PROMPTS)
    assert "tokens/s on 1 rank" in done.stdout.splitlines()[-1]


# ---- layout and memory -------------------------------------------------------------------------------


def test_the_layout_of_generation_has_one_stage_and_the_same_replicas() -> None:
    trained = load_recipe("grok1-nano")
    folded = generation_recipe(trained)
    assert (folded.parallel.world_size, folded.parallel.pipeline, folded.parallel.data) == (8, 1, 2)
    assert folded.parallel.data == trained.parallel.data


def test_memory_is_that_of_weights_and_cache_not_of_training(prepare: Prepare) -> None:
    job = prepare()
    assert 4 * job.recipe.parameters() < job.sized.bytes_per_rank() < job.recipe.bytes_per_rank()
    assert prepare(PROMPTS * 100).sized.bytes_per_rank() > 10 * job.sized.bytes_per_rank()


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompts": []}, "there is no prompt; give --prompt"),
        ({"prompts": ["a", " "]}, "prompt 2 of 2 is empty"),
        ({"max_new_tokens": 31}, r"prompt 1 of 3 has 2 tokens, with --max-new-tokens 31 more than .* 32"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0 is not positive"),
        ({"temperature": -0.5}, "--temperature -0.5 is not 0 or a positive number"),
        ({"temperature": float("nan")}, "--temperature nan is not"),
        ({"top_p": 0.0}, "--top-p 0.0 is not above 0"),
        ({"top_p": 1.5}, "--top-p 1.5 is not above 0 and at most 1"),
        ({"load": Path("nowhere")}, "nowhere holds no checkpoint"),
        ({"tokenizer": Path("nowhere")}, "tokenizer nowhere does not exist"),
        (
            {"tokenizer": None, "overrides": ("data.tokenizer_type=PretrainedFromHF",)},
            "has no sample corpus: give --tokenizer PATH",
        ),
        ({"overrides": ("model.num_layers=4",)}, "was written with model.num_layers=2, the recipe says 4"),
        ({"recipe": "grok1-nano"}, "was written with model.init_std=0.3, the recipe says 0.01"),
        ({"recipe": "grok2"}, "unknown recipe 'grok2'"),
    ],
)
def test_a_mistake_is_refused_before_any_rank_starts(changes: dict[str, Any], complaint: str, prepare: Prepare) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        prepare(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "is not a recipe in JSON"),
        (b"[]", "is not a recipe in JSON"),
        (b"\xff", "is not a recipe in JSON"),
        (b"[" * 20000, "is not a recipe in JSON"),
        (b'{"a": "' + b"x" * 70000 + b'"}', "is not a recipe in JSON of at most"),
        (b"{}", "checkpoint recipe .*: name: Field required"),
        (b'{"name": "x", "model": {"\\n": 1}}', "checkpoint recipe .*"),
        (None, r"recipe.json cannot be read: No such file"),
    ],
)
def test_a_damaged_stored_recipe_is_refused(
    content: bytes | None, complaint: str, prepare: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "iter_0000002"
    folder.mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    if content is not None:
        (folder / "recipe.json").write_bytes(content)
    seal_again(folder)
    with pytest.raises(ValueError, match=complaint) as refused:
        prepare(load=tmp_path)
    assert "\n" not in str(refused.value)


def test_preparing_reads_the_tracker_and_the_manifest_once(prepare: Prepare, saved: Path) -> None:
    with opened_below(saved) as opened:
        prepare()
    assert (opened["latest_checkpointed_iteration.txt"], opened["manifest.json"]) == (1, 1)


@pytest.mark.parametrize("text", ["", "3", "x", "../2"])
def test_a_tracker_that_names_no_folder_is_refused(text: str, prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "iter_0000002").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(ValueError, match="whose folder is not there"):
        prepare(load=tmp_path)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(prepare: Prepare, saved: Path, tmp_path: Path) -> None:
    smaller = tmp_path / "iter_0000002"
    smaller.mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    fields = json.loads((saved / smaller.name / "recipe.json").read_text())
    fields["model"]["vocab_size"] = 256
    (smaller / "recipe.json").write_text(json.dumps(fields))
    seal_again(smaller)
    with pytest.raises(ValueError, match="has 512 entries, more than the checkpoint's vocab_size 256"):
        prepare(load=tmp_path)


def test_a_prompts_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_prompts(tmp_path / "binary")


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        ("one\u2028still\x0cone\u0085\x1c\x0b\ntwo".encode(), ["one\u2028still\x0cone\u0085\x1c\x0b", "two"]),
        (b"one\rstill one\n", ["one\rstill one"]),
        (b"one\n\ntwo\n", ["one", "", "two"]),
        (b"", []),
        (b"\n", [""]),
    ],
)
def test_a_prompts_file_is_split_at_newlines_alone(content: bytes, prompts: list[str], tmp_path: Path) -> None:
    (tmp_path / "prompts").write_bytes(content)
    assert read_prompts(tmp_path / "prompts") == prompts


def test_a_prompts_file_of_endless_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grok1.generation.job._MAX_PROMPT_BYTES", 3)
    (tmp_path / "prompts").write_text("four")
    with pytest.raises(ValueError, match="has more than 0 MiB; split it"):
        read_prompts(tmp_path / "prompts")


def test_a_prompt_from_a_windows_file_is_that_without_its_marks(prepare: Prepare) -> None:
    marked, plain = prepare(["\ufeffBelow is\r"]), prepare(["Below is"])
    assert (marked.prompts, marked.prompt_tokens) == (plain.prompts, plain.prompt_tokens)


@pytest.mark.parametrize(("prompt", "complaint"), [("\ufeff", "is empty"), ("a\udcff", "is not UTF-8 text")])
def test_a_prompt_of_nothing_or_of_broken_bytes_is_refused(prompt: str, complaint: str, prepare: Prepare) -> None:
    with pytest.raises(ValueError, match=f"prompt 1 of 1 {complaint}"):
        prepare([prompt])


def test_the_command_refuses_in_one_line_with_exit_code_two() -> None:
    done = run_grok1("generate", "--load", "nowhere", "--prompt", "a")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert done.stderr.startswith("grok1: nowhere holds no checkpoint")
