"""The house: floors, the public surface, what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import softcache

ROOT = Path(softcache.__file__).parent
FLOORS = {
    "errors": 0,
    "kinds": 1,
    "tasks": 2,
    "codecs": 3,
    "store": 4,
    "settings": 5,
    "transfer": 5,
    "read": 6,
    "teachers": 6,
    "recipe": 6,
    "distill": 7,
    "builder": 7,
    "cli": 8,
}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "softcache" and len(parts) > 1 else None


def imports(file: Path) -> list[tuple[str, bool]]:
    """Modules of softcache that a file imports, and whether inside a function."""
    tree = ast.parse(file.read_text())
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "softcache":
            names = [f"softcache.{a.name}" for a in node.names] if node.module == "softcache" else [node.module]
            found += [(name, id(node) in inner) for name in names]
        elif isinstance(node, ast.Import):
            found += [(a.name, id(node) in inner) for a in node.names if a.name.split(".")[0] == "softcache"]
    return found


FILES = sorted(f for f in ROOT.rglob("*.py") if f.parent != ROOT or f.stem not in ("__init__", "__main__"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file: Path) -> None:
    here = file.relative_to(ROOT).parts[0].removesuffix(".py")
    for module, inside in imports(file):
        there = room(module)
        if there in (None, here) or there not in FLOORS:
            continue
        assert FLOORS[there] < FLOORS[here], f"{here} imports {module}"
        assert not inside or here == "cli", f"{file.name} hides the import of {module} in a function"


def test_every_room_has_a_floor() -> None:
    rooms = {f.relative_to(ROOT).parts[0].removesuffix(".py") for f in FILES}
    assert rooms == set(FLOORS)


def test_no_import_cycles() -> None:
    modules = {
        ".".join(("softcache", *f.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): f for f in FILES
    }
    graph = {m: {i for i, _ in imports(f) if i in modules and i != m} for m, f in modules.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_public_name_is_there() -> None:
    assert sorted(softcache.__all__) == sorted(set(softcache.__all__))
    for name in softcache.__all__:
        assert getattr(softcache, name) is not None
    with pytest.raises(AttributeError):
        softcache.nothing_of_that_name  # noqa: B018


def test_import_is_light() -> None:
    code = (
        "import sys, softcache\n"
        "assert not {'torch', 'pyarrow', 'datasets', 'pydantic', 'fsspec', 'zarr'} & set(sys.modules)\n"
        "import softcache.read.cache, softcache.read.attach, softcache.distill\n"
        "assert not {'softcache.recipe', 'softcache.teachers', 'softcache.builder', 'datasets'} & set(sys.modules)\n"
        "import softcache.builder.executor\n"
        "libraries = {'transformers', 'onnxruntime', 'sentence_transformers', 'timm', 'scipy', 'datasets'}\n"
        "assert not libraries & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
