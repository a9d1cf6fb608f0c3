"""The house: floors, sizes, the public surface, what an import costs."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import softcache

ROOT = Path(softcache.__file__).parent
# From the ground up. A room imports only rooms below its own floor; ground-floor modules may import each other.
FLOORS = (
    {"version", "errors", "arrays", "kinds", "tasks", "measures", "settings", "once"},
    {"store", "codecs"},
    {"transfer"},
    {"teachers", "recipe", "soft"},
    {"read", "distill"},
    {"loaders", "audit", "builder"},
    {"assess"},
    {"cli"},
)
# The same inside the builder, in the order of a build.
STAGES = ({"signals", "prepare"}, {"answer"}, {"publish"}, {"engines"}, {"build"})
MOST_LINES, MEDIAN_LINES = 300, 120


def floor_of(module: str) -> tuple[int, int] | None:
    """The floor of a module's room, and in the builder the stage; None for modules from outside."""
    parts = module.split(".")
    if parts[0] != "softcache" or len(parts) < 2:
        return None
    floor = next(i for i, rooms in enumerate(FLOORS) if parts[1] in rooms)
    in_builder = parts[1] == "builder" and len(parts) > 2
    return floor, next(i for i, stages in enumerate(STAGES) if parts[2] in stages) if in_builder else 0


def imports(file: Path) -> list[tuple[str, bool]]:
    """Modules of softcache that a file imports, and whether inside a function."""
    tree = ast.parse(file.read_text())
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found.append((f"softcache.{node.module}", id(node) in inner))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "softcache":
            names = [f"softcache.{a.name}" for a in node.names] if node.module == "softcache" else [node.module]
            found += [(name, id(node) in inner) for name in names]
        elif isinstance(node, ast.Import):
            found += [(a.name, id(node) in inner) for a in node.names if a.name.split(".")[0] == "softcache"]
    return found


def module_of(file: Path) -> str:
    return ".".join(("softcache", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


FILES = sorted(f for f in ROOT.rglob("*.py") if f.parent != ROOT or f.stem not in ("__init__", "__main__"))
MODULES = {module_of(f): f for f in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file: Path) -> None:
    here = floor_of(module_of(file))
    assert here is not None
    for module, inside in imports(file):
        there = floor_of(module)
        same_room = module.split(".")[1:2] == module_of(file).split(".")[1:2]
        if there is not None and same_room:
            assert there[1] <= here[1], f"{module_of(file)} imports {module}, which is a later stage"
        elif there is not None and here[0] > 0:
            assert there[0] < here[0], f"{module_of(file)} imports {module}, which is not below it"
        else:
            assert there is None or there[0] == 0, f"{module_of(file)} is on the ground and imports {module}"
        assert not inside, f"{file.name} hides the import of {module} in a function"


def test_the_surface_imports_only_the_house() -> None:
    """`__init__.py` imports nothing of softcache itself; its stub, which says where names live, only what is there."""
    assert imports(ROOT / "__init__.py") == []
    for module, inside in imports(ROOT / "__init__.pyi"):
        assert not inside
        assert module in MODULES


def test_every_room_has_one_floor() -> None:
    rooms = [f.relative_to(ROOT).parts[0].removesuffix(".py") for f in FILES]
    listed = [room for rooms_of_floor in FLOORS for room in rooms_of_floor]
    assert sorted(set(rooms)) == sorted(listed)


def test_no_import_cycles() -> None:
    graph = {m: {i for i, _ in imports(f) if i in MODULES and i != m} for m, f in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_files_are_read_at_a_glance() -> None:
    lines = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in FILES}
    assert not {name: n for name, n in lines.items() if n > MOST_LINES}
    assert statistics.median(n for name, n in lines.items() if not name.endswith("__init__.py")) <= MEDIAN_LINES


def everything() -> list[object]:
    """Every class and function that is defined in softcache."""
    found: list[object] = []
    for info in pkgutil.walk_packages([str(ROOT)], "softcache."):
        if info.name != "softcache.__main__":
            module = importlib.import_module(info.name)
            found += [o for o in vars(module).values() if getattr(o, "__module__", None) == info.name]
    return found


def test_what_is_public_is_documented() -> None:
    public = [
        o for o in everything() if (inspect.isclass(o) or inspect.isfunction(o)) and not o.__name__.startswith("_")
    ]
    assert len(public) > 300
    assert not [f"{o.__module__}.{o.__name__}" for o in public if not o.__doc__]


def test_large_dataclasses_are_made_by_keyword() -> None:
    """At most four fields are given by position: nobody can count twelve."""
    classes = [o for o in everything() if inspect.isclass(o) and dataclasses.is_dataclass(o)]
    positional = {c.__qualname__: sum(f.init and not f.kw_only for f in dataclasses.fields(c)) for c in classes}
    assert len(classes) > 50
    assert not {name: n for name, n in positional.items() if n > 4}


def test_every_public_name_is_there() -> None:
    assert len(softcache.__all__) == len(set(softcache.__all__)) > 40
    for name in softcache.__all__:
        assert getattr(softcache, name) is not None
    with pytest.raises(AttributeError):
        softcache.nothing_of_that_name  # noqa: B018


def test_every_error_is_public() -> None:
    from softcache import errors

    tree = {e.__name__ for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.SoftcacheError)}
    assert tree <= set(softcache.__all__)


def run(*lines: str) -> None:
    subprocess.run([sys.executable, "-c", "\n".join(("import sys", *lines))], check=True)


def test_import_is_light() -> None:
    run(
        "import softcache",
        "assert not {'torch', 'pyarrow', 'datasets', 'pydantic', 'fsspec', 'zarr'} & set(sys.modules)",
        "import softcache.read.cache, softcache.loaders.attach, softcache.distill",
        "assert not {'softcache.recipe', 'softcache.teachers', 'softcache.builder', 'datasets'} & set(sys.modules)",
        "import softcache.builder.build",
        "libraries = {'transformers', 'onnxruntime', 'sentence_transformers', 'timm', 'scipy', 'torchjd', 'datasets'}",
        "assert not libraries & set(sys.modules)",
    )


def test_the_format_needs_no_torch() -> None:
    rooms = ", ".join(m for m in MODULES if m.startswith("softcache.store."))
    run(f"import {rooms}", "assert not {'torch', 'softcache.codecs'} & set(sys.modules)")


def test_losses_need_no_cache() -> None:
    run(
        "import softcache.distill",
        "assert not [m for m in sys.modules if m.startswith(('softcache.read', 'softcache.store'))]",
    )
