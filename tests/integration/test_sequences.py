"""Rows that are sequences: as many distributions as a sample has frames."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Workshop
from torch.utils.data import DataLoader

import softcache
from softcache.cli.main import main
from softcache.errors import AlignmentError, CodecError, RecipeError, TaskError, TeacherError

FRAMES = """
import numpy as np
import torch
from softcache.teachers import Sequences

class Frames(torch.nn.Module):
    # Sample x has as many frames as its first number says; a frame's logits are multiples of the second.
    def __init__(self, wrong=""):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        lengths = x[:, 0].long().tolist()
        values = x[:, 1, None, None] * torch.arange(1, max(lengths) + 2)[:, None] * torch.linspace(-1, 1, 40)
        if self.wrong == "nan":
            values[x[:, 2] == 3, 1, 5] = float("nan")
        answer = Sequences.from_padded(values, lengths)
        if self.wrong == "lost":
            places, chunk = answer.chunks[0]
            answer = Sequences(lengths, [(places[1:], chunk[1:])])
        if self.wrong in ("twice", "beyond"):
            places, chunk = answer.chunks[0]
            places = places - (places == 1) if self.wrong == "twice" else places + 1
            answer = Sequences(lengths, [(places, chunk)])
        if self.wrong == "broken":
            answer = Sequences(lengths, (1 / 0 for _ in range(2)))
        if self.wrong == "negative":
            answer = Sequences([-1, *lengths[1:]], answer.chunks)
        if self.wrong == "short":
            answer = Sequences(lengths[1:], answer.chunks)
        if self.wrong == "tensor":
            return {"frames": values[0]}
        return {"frames": answer}

def preprocess(sample):
    return torch.tensor(sample["x"])
"""
LENGTHS = [3, 0, 7, 1, 5, 2, 4, 6, 3, 3]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    shop = Workshop(tmp_path)
    shop.write("frames.py", FRAMES)

    def change(x: np.ndarray) -> None:
        x[:, 0], x[:, 2] = LENGTHS, range(len(LENGTHS))

    shop.samples(len(LENGTHS), ids=[f"clip-{i}" for i in range(len(LENGTHS))], change=change)
    shop.recipe["teachers"] = {"t": {"model": "frames:Frames", "preprocess": "frames:preprocess", "reads": ["x"]}}
    task = {"kind": "sequence", "classes": 40, "value_kind": "logits", "teachers": ["t"], "output": "frames"}
    stores = {
        "full": {"dtype": "float32"},
        "top": {"codec": "topk", "k": 4},
        "quant": {"codec": "quantized"},
        "drawn": {"codec": "sampled", "draws": 10},
    }
    shop.recipe["tasks"] = {name: task | {"name": f"{name}@t", "store": store} for name, store in stores.items()}
    shop.recipe["build"] = {"batch_size": 3, "fragment_rows": 4}
    return shop


def frames(workshop: Workshop, sample: int) -> torch.Tensor:
    scale = workshop.inputs()[sample, 1].double()
    return scale * torch.arange(1, LENGTHS[sample] + 1)[:, None] * torch.linspace(-1, 1, 40, dtype=torch.float64)


@pytest.mark.parametrize("name", ["full", "top", "quant"])
def test_frames(workshop: Workshop, name: str) -> None:
    workshop.build()
    assert softcache.verify(workshop.cache).ok
    wanted = [7, 1, 2, 7]
    soft = workshop.open()[name].lookup([f"clip-{i}" for i in wanted])
    assert soft.mask.sum(1).tolist() == [LENGTHS[i] for i in wanted]
    for temperature in (0.7, torch.tensor([1.0, 2.0, 3.0, 4.0])):
        for row, sample in enumerate(wanted):
            t = temperature if isinstance(temperature, float) else float(temperature[row])
            log_p = (frames(workshop, sample) / t).log_softmax(1)
            if name == "top":
                sparse = soft.sparse_log_probs(temperature)
                ids = sparse.ids[row, : LENGTHS[sample]]
                found = sparse.log_probs[row, : LENGTHS[sample]].double().exp()
                assert torch.allclose(found, log_p.gather(1, ids).exp(), atol=1e-3)
            else:
                found = soft.log_probs(temperature)[row, : LENGTHS[sample]].double()
                assert torch.allclose(found.exp(), log_p.exp(), atol=1e-6 if name == "full" else 2e-2)


def test_batches_of_batches(workshop: Workshop) -> None:
    """What is sliced, picked, concatenated or loaded by workers is what is looked up."""
    workshop.build()
    target = workshop.open()["full"]
    ids = [f"clip-{i}" for i in range(10)]
    whole = target.lookup(ids)
    assert torch.equal(target.read(slice(0, 10)).values.nan_to_num(9), whole.values.nan_to_num(9))
    nothing = target.read(slice(3, 3))
    assert (len(nothing), nothing.values.shape[:2], nothing.ids.tolist()) == (0, (0, 0), [])
    for picked in ([3, 0, 3, 2], [1], []):
        some, alone = whole[np.array(picked, int)], target.lookup([ids[i] for i in picked])
        assert (some.ids.tolist(), some.mask.shape) == (alone.ids.tolist(), alone.mask.shape)
        assert torch.equal(some.values.nan_to_num(9), alone.values.nan_to_num(9))
    assert torch.equal(whole[2:5].values.nan_to_num(9), target.lookup(ids[2:5]).values.nan_to_num(9))
    again = type(whole).concatenate([whole[:4], whole[4:]])
    assert torch.equal(again.values.nan_to_num(9), whole.values.nan_to_num(9))
    assert torch.equal(whole.packed.values, torch.cat([whole.values[i, :n] for i, n in enumerate(LENGTHS)]))
    data = softcache.attach([{"id": i} for i in ids], workshop.open(), id="id", targets=["full"])
    loader = DataLoader(data, 4, collate_fn=softcache.collate, num_workers=2)  # type: ignore[arg-type]
    batches = [batch["soft"]["full"] for batch in loader]
    assert [n for soft in batches for n in soft.lengths.tolist()] == LENGTHS
    collated = softcache.collate([data[i] for i in range(3)])["soft"]["full"]
    assert torch.equal(collated.values.nan_to_num(9), target.lookup(ids[:3]).values.nan_to_num(9))


@pytest.mark.parametrize(
    ("name", "divergence"),
    [("full", "forward_kl"), ("full", "reverse_kl"), ("top", "forward_kl"), ("drawn", "forward_kl")],
)
def test_loss(workshop: Workshop, name: str, divergence: str) -> None:
    """That of sequences is the loss of their positions one by one; padding gets neither loss nor gradient."""
    workshop.build()
    soft = workshop.open()[name].lookup(["clip-0", "clip-1", "clip-2"])
    logits = torch.randn(3, 9, 40, dtype=torch.float64, requires_grad=True)
    temperature, labels = torch.tensor([1.0, 2.0, 4.0]), torch.full((3, 9), -100)
    labels[:, :7] = torch.where(soft.mask, torch.randint(40, (3, 7)), -100)
    alone_loss = functools.partial(softcache.distillation_loss, divergence=divergence)
    loss = functools.partial(alone_loss, lengths=soft.lengths)
    rows = loss(logits, soft, temperature, labels, 0.3, "none")
    there = torch.nn.functional.pad(soft.mask, (0, 2))
    assert rows.shape == (3, 9)
    assert (rows[~there] == 0).all()
    assert isinstance(soft, softcache.SoftSequences)
    alone = alone_loss(logits[there], soft.packed, temperature[soft.row], labels[there], 0.3, "none")
    assert torch.allclose(rows[there], alone)
    mean = loss(logits, soft, temperature, labels, 0.3)
    assert torch.allclose(mean, rows.sum() / there.sum())
    (gradient,) = torch.autograd.grad(mean, logits)
    assert (gradient[~there] == 0).all()
    (expected,) = torch.autograd.grad(alone.mean(), logits)
    assert torch.allclose(gradient, expected, atol=1e-12)
    only = there & (torch.arange(9) % 2 == 0)
    assert torch.allclose(loss(logits, soft, temperature, labels, 0.3, mask=only), rows[only].mean())
    with pytest.raises(
        TaskError, match=r"lengths are|answers \[3, 6\] positions; expected \[3, 7\] or longer, or \[10\]"
    ):
        loss(logits[:, :6], soft)
    with pytest.raises(TaskError, match="labels go from -1 to"):
        loss(logits, soft, temperature, labels.masked_fill(only, -1), 0.3)


def test_other_frame_rates(workshop: Workshop) -> None:
    """A student of another frame rate is refused, or gets the answers of the frames at the same time."""
    workshop.build()
    soft = workshop.open()["full"].lookup(["clip-0", "clip-1", "clip-2"])
    lengths, values = soft.lengths.tolist(), soft.values
    assert lengths == [3, 0, 7]
    for frames in (6, 14):
        with pytest.raises(TaskError, match=rf"has {frames} positions and the longest sequence 7\. .*soft\.resample"):
            softcache.distillation_loss(torch.zeros(3, frames, 40), soft)
    with pytest.raises(AlignmentError, match=r"2 sequences .*'clip-0', 'clip-2': the first has 6 positions and .* 3"):
        softcache.distillation_loss(torch.zeros(3, 14, 40), soft, lengths=2 * soft.lengths)
    assert softcache.distillation_loss(torch.zeros(3, 8, 40), soft, lengths=soft.lengths) > 0
    padded, answered = torch.zeros(3, 8, dtype=torch.int64), int(soft.mask.sum())
    assert softcache.count_items(soft, padded, lengths=soft.lengths).tolist() == [answered, answered]
    with pytest.raises(TaskError, match="give lengths="):
        softcache.count_items(soft, padded)
    for wrong in (torch.tensor([3, 0]), torch.tensor([3.0, 0, 7]), [3, -1, 7], "abc"):
        with pytest.raises(TaskError, match="lengths are"):
            softcache.distillation_loss(torch.zeros(3, 14, 40), soft, lengths=wrong)  # type: ignore[arg-type]
    for ours in ([6, 0, 14], [1, 4, 3], [3, 0, 7], [10, 0, 2], [0, 0, 0]):
        found = soft.resample(torch.tensor(ours))
        assert found.lengths.tolist() == ours
        for row, (mine, theirs) in enumerate(zip(ours, lengths, strict=True)):
            times = [int((t + 0.5) / mine * theirs) for t in range(mine)]
            assert found.mask[row].sum() == (mine if theirs else 0)
            assert torch.equal(found.values[row, : len(times)][:, None].squeeze(1), values[row, times]) or not theirs
    twice = soft.resample(2 * soft.lengths)
    logits = torch.randn(3, 7, 40)
    each = softcache.distillation_loss(logits, soft, 2.0)
    assert torch.allclose(softcache.distillation_loss(logits.repeat_interleave(2, 1), twice, 2.0), each)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("lost", TeacherError, "1 positions of samples 'clip-0', 'clip-1', 'clip-2' lack values"),
        ("twice", TeacherError, "or for one twice"),
        ("beyond", TeacherError, "has a chunk for other places than its 10 positions"),
        ("broken", TeacherError, "teacher t raised on samples .*ZeroDivisionError"),
        ("negative", TeacherError, r"ValueError: lengths \[-1, 0, 7\]; expected integers of at least 0"),
        ("short", TeacherError, "has 2 lengths for 3 samples"),
        ("tensor", TeacherError, r"a torch.strided cpu tensor; a sequence task takes .*, or a tensor \[B, L, C\]"),
        ("nan", CodecError, r"1 sample \('clip-3'\): NaN"),
    ],
)
def test_wrong_answers(workshop: Workshop, wrong: str, error: type[Exception], message: str) -> None:
    change = lambda x: x.__setitem__((slice(None), 0), 3)  # noqa: E731
    if wrong == "nan":
        workshop.samples(
            10,
            ids=[f"clip-{i}" for i in range(10)],
            change=lambda x: (change(x), x.__setitem__((slice(None), 2), range(10)))[0],
        )
    with pytest.raises(error, match=message):
        workshop.build(f"teachers.t.arguments.wrong={wrong}")


def test_skipped(workshop: Workshop) -> None:
    """A sample with one bad position has none; those of its batch keep theirs."""

    def change(x: np.ndarray) -> None:
        x[:, 0], x[:, 2] = 3, range(10)

    workshop.samples(10, ids=[f"clip-{i}" for i in range(10)], change=change)
    workshop.build("teachers.t.arguments.wrong=nan", "build.on_bad_sample=skip")
    for name in ("full", "top"):
        soft = workshop.open()[name].lookup([f"clip-{i}" for i in range(10)])
        assert soft.mask.sum(1).tolist() == [3, 3, 3, 0, 3, 3, 3, 3, 3, 3]
        assert torch.isfinite(soft.packed.values).all()
    assert softcache.verify(workshop.cache).ok


def test_resumed(workshop: Workshop) -> None:
    """A teacher whose answers have changed in secret is noticed before unfinished work goes on."""
    workshop.build(limit=4)
    workshop.build()
    assert len(workshop.open()["full"]) == 10
    workshop.write("secret.py", "scale = 2.0")
    workshop.write("frames.py", FRAMES.replace("values = x", "values = __import__('secret').scale * x"))
    workshop.recipe["teachers"]["t"]["code"] = ["data.py"]
    workshop.cache = workshop.cache.parent / "other"
    workshop.build(limit=4)
    workshop.write("secret.py", "scale = 3.0")
    __import__("sys").modules.pop("secret", None)
    with pytest.raises(TeacherError, match="differs from what is stored"):
        workshop.build()


def test_exported(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.build()
    with pytest.raises(SystemExit):
        main(["export", str(workshop.cache), "-o", str(workshop.folder / "out")])
    table = pq.read_table(workshop.folder / "out" / "top@t" / "train.parquet")
    assert [len(row) for row in table["ids"].to_pylist()] == LENGTHS
    with pytest.raises(SystemExit):
        main(["info", str(workshop.cache)])
    assert "34 positions" in capsys.readouterr().out


def test_what_sequences_have_not(workshop: Workshop) -> None:
    workshop.build()
    target: Any = workshop.open()["full"]
    soft = target.lookup(["clip-0"])
    for asked, message in (
        (soft.next_tokens, "a sequence target has no tokens"),
        (lambda: target.check_tokenizer(None), "has no table 'vocabulary'"),
        (soft.sparse_log_probs, "use .log_probs"),
        (target.to_pandas, "a row is a sequence, and a table has one number a class"),
    ):
        with pytest.raises(TaskError, match=message):
            asked()
    with pytest.raises(RecipeError, match="sequence needs classes"):
        workshop.build("~tasks.full.classes")
