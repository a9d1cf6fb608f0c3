"""Images of lines of text, and the preprocessing of RapidOCR's models."""

from pydoc_data.topics import topics

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 48, 320
LONGEST = 28


def samples(count):
    """Return `count` lines of Python's help topics, drawn in several sizes and shades, every sixth upside down.

    Columns: `line` (a number), `text`, whether it is `turned` and whether it is `held_out` (every fifth), and `image`,
    uint8 [48, 320].
    """
    texts = [text for text in candidates() if text.isascii()]
    random = np.random.default_rng(0)
    picked = [texts[i] for i in random.permutation(len(texts))[:count]]
    turned = [i % 6 == 5 for i in range(count)]
    return {
        "line": list(range(count)),
        "text": picked,
        "turned": turned,
        "held_out": [i % 5 == 0 for i in range(count)],
        "image": np.stack([draw(text, random, over) for text, over in zip(picked, turned, strict=True)]),
    }


def candidates():
    """Return the topics' lines without repeats, each cut after a whole word."""
    found = {}
    for topic in sorted(topics):
        for line in topics[topic].splitlines():
            words = line.split()
            while words and len(" ".join(words)) > LONGEST:
                words.pop()
            if len(" ".join(words)) > LONGEST // 2:
                found[" ".join(words)] = None
    return list(found)


def draw(text, random, turned):
    """Return an image of a line, uint8 [48, 320]."""
    paper, ink = int(random.integers(180, 256)), int(random.integers(0, 90))
    image = Image.new("L", (WIDTH, HEIGHT), paper)
    font = ImageFont.load_default(size=int(random.integers(16, 22)))
    ImageDraw.Draw(image).text((int(random.integers(2, 12)), int(random.integers(6, 18))), text, ink, font)
    pixels = np.asarray(image, np.float32) + random.normal(0, 6, (HEIGHT, WIDTH))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return pixels[::-1, ::-1] if turned else pixels


def for_reading(sample):
    """Return the input of the model that reads characters, float32 [3, 48, 320]."""
    return scaled(sample["image"])


def for_turning(sample):
    """Return the input of the model that finds the direction, float32 [3, 48, 192]."""
    image = Image.fromarray(np.asarray(sample["image"], np.uint8))
    return scaled(image.resize((192, HEIGHT), Image.Resampling.BILINEAR))


def for_finding(sample):
    """Return the input of the model that finds text, float32 [3, 64, 320]: the line with a margin above and below."""
    image = np.asarray(sample["image"], np.uint8)
    return scaled(np.pad(image, ((8, 8), (0, 0)), "edge"))


def scaled(image):
    """Return pixels [h, w] scaled to -1 to 1 and repeated in three colour channels, float32 [3, h, w]."""
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    return np.repeat(pixels[None], 3, 0)
