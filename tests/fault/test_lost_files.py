"""Files that were lost: a build makes them again, or says which one is gone."""

from conftest import Workshop

import softcache


def test_lost_shards_are_rebuilt(workshop: Workshop) -> None:
    workshop.build()
    for target in ("cls@t", "feat@t", "rows"):
        lost = next(p for p in (workshop.cache / f"data/{target}").rglob("*") if p.is_file())
        data = lost.read_bytes()
        lost.unlink()
        assert not softcache.verify(workshop.cache).ok
        workshop.calls()
        assert workshop.build().answered == (0 if target == "rows" else 10)
        assert lost.read_bytes() == data
        assert softcache.verify(workshop.cache).ok


def test_a_lost_shard_of_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    next((workshop.cache / "commits").iterdir()).unlink()
    lost = next((workshop.cache / "data/cls@t").iterdir())
    lost.unlink()
    workshop.build()
    assert lost.exists()
    assert softcache.verify(workshop.cache).ok
