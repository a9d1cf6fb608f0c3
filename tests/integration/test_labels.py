"""Labels of every type: what counts as one, and what validate and a build say about them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Workshop

from softcache.assess.validate import validate
from softcache.cli import main
from softcache.errors import RecipeError


def test_missing_labels_do_not_count(workshop: Workshop) -> None:
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [i if n < 20 else -1 for n, i in enumerate(workshop.answers().argmax(1).tolist())]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    assert workshop.build().targets[0].accuracy == 1.0


def test_boolean_labels(workshop: Workshop) -> None:
    workshop.relabel([i % 2 == 0 for i in range(40)])
    found = workshop.build().targets[0]
    right = workshop.answers().argmax(1).numpy() == (np.arange(40) % 2 == 0)
    assert found.accuracy == pytest.approx(right.mean())
    assert validate(workshop.save()).hygiene.labels == {"label": {False: 20, True: 20}}


def test_labels_of_any_kind_in_json(workshop: Workshop) -> None:
    workshop.columns(3, "[datetime.date(2026, 1, d) for d in (1, 1, 2)]")
    shown = json.loads(CliRunner().invoke(main, ["validate", str(workshop.save()), "--json"]).stdout)
    assert shown["hygiene"]["labels"] == {"label": {"2026-01-01": 2, "2026-01-02": 1}}
    workshop.columns(3, "[float('nan')] * 3")
    found = validate(workshop.save()).hygiene
    assert found.labels == {"label": {"nan": 3}}
    assert found.contradictions == {}


def test_missing_labels_contradict_nothing(workshop: Workshop) -> None:
    workshop.columns(5, "[-1, 3, 3, 2, -1]")
    h = validate(workshop.save()).hygiene
    assert h.duplicates.ids == [1, 2, 3, 4]
    assert h.contradictions["label"].ids == [3]


def test_labels_of_two_tasks(workshop: Workshop) -> None:
    workshop.recipe["tasks"]["more"] = workshop.recipe["tasks"]["cls"] | {"classes": 200, "output": "cls"}
    workshop.relabel([100] * 40)
    assert validate(workshop.save()).hygiene.not_classes["label"].count == 40


def test_labels_in_the_order_of_the_transfer_set(workshop: Workshop) -> None:
    """A column of class numbers names its classes; a task that names them differently is refused."""
    workshop.write(
        "data.py",
        """
        import datasets
        import numpy as np

        def samples():
            x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
            features = {"id": datasets.Value("int64"), "x": datasets.List(datasets.Value("float32"), length=4),
                        "label": datasets.ClassLabel(names=["cat", "dog", "cow", "hen", "bee"])}
            columns = {"id": range(8), "x": x.tolist(), "label": [i % 5 for i in range(8)]}
            return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        """,
    )
    del workshop.recipe["tasks"]["feat"]
    task = workshop.recipe["tasks"]["cls"]
    del task["classes"]
    task["labels"] = ["cat", "cow", "dog", "hen", "bee"]
    with pytest.raises(
        RecipeError, match=r"tasks\.cls: labels are in another order than those of column 'label' of the"
    ):
        workshop.build()
    task["labels"] = ["cat", "dog", "cow", "hen", "ant"]
    with pytest.raises(RecipeError, match="class 4 is 'ant' here, 'bee' there"):
        workshop.build()
    task["labels"] = ["cat", "dog", "cow", "hen", "bee", "ant"]
    with pytest.raises(RecipeError, match=r"6 classes; column 'label' of the transfer set has 5: 'cat', 'dog'"):
        workshop.build()
    task["labels"].pop()
    assert workshop.build().targets[0].accuracy is not None
