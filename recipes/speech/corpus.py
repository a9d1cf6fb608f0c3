"""Speech with a known phoneme at each instant: sentences of Python's own help, spoken by espeak-ng.

Each sentence is spoken a few times: by different voices, at different rates, with different amounts of noise. The
sentences of the test set, every tenth, are not in the training set.
"""

import ctypes
import json
import re
import sys
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import espeakng_loader
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import write_whole

RATE, HOP, TEST_EVERY = 22_050, 220, 10  # samples per second, samples per frame: 10 ms, sentences
VOICES = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3"),
    *("Alex", "Andy", "Annie", "steph", "linda", "croak"),
)
WORDS_PER_MINUTE, NOISES = (120, 260), (None, 20, 10, 5, 0)  # noise: none, or the ratio of signal to noise in decibels
# The phonemes of English as espeak-ng names them, without stress; "_" is silence. Another version of Python has other
# help, and perhaps a phoneme that is not listed: it counts as "other".
NAMES = (
    "_ 0 3 @ @2 @L A A@ D E I I2 N O O@ O2 OI S T U U@ V Z a aI aI3 aI@ aU aa b d dZ e@ eI f g h i i@ i@3 j k l m n o@ "
    "oU p r s t t2 tS u v w z ; ? other"
)
PHONEMES = tuple(NAMES.split())
STATES = 3 * len(PHONEMES)  # the first, second and last third of each phoneme


def write(folder: Path, labelled: int, unlabelled: int, every: int = 1) -> None:
    """Speak each sentence, or one in `every`, and write `train.parquet`, `more.parquet` and `test.parquet`, once.

    `labelled` and `unlabelled` say how often a sentence is spoken for the training set, and how often in addition,
    without labels, for the students. Columns: `utterance` (the id: which sentence, spoken how), `sound` (bytes of int16
    samples), `states` (a number for each frame; in `more.parquet` none).
    """
    described = json.dumps([labelled, unlabelled, every])
    if (folder / "spoken.json").exists() and (folder / "spoken.json").read_text() == described:
        return
    speaker, chance = Speaker(), np.random.default_rng(0)
    rows: dict[str, list] = {"train": [], "more": [], "test": []}
    for number, sentence in enumerate(sentences()[::every]):
        for rendering in range(labelled + unlabelled):
            split = "test" if number % TEST_EVERY == 0 else "train" if rendering < labelled else "more"
            voice, rate = VOICES[chance.integers(len(VOICES))], int(chance.integers(*WORDS_PER_MINUTE))
            noise = NOISES[chance.integers(len(NOISES))]
            sound, starts = speaker.say(sentence, voice, rate)
            row = {
                "utterance": f"{number}/{rendering}: {voice}, {rate} words a minute, noise {noise}",
                "sound": noisy(sound, noise, chance).tobytes(),
                "states": [] if split == "more" else states(starts, len(sound)),
            }
            rows[split].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in rows.items():
        write_whole(folder / f"{name}.parquet", partial(pq.write_table, pa.Table.from_pylist(own, SCHEMA)))
    write_whole(folder / "spoken.json", lambda path: path.write_text(described))


def sentences() -> list[str]:
    """Return the plain sentences of Python's help topics."""
    found = {}
    for text in topics.values():
        for paragraph in text.split("\n\n"):
            for sentence in re.split(r"(?<=\.)\s+", " ".join(paragraph.split())):
                if re.fullmatch(r"[A-Z][A-Za-z ,;()/'\"-]{25,120}\.", sentence):
                    found[sentence] = None
    return list(found)


def noisy(sound: np.ndarray, decibels: int | None, chance: np.random.Generator) -> np.ndarray:
    """Return a sound, int16 [n], with pink noise (a spectrum that falls with the frequency)."""
    if decibels is None:
        return sound
    spectrum = np.fft.rfft(chance.standard_normal(len(sound)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)).clip(1)), len(sound))
    mixed = sound + noise * (sound.std() / noise.std() / 10 ** (decibels / 20))
    return mixed.clip(-32768, 32767).astype(np.int16)


def states(starts: list[tuple[int, str]], samples: int) -> np.ndarray:
    """Return the state of each frame, int16 [1 + samples // HOP], from where phonemes start."""
    at = np.array([start for start, _ in starts])
    phonemes = np.array([PHONEMES.index(name if name in PHONEMES else "other") for _, name in starts])
    frames = np.arange(1 + samples // HOP) * HOP
    own = np.searchsorted(at, frames, "right") - 1
    begin, end = at[own.clip(0)], np.append(at[1:], samples)[own.clip(0)]
    third = (3 * (frames - begin) // np.maximum(end - begin, 1)).clip(0, 2)
    return np.where(own < 0, 0, 3 * phonemes[own.clip(0)] + third).astype(np.int16)


class Speaker:
    """espeak-ng, which tells where each phoneme starts (its header speak_lib.h)."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), PHONEME_EVENTS)
        if rate != RATE:
            raise RuntimeError(f"espeak-ng speaks at {rate} samples a second; expected {RATE}")
        self._callback = CALLBACK(self._hear)  # kept here, or it would be freed while espeak-ng calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, words_per_minute: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Return a sound, int16 [n], and the samples at which phonemes start, with their names."""
        self._sounds, self._starts = [], []
        spoken = text.encode() + b"\0"
        if self._library.espeak_SetVoiceByName(f"en-us+{voice}".encode()):
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(WORDS_A_MINUTE, words_per_minute, 0)
        self._library.espeak_ng_SetRandSeed(1)  # some voices breathe
        self._library.espeak_Synth(spoken, len(spoken), 0, CHARACTERS, 0, UTF8, None, None)
        return np.concatenate(self._sounds), self._starts

    def _hear(self, sound, samples: int, events) -> int:
        if samples > 0 and sound:
            self._sounds.append(np.ctypeslib.as_array(sound, (samples,)).copy())
        for event in events:
            if event.type == LAST_EVENT:
                return 0
            if event.type == PHONEME_EVENT:
                name = event.id.name.strip(b"',").rstrip(b"-:#!").decode() or "_"
                self._starts.append((event.sample, name))
        return 0


SCHEMA = pa.schema({"utterance": pa.string(), "sound": pa.binary(), "states": pa.list_(pa.int16())})


class Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("text", ctypes.c_char_p), ("name", ctypes.c_char * 8))


class Event(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "number", "text", "length", "milliseconds", "sample")),
        ("user_data", ctypes.c_void_p),
        ("id", Id),
    )


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
SYNCHRONOUS, PHONEME_EVENTS, LAST_EVENT, PHONEME_EVENT, WORDS_A_MINUTE, CHARACTERS, UTF8 = 2, 1, 0, 7, 1, 1, 1
