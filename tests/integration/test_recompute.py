"""Stored answers against the teachers' of today: equal up to rounding, or the target and the row are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from augmented import Augmented
from click.testing import CliRunner
from conftest import Workshop
from every_kind import Kinds
from language import Language

import softcache
from softcache.cli import main
from softcache.errors import AlignmentError, IncompatibleTarget, IncompleteCache, RecipeError


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


def test_the_same_teachers(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__((slice(13, 14), 0), 1000.0))
    workshop.build("build.on_bad_sample=skip")
    found = softcache.recompute(workshop.save(), workshop.cache, ["build.on_bad_sample=skip"], rows=40)
    assert [(t.name, t.rows, t.ok) for t in found.targets] == [("cls@t", 40, True), ("feat@t", 40, True)]
    assert all(t.largest <= t.allowed for t in found.targets)
    assert workshop.build("build.on_bad_sample=skip").up_to_date, "nothing has been written"


def test_every_kind(tmp_path: Path) -> None:
    kinds = Kinds(tmp_path)
    kinds.build()
    found = softcache.recompute(kinds.folder / "recipe.yaml", kinds.cache, rows=5)
    assert {t.name for t in found.targets} == set(kinds.open().targets)
    assert found.ok, [t for t in found.targets if not t.ok]


def test_language_models(language: Language) -> None:
    language.build()
    found = softcache.recompute(language.folder / "recipe.yaml", language.cache, rows=3)
    assert {t.name for t in found.targets} == set(softcache.open(language.cache).targets)
    assert found.ok, [t for t in found.targets if not t.ok]


def test_views(augmented: Augmented) -> None:
    workshop = augmented(views=3)
    workshop.build()
    found = softcache.recompute(workshop.save(), workshop.cache, rows=30, seed=0)
    assert found.ok
    assert isinstance(found.targets[0].sample, tuple)


def test_one_row_of_another_teacher(workshop: Workshop) -> None:
    """A teacher that answers one sample differently, though nothing declared has changed: that sample is named."""
    (workshop.folder / "odd").write_text("")
    model = (workshop.folder / "model.py").read_text()
    last = float(workshop.inputs()[7, 3])
    changed = model.replace("HERE = ", f"LAST = {last!r}\nHERE = ")
    changed = changed.replace(
        'return {"cls": self.head(x) * self.scale',
        "odd = torch.tensor([[9.0 if (HERE / 'odd').read_text() and float(row[3]) == LAST else 0.0] for row in x])\n"
        '        return {"cls": self.head(x) * self.scale + odd * torch.arange(5.0)',
    )
    assert changed.count("odd") == 3
    workshop.write("model.py", changed)
    workshop.build()
    assert softcache.recompute(workshop.save(), workshop.cache, rows=40).ok
    (workshop.folder / "odd").write_text("now")
    found = {t.name: t for t in softcache.recompute(workshop.save(), workshop.cache, rows=40).targets}
    assert (found["cls@t"].ok, found["cls@t"].sample, found["feat@t"].ok) == (False, 7, True)
    assert found["cls@t"].largest == pytest.approx(36, abs=1e-3)
    words = ["verify", str(workshop.cache), "--recompute", "40", "--recipe", str(workshop.save())]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 1
    assert "NO" in shown.output
    assert not json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["ok"]


def changed(workshop: Workshop, body: str) -> None:
    """Make the teacher answer differently once a file `odd` is there: `body` changes `out`, the logits of inputs x."""
    model = (workshop.folder / "model.py").read_text()
    lines = [f"        {line}" for line in ("out = self.head(x) * self.scale", "if (HERE / 'odd').exists():")]
    lines += [f"            {line}" for line in body.splitlines()]
    workshop.write(
        "model.py",
        model.replace(
            '        return {"cls": self.head(x) * self.scale', "\n".join([*lines, '        return {"cls": out'])
        ),
    )
    del workshop.recipe["tasks"]["feat"]


def recomputed(workshop: Workshop, *overrides: str, rows: int = 40) -> Any:
    """Build, change the teacher, recompute; the only target's result."""
    workshop.build(*overrides)
    assert softcache.recompute(workshop.save(), workshop.cache, overrides, rows=rows).ok
    (workshop.folder / "odd").touch()
    (found,) = softcache.recompute(workshop.save(), workshop.cache, overrides, rows=rows).targets
    return found


def test_each_row_is_judged_on_its_own_scale(workshop: Workshop) -> None:
    """A row of large numbers whose difference is explained does not hide small ones that are not."""
    changed(workshop, "out = out + torch.where(x[:, :1] > 100, 0.9, 0.5) * torch.tensor([1.0, 0, 0, 0, 0])")
    workshop.samples(40, change=lambda x: x.__setitem__((slice(13, 14), 0), 800.0))
    found = recomputed(workshop)
    assert not found.ok
    assert found.sample != 13
    assert found.largest == pytest.approx(0.5, abs=1e-3)


def test_a_row_that_is_answered_in_one_company_only(workshop: Workshop) -> None:
    """It excuses no other row."""
    changed(
        workshop,
        "if len(x) > 1:\n    out = torch.where(x[:, :1] > 100, torch.nan, out)\nout = out + 5 * torch.arange(5.0)",
    )
    workshop.samples(40, change=lambda x: x.__setitem__((slice(13, 14), 0), 800.0))
    assert not recomputed(workshop, "build.on_bad_sample=skip").ok


def test_a_tail_that_has_changed(workshop: Workshop) -> None:
    task = workshop.recipe["tasks"]["cls"]
    task["store"] = {"codec": "topk", "k": 2}
    changed(workshop, "out = out.scatter(1, out.argsort(1)[:, :2], -20.0)")
    found = recomputed(workshop)
    assert not found.ok
    assert 4e-3 < found.largest <= 1


def test_boxes_do_not_excuse_their_classes(tmp_path: Path) -> None:
    """Parts are judged on their own scale: boxes are large numbers."""
    kinds = Kinds(tmp_path)
    model = (kinds.folder / "model.py").read_text()
    boxes = "h[i, 300:300 + 4 * n].view(n, 4).sigmoid()"
    logits = "h[i, 200:200 + 6 * n].view(n, 6)"
    odd = f"{logits} + (0.5 * torch.arange(6.0) if __import__('os').path.exists('{tmp_path}/odd') else 0)"
    assert model.count(boxes) == model.count(logits) == 1
    kinds.write("model.py", model.replace(boxes, f"{boxes} * 1000").replace(logits, odd))
    kinds.recipe["tasks"] = {"objects": kinds.recipe["tasks"]["objects"] | {"boxes": "cxcywh"}}
    kinds.build()
    assert softcache.recompute(kinds.save(), kinds.cache, rows=24).ok
    (tmp_path / "odd").touch()
    assert not softcache.recompute(kinds.save(), kinds.cache, rows=24).ok


def test_a_target_that_covers_few_rows(workshop: Workshop) -> None:
    """Rows are drawn from what each target covers."""
    workshop.build()
    workshop.recipe["tasks"]["late"] = workshop.recipe["tasks"]["feat"] | {"output": "feat"}
    workshop.build(limit=10)
    found = softcache.recompute(workshop.save(), workshop.cache, rows=3, seed=1)
    assert {(t.name, t.rows) for t in found.targets} == {("cls@t", 3), ("feat@t", 3), ("late@t", 3)}


def test_another_teacher_is_named(workshop: Workshop) -> None:
    workshop.build()
    workshop.weights(1)
    with pytest.raises(IncompatibleTarget, match=r"cls@t: teacher\.weights"):
        softcache.recompute(workshop.save(), workshop.cache, rows=4)


def test_other_samples(workshop: Workshop) -> None:
    workshop.build()
    workshop.samples(40, change=lambda x: x.__iadd__(1))
    with pytest.raises(AlignmentError, match="no sample of cls@t is as its teacher saw it"):
        softcache.recompute(workshop.save(), workshop.cache, rows=4)


def test_refused(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(IncompleteCache, match="nothing is committed yet"):
        softcache.recompute(workshop.save(), tmp_path / "none", rows=4)
    with pytest.raises(RecipeError, match="rows is 0"):
        softcache.recompute(workshop.save(), workshop.cache, rows=0)
    workshop.build()
    shown = CliRunner().invoke(main, ["verify", str(workshop.cache), "--recompute", "4"])
    assert shown.exit_code == 2
    assert "needs the recipe" in shown.output
    recipe = str(workshop.save())
    for words in (["--recipe", recipe], ["--seed", "1"], ["--recompute", "4", "--recipe", recipe, "--level", "full"]):
        assert CliRunner().invoke(main, ["verify", str(workshop.cache), *words]).exit_code == 2
