"""Labels of every type: what counts as one, and what validate and a build say about them."""

import json

from conftest import Workshop


def test_missing_labels_do_not_count(workshop: Workshop) -> None:
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [i if n < 20 else -1 for n, i in enumerate(workshop.answers().argmax(1).tolist())]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    assert workshop.build().targets[0].accuracy == 1.0
