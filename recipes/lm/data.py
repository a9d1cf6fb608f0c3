"""Python's own help topics, in passages of whole paragraphs."""

from pydoc_data.topics import topics

LONGEST, HELD_OUT_EVERY = 600, 8  # characters, topics


def passages(limit: int | None = None) -> dict[str, list]:
    """Return ids, texts, and whether each passage is held out; `limit` picks that many passages, evenly spaced.

    A whole topic is held out or none of it: every eighth.
    """
    found: dict[str, list] = {"id": [], "text": [], "held_out": []}
    for number, (topic, text) in enumerate(sorted(topics.items())):
        for part, passage in enumerate(_passages(text)):
            found["id"].append(f"{topic}/{part}")
            found["text"].append(passage)
            found["held_out"].append(number % HELD_OUT_EVERY == 0)
    if limit is None:
        return found
    every = len(found["id"]) // limit
    return {name: column[::every][:limit] for name, column in found.items()}


def _passages(text: str) -> list[str]:
    """Return passages: consecutive paragraphs, joined while the passage stays within `LONGEST` characters."""
    found = [""]
    for paragraph in text.split("\n\n"):
        if found[-1] and len(found[-1]) + len(paragraph) > LONGEST:
            found.append("")
        found[-1] += paragraph + "\n\n"
    return [passage for passage in found if passage.strip()]
