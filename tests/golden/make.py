"""Write tests/golden/v1 and tests/golden/views, the caches that hold format version 1 still.

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


def make_views(output: Path) -> None:
    """Build the recipe with views in two commits: two views, then a third."""
    softcache.build(HERE / "views_recipe/recipe.yaml", output)
    softcache.build(HERE / "views_recipe/recipe.yaml", output, ["augmentation.views=3"])


if __name__ == "__main__":
    for name, write in (("v1", make), ("views", make_views)):
        shutil.rmtree(HERE / name, ignore_errors=True)
        write(HERE / name)
