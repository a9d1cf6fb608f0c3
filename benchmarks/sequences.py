"""How fast soft targets of a language model are read: batches of 4,096 positions, k = 64, in any order.

They are 8 whole sequences of 513 tokens, or 8 spans of 512 tokens of sequences that are twice as long. Beside
numpy.memmap, gathered by the same positions: one array with all columns of a position side by side, and one array for
each column. A small random model stands for the teacher; what is stored of a position does not depend on it.

    pip install -c constraints.txt -e ".[lm]"
    python benchmarks/sequences.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from timing import alternate, machine, ratio, table
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import softcache

CLASSES, LENGTH, BATCH, K = 1_000, 512, 8, 64


def build(folder: Path, sequences: int, positions: int) -> softcache.Cache:
    """Build a cache of sequences of random tokens, one more than positions."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=CLASSES,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions + 1,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(CLASSES)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder / "model")
    tokens = np.random.default_rng(0).integers(CLASSES, size=(sequences, positions + 1)).astype(np.int32)
    columns = pa.table({"id": np.arange(sequences), "tokens": pa.array(list(tokens))})
    pq.write_table(columns, folder / "tokens.parquet")
    recipe = {
        "transfer_set": {"source": {"type": "files", "paths": ["tokens.parquet"]}, "id": "id"},
        "teachers": {"t": {"adapter": "causal_lm", "model": "model", "input_ids": "tokens"}},
        "tasks": {
            "lm": {
                "kind": "causal_lm",
                "classes": CLASSES,
                "value_kind": "logits",
                "teachers": ["t"],
                "store": {"codec": "topk", "k": K, "companions": False},
            }
        },
        "build": {"batch_size": 8, "fragment_rows": 64},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    softcache.build(folder / "recipe.yaml", folder / "cache", progress=True)
    return softcache.open(folder / "cache")


def flat_file(cache: softcache.Cache, folder: Path, sequences: int) -> np.memmap:
    """Write all columns of all positions side by side into one file, and map it: bytes [positions, row]."""
    parts = []
    for begin in range(0, sequences, 64):
        soft = cache["lm"].read(slice(begin, begin + 64))
        stored = [c.numpy().view(np.uint8).reshape(len(soft.row), -1) for c in soft.columns.values()]
        rest = np.zeros((len(soft.row), 8), np.uint8)  # where the token and its position would be
        parts.append(np.concatenate([*stored, rest], 1))
    rows = np.concatenate(parts)
    rows.tofile(folder / "flat")
    return np.memmap(folder / "flat", np.dtype((np.void, rows.shape[1])), "r", shape=(len(rows),))


def column_files(cache: softcache.Cache, folder: Path, sequences: int) -> list[np.memmap]:
    """Write each column into a file of its own, and map them, with one for the tokens."""
    soft = cache["lm"].read(slice(0, sequences))
    columns = {name: column.numpy() for name, column in soft.columns.items()}
    columns["tokens"] = np.zeros(len(soft.row), np.int32)
    mapped = []
    for name, column in columns.items():
        column.tofile(folder / name)
        item = np.dtype((np.void, column.nbytes // len(column)))
        mapped.append(np.memmap(folder / name, item, "r", shape=(len(column),)))
    return mapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = build(folder, arguments.sequences, 2 * LENGTH)
        short = build(folder / "short", 2 * arguments.sequences, LENGTH)["lm"]
        flat = flat_file(cache, folder, arguments.sequences)
        apart = column_files(cache, folder, arguments.sequences)
        target, random = cache["lm"], np.random.default_rng(1)
        ids = [random.integers(arguments.sequences, size=BATCH) for _ in range(arguments.batches)]
        starts = [random.integers(LENGTH, size=BATCH) for _ in range(arguments.batches)]
        wholes = [random.integers(2 * arguments.sequences, size=BATCH) for _ in range(arguments.batches)]
        steps = np.arange(LENGTH)

        def gather() -> None:
            for picked, begin in zip(ids, starts, strict=True):
                flat[((picked * 2 * LENGTH + begin)[:, None] + steps).ravel()]

        def spans() -> None:
            for picked, begin in zip(ids, starts, strict=True):
                target.lookup_spans(picked, begin, LENGTH)

        def by_id() -> None:
            for picked in wholes:
                short.lookup(picked)

        def by_row() -> None:
            for picked in wholes:
                short.read(picked)

        def columns() -> None:
            for picked, begin in zip(ids, starts, strict=True):
                places = ((picked * 2 * LENGTH + begin)[:, None] + steps).ravel()
                for column in apart:
                    column[places]

        contestants: dict[str, Callable[[], object]] = {
            "numpy.memmap, one gather": gather,
            "numpy.memmap, a file for each column": columns,
            "read, 8 x 513 tokens": by_row,
            "lookup, 8 x 513 tokens": by_id,
            "lookup_spans, 8 x 512 of 1,025 tokens": spans,
        }
        for warm in contestants.values():
            warm()
        seconds = alternate(contestants, arguments.rounds)
        rows = []
        for contestant, taken in seconds.items():
            speed = ratio(seconds, contestant, "numpy.memmap, one gather")
            rows.append([contestant, f"{median(taken) / arguments.batches * 1e3:.2f}", f"{speed:.2f}"])
        print(machine(), end="\n\n")
        print(table(["a batch of 4,096 positions", "ms", "speed beside memmap"], rows), end="\n\n")
        stored = f"{2 * LENGTH:,} positions, or twice as many of half, {flat.dtype.itemsize} bytes each"
        print(f"{arguments.sequences:,} sequences of {stored}.")


if __name__ == "__main__":
    main()
