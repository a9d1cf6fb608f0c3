"""Teachers that are causal language models from the transformers library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from softcache.arrays import Array
from softcache.errors import TeacherError
from softcache.teachers.adapter import Description, OutputSpec
from softcache.teachers.numerics import DTYPES, Numerics
from softcache.teachers.pretrained import ModelSource, load_tokenizer, loading, model_files, model_source, transformers
from softcache.teachers.protocol import Fingerprint, Sequences
from softcache.teachers.tokens import TokenAdapter, integers
from softcache.transfer.vocabulary import vocabulary, vocabulary_size

Chunk = tuple[Array, torch.Tensor]
_LOGITS_AT_ONCE = 2**24
_PROBE = 8
_PROBE_TOLERANCE = 1e-2


class CausalLMAdapter(TokenAdapter):
    """A causal language model of the transformers library, and the column of text or token ids that it reads.

    `model` is a folder, which may be in a Python package (`package:NAME`), or a name on the Hub; `gguf` names a file in
    it. Samples are cut to `max_length` tokens. Without it, a sample longer than the model's context is a bad sample.
    `loss_mask` is a column with a 0 or a 1 for each token id: position t is stored if token t + 1 has a 1.
    `tokens_at_once` is about how many tokens, padding included, the model runs on at the same time.
    """

    adapter: Literal["causal_lm"] = "causal_lm"
    model: str
    gguf: str | None = None
    revision: str | None = None
    loss_mask: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    tokens_at_once: int = Field(default=2048, ge=1)
    numerics: Numerics = Numerics()

    @property
    def columns(self) -> list[str]:
        return super().columns + ([] if self.loss_mask is None else [self.loss_mask])

    def describe(self, folder: Path) -> Description:
        source = model_source(folder, self.model, self.gguf, self.revision)
        weights, files = model_files(source)
        config = self.declared() | {"dtype": self.dtype, "numerics": self.numerics.to_json()}
        fingerprint = Fingerprint("causal_lm", config, weights, files)
        table = vocabulary_of(source, (*weights, *files.values()))
        answer = OutputSpec("causal_lm", classes=vocabulary_size(table), value_kind="logits")
        answers = {"logits": answer, "hidden": answer}
        return Description(fingerprint, answers, table, ("transformers", "tokenizers"))

    def load(self, folder: Path, device: str) -> CausalLMTeacher:
        source = model_source(folder, self.model, self.gguf, self.revision)
        with loading(source, "it as a causal language model"):
            model = transformers().AutoModelForCausalLM.from_pretrained(
                source.model, dtype=DTYPES[self.dtype], **source.options()
            )
            return CausalLMTeacher(model, load_tokenizer(source), self, device=device)

    def output_for(self, kind: str, codec: str) -> str | None:
        return "hidden" if codec == "hidden" else "logits"

    @model_validator(mode="after")
    def _check_mask(self) -> Self:
        if self.loss_mask is not None and self.input_ids is None:
            raise ValueError("loss_mask has an entry for each token, so it needs input_ids")
        return self


class CausalLMTeacher:
    """Answers with the logits of every next token. A batch runs in parts of samples of similar length."""

    def __init__(self, model: Any, tokenizer: Any, settings: CausalLMAdapter, *, device: str = "cpu") -> None:
        """Take a model and its tokenizer. Raises TeacherError if its output head cannot be applied separately."""
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer, self._inputs, self._tokens_at_once = tokenizer, settings, settings.tokens_at_once
        self._device, self._head = torch.device(device), _head(model)
        self._classes = vocabulary_size(vocabulary(tokenizer))
        self._check_head()

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> list[tuple[Array, Array]]:
        """Return each sample's token ids and the positions to store, both int32."""
        return [self._encode(sample) for sample in samples]

    def predict(self, batch: list[tuple[Array, Array]]) -> dict[str, Sequences]:
        """Return `logits` [n, classes] and `hidden` [n, d], the output layer's input, for every stored position."""
        tokens, positions = [t for t, _ in batch], [p for _, p in batch]
        lengths = [len(p) for p in positions]
        parts = _Once(self._hidden_parts(tokens, positions))
        return {
            "logits": Sequences(lengths, self._logits(parts), tokens=tokens, positions=positions),
            "hidden": Sequences(lengths, parts, tokens=tokens, positions=positions),
        }

    def parameter_count(self) -> int:
        """Return how many parameters the model has."""
        return sum(p.numel() for p in self._model.parameters())

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [classes, d] and, if it has one, `bias` [classes] of the layer that computes the logits.

        Raises TeacherError if the model changes the logits after this layer.
        """
        config, output = self._model.config, self._model.get_output_embeddings()
        if _scale(config) != 1 or _cap(config) is not None:
            raise TeacherError(
                f"{type(self._model).__name__} changes its logits after its last layer; store logits, not hidden states"
            )
        bias = getattr(output, "bias", None)
        layer = {"weight": output.weight[: self._classes]}
        return layer if bias is None else layer | {"bias": bias[: self._classes]}

    def _encode(self, sample: Mapping[str, Any]) -> tuple[Array, Array]:
        inputs, longest = self._inputs, getattr(self._model.config, "max_position_embeddings", None)
        found = inputs.encode(sample, self._tokenizer)
        tokens = inputs.cut(found, self._classes, longest)
        positions = np.arange(len(tokens) - 1, dtype=np.int32)
        if inputs.loss_mask is not None:
            mask = integers(inputs.loss_mask, sample[inputs.loss_mask])
            if len(mask) != len(found) or not np.isin(mask, (0, 1)).all():
                raise ValueError(f"{inputs.loss_mask!r}: expected a 0 or a 1 for each of {len(found):,} tokens")
            positions = positions[mask[1 : len(tokens)] == 1]
        return tokens, positions

    def _hidden_parts(self, tokens: Sequence[Array], positions: Sequence[Array]) -> Iterator[Chunk]:
        ends = np.cumsum([0, *(len(p) for p in positions)])
        for samples in self._parts(tokens):
            places = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in samples])
            yield places, self._hidden([tokens[i] for i in samples], [positions[i] for i in samples])

    def _logits(self, parts: Iterable[Chunk]) -> Iterator[Chunk]:
        at_once = max(_LOGITS_AT_ONCE // self._classes, 1)
        for places, hidden in parts:
            for begin in range(0, len(places), at_once):
                with self._inputs.numerics.applied(self._device):
                    logits = self._head(hidden[begin : begin + at_once])[:, : self._classes]
                yield places[begin : begin + at_once], logits

    def _parts(self, tokens: Sequence[Array]) -> Iterator[list[int]]:
        """Yield groups of samples of similar length: up to `tokens_at_once` tokens when padded, or else one sample."""
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        while order:
            count = max(self._tokens_at_once // len(tokens[order[0]]), 1)
            yield order[:count]
            order = order[count:]

    def _hidden(self, tokens: Sequence[Array], positions: Sequence[Array]) -> torch.Tensor:
        """Return the last hidden states at the samples' stored positions, one sample after another, [n, d]."""
        longest = max(map(len, tokens))
        ids, mask = np.zeros((len(tokens), longest), np.int64), np.zeros((len(tokens), longest), np.int64)
        for i, sample in enumerate(tokens):
            ids[i, : len(sample)], mask[i, : len(sample)] = sample, 1
        rows = np.repeat(np.arange(len(tokens)), [len(p) for p in positions])
        columns = np.concatenate(positions).astype(np.int64)
        with self._inputs.numerics.applied(self._device):
            found = self._model.base_model(
                input_ids=torch.from_numpy(ids).to(self._device),
                attention_mask=torch.from_numpy(mask).to(self._device),
                use_cache=False,
            ).last_hidden_state
            return found[torch.from_numpy(rows), torch.from_numpy(columns)]  # type: ignore[no-any-return]

    def _check_head(self) -> None:
        """Compare the head's logits of a few tokens with the model's own. Raises TeacherError if they differ."""
        tokens = np.arange(min(_PROBE, self._classes), dtype=np.int32)
        with self._inputs.numerics.applied(self._device):
            expected = self._model(torch.from_numpy(tokens[None].astype(np.int64)).to(self._device)).logits[0].float()
            found = self._head(self._hidden([tokens], [np.arange(len(tokens), dtype=np.int32)])).float()
        if expected.shape[1] < self._classes:
            raise TeacherError(
                f"the model has logits for {expected.shape[1]:,} tokens, but its tokenizer has {self._classes:,}"
            )
        if not torch.allclose(found, expected, atol=_PROBE_TOLERANCE, rtol=_PROBE_TOLERANCE):
            raise TeacherError(
                f"{type(self._model).__name__} computes its logits in a way that softcache does not know; use "
                "adapter: torch, with a module that returns softcache.teachers.Sequences"
            )


@lru_cache(maxsize=8)
def vocabulary_of(source: ModelSource, contents: tuple[str, ...]) -> pa.RecordBatch:
    """Return the vocabulary of a model's tokenizer. It is read again only if `contents`, the files' hashes, change."""
    return vocabulary(load_tokenizer(source))


class _Once(Iterable[Chunk]):
    """A generator's items, for several readers: each item is computed once, when it is first read."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks, self._made = chunks, list[Chunk]()

    def __iter__(self) -> Iterator[Chunk]:
        yield from self._made
        for chunk in self._chunks:
            self._made.append(chunk)
            yield chunk


def _scale(config: Any) -> float:
    return getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)


def _cap(config: Any) -> float | None:
    return getattr(config, "final_logit_softcapping", None)


def _head(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from hidden states [n, d] to logits [n, C]: the output layer, and the model's scale and cap.

    Raises TeacherError if the model has no output layer.
    """
    output, config = model.get_output_embeddings(), model.config
    if output is None:
        raise TeacherError(f"{type(model).__name__} has no output head")
    scale, cap = _scale(config), _cap(config)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = output(hidden) * scale if scale != 1 else output(hidden)
        return found if cap is None else cap * torch.tanh(found / cap)

    return logits
