"""Recipes and answers that do not fit a task's kind."""

from pathlib import Path

import pytest
from every_kind import Kinds

import softcache
from softcache.errors import CodecError, RecipeError, TeacherError

BAD_BOXES = "Sequences.from_lists([h[:1, :6]] * len(h), boxes=[h[:1, :4] / 0] * len(h), scores=[h[0, :1]] * len(h))"


NO_SCORES = "Sequences.from_lists([h[:1, :6]] * len(h), boxes=[h[:1, :4]] * len(h))"


CHANGES: list[tuple[str, str, type[Exception], str]] = [
    ("depth", "h[:, 100:103]", TeacherError, "output 'depth' is a torch.strided cpu tensor; expected a mapping"),
    ("depth", "{'values': h[:, :3], 'variance': -h[:, :3] ** 2}", CodecError, "variance that is not above 0"),
    ("depth", "{'values': h[:, :3], 'variance': h[:, :2]}", TeacherError, r"variance is torch.float32 \[4, 2\]"),
    ("objects", BAD_BOXES, CodecError, "boxes that is not finite"),
    ("objects", NO_SCORES, TeacherError, "has the parts"),
    ("tags", "h[:, :7].sigmoid()", TeacherError, "looks like probabilities .all are between 0 and 1; samples"),
    ("tagprobs", "h[:, :7]", CodecError, "outside"),
    ("maps", "found['maps'].softmax(1)", TeacherError, "looks like probabilities .each row sums to 1; samples 0"),
    ("maps", "found['maps'][:, :, :2]", TeacherError, r"\[4, 5, 2, 4\] for 4 samples"),
]


@pytest.mark.parametrize(("output", "answer", "error", "message"), CHANGES)
def test_answers_that_do_not_fit_their_kind(
    tmp_path: Path, output: str, answer: str, error: type[Exception], message: str
) -> None:
    kinds = Kinds(tmp_path)
    kinds.recipe["tasks"] = {n: t for n, t in kinds.recipe["tasks"].items() if n == output}
    kinds.recipe["teachers"]["t"]["arguments"] = {output: answer}
    if "sigmoid" in answer:  # all between 0 and 1: for a few logits that may well be
        kinds.samples(160)
        kinds.recipe["build"] = {"batch_size": 40}
    with pytest.raises(error, match=message):
        kinds.build()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.maps.activation=null", "activation is None; expected one of softmax, sigmoid"),
        ("tasks.maps.size=null", "segmentation needs size"),
        ("tasks.tags.size=[2,2]", "multilabel has no size"),
        ("tasks.tags.value_kind=log_probs", "with sigmoid give logits or probs"),
        ("tasks.tags.store={codec: topk}", "codec topk stores distributions over classes, not multilabel"),
        ("tasks.objects.boxes=null", "boxes is None; expected one of xyxy"),
        ("tasks.objects.parts=[scores, size]", "parts are boxes, scores, size; detection can have boxes, scores"),
        ("tasks.objects.store.format=zarr", "detection targets can be stored only with format: arrow"),
        ("tasks.depth.value_kind=logits", "regression has no value_kind"),
        ("tasks.expert.knows={t: [cow, cat, fish]}", "knows: 'fish' is not among the labels"),
        ("tasks.expert.knows={t: [1, 1]}", "known classes are"),
        ("tasks.expert.knows={u: [1, 2]}", "u is not among the task's teachers"),
        ("tasks.expert.knows={}", "known, space and dustbin belong together"),
    ],
)
def test_recipes_that_do_not_fit_their_kind(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        softcache.build(Kinds(tmp_path).save(), tmp_path / "c", [override])
