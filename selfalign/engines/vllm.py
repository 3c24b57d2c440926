"""vLLM inside this process: continuous batching across everything that a stage asks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from selfalign.chat import ChatError
from selfalign.config import EngineSettings
from selfalign.engines.base import (
    Choice,
    ChoiceRequest,
    EngineError,
    GenerateRequest,
    Generation,
    Rewarded,
    Sampling,
    Score,
    ScoreRequest,
    softmax,
)
from selfalign.engines.folders import Identity, resolve_model
from selfalign.engines.hardware import compute_dtype, has_gpu, worker_environment
from selfalign.engines.prompts import PromptEncoder
from selfalign.engines.sockets import no_new_listeners

_CPU_BLOCK = 32  # tokens: the smallest that vLLM's CPU attention likes; smaller blocks share more of a prefix
_CPU_STEP_TOKENS = 4096  # tokens in one forward pass


@dataclass(frozen=True, slots=True)
class _Job:
    """One request on its way: what vLLM is given, and what becomes of its output (or of its refusal)."""

    token_ids: list[int]
    params: Any  # vllm.SamplingParams, or PoolingParams for a reward
    answer: Callable[[Any], Any]  # of vllm.RequestOutput, or PoolingRequestOutput
    refuse: Callable[[str], Any]


class VllmEngine:
    """One model in vLLM, in this process. `load` replaces its weights in place; nothing else restarts it."""

    def __init__(self, model_path: str, settings: EngineSettings, *, trust_remote_code: bool = False) -> None:
        """Load a model. Raises EngineError where the folder is unfit or vLLM cannot start (its own words inside)."""
        self._folder = resolve_model(model_path)
        self._identity = Identity.of(self._folder)
        self._settings = settings
        self._trust = trust_remote_code
        self._prompts = PromptEncoder(self._folder, trust_remote_code=trust_remote_code)
        self._gpu = has_gpu()
        self._asleep = False
        self._running: dict[str, _Job] = {}  # by vLLM's request id
        self._ids = count()
        try:
            with no_new_listeners() if settings.tensor_parallel_size == 1 else nullcontext():
                positions = self._identity.shape.get("max_position_embeddings")
                self._llm = _start(
                    str(self._folder), settings, trust_remote_code,
                    gpu=self._gpu, positions=positions, rewards=self._identity.rewards,
                )  # fmt: skip
        except Exception as error:  # out of memory, unsupported architecture, bad config: each its own type
            raise EngineError(f"vLLM cannot serve {model_path}: {error}") from error
        self._engine = self._llm.llm_engine
        self._limit = self._engine.model_config.max_model_len
        self.dtype = str(self._engine.model_config.dtype).removeprefix("torch.")

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        return self._stream(self._generate_job(request, sampling) for request in requests)

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        return self._stream(_by_prefix((self._choose_job(request) for request in requests), self._in_flight))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        return self._stream(self._score_job(request) for request in requests)

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        if not self._identity.rewards:
            raise EngineError(f"{self._folder} is no reward model: it gives no reward")
        return self._stream(self._reward_job(request) for request in requests)

    def check_labels(self, labels: Sequence[str]) -> None:
        self._prompts.label_ids(labels)

    def accepts(self, model_path: str) -> bool:
        try:
            return self._identity.difference(Identity.of(resolve_model(model_path))) is None
        except EngineError:
            return False

    def load(self, model_path: str) -> None:
        if self._running:
            raise EngineError(f"{len(self._running)} requests are in flight; close their stream before load()")
        folder = resolve_model(model_path)
        identity = Identity.of(folder)
        if (difference := self._identity.difference(identity)) is not None:
            raise EngineError(f"{model_path} does not fit into the engine that holds {self._folder}: {difference}")
        if identity.files != self._identity.files:
            self._prompts = PromptEncoder(folder, trust_remote_code=self._trust)
        self._folder, self._identity = folder, identity
        self._wake() if self._asleep else self._reload()

    def sleep(self) -> None:
        if self._gpu and not self._asleep:
            self._llm.sleep(level=2)  # weights are read from their folder again on waking
            self._asleep = True

    def close(self) -> None:
        """Drop the model and free its memory."""
        self._engine.engine_core.shutdown()

    @property
    def _in_flight(self) -> int:
        """Requests to hold: enough that the batch is full whenever some finish, few enough for flat memory."""
        return 3 * self._settings.max_num_seqs

    def _reload(self) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._folder)})
        if not self._gpu:
            self._llm.apply_model(_repack_head)
        self._llm.reset_prefix_cache()

    def _wake(self) -> None:
        self._llm.wake_up(tags=["weights"])
        self._asleep = False
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._folder)})
        self._llm.wake_up(tags=["kv_cache"])
        self._llm.reset_prefix_cache()

    def _stream(self, jobs: Iterator[_Job | Any]) -> Iterator[Any]:
        """Run jobs, pulling them as room allows, and yield their results as they finish; what is no job is a result."""
        if self._asleep:
            self._wake()
        running = self._running
        if running:
            raise EngineError(f"{len(running)} requests of another stream are in flight; close it first")
        try:
            while True:
                for job in islice(jobs, self._in_flight - len(running)):
                    if not isinstance(job, _Job):
                        yield job
                    elif len(job.token_ids) >= self._limit:
                        yield job.refuse(f"prompt too long: {len(job.token_ids)} tokens, at most {self._limit - 1}")
                    else:
                        self._add(job)
                if not running:
                    return
                for output in self._engine.step():
                    if output.finished:
                        yield running.pop(output.request_id).answer(output)
        finally:
            self._abort()

    def _add(self, job: _Job) -> None:
        request_id = str(next(self._ids))
        self._engine.add_request(request_id, {"type": "token", "prompt_token_ids": job.token_ids}, job.params)
        self._running[request_id] = job

    def _abort(self) -> None:
        """Drop what is in flight, and let the scheduler see it, so that its blocks are free."""
        if self._running:
            self._engine.abort_request(list(self._running))
            self._running.clear()
            while self._engine.has_unfinished_requests():
                self._engine.step()

    def _generate_job(self, request: GenerateRequest, sampling: Sampling) -> _Job | Generation:
        def refuse(reason: str, prompt_tokens: int = 0) -> Generation:
            return Generation(request.id, reason, (), "error", None, prompt_tokens)

        def answer(output: Any) -> Generation:
            completion = output.outputs[0]
            reason = completion.finish_reason if completion.finish_reason in ("stop", "length") else "error"
            tokens, logprobs = tuple(completion.token_ids), None
            text = self._prompts.decode(tokens)
            if sampling.logprobs:
                steps = zip(completion.logprobs, tokens, strict=True)
                logprobs = tuple(step[token].logprob for step, token in steps)
            return Generation(request.id, text, tokens, reason, completion.cumulative_logprob, len(token_ids), logprobs)

        try:
            token_ids = self._prompts.encode(request.messages)
        except ChatError as error:
            return refuse(str(error))
        # One token less than fits, so that what was sampled can be scored later: scoring samples one token more.
        room = max(1, self._limit - 1 - len(token_ids))
        params = _params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=request.seed,
            logprobs=0 if sampling.logprobs else None,
            structured_outputs=_structured(sampling.schema),
        )
        return _Job(token_ids, params, answer, lambda reason: refuse(reason, len(token_ids)))

    def _choose_job(self, request: ChoiceRequest) -> _Job | Choice:
        started = time.perf_counter()

        def refuse(reason: str, prompt_tokens: int = 0) -> Choice:
            return Choice(request.id, None, reason, prompt_tokens, time.perf_counter() - started, "error")

        def answer(output: Any) -> Choice:
            first = output.outputs[0].logprobs[0]
            probabilities = softmax([first[label].logprob for label in labels])
            seconds = time.perf_counter() - started
            if probabilities is None:
                return refuse("the model gives none of the labels a finite probability", len(token_ids))
            best = max(zip(probabilities, request.labels, strict=True))[1]
            return Choice(request.id, probabilities, best, len(token_ids), seconds)

        labels = self._prompts.label_ids(request.labels)
        try:
            token_ids = self._prompts.encode_choice(request)
        except ChatError as error:
            return refuse(str(error))
        params = _params(temperature=0.0, max_tokens=1, logprob_token_ids=list(labels))
        return _Job(token_ids, params, answer, lambda reason: refuse(reason, len(token_ids)))

    def _score_job(self, request: ScoreRequest) -> _Job | Score:
        def refuse(reason: str) -> Score:
            raise EngineError(f"request {request.id} cannot be scored: {reason}")

        def answer(output: Any) -> Score:
            rows = zip(output.prompt_logprobs[len(prompt) :], request.token_ids, strict=True)
            return Score(request.id, tuple(row[token].logprob for row, token in rows))

        prompt = self._scored_prompt(request)
        if not request.token_ids:
            return Score(request.id, ())
        params = _params(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        return _Job(prompt + list(request.token_ids), params, answer, refuse)

    def _reward_job(self, request: ScoreRequest) -> _Job:
        from vllm import PoolingParams

        def refuse(reason: str) -> Rewarded:
            raise EngineError(f"request {request.id} cannot be scored: {reason}")

        def answer(output: Any) -> Rewarded:
            return Rewarded(request.id, float(output.outputs.data[0]))

        tokens = self._scored_prompt(request) + list(request.token_ids)
        return _Job(tokens, PoolingParams(task="classify", use_activation=False), answer, refuse)

    def _scored_prompt(self, request: ScoreRequest) -> list[int]:
        try:
            return self._prompts.encode(request.messages)
        except ChatError as error:
            raise EngineError(f"request {request.id} cannot be scored: {error}") from error


def _repack_head(model: Any) -> None:
    """On a CPU, vLLM 0.32 multiplies by a packed copy of the output head; a reload forgets it where it is tied."""
    head = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear") and getattr(model.config, "tie_word_embeddings", False):
        head.quant_method.process_weights_after_loading(head)


def _by_prefix(jobs: Iterator[_Job | Any], window: int) -> Iterator[_Job | Any]:
    """Order the jobs within each window of them by their tokens, so that equal prefixes meet in the prefix cache."""
    while batch := list(islice(jobs, window)):
        batch.sort(key=lambda job: job.token_ids if isinstance(job, _Job) else [])
        yield from batch


def _params(**fields: Any) -> Any:
    """Sampling parameters for answers that nobody streams and whose text this module decodes itself, once."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True, **fields)


def _structured(schema: str) -> Any:
    """The grammar of a JSON Schema."""
    if not schema:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=schema)


def _start(
    model: str, settings: EngineSettings, trust_remote_code: bool, *, gpu: bool, positions: int | None, rewards: bool
) -> Any:
    os.environ.update(worker_environment(settings))
    eager = settings.enforce_eager if settings.enforce_eager is not None else not gpu
    if eager and not gpu:
        _no_compilation()
    from vllm import LLM

    options: dict[str, Any] = {
        "model": model,
        "runner": "pooling" if rewards else "generate",
        "dtype": compute_dtype(settings.dtype),
        "enforce_eager": eager,
        "trust_remote_code": trust_remote_code,
        "load_format": "safetensors",
        "max_model_len": settings.max_model_len or -1,  # -1: as much as the model and the cache allow
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # Whitespace within JSON is not the model's to fill pages with. vLLM 0.32 heeds this here alone, not by request.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    return LLM(**options | (_gpu_options(settings) if gpu else _cpu_options(settings, positions)))


def _gpu_options(settings: EngineSettings) -> dict[str, Any]:
    return {"gpu_memory_utilization": settings.gpu_memory_utilization, "enable_sleep_mode": True}


def _cpu_options(settings: EngineSettings, positions: int | None) -> dict[str, Any]:
    """Whole prompts in each pass: vLLM's CPU runner dies on a seeded request whose prompt is split over two passes.

    So a pass must have room for the longest prompt, and where no context length is set, it is bounded.
    """
    longest = settings.max_model_len or min(positions or _CPU_STEP_TOKENS, _CPU_STEP_TOKENS)
    return {
        "kv_cache_memory_bytes": settings.cpu_kv_cache_gib << 30,
        "block_size": _CPU_BLOCK,
        "enable_chunked_prefill": False,
        "max_model_len": longest,
        "max_num_batched_tokens": max(_CPU_STEP_TOKENS, longest),
    }


def _no_compilation() -> None:
    """Keep vLLM's few torch.compile'd helpers eager: on a CPU they would need a C++ compiler and cost seconds."""
    import torch._dynamo.config

    torch._dynamo.config.disable = True
