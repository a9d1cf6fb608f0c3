"""The reference: every public name is on a page, and every error says its exit code."""

import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import softcache
from softcache import errors

DOCS = Path(__file__).parents[2] / "docs"
DIRECTIVES = [
    name
    for page in sorted((DOCS / "reference").glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]
ERRORS = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.SoftcacheError)]


def test_every_public_name_is_in_the_reference_once() -> None:
    assert len(DIRECTIVES) == len(set(DIRECTIVES))
    public = {f"softcache.{name}": getattr(softcache, name) for name in softcache.__all__}
    modules = {name: module for name, module in public.items() if isinstance(module, ModuleType)}
    assert {f"{name}.{member}" for name, module in modules.items() for member in module.__all__} <= set(DIRECTIVES)
    assert set(public) <= set(DIRECTIVES)


@pytest.mark.parametrize("name", DIRECTIVES)
def test_what_the_reference_names_exists(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


def test_every_page_is_in_the_navigation() -> None:
    navigation = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md", str(navigation))) == pages


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_an_error_says_its_exit_code(error: type[errors.SoftcacheError]) -> None:
    assert f"Exit code {error.exit_code}." in (error.__doc__ or "")


def test_the_page_of_errors_has_the_tree() -> None:
    def tree(error: type[errors.SoftcacheError], depth: int = 0) -> list[list[str]]:
        below = [line for e in ERRORS if error in e.__bases__ for line in tree(e, depth + 1)]
        return [[" " * 4 * depth + error.__name__, str(error.exit_code)], *below]

    page = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [line.rsplit(maxsplit=1) for line in shown.splitlines()] == tree(errors.SoftcacheError)
