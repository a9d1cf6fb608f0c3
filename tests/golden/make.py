"""Write the caches of tests/golden, which hold format version 1 still.

Run it only when the format changes on purpose.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import softcache

HERE = Path(__file__).parent


def make(output: Path) -> None:
    """Build the golden recipe in two commits: three samples, then all five."""
    softcache.build(HERE / "recipe/recipe.yaml", output, limit=3)
    softcache.build(HERE / "recipe/recipe.yaml", output)


def make_views(output: Path) -> None:
    """Build the recipe with views in two commits: two views, then a third."""
    softcache.build(HERE / "views_recipe/recipe.yaml", output)
    softcache.build(HERE / "views_recipe/recipe.yaml", output, ["augmentation.views=3"])


def make_words(output: Path) -> None:
    """Build the recipe of a language model in two commits: three samples, then all four."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(HERE / "words_recipe", Path(temporary, "recipe")))
        subprocess.run([sys.executable, "words.py", "model"], cwd=folder, check=True)
        softcache.build(folder / "recipe.yaml", output, limit=3)
        softcache.build(folder / "recipe.yaml", output)


if __name__ == "__main__":
    for name, write in (("v1", make), ("views", make_views), ("words", make_words)):
        shutil.rmtree(HERE / name, ignore_errors=True)
        write(HERE / name)
