"""recipes/speech on a few sentences."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from paper_recipes import RECIPES, copied, modules_of, rows, run

import softcache

recipe_modules = modules_of("speech")


@pytest.mark.slow
def test_ten_networks_become_one(tmp_path: Path) -> None:
    """Students are trained without the teachers' weights and what trained them; a model is trained once."""
    recipe, cache = copied(tmp_path, "speech"), tmp_path / "cache"
    said = run(recipe, "build.py", cache, "--every", 70, "--epochs", 1)
    assert "10 of 10 trained" in said
    opened = softcache.open(cache)
    assert len(opened.targets) == 10
    spoken = [pq.read_table(tmp_path / f"cache-teachers/{name}.parquet") for name in ("train", "more", "test")]
    ids = [id for table in spoken for id in table["utterance"].to_pylist()]
    assert len(ids) == len(set(ids)) == opened["state@net3"].stats["valid"]
    states = {row["utterance"]: row["states"] for table in spoken for row in table.to_pylist()}
    labelled = [id for id in ids if states[id]]
    assert opened["state@net3"].lengths(labelled).tolist() == [len(states[id]) for id in labelled]

    alone = copied(tmp_path / "alone", "speech", without=("build.py", "recipe.yaml"))
    corpus = tmp_path / "speech only"
    corpus.mkdir()
    for name in ("train", "more", "test"):
        shutil.move(tmp_path / f"cache-teachers/{name}.parquet", corpus)
    shutil.rmtree(tmp_path / "cache-teachers")
    arguments = (cache, "--corpus", corpus, "--seeds", 1, "--epochs", 0.1, "--out", tmp_path / "students")
    said = run(alone, "train.py", *arguments)
    for title in ("one teacher", "all teachers together", "soft targets", "soft targets, 3 % of the frames"):
        assert f"\n| {title} |" in said
    assert len(json.loads((tmp_path / "students/results.json").read_text())) == 4
    assert rows(run(alone, "train.py", *arguments)) == rows(said)
    (picture,) = run(alone, "pictures.py", tmp_path / "students").split()
    assert Path(picture).stat().st_size > 5000


def test_speech_is_the_same_each_time(tmp_path: Path) -> None:
    """Each process speaks alike, voices that breathe included. No sentence is in the training and in the test set."""
    from corpus import HOP, STATES

    for folder in ("a", "b"):
        code = f"import pathlib, corpus; corpus.write(pathlib.Path({str(tmp_path / folder)!r}), 1, 3, every=60)"
        subprocess.run([sys.executable, "-c", code], cwd=RECIPES / "speech", check=True)
    tables = [{s: pq.read_table(tmp_path / f"{f}/{s}.parquet") for s in ("train", "more", "test")} for f in "ab"]
    assert all(tables[0][split].equals(tables[1][split]) for split in tables[0])
    of = {split: {row["utterance"].split("/")[0] for row in table.to_pylist()} for split, table in tables[0].items()}
    assert of["train"] == of["more"]
    assert not of["train"] & of["test"]
    for row in tables[0]["train"].to_pylist():
        sound, states = np.frombuffer(row["sound"], np.int16), np.array(row["states"])
        assert len(states) == 1 + len(sound) // HOP
        assert 0 <= states.min() <= states.max() < STATES
    assert all(row["states"] == [] for row in tables[0]["more"].to_pylist())


def test_states_are_thirds_of_phonemes() -> None:
    from corpus import HOP, PHONEMES, states

    s, a = 3 * PHONEMES.index("s"), 3 * PHONEMES.index("a")
    found = states([(HOP, "s"), (7 * HOP, "a"), (10 * HOP, "no such")], 12 * HOP)
    assert found[:10].tolist() == [0, s, s, s + 1, s + 1, s + 2, s + 2, a, a + 1, a + 2]
    assert (found[10:] // 3 == PHONEMES.index("other")).all()


def test_frames_and_those_around() -> None:
    """A tone is in the band of its frequency; a window repeats the first and the last frame."""
    from corpus import RATE
    from frames import BANDS, preprocess
    from network import AROUND, Network, windows

    places = []
    for hertz in (200, 1000, 5000):
        tone = (8000 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE) * (np.arange(RATE) > RATE / 2)).astype(
            np.int16
        )
        found = preprocess({"sound": tone.tobytes()})
        assert found.shape == (1 + RATE // 220, BANDS)
        assert torch.allclose(found.mean(0), torch.zeros(BANDS), atol=1e-4)
        places.append(int((found[-20] - found[20]).argmax()))
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (60, 200, 1000, 5000, 10_000)]
    expected = [(each - mel[0]) / (mel[-1] - mel[0]) * (BANDS + 1) - 1 for each in mel[1:-1]]
    assert np.abs(np.array(places) - expected).max() <= 1

    frames = torch.arange(20.0)[:, None].expand(20, BANDS)
    around = windows(frames).unflatten(-1, (2 * AROUND + 1, BANDS))[..., 0]
    assert around[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert around[12].tolist() == list(range(7, 18))
    assert around[19].tolist() == [14, 15, 16, 17, 18, 19, 19, 19, 19, 19, 19]
    assert Network(8)(frames[None]).shape[:2] == (1, 20)
