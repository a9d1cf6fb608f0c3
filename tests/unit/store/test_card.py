"""The card: what softcache writes is rewritten, and what people write stays."""

import logging

import datasets
import pytest
import yaml
from conftest import Workshop
from hypothesis import given
from hypothesis import strategies as st

import softcache
from softcache.errors import FormatError
from softcache.store.card_parts import BEGIN, END, with_parts

OWN = {"configs": [{"config_name": "cls@t", "data_files": [{"split": "train", "path": ["data/a.arrow"]}]}]}
CARD = f"""---
# who may use it
license: mit
configs:
- config_name: old
  data_files: []

# how it is found
tags: [distillation, "a: b"]
---

# My digits

Made for the course.

{BEGIN}
old text
{END}

## Licence
MIT
"""


def test_edited_parts_stay() -> None:
    card = with_parts(CARD, OWN, "new text\n")
    front, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front) == OWN | {"license": "mit", "tags": ["distillation", "a: b"]}
    assert list(yaml.safe_load(front)) == ["license", "configs", "tags"]
    assert "# who may use it\nlicense: mit\n" in front
    assert '\n# how it is found\ntags: [distillation, "a: b"]\n' in front
    assert body == CARD.split("---\n", 2)[2].replace("old text", "new text")
    assert with_parts(card, OWN, "new text\n") == card


def test_a_card_without_the_parts_gains_them() -> None:
    """A front matter that a tool has written anew, a body without marks, no front matter, no card."""
    for card, kept in (
        ("---\nlicense: mit\n---\n# Mine\n", ["license: mit\n", "---\n# Mine\n"]),
        ("---\nlicense: mit\n---\n", ["license: mit\n"]),
        ("# Mine, without an end of line", ["---\n\n# Mine, without an end of line\n"]),
        ("---\nnot the end of a front matter\n", ["\n---\nnot the end of a front matter\n"]),
        ("---\r\nlicense: mit\r\n---\r\nMine\r\n", ["license: mit\r\n", "Mine\r\n"]),
        (f"{END} and {BEGIN}", [f"{END} and {BEGIN}\n"]),
        ("", ["# A softcache cache\n"]),
    ):
        found = with_parts(card, OWN, "new text\n")
        assert all(text in found for text in kept), found
        assert f"{BEGIN}\nnew text\n{END}\n" in found
        assert yaml.safe_load(found.split("---")[1])["configs"] == OWN["configs"]
        assert with_parts(found, OWN, "new text\n") == found


@given(st.text(st.sampled_from("-ab:#[]{}'\"\n \r\té!&*|>%@"), max_size=40))
def test_any_text_stays(text: str) -> None:
    card = CARD.replace("Made for the course.", text)
    assert text in with_parts(card, OWN, "new text\n")
    front = f"---\n{text}\n---\n"
    try:
        found = with_parts(front, OWN, "x\n")
    except FormatError:
        return
    assert with_parts(found, OWN, "x\n") == found


@pytest.mark.parametrize(
    "front", ["a: [", "- a", "{license: mit}", "[" * 50_000, "? [a]\n: b", "a: 1\n...\n{b: 2}", " a: 1"]
)
def test_what_is_no_front_matter_is_refused(front: str) -> None:
    with pytest.raises(FormatError, match="front matter"):
        with_parts(f"---\n{front}\n---\n", OWN, "x\n")


def test_a_card_that_is_edited_between_builds(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    workshop.build(limit=10)
    card = workshop.cache / "README.md"
    text = card.read_text()
    assert text.startswith("---\nconfigs:\n")
    assert "# A softcache cache\n" in text
    edited = text.replace("---\n", "---\nlicense: mit\n", 1).replace("# A softcache cache", "# Mine") + "\n## Licence\n"
    card.write_text(edited)
    assert softcache.verify(workshop.cache).ok
    workshop.build()
    text = card.read_text()
    assert "at commit 2" in text
    assert text.startswith("---\nlicense: mit\nconfigs:\n")
    assert "# Mine\n" in text
    assert text.endswith("\n## Licence\n")
    assert softcache.verify(workshop.cache).ok
    found = datasets.load_dataset(str(workshop.cache), "cls@t", cache_dir=str(workshop.folder.parent / "hf"))["train"]
    assert found["sample_id"][:] == list(range(40))
    card.write_bytes(b"---\na: [\n---\n")
    with caplog.at_level(logging.WARNING):
        workshop.build("tasks.more={kind: features, teachers: [t], output: feat, shape: [3]}")
    assert "its front matter is not YAML" in caplog.text
    assert "it is left as it is, and does not show commit 3" in caplog.text
    assert card.read_bytes() == b"---\na: [\n---\n"
    assert [p.path for p in softcache.verify(workshop.cache).problems] == ["README.md"]
