"""Specialists combined with a generalist, against the objective of Hinton et al. 2015 (equation 5) in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softcache.codecs import DenseCodec
from softcache.errors import TaskError
from softcache.soft import combination
from softcache.soft.members import joined_columns
from softcache.soft.specialists_decoder import ANSWERED, SpecialistsDecoder
from softcache.tasks import TaskSpec

CLASSES = 7
Logits = list[torch.Tensor]
Columns = dict[str, torch.Tensor]
Known = tuple[tuple[int, ...], ...]


def combined(
    known: Known, logits: Logits, n: int = CLASSES, **more: torch.Tensor
) -> tuple[SpecialistsDecoder, Columns]:
    """The decoder of a generalist's logits [B, C] and of specialists' logits [B, known + 1], and its columns."""
    tasks = [TaskSpec("classification", (CLASSES,), "logits", allow_masked=True)]
    tasks += [
        TaskSpec("classification", (len(k) + 1,), "logits", space=CLASSES, known=k, dustbin=True, allow_masked=True)
        for k in known
    ]
    codecs = [DenseCodec(task, "float32") for task in tasks]
    columns = joined_columns(codec.encode(own) for codec, own in zip(codecs, logits, strict=True))
    columns[ANSWERED] = torch.ones(len(logits[0]), len(known), dtype=torch.bool)
    general, *others = (codec.decoder for codec in codecs)
    return SpecialistsDecoder(tasks[0], general, tuple(others), n), columns | more


def drawn(seed: int, known: Known, scale: float, rows: int = 4) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    widths = [CLASSES, *(len(k) + 1 for k in known)]
    return [scale * torch.randn(rows, width, generator=generator) for width in widths]


def buckets(q: torch.Tensor, known: tuple[int, ...]) -> torch.Tensor:
    """What q [B, C] gives to the classes that a specialist knows, and to all others together."""
    others = [c for c in range(CLASSES) if c not in known]
    return torch.cat([q[:, list(known)], q[:, others].sum(1, keepdim=True)], 1)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.log()), 0.0).sum(1)


def objective(q: torch.Tensor, known: Known, logits: Logits, t: float) -> torch.Tensor:
    """KL(p_g, q) + sum of KL(p_m, q), float64 [B]."""
    general, *others = ((own.double() / t).softmax(1) for own in logits)
    found = divergence(general, q)
    for k, p in zip(known, others, strict=True):
        found = found + divergence(p, buckets(q, k))
    return found


def descended(known: Known, logits: Logits, t: float) -> torch.Tensor:
    """The paper's way: q = softmax(z), and gradient descent on z (here L-BFGS), from the generalist's logits."""
    z = (logits[0].double() / t).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [z], max_iter=500, max_eval=1000, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective(z.softmax(1), known, logits, t).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return z.detach().softmax(1)


SUBSETS = st.lists(
    st.sets(st.integers(0, CLASSES - 1), min_size=1, max_size=CLASSES - 1).map(lambda s: tuple(sorted(s))),
    min_size=1,
    max_size=4,
).map(tuple)


@settings(max_examples=30)
@given(st.integers(0, 10_000), SUBSETS, st.floats(0.3, 4), st.floats(0.5, 20))
def test_as_gradient_descent_finds_it(seed: int, known: Known, scale: float, t: float) -> None:
    logits = drawn(seed, known, scale)
    decoder, columns = combined(known, logits)
    q = decoder.log_probs(columns, t).double().exp()
    reference = descended(known, logits, t)
    ours, theirs = (objective(found, known, logits, t) for found in (q, reference))
    assert (ours <= theirs + 1e-6).all()
    well_known = scale / t < 1
    assert torch.allclose(q, reference, atol=1e-4 if well_known else 0.05)


def check_conditions(q: torch.Tensor, known: Known, logits: Logits, t: float) -> None:
    """Karush, Kuhn and Tucker: F falls by M along classes that have probability, and along no class by more.

    F is convex, so at least F(q) - M (steepest - 1) is its minimum.
    """
    assert torch.allclose(q.sum(1), torch.ones(len(q), dtype=torch.float64), atol=1e-5)
    q = q.clamp(min=1e-8).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(q, known, logits, t).sum(), q)
    descent = -gradient / (1 + len(known))
    assert (descent < 1 + 1e-4).all()
    assert torch.allclose((q * descent).sum(1), torch.ones(len(q), dtype=torch.float64), atol=1e-4)


@settings(max_examples=150)
@given(st.integers(0, 10_000), SUBSETS, st.floats(0.1, 60), st.floats(0.5, 20))
def test_the_conditions_of_a_minimum(seed: int, known: Known, scale: float, t: float) -> None:
    logits = drawn(seed, known, scale)
    decoder, columns = combined(known, logits)
    check_conditions(decoder.log_probs(columns, t).double().exp(), known, logits, t)


def test_a_single_specialist_is_averaged() -> None:
    """One bucket each: the arithmetic mean of both, where the dustbin is shared as the generalist says."""
    logits = drawn(0, ((1, 4),), 2.0)
    decoder, columns = combined(((1, 4),), logits)
    general, special = ((own.double() / 3).softmax(1) for own in logits)
    expected = general / 2
    expected[:, [1, 4]] += special[:, :2] / 2
    rest = [0, 2, 3, 5, 6]
    expected[:, rest] += special[:, 2:] / 2 * general[:, rest] / general[:, rest].sum(1, keepdim=True)
    assert torch.allclose(decoder.log_probs(columns, 3.0).double().exp(), expected, atol=1e-6)
    assert torch.allclose(decoder.log_probs(columns, torch.full((4,), 3.0)).double().exp(), expected, atol=1e-6)


def test_which_specialists_are_active() -> None:
    """Those which know one of the generalist's n likeliest classes and have an answer; without any, the generalist."""
    known = ((0, 1), (2, 3))
    logits = drawn(1, known, 1.0, rows=5)
    logits[0][:, :4] = torch.tensor([[9.0, 0, 5, 0], [0, 5, 0, 9], [0, 0, 0, 0], [9, 0, 5, 0], [9, 0, 5, 0]])
    logits[0][2, 5] = 9.0
    answered = torch.tensor([[True, True], [True, True], [True, True], [False, True], [True, False]])
    logits[1][3] = logits[2][4] = torch.nan
    active = {
        1: [(True, False), (False, True), (False, False), (False, False), (True, False)],
        2: [(True, True), (True, True), None, (False, True), (True, False)],
    }
    for n, rows in active.items():
        decoder, columns = combined(known, logits, n, **{ANSWERED: answered})
        found = decoder.log_probs(columns, 2.0)
        for row, expected in enumerate(rows):
            if expected is not None:
                chosen = [i for i in range(2) if expected[i]]
                own = [logits[0][row, None], *(logits[i + 1][row, None] for i in chosen)]
                alone = own[0] / 2.0
                if chosen:
                    few, its_columns = combined(tuple(known[i] for i in chosen), own)
                    alone = few.log_probs(its_columns, 2.0)
                assert torch.allclose(found[row], alone.log_softmax(1)[0], atol=1e-5), (n, row)


def test_rows_without_an_answer() -> None:
    logits = drawn(2, ((0, 1),), 1.0)
    logits[0][1] = torch.nan
    decoder, columns = combined(((0, 1),), logits)
    found = decoder.log_probs(columns, 2.0)
    assert found[1].isnan().all()
    assert found[[0, 2, 3]].isfinite().all()
    nothing = {name: column[:0] for name, column in columns.items()}
    assert decoder.log_probs(nothing, 2.0).shape == (0, CLASSES)


def test_classes_that_are_ruled_out() -> None:
    """A class has no probability if all rule it out; a dustbin that the generalist rules out is shared evenly."""
    logits = [torch.full((1, CLASSES), -torch.inf), torch.tensor([[0.0, 1.0, -torch.inf]])]
    logits[0][0, :3] = torch.tensor([2.0, 1.0, 0.0])
    decoder, columns = combined(((0, 1),), logits)
    found = decoder.log_probs(columns, 1.0).double().exp()
    general, special = (own.double().softmax(1) for own in logits)
    assert torch.allclose(found[0, :2], (general[0, :2] + special[0, :2]) / 2)
    assert torch.allclose(found[0, 2], general[0, 2] / 2)
    assert (decoder.log_probs(columns, 1.0)[0, 3:] == -torch.inf).all()
    logits = [logits[0].masked_fill(torch.arange(CLASSES) == 2, -torch.inf), torch.tensor([[0.0, 0.0, 1.0]])]
    decoder, columns = combined(((0, 1),), logits)
    found = decoder.log_probs(columns, 1.0).double().exp()
    dustbin = logits[1].double().softmax(1)[0, 2]
    assert torch.allclose(found[0, 2:], (dustbin / 2 / 5).expand(5))


def test_groups_that_are_ruled_out() -> None:
    """Also as a whole dustbin, and evenly over one of which a specialist that is not active knows a part."""
    known = ((0, 1), (2, 3))
    general = torch.full((1, CLASSES), -torch.inf)
    general[0, :2] = torch.tensor([1.0, 0.0])
    nothing_else, some_else = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([[0.0, 0.0, 1.0]])
    decoder, columns = combined(known, [general, nothing_else, torch.zeros(1, 3)], 1)
    assert (decoder.log_probs(columns, 1.0)[0, 2:] == -torch.inf).all()
    decoder, columns = combined(known, [general, some_else, torch.zeros(1, 3)], 1)
    dustbin = some_else.double().softmax(1)[0, 2]
    assert torch.allclose(decoder.log_probs(columns, 1.0)[0, 2:].double().exp(), (dustbin / 2 / 5).expand(5))


def test_certain_teachers_that_contradict_each_other() -> None:
    """Probabilities of 0 and 1: still the minimum, and nothing that is no number."""
    known = ((0, 1), (0, 2), (1, 2, 3))
    for seed in range(4):
        logits = drawn(seed, known, 1.0, rows=64)
        generator = torch.Generator().manual_seed(seed)
        for own in logits:
            own[torch.arange(64), torch.randint(own.shape[1], (64,), generator=generator)] += 200.0
        decoder, columns = combined(known, logits)
        check_conditions(decoder.log_probs(columns, 1.0).double().exp(), known, logits, 1.0)


def test_never_short_of_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combination, "MOST_STEPS", 1)
    known = ((0, 1), (1, 2))
    decoder, columns = combined(known, drawn(3, known, 3.0))
    with pytest.raises(TaskError, match=r"4 rows of the specialists were not combined to within 1e-09 nats in 1 steps"):
        decoder.log_probs(columns, 1.0)


def test_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ((0, 1), (1, 2))
    decoder, columns = combined(known, drawn(4, known, 2.0, rows=7))
    whole = decoder.log_probs(columns, 1.0)
    monkeypatch.setattr(combination, "_AT_ONCE", 3)
    assert torch.allclose(decoder.log_probs(columns, 1.0), whole, atol=1e-6)


def test_there_are_no_values() -> None:
    decoder, columns = combined(((0, 1),), drawn(5, ((0, 1),), 1.0))
    with pytest.raises(TaskError, match="no stored values in common"):
        decoder.values(columns)
    assert decoder.covers_all


def test_empty_dustbins_hold_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside empty dustbins a row of recipes/specialists took 98 steps: rounding moved their multipliers off 0."""
    known = [
        (0, 1, 2, 3),
        (0,),
        (4, 5, 6, 7),
        (4, 8, 9),
        (4, 5, 8),
        (4, 8),
        (5, 6),
        (5, 6, 7),
        (9,),
        (8, 9),
        (7, 10),
        (10,),
    ]
    known += [(0, 6), (1, 2, 3, 11, 12), (1, 2, 11), (11, 12, 13), (1, 11), (2,), (12, 13), (13,)]
    a = [1.1454874e-4, 0.044605989, 0.0066836569, 0.0035344583, 5.0951302e-6, 3.3879715e-5, 1.4823248e-8, 3.1513044e-6]
    groups = torch.tensor(
        [[*a, 3.5505637e-5, 3.5459995e-6, 1.6226663e-8, 4.4702055, 0.016130447, 1.2945095e-4]]
    ).double()
    full = [0.0020145320, 0.033630398, 0.35786048, 0.065009398]
    dustbins = torch.tensor([[*[0.0] * 13, *full, *[0.0] * 3]]).double()
    within = torch.tensor([[float(group not in own) for group in range(14)] for own in known]).double()
    monkeypatch.setattr(combination, "MOST_STEPS", 12)
    q = combination.combine_groups(groups, dustbins, torch.ones(14).double(), within)
    slopes = (groups / q + (dustbins / (q @ within.T)) @ within) / (groups.sum() + dustbins.sum())
    assert q.sum().item() == pytest.approx(1.0)
    assert slopes.max().item() <= 1 + 1e-9


def test_confident_teachers_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In random groups and dustbins, some of them empty, from uncertain to confident teachers."""
    monkeypatch.setattr(combination, "MOST_STEPS", 50)
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        specialists, groups = (int(torch.randint(low, 20, (1,), generator=generator)) for low in (1, 2))
        sharpness = 10 ** (3 * uniform(1) - 0.5)
        within = (uniform(specialists, groups) < 0.3 + 0.65 * uniform(1)).double()
        within[:, 0] = 1
        dustbins = (sharpness * (uniform(500, specialists) - 0.5)).sigmoid() * (uniform(500, specialists) < 0.5)
        sums = (sharpness * uniform(500, groups)).softmax(1) * (1 + uniform(500, 1))
        q = combination.combine_groups(sums, dustbins, torch.ones(groups).double(), within)
        assert torch.allclose(q.sum(1), torch.ones(500).double())
