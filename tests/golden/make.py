"""Write tests/golden/v1, the cache that holds format version 1 still.

Run it only when the format changes on purpose.
"""

import shutil
from pathlib import Path

import softcache

HERE = Path(__file__).parent


def make(output: Path) -> None:
    """Build the golden recipe in two commits: three samples, then all five."""
    softcache.build(HERE / "recipe/recipe.yaml", output, limit=3)
    softcache.build(HERE / "recipe/recipe.yaml", output)


if __name__ == "__main__":
    shutil.rmtree(HERE / "v1", ignore_errors=True)
    make(HERE / "v1")
