"""Python's own help topics, in passages of whole paragraphs."""

from pydoc_data.topics import topics

LONGEST, HELD_OUT_EVERY = 600, 8  # characters, topics


def passages(limit: int | None = None) -> dict[str, list]:
    """Return ids, texts, and whether each passage is held out; `limit` picks that many passages, evenly spaced.

    A whole topic is held out or none of it: every eighth. Topics repeat parts of each other: passages that share a
    paragraph with a topic that is held out are left out.
    """
    found: dict[str, list] = {"id": [], "text": [], "held_out": []}
    numbered = list(enumerate(sorted(topics.items())))
    kept_back = {p for number, (_, text) in numbered if number % HELD_OUT_EVERY == 0 for p in _paragraphs(text)}
    for number, (topic, text) in numbered:
        held_out = number % HELD_OUT_EVERY == 0
        for part, passage in enumerate(_passages(text)):
            if held_out or kept_back.isdisjoint(_paragraphs(passage)):
                found["id"].append(f"{topic}/{part}")
                found["text"].append(passage)
                found["held_out"].append(held_out)
    if limit is None:
        return found
    every = len(found["id"]) // limit
    return {name: column[::every][:limit] for name, column in found.items()}


def _paragraphs(text: str) -> set[str]:
    """Return the paragraphs of a text, however they are indented and wrapped."""
    return {" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()}


def _passages(text: str) -> list[str]:
    """Return passages: consecutive paragraphs, joined while the passage stays within `LONGEST` characters."""
    found = [""]
    for paragraph in text.split("\n\n"):
        if found[-1] and len(found[-1]) + len(paragraph) > LONGEST:
            found.append("")
        found[-1] += paragraph + "\n\n"
    return [passage for passage in found if passage.strip()]
