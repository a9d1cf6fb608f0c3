"""A join stands for the loader that it wraps, wherever loaders are wrapped, rebuilt, resumed and shared."""

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import Workshop
from free_port import free_port
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

import softcache
from softcache.errors import TaskError

ROWS = 40


@pytest.fixture
def built(workshop: Workshop) -> Workshop:
    workshop.build()
    return workshop


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def samples(rows: int = ROWS) -> Any:
    return [{"id": i, "x": torch.full((4,), float(i))} for i in range(rows)]


def joined(loader: Any, cache: softcache.Cache, **options: Any) -> Any:
    return softcache.join(loader, cache, id="id", targets=["cls"], **options)


def ids(batches: Any) -> list[int]:
    """The ids of batches, of which each row has the soft targets of its own id."""
    found = []
    for batch in batches:
        assert batch["soft"]["cls"].ids.tolist() == batch["id"].tolist() == batch["x"][:, 0].tolist()
        found += batch["id"].tolist()
    return found


def test_everything_is_the_loaders(built: Workshop) -> None:
    data = samples()
    loader = DataLoader(data, 8, sampler=DistributedSampler(data, num_replicas=2, rank=0), num_workers=0)
    join = joined(loader, built.open())
    assert isinstance(join, DataLoader)
    assert len(join) == len(loader) == 3
    for name in ("dataset", "sampler", "batch_sampler", "batch_size", "num_workers", "drop_last", "generator"):
        assert getattr(join, name) is getattr(loader, name)
    with pytest.raises(AttributeError, match="state_dict"):
        join.state_dict()
    join.generator = torch.Generator()
    assert loader.generator is join.generator
    join.generator = None
    again = pickle.loads(pickle.dumps(join))
    assert ids(again) == ids(join)


@pytest.mark.parametrize("rank", [0, 1])
def test_epochs_have_orders_of_their_own(built: Workshop, rank: int) -> None:
    data = samples()
    loader = DataLoader(data, 8, sampler=DistributedSampler(data, num_replicas=2, rank=rank, seed=3))
    join = joined(loader, built.open())
    orders = []
    for epoch in range(3):
        join.sampler.set_epoch(epoch)
        orders.append(ids(join))
        assert orders[-1] == [i for batch in loader for i in batch["id"].tolist()]
    assert len(set(map(tuple, orders))) == 3


def test_weighted_samplers_repeat_samples(built: Workshop) -> None:
    weights = torch.arange(ROWS, dtype=torch.float64)
    sampler = WeightedRandomSampler(weights, 100, generator=torch.Generator().manual_seed(1))
    assert len(set(ids(joined(DataLoader(samples(), 8, sampler=sampler), built.open())))) < 100
    attached = softcache.attach(samples(), built.open(), id="id", targets=["cls"])
    loader = DataLoader(attached, 8, sampler=sampler, collate_fn=softcache.collate)
    assert len(ids(loader)) == 100


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_persistent_workers(built: Workshop, workers: int, method: str | None) -> None:
    """Also spawned ones, to which the cache travels with the dataset."""
    options: Any = {"num_workers": workers, "persistent_workers": workers > 0, "multiprocessing_context": method}
    data = softcache.attach(samples(), built.open(), id="id", targets=["cls"])
    attached = DataLoader(data, 8, shuffle=True, collate_fn=softcache.collate, **options)
    join = joined(DataLoader(samples(), 8, shuffle=True, **options), built.open())
    for loader in (attached, join):
        epochs = [ids(loader) for _ in range(2)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(ROWS))
        assert epochs[0] != epochs[1]


class Stream(IterableDataset[Any]):
    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        step, first = (1, 0) if worker is None else (worker.num_workers, worker.id)
        yield from itertools.islice(samples(self.rows), first, None, step)


def test_streams_are_joined_not_attached(built: Workshop) -> None:
    assert ids(joined(DataLoader(Stream(), 8), built.open())) == list(range(ROWS))
    assert sorted(ids(joined(DataLoader(Stream(), 8, num_workers=2), built.open()))) == list(range(ROWS))
    import datasets

    stream = datasets.Dataset.from_list([{"id": i} for i in range(ROWS)]).to_iterable_dataset()
    for one in (Stream(), stream):
        with pytest.raises(softcache.AlignmentError, match=r"is a stream.* use softcache\.join"):
            softcache.attach(one, built.open(), id="id")


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata calls it
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@pytest.mark.parametrize("how", ["join", "attach"])
def test_stateful_loaders_resume_three_times(built: Workshop, how: str, many: Any) -> None:
    """In the middle of an epoch, again and again: the ids are those of an uninterrupted run of the last rank."""
    for workers, world in itertools.product(many((0, 2), (0, 1, 2, 7)), many((1, 3), (1, 2, 3, 4))):
        resume_three_times(built.open(), how, workers, world)


def resume_three_times(cache: softcache.Cache, how: str, workers: int, world: int) -> None:
    def make() -> Any:
        options: Any = {"batch_size": 1, "num_workers": workers, "generator": torch.Generator().manual_seed(5)}
        sampler = StatefulDistributedSampler(range(ROWS), num_replicas=world, rank=world - 1, seed=9)  # type: ignore[arg-type]
        if how == "join":
            return joined(StatefulDataLoader(samples(), sampler=sampler, **options), cache)
        data = softcache.attach(samples(), cache, id="id", targets=["cls"])
        return StatefulDataLoader(data, sampler=sampler, collate_fn=softcache.collate, **options)

    whole = ids(make())
    assert len(set(whole)) == len(whole) == -(-ROWS // world)
    seen: list[int] = []
    state: dict[str, Any] | None = None
    for stop in (3, 2, 4):
        loader = make()
        if state is not None:
            loader.load_state_dict(state)
        batches = iter(loader)
        seen += ids(itertools.islice(batches, stop))
        state = loader.state_dict()
        del batches
    last = make()
    assert state is not None
    last.load_state_dict(state)
    assert seen + ids(last) == whole


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_have_shards_of_their_own(built: Workshop, world: int) -> None:
    cache, data = built.open(), samples()
    shards = []
    for rank in range(world):
        sampler = DistributedSampler(data, num_replicas=world, rank=rank, shuffle=True, drop_last=False)
        loader = DataLoader(data, 4, sampler=sampler)
        loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
        expected = [data[i]["id"] for i in sampler]
        shards.append(ids(joined(loader, cache)))
        assert shards[-1] == expected
        attached = softcache.attach(data, cache, id="id", targets=["cls"])
        assert ids(DataLoader(attached, 4, sampler=sampler, collate_fn=softcache.collate)) == expected
    assert {i for shard in shards for i in shard} == set(range(ROWS))


def test_accelerate_in_one_process(built: Workshop) -> None:
    """Prepared before and after, and with batches skipped: the soft targets are there, in the loader's order."""
    accelerator, cache = Accelerator(cpu=True), built.open()
    plain = DataLoader(samples(), 8)
    around = joined(accelerator.prepare(plain), cache)
    before = accelerator.prepare(joined(plain, cache))
    for loader in (around, before):
        assert ids(loader) == list(range(ROWS))
        assert ids(skip_first_batches(loader, 3)) == list(range(24, ROWS))
        assert loader.end_of_dataloader
    assert accelerator.prepare(around) is around


def test_dispatched_batches(built: Workshop) -> None:
    """The main process sends tensors to the others: soft targets are joined around it, or refused by name."""
    config = DataLoaderConfiguration(dispatch_batches=True)
    accelerator, cache = Accelerator(cpu=True, dataloader_config=config), built.open()
    assert ids(joined(accelerator.prepare(DataLoader(samples(), 8)), cache)) == list(range(ROWS))
    with pytest.raises(TaskError, match="dispatch_batches sends tensors only"):
        next(iter(accelerator.prepare(joined(DataLoader(samples(), 8), cache))))


def one_rank(rank: int, world: int, port: int, cache: str, folder: str) -> None:
    """What a rank of a distributed run gets, with and without shards."""
    torch.set_num_threads(1)
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    accelerator = Accelerator(cpu=True)
    opened, data = softcache.open(cache), samples()
    found: dict[str, Any] = {}
    try:
        ids(joined(DataLoader(data, 4), opened))
    except TaskError as e:
        found["refused"] = str(e)
    found["declared"] = ids(joined(DataLoader(data, 4), opened, sharded=True))
    found["sampler"] = ids(joined(DataLoader(data, 4, sampler=DistributedSampler(data)), opened))
    found["around"] = ids(joined(accelerator.prepare(DataLoader(data, 4)), opened))
    before = accelerator.prepare(joined(DataLoader(data, 4), opened))
    found["before"] = ids(before)
    found["skipped"] = ids(skip_first_batches(before, 2))
    split = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    found["split"] = ids(split.prepare(joined(DataLoader(data, 8), opened)))
    found["stream"] = ids(joined(accelerator.prepare(DataLoader(Stream(), 4)), opened))
    attached = softcache.attach(data, opened, id="id", targets=["cls"])
    found["attached"] = ids(accelerator.prepare(DataLoader(attached, 4, collate_fn=softcache.collate)))
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_several_processes(built: Workshop, tmp_path: Path) -> None:
    """Each gets its own samples; a loader that gives everything to everyone is an error."""
    mp.spawn(one_rank, args=(2, free_port(), str(built.cache), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for found in ranks:
        assert "2 processes train" in found["refused"]
        assert "DistributedSampler" in found["refused"]
        assert found["declared"] == list(range(ROWS))
        assert found["around"] == found["before"] == found["attached"]
        assert found["skipped"] == found["before"][8:]
    for how in ("sampler", "around", "stream", "split"):
        assert sorted(ranks[0][how] + ranks[1][how]) == list(range(ROWS))
        assert len(ranks[0][how]) == ROWS // 2


def test_the_default_collate_function(built: Workshop) -> None:
    """torch's own makes a batch of attached samples too; others are pointed to softcache.collate."""
    data = softcache.attach(samples(), built.open(), id="id", targets=["cls"])
    assert ids(DataLoader(data, 8)) == list(range(ROWS))
    assert ids([softcache.collate([data[3], data[1]])]) == [3, 1]
    from transformers import default_data_collator

    with pytest.raises(TypeError, match=r"collate_fn=softcache\.collate"):
        next(iter(DataLoader(data, 8, collate_fn=default_data_collator)))


def test_batches_move_and_split_as_tensors_do(built: Workshop) -> None:
    cache = built.open()
    batch = next(iter(joined(DataLoader(samples(), 8), cache)))
    from accelerate.utils import send_to_device

    moved = send_to_device(batch, torch.device("cpu"))
    assert ids([moved]) == list(range(8))
    soft = batch["soft"]
    assert soft[2:5]["cls"].ids.tolist() == [2, 3, 4]
    again = softcache.SoftBatch.concatenate([soft[4:], soft[:4]])
    assert again.rows == 8
    assert again["cls"].ids.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
