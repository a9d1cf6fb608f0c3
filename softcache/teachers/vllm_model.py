"""Teachers that vLLM runs in this process: the k likeliest next tokens at every position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from softcache.arrays import Array
from softcache.errors import MissingExtra, TeacherError
from softcache.settings import Arguments
from softcache.teachers.adapter import Description, OutputSpec
from softcache.teachers.causal_lm import vocabulary_of
from softcache.teachers.pretrained import load_tokenizer, loading, model_files, model_source
from softcache.teachers.protocol import Fingerprint, NoOutputLayer, Sequences
from softcache.teachers.tokens import TokenAdapter, highest
from softcache.transfer.vocabulary import vocabulary, vocabulary_size

OUTPUT = "log_probs"


class VllmAdapter(TokenAdapter):
    """A causal language model that vLLM loads, and the column of text or token ids that it reads.

    `model` is a folder, which may be in a Python package (`package:NAME`), or a name on the Hub. `k` is how many
    log-probabilities to take at each position. `arguments` are passed on to `vllm.LLM`, for example
    `tensor_parallel_size` or `quantization`.
    """

    adapter: Literal["vllm"] = "vllm"
    model: str
    revision: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    k: int = Field(default=20, ge=1)
    arguments: Arguments = Field(default_factory=dict)

    def describe(self, folder: Path) -> Description:
        source = model_source(folder, self.model, None, self.revision)
        weights, files = model_files(source)
        config = self.declared() | {"dtype": self.dtype, "k": self.k, "arguments": dict(self.arguments)}
        table = vocabulary_of(source, (*weights, *files.values()))
        answers = {OUTPUT: OutputSpec("causal_lm", classes=vocabulary_size(table), value_kind="log_probs")}
        return Description(
            Fingerprint("vllm", config, weights, files), answers, table, ("vllm", "transformers", "tokenizers")
        )

    def load(self, folder: Path, device: str) -> VllmTeacher:
        source = model_source(folder, self.model, None, self.revision)
        library = _vllm()
        # With prefix caching, a prefix shared with an earlier prompt could lack its log-probabilities.
        settings = {"enable_prefix_caching": False, "seed": 0} | dict(self.arguments)
        with loading(source, "it with vLLM"):
            model = library.LLM(
                model=source.model,
                revision=self.revision,
                dtype=self.dtype,
                max_logprobs=self.k,
                logprobs_mode="raw_logprobs",
                **settings,
            )
        asked = library.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=self.k, detokenize=False)
        return VllmTeacher(model, asked, load_tokenizer(source), self)

    def output_for(self, kind: str, codec: str) -> str | None:
        return OUTPUT


class VllmTeacher(NoOutputLayer):
    """A model that vLLM has loaded."""

    def __init__(self, model: Any, asked: Any, tokenizer: Any, settings: VllmAdapter) -> None:
        self._model, self._asked, self._tokenizer, self._settings = model, asked, tokenizer, settings
        self._classes = vocabulary_size(vocabulary(tokenizer))
        # vLLM always generates a token, which is thrown away. The context must have room for it.
        self._longest = model.llm_engine.model_config.max_model_len - 1

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Return each sample's token ids, int32."""
        settings = self._settings
        return [settings.cut(settings.encode(s, self._tokenizer), self._classes, self._longest) for s in samples]

    def predict(self, batch: list[Array]) -> dict[str, Sequences]:
        """Return `log_probs`: the k likeliest tokens at every position and their log-probabilities, [n, 2, k]."""
        prompts = [{"prompt_token_ids": tokens.tolist()} for tokens in batch]
        answers = self._model.generate(prompts, self._asked, use_tqdm=False)
        positions = [np.arange(len(tokens) - 1, dtype=np.int32) for tokens in batch]
        served = [self._of(tokens, answer) for tokens, answer in zip(batch, answers, strict=True)]
        flat = torch.tensor([one for each in served for one in each], dtype=torch.float64)
        chunks = [(np.arange(len(flat)), flat.view(-1, 2, self._settings.k))] if len(flat) else []
        return {OUTPUT: Sequences([len(p) for p in positions], chunks, tokens=batch, positions=positions)}

    def close(self) -> None:
        """Stop the processes that vLLM started: the next teacher needs the memory that they reserve."""
        self._model.llm_engine.engine_core.shutdown()

    def _of(self, tokens: Array, answer: Any) -> list[list[list[float]]]:
        """Return a sample's answers, one for each token but the first. Raises TeacherError if some are missing."""
        served = answer.prompt_logprobs or []
        if len(served) != len(tokens):
            raise TeacherError(f"vLLM returned prompt_logprobs for {len(served)} of a prompt's {len(tokens)} tokens")
        try:
            return [highest({i: entry.logprob for i, entry in one.items()}, self._settings.k) for one in served[1:]]
        except ValueError as e:
            raise TeacherError(f"vLLM {e}") from e


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as e:
        raise MissingExtra("this teacher needs vLLM: pip install 'softcache[vllm]'") from e
    return vllm
