"""Generation on one rank: prefill, then one token a step with a key/value cache. Runs in each process of the job.

All replicas are at the same position at every step, since the experts' all-to-alls span replicas. There is no padding:
prefill takes as many tokens of each prompt as the shortest one has, and longer prompts go on with their own tokens, one
a step.

Legend: B prompts of this replica, T positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from grok1.data.tokenizer import Tokenizer, load_tokenizer
from grok1.device import measuring, software
from grok1.device.traffic import TRAFFIC
from grok1.distributed.groups import Ranks, joined
from grok1.distributed.rendezvous import Rendezvous
from grok1.generation.job import GenerateJob, Sampling
from grok1.generation.result import Completion, FinishReason, GenerationResult
from grok1.megatron.door import StaticInferenceContext, tensor_parallel
from grok1.megatron.instances import keep_last_logits_only, set_cached_length
from grok1.megatron.protocols import InferenceContext
from grok1.model.model import build_for_inference
from grok1.weights import checkpoint


@dataclass(frozen=True)
class Continuation:
    """What a prompt got: the new tokens without the end token, and "eos" or "length"."""

    prompt: int
    tokens: list[int]
    finish_reason: FinishReason


def run_rank(job: GenerateJob, where: Rendezvous, _emit: object) -> GenerationResult | None:
    """Continue the prompts on this rank; rank 0 returns all completions, the others None."""
    recipe = job.recipe
    with joined(where, recipe.parallel, recipe.training.seed) as ranks:
        model = build_for_inference(recipe, ranks)
        checkpoint.load_weights(job.checkpoint, model)
        decoder = Decoder(job, ranks, model)
        mine = decoder.run()
        gathered: list[list[Continuation]] | None = [[]] * ranks.world_size if ranks.rank == 0 else None
        dist.gather_object(mine if ranks.tensor == 0 else [], gathered)
        if gathered is None:
            return None
        continuations = {each.prompt: each for rank in gathered for each in rank}
        ordered = [continuations[prompt] for prompt in range(len(job.prompts))]
        return _result(job, ordered, decoder.step_seconds)


class Decoder:
    """Continues this replica's prompts."""

    def __init__(self, job: GenerateJob, ranks: Ranks, model: torch.nn.Module) -> None:
        self._job, self._ranks, self._model = job, ranks, model
        # every replica needs the same number of rows to stay in step, so some prompts may come twice
        replicas = job.recipe.parallel.data
        self._prompts = [(row * replicas + ranks.data) % len(job.prompts) for row in range(job.rows)]
        self.step_seconds: list[float] = []  # the first is the prefill

    @torch.inference_mode()
    def run(self) -> list[Continuation]:
        """What each of this replica's prompts got."""
        job, limit = self._job, self._job.sampling.max_new_tokens
        tokens_BT, lengths_B = self._start()
        draws_BN = torch.stack([_draws(job.sampling, prompt) for prompt in self._prompts])
        finished_B = torch.zeros_like(lengths_B, dtype=torch.bool)
        context = StaticInferenceContext(len(self._prompts), job.length)
        keep_last_logits_only(context)
        end, self.step_seconds = min(map(len, job.prompt_tokens)), []  # all tokens before `end` are known
        all_done = False
        while not all_done:
            started = time.perf_counter()
            logits_BV = self._logits(tokens_BT[:, context.sequence_len_offset : end], context)
            set_cached_length(context, end)
            number_B = (end - lengths_B).clamp(0, limit - 1)  # of the row's new token, from 0
            chosen_B = self._choose(logits_BV, draws_BN.gather(1, number_B[:, None].cpu())[:, 0])
            is_new_B = end >= lengths_B
            tokens_BT[:, end] = torch.where(is_new_B, chosen_B, tokens_BT[:, end])
            finished_B |= is_new_B & ((chosen_B == job.end_token) | (end + 1 - lengths_B >= limit))
            end += 1
            all_done = _on_all_ranks(finished_B.all())
            self.step_seconds.append(time.perf_counter() - started)
            TRAFFIC.forget()  # nobody reads the counts, which would grow
        return [self._continuation(row, tokens_BT[row].tolist()) for row in range(len(self._prompts))]

    def _start(self) -> tuple[Tensor, Tensor]:
        """Tokens [B, T] with the prompts in place, and the prompts' lengths [B]."""
        rows = [self._job.prompt_tokens[prompt] for prompt in self._prompts]
        target = torch.cuda.current_device()
        tokens_BT = torch.full((len(rows), self._job.length), self._job.end_token, dtype=torch.int64)
        for row, prompt in enumerate(rows):
            tokens_BT[row, : len(prompt)] = torch.tensor(prompt)
        return tokens_BT.to(target), torch.tensor([len(prompt) for prompt in rows]).to(target)

    def _logits(self, tokens_BS: Tensor, context: InferenceContext) -> Tensor:
        """Logits [B, V] after the last of these tokens, for the ids that the tokenizer has."""
        # megatron's rotary embedding takes positions from the context
        logits_B1V = self._model(
            tokens_BS, None, attention_mask=None, inference_context=context, runtime_gather_output=True
        )
        return logits_B1V[:, -1, : self._job.vocabulary]

    def _choose(self, logits_BV: Tensor, draws_B: Tensor) -> Tensor:
        """The next tokens [B]: tensor rank 0's, so that rounding cannot make the ranks differ."""
        best = logits_BV.max(dim=-1)
        if not bool(best.values.isfinite().all()):
            raise RuntimeError(
                f"the model of {self._job.checkpoint.folder} gives logits that are not finite; train it again"
            )
        sampling = self._job.sampling
        chosen_B = best.indices
        if sampling.temperature > 0.0 and self._ranks.tensor == 0:
            # on the host in float64, which not every device has
            chosen_B = sample_tokens(logits_BV.cpu().double(), draws_B, sampling).to(chosen_B.device)
        if self._job.recipe.parallel.tensor == 1:
            return chosen_B
        return tensor_parallel.broadcast_data(["chosen"], {"chosen": chosen_B}, torch.int64)["chosen"]

    def _continuation(self, row: int, tokens: list[int]) -> Continuation:
        prompt = self._prompts[row]
        start = len(self._job.prompt_tokens[prompt])
        new = tokens[start : start + self._job.sampling.max_new_tokens]
        if self._job.end_token in new:
            return Continuation(prompt, new[: new.index(self._job.end_token)], "eos")
        return Continuation(prompt, new, "length")


def sample_tokens(logits_BV: Tensor, draws_B: Tensor, sampling: Sampling) -> Tensor:
    """Tokens [B] drawn at the sampling's temperature from the smallest set of likeliest ones that reaches top_p.

    `draws_B` are uniform in [0, 1): each says how far down the remaining distribution its token lies.
    """
    logits_BV = (logits_BV - logits_BV.max(-1, keepdim=True).values) / sampling.temperature
    probabilities_BV, order_BV = logits_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    reached_BV = probabilities_BV.cumsum(-1)
    is_kept_BV = reached_BV - probabilities_BV < sampling.top_p
    kept_B1 = is_kept_BV.sum(-1, keepdim=True)
    target_B1 = draws_B[:, None] * reached_BV.gather(1, kept_B1 - 1)
    rank_B1 = (reached_BV <= target_B1).sum(-1, keepdim=True).clamp(max=kept_B1 - 1)
    return order_BV.gather(1, rank_B1)[:, 0]


def _draws(sampling: Sampling, prompt: int) -> Tensor:
    """A uniform number for each new token. It depends on the seed and the prompt's place, not on the layout."""
    key = hashlib.sha256(f"{sampling.seed}/{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)


def _on_all_ranks(is_done: Tensor) -> bool:
    flag = is_done.to(torch.int32)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())


# ---- the result --------------------------------------------------------------------------------------


def _result(job: GenerateJob, continuations: list[Continuation], step_seconds: list[float]) -> GenerationResult:
    tokenizer = load_tokenizer(job.recipe.data.tokenizer_type, job.tokenizer_path)
    prefill, *decode = step_seconds
    return GenerationResult(
        checkpoint_step=job.checkpoint.step,
        completions=tuple(_completion(job, tokenizer, each) for each in continuations),
        prefill_seconds=prefill,
        decode_step_seconds=tuple(decode),
        decode_tokens_per_second=_decoded(job, continuations) / sum(decode) if decode else None,
        sampling=job.sampling,
        tokenizer=str(job.tokenizer_path),
        layout=job.recipe.parallel,
        device={**asdict(measuring.describe()), "dtype": job.recipe.training.dtype},
        software=software.versions() | software.commits(),
    )


def _completion(job: GenerateJob, tokenizer: Tokenizer, each: Continuation) -> Completion:
    prompt = list(job.prompt_tokens[each.prompt])
    # decoded with its prompt, as a tokenizer drops the space before a text's first word
    before, whole = tokenizer.detokenize(prompt), tokenizer.detokenize([*prompt, *each.tokens])
    return Completion(
        prompt=job.prompts[each.prompt],
        prompt_tokens=len(prompt),
        text=whole[len(before) :] if whole.startswith(before) else tokenizer.detokenize(each.tokens),
        tokens=tuple(each.tokens),
        finish_reason=each.finish_reason,
    )


def _decoded(job: GenerateJob, continuations: list[Continuation]) -> int:
    """Tokens chosen after the prefill, which itself chooses one for each of the shortest prompts."""
    shortest = min(map(len, job.prompt_tokens))
    chosen = sum(len(each.tokens) + (each.finish_reason == "eos") for each in continuations)
    return chosen - sum(len(prompt) == shortest for prompt in job.prompt_tokens)
