"""Both kinds of tokenizer, on a small model of xAI's shape and a look-alike of the published folder."""

import io
import json
import logging
import pickle

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from grok1.data.tokenizer import NO_PAD, HuggingFaceTokenizer, TokenizerKind, load_tokenizer

SPECIAL = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
XAI = {
    "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3,
    "pad_piece": "[PAD]", "bos_piece": "[BOS]", "eos_piece": "[EOS]", "unk_piece": "[UNK]",
}  # fmt: skip
TEXT = ["Below is an instruction that describes a task.", "Write a response that completes the request."] * 20


def train(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


def published_folder(path, **config):
    """The files of the published Grok-1 folder, whose config.json names Python code to run."""
    path.mkdir()
    train(path / "tokenizer.model", **XAI)
    code = {"AutoConfig": "configuration_grok1.Grok1Config"}
    (path / "config.json").write_text(json.dumps({"model_type": "grok-1", "auto_map": code}))
    (path / "configuration_grok1.py").write_text("raise SystemExit('the folder\\'s code was run')")
    (path / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    settings_ = {
        **SPECIAL,
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "legacy": True,
        **config,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings_))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published_folder(tmp_path_factory.mktemp("hf") / "grok-1")


@pytest.fixture(scope="module", params=["PretrainedFromHF", "SentencePiece"])
def tokenizer(request, folder):
    return load_tokenizer(request.param, folder)


def test_the_published_folder_loads_with_xais_special_ids(tokenizer, folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert (tokenizer.vocab_size, tokenizer.eod, tokenizer.pad) == (model.vocab_size(), 2, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs", "Cc"])))
def test_text_comes_back_and_ids_stay_in_the_vocabulary(tokenizer, text):
    ids = tokenizer.tokenize(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.detokenize(ids).lstrip(" ") == text.lstrip(" ")


def test_both_kinds_give_the_same_ids_for_the_same_model(folder):
    text = "Below is\n\n### Instruction:\na  task, caf\u00e9 \u4e2d."
    kinds: tuple[TokenizerKind, ...] = ("PretrainedFromHF", "SentencePiece")
    first, second = (load_tokenizer(kind, folder).tokenize(text) for kind in kinds)
    assert first == second


def test_a_text_longer_than_the_models_context_is_tokenized_whole_and_silently(tmp_path, caplog):
    logging.getLogger("transformers").addHandler(caplog.handler)  # which does not propagate
    folder = published_folder(tmp_path / "short", model_max_length=8)
    assert len(load_tokenizer("PretrainedFromHF", folder).tokenize("task " * 100)) >= 100
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records


def test_a_tokenizer_travels_to_another_process(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301  our own bytes
    assert copy.tokenize("a task") == tokenizer.tokenize("a task")
    assert copy.unique_identifiers == tokenizer.unique_identifiers


def test_the_identity_follows_the_content_and_not_the_place(folder, tmp_path):
    copy = tmp_path / "elsewhere.model"
    copy.write_bytes((folder / "tokenizer.model").read_bytes())
    other = train(tmp_path / "other.model")
    here, there, different = (load_tokenizer("SentencePiece", path) for path in (folder, copy, other))
    assert here.unique_identifiers == there.unique_identifiers != different.unique_identifiers
    json.dumps(here.unique_identifiers)  # as megatron's cache key does


def test_megatrons_dataset_config_takes_it(tokenizer):
    from grok1.megatron.door import GPTDatasetConfig

    flags = ("reset_position_ids", "reset_attention_mask", "eod_mask_loss", "create_attention_mask")
    off = dict.fromkeys(flags, False)
    config = GPTDatasetConfig(random_seed=1, sequence_length=8, split="1,0,0", tokenizer=tokenizer, **off)
    assert config.tokenizer.eod == 2


@pytest.mark.parametrize("adds", [{"add_eos_token": True}, {"add_eos_token": True, "add_bos_token": True}])
def test_a_prompt_does_not_end_with_what_the_tokenizer_adds(tmp_path, adds):
    tokenizer = load_tokenizer("PretrainedFromHF", published_folder(tmp_path / "ends", **adds))
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    begin = [tokenizer._tokenizer.bos_token_id] * ("add_bos_token" in adds)
    plain = load_tokenizer("SentencePiece", tmp_path / "ends").tokenize("Below is")
    assert tokenizer.tokenize("Below is") == [*begin, *plain, tokenizer.eod]
    assert tokenizer.tokenize_prompt("Below is") == [*begin, *plain]
    end, start = tokenizer._tokenizer.eos_token, tokenizer._tokenizer.bos_token
    assert tokenizer.tokenize_prompt(f"Below is{end}") == [*begin, *plain, tokenizer.eod]  # the user's own
    assert tokenizer.tokenize_prompt(f"{start}Below")[:2].count(tokenizer._tokenizer.bos_token_id) == 1


def test_a_vocabulary_with_gaps_is_as_large_as_its_last_id(tmp_path):
    """Its ids must fit into the file that is written, and into the model."""
    words = Tokenizer(WordLevel({"[UNK]": 0, "[EOS]": 1, "far": 70001}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer("PretrainedFromHF", tmp_path)
    assert tokenizer.tokenize("far") == [70001]
    assert tokenizer.vocab_size == 70002


def test_a_prompt_is_the_text_where_the_tokenizer_adds_nothing(tokenizer):
    assert tokenizer.tokenize_prompt("Below is") == tokenizer.tokenize("Below is")


def test_a_model_without_a_pad_has_megatrons_own_pad(tmp_path):
    path = train(tmp_path / "tokenizer.model", pad_id=-1)
    assert load_tokenizer("SentencePiece", path).pad == NO_PAD


def test_an_undeclared_end_of_document_is_found_by_its_name(tmp_path):
    path = train(tmp_path / "tokenizer.model", eos_id=-1, control_symbols="[EOS]")
    tokenizer = load_tokenizer("SentencePiece", path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert model.eos_id() == -1
    assert model.id_to_piece(tokenizer.eod) == "[EOS]"


def refusal(kind, path):
    with pytest.raises(ValueError, match=".") as caught:
        load_tokenizer(kind, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_path_is_refused(tmp_path):
    assert "does not exist; give" in refusal("SentencePiece", tmp_path / "absent")


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    assert "use one of PretrainedFromHF, SentencePiece" in refusal("GPT2BPETokenizer", tmp_path)


def test_a_file_given_as_a_hugging_face_folder_is_refused(folder):
    assert "use --tokenizer-type SentencePiece" in refusal("PretrainedFromHF", folder / "tokenizer.model")


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "holds no tokenizer.model" in refusal("SentencePiece", tmp_path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<html></html>"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert "is not a SentencePiece model" in refusal("SentencePiece", tmp_path)


def test_a_model_without_an_end_of_document_is_refused(tmp_path):
    path = train(tmp_path / "tokenizer.model", eos_id=-1)
    assert "no end-of-document piece" in refusal("SentencePiece", path)


def test_an_empty_folder_is_no_hugging_face_tokenizer(tmp_path):
    assert "is not a Hugging Face tokenizer folder" in refusal("PretrainedFromHF", tmp_path)


def test_a_folder_that_names_no_end_of_document_is_refused(tmp_path):
    folder = published_folder(tmp_path / "grok-1", eos_token=None)
    (folder / "special_tokens_map.json").unlink()
    assert "names no eos_token" in refusal("PretrainedFromHF", folder)


def test_code_that_only_remote_trust_would_run_is_refused_and_not_run(tmp_path):
    code = {"AutoTokenizer": ["tokenization_x.X", None]}
    folder = published_folder(tmp_path / "grok-1", tokenizer_class="NoSuchTokenizer", auto_map=code)
    (folder / "tokenization_x.py").write_text("raise SystemExit('the folder\\'s code was run')")
    assert "without running its code" in refusal("PretrainedFromHF", folder)
