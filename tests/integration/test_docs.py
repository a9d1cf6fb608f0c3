"""Every code block of README.md and docs/ runs, in order, in one namespace per page; prose is wrapped."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from language import Language

from softcache.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (".", "docs", "docs/reference", "benchmarks", "recipes/*")
PROSE = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    """A cache with the targets of recipes/lm, of a smaller model."""
    made = Language(tmp_path_factory.mktemp("language"))
    made.recipe["tasks"] = {"next": made.recipe["tasks"]["lm"]}
    made.build()
    return made


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(python|bash)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
# Trainers recommend GPUs and workers.
@pytest.mark.filterwarnings("ignore:.*pin_memory.* argument is set as true:UserWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")  # Lightning's own
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # TRL's own default
def test_blocks(page: Path, digits: Path, language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    shutil.copytree(digits, "runs/digits")
    (tmp_path / "runs/lm").symlink_to(language.cache)
    (tmp_path / "runs/smol").symlink_to(language.folder / "model")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    names: dict[str, object] = {}
    for kind, code in blocks(page):
        if kind == "python":
            exec(compile(code, page.name, "exec"), names)
        else:
            for line in code.strip().splitlines():
                run_line(line)


def run_line(line: str) -> None:
    """Run the `softcache` commands of a shell line; its installation is what brought us here."""
    for part in line.split("&&"):
        words = shlex.split(part)
        if words[0].endswith("softcache"):
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, (line, result.output)
        else:
            assert words[0].endswith(("python3", "python", "pip")), line


def test_ci_runs_the_readme_test_command() -> None:
    (command,) = [c for _, c in blocks(ROOT / "README.md") if "pytest" in c]
    quiet = (ROOT / ".ci/run").read_text().replace("pip install -q", "pip install")
    assert command.strip() in quiet


def test_the_format_page_names_every_stored_dtype() -> None:
    from softcache.store.buffers import DTYPES

    page = (ROOT / "docs/format.md").read_text(encoding="utf-8")
    assert all(f"`{dtype}`" in page for dtype in DTYPES)


def test_the_exit_codes_are_those_documented() -> None:
    from softcache import errors

    codes = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.SoftcacheError)}
    assert codes == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path) -> None:
    """Lines of prose have at most 100 characters; tables and code have the width that they need."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        free = fenced or line.startswith(("|", "    ", "!["))
        assert free or len(line) <= 100, f"line {number} has {len(line)} characters"
