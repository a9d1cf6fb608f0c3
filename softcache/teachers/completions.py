"""Teachers behind an OpenAI-compatible completions endpoint, which serves the k likeliest next tokens."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, Self
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np
import torch
from pydantic import Field, model_validator

from softcache.arrays import Array
from softcache.errors import TeacherError
from softcache.teachers.adapter import Description, OutputSpec
from softcache.teachers.causal_lm import vocabulary_of
from softcache.teachers.files import file_sha256
from softcache.teachers.pretrained import load_tokenizer, model_files, model_source
from softcache.teachers.protocol import Fingerprint, NoOutputLayer, Sequences
from softcache.teachers.tokens import TokenAdapter, highest
from softcache.transfer.python import resolve
from softcache.transfer.vocabulary import vocabulary, vocabulary_hash, vocabulary_size

OUTPUT = "log_probs"
LONGEST_PAUSE = 60.0
_ID_TEXT = "token_id:"


class CompletionsAdapter(TokenAdapter):
    """A model served at `url` (ending in `/v1`), asked for the `k` likeliest next tokens after each token.

    Samples are tokenized here, and prompts are sent as token ids. `tokenizer` is a folder, `package:NAME`, or a name on
    the Hub; `gguf` names a file in it. The server must name tokens by id: one that names them only by text is refused.
    With `prompt_logprobs`, one request answers a whole sample (vLLM). Without it, each position takes a request
    (llama.cpp), which is fast if the server caches the prompt.

    The served model cannot be hashed from here. Its fingerprint has `model`, the model's name on the server, and, if
    you name the file that you serve as `weights`, the hash of that file.

    A request waits up to `timeout` seconds. It is repeated up to `retries` times, after growing pauses, if the server
    is busy, fails or cannot be reached. `requests_per_minute` limits the rate, and `at_once` how many requests run at
    the same time. `key_variable` names the environment variable that holds the API key.
    """

    adapter: Literal["completions"] = "completions"
    url: str
    model: str
    weights: str | None = None
    tokenizer: str
    gguf: str | None = None
    revision: str | None = None
    k: int = Field(default=20, ge=1)
    prompt_logprobs: bool = False
    key_variable: str | None = None
    timeout: float = Field(default=120.0, gt=0)
    retries: int = Field(default=6, ge=0)
    requests_per_minute: float | None = Field(default=None, gt=0)
    at_once: int = Field(default=4, ge=1)

    def describe(self, folder: Path) -> Description:
        source = model_source(folder, self.tokenizer, self.gguf, self.revision)
        table = vocabulary_of(source, tuple(model_files(source, weightless=True)[1].values()))
        config = self.declared() | {"model": self.model, "tokenizer": vocabulary_hash(table), "k": self.k}
        weights = () if self.weights is None else (file_sha256(resolve(folder, self.weights)),)
        answers = {OUTPUT: OutputSpec("causal_lm", classes=vocabulary_size(table), value_kind="log_probs")}
        return Description(Fingerprint("completions", config, weights), answers, table, ("tokenizers",))

    def load(self, folder: Path, device: str) -> CompletionsTeacher:
        key = None if self.key_variable is None else os.environ.get(self.key_variable)
        if self.key_variable is not None and not key:
            raise TeacherError(f"environment variable {self.key_variable} is not set; set it to the key of {self.url}")
        source = model_source(folder, self.tokenizer, self.gguf, self.revision)
        return CompletionsTeacher(self, load_tokenizer(source), key)

    def output_for(self, kind: str, codec: str) -> str | None:
        return OUTPUT

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        return self


class CompletionsTeacher(NoOutputLayer):
    """A model behind a completions endpoint."""

    def __init__(self, settings: CompletionsAdapter, tokenizer: Any, key: str | None) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        self._classes = vocabulary_size(vocabulary(tokenizer))
        self._endpoint = _Endpoint(settings, key)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Return each sample's token ids, int32."""
        settings = self._settings
        return [settings.cut(settings.encode(sample, self._tokenizer), self._classes) for sample in samples]

    def predict(self, batch: list[Array]) -> dict[str, Sequences]:
        """Return `log_probs`: the k likeliest tokens at every position and their log-probabilities, [n, 2, k]."""
        positions = [np.arange(len(tokens) - 1, dtype=np.int32) for tokens in batch]
        lengths = [len(p) for p in positions]
        return {OUTPUT: Sequences(lengths, self._chunks(batch), tokens=batch, positions=positions)}

    def _chunks(self, batch: list[Array]) -> Iterator[tuple[Array, torch.Tensor]]:
        done = 0
        with ThreadPoolExecutor(self._settings.at_once) as pool:
            for served in pool.map(self._whole, batch) if self._settings.prompt_logprobs else self._steps(pool, batch):
                yield np.arange(done, done + len(served)), torch.tensor(served, dtype=torch.float64)
                done += len(served)

    def _steps(self, pool: ThreadPoolExecutor, batch: list[Array]) -> Iterator[list[list[list[float]]]]:
        """Yield each sample's answers, from one request for each position."""
        for tokens in batch:
            prompts = [tokens[: end + 1].tolist() for end in range(len(tokens) - 1)]
            yield list(pool.map(self._next, prompts))

    def _next(self, prompt: list[int]) -> list[list[float]]:
        choice = self._endpoint.ask(prompt, {"logprobs": self._settings.k, "return_tokens_as_token_ids": True})
        found = choice.get("logprobs") or {}
        if content := found.get("content"):
            return self._highest({entry.get("id"): entry["logprob"] for entry in content[0]["top_logprobs"]})
        (served,) = found.get("top_logprobs") or [{}]
        return self._highest({_token_id(text): log_p for text, log_p in served.items()})

    def _whole(self, tokens: Array) -> list[list[list[float]]]:
        choice = self._endpoint.ask(tokens.tolist(), {"prompt_logprobs": self._settings.k})
        served = choice.get("prompt_logprobs")
        if not isinstance(served, list) or len(served) != len(tokens):
            raise self._endpoint.failed("returns no prompt_logprobs for the whole prompt; set prompt_logprobs: false")
        return [self._highest({int(i): entry["logprob"] for i, entry in s.items()}) for s in served[1:]]

    def _highest(self, served: dict[Any, float]) -> list[list[float]]:
        """Return the ids and log-probabilities of the k likeliest tokens.

        Raises TeacherError if fewer are served, or if a token has no id.
        """
        if None in served:
            raise self._endpoint.failed("names tokens only by text; softcache needs a server that returns token ids")
        try:
            return highest(served, self._settings.k)
        except ValueError as e:
            raise self._endpoint.failed(str(e)) from e


class _NoRedirects(HTTPRedirectHandler):
    """Refuses redirects: the key and the samples are meant for this server only."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Endpoint:
    """The server. Limits the rate of requests, and repeats those that fail for a while."""

    def __init__(self, settings: CompletionsAdapter, key: str | None) -> None:
        self._settings, self._url = settings, f"{settings.url.rstrip('/')}/completions"
        self._headers = {"Content-Type": "application/json"} | (
            {} if key is None else {"Authorization": f"Bearer {key}"}
        )
        self._gap = 0.0 if settings.requests_per_minute is None else 60 / settings.requests_per_minute
        self._lock, self._free_at = threading.Lock(), 0.0
        self._opener = build_opener(_NoRedirects)

    def ask(self, prompt: list[int], further: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a completion of one token and return its first choice.

        Raises TeacherError if the server refuses, keeps failing, or returns something else.
        """
        body = {"model": self._settings.model, "prompt": prompt, "max_tokens": 1, "temperature": 0, **further}
        post = partial(Request, self._url, json.dumps(body).encode(), self._headers)
        for attempt in range(self._settings.retries + 1):
            self._wait_for_turn()
            try:
                with self._opener.open(post(), timeout=self._settings.timeout) as reply:
                    answer = json.load(reply)
                return dict(answer["choices"][0])
            except HTTPError as e:
                why, headers = f"{e.code} {e.reason}: {e.read(300).decode(errors='replace')}", e.headers
                if e.code not in (408, 409, 425, 429) and e.code < 500:
                    raise self.failed(f"refused: {why}") from e
            except (URLError, HTTPException, OSError) as e:
                why, headers = f"{type(e).__name__}: {e}", None
            except (ValueError, KeyError, IndexError, TypeError) as e:
                raise self.failed(f"returned something that is not a completion: {e!r}") from e
            if attempt < self._settings.retries:
                time.sleep(_pause(attempt, headers))
        raise self.failed(f"failed {self._settings.retries + 1} times; the last time: {why}")

    def failed(self, why: str) -> TeacherError:
        """Return the error that says what is wrong with the server."""
        return TeacherError(f"{self._url} ({self._settings.model}) {why}")

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + self._gap
        time.sleep(begin - now)


def _pause(attempt: int, headers: Message | None) -> float:
    """Return how many seconds to wait: as the server says, or a random time that doubles with each attempt."""
    asked = None if headers is None else headers.get("Retry-After")
    try:
        wanted = float(asked) if asked is not None else 2.0**attempt * random.uniform(0.25, 0.5)
    except ValueError:
        wanted = 2.0**attempt
    return min(max(wanted, 0.0), LONGEST_PAUSE)


def _token_id(text: str) -> int | None:
    """Return the id in `token_id:N`; None if the token is named differently."""
    number = text.removeprefix(_ID_TEXT)
    return int(number) if text.startswith(_ID_TEXT) and number.isdecimal() else None
