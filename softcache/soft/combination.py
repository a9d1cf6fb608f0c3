"""The distribution that is nearest to those of a generalist and of several specialists, in groups of classes.

Hinton et al. 2015, section 5.4: let A be the specialists that are active for a sample. Equation 5 asks for the q with
the least

    F(q) = KL(p_g, q) + sum of KL(p_m, q) over m in A,

where a specialist's last probability d_m is compared with q(D_m), that of its dustbin: all classes that it does not
know. Let a_c be the sum of what p_g and the specialists that know class c give to it, and M = 1 + |A|. Then F is a
constant minus

    sum over c of a_c log q_c  +  sum over m of d_m log q(D_m),

so F is convex in q, and at its minimum q_c t_c = a_c, where t_c = M - sum of u_m over the dustbins D_m that have c, and
u_m = d_m / q(D_m). Classes in the same dustbins have the same t, and share the probability of their group as their a_c:
only the probabilities of groups are unknown.

A step is first the fixed point q_c <- (a_c + q_c * sum of d_m / q(D_m)) / M, which never makes F larger: it is
expectation-maximisation (Dempster et al. 1977), where it is unobserved how each dustbin's count splits among its
classes. Then it is one of Newton's on the equations above, short enough to keep q, u and t positive. q has a step
length of its own, as in primal-dual interior point methods: otherwise a tiny q can hold up u and t for a hundred steps.
Where teachers are confident, the fixed point alone takes thousands of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from softcache.errors import TaskError
from softcache.once import once

# F / M is at most this far above its minimum, in nats.
TOLERANCE = 1e-9
MOST_STEPS = 100
# Groups with less than this for each class are raised to it, and dustbins with less count as empty: float64 resolves no
# more.
SMALLEST = 1e-12
# A step goes at most this part of the way to where some q, u or t would be 0.
_OF_THE_WAY = 0.99
_AT_ONCE = 4096


def combine_groups(
    groups: torch.Tensor, dustbins: torch.Tensor, sizes: torch.Tensor, within: torch.Tensor
) -> torch.Tensor:
    """Return the probabilities of G groups of classes, float64 [B, G]; each row adds up to 1.

    Args:
        groups: float64 [B, G], the sum of a_c over each group.
        dustbins: float64 [B, S], d_m of each specialist, 0 where it is not active.
        sizes: float64 [G], how many classes each group has.
        within: float64 [S, G], 1 where a specialist's dustbin has a group, otherwise 0.

    Groups below `SMALLEST` for each class count as that likely. Raises TaskError if F / M is not proved to be within
    `TOLERANCE` of its minimum after `MOST_STEPS`.
    """
    parts = [slice(begin, begin + _AT_ONCE) for begin in range(0, max(len(groups), 1), _AT_ONCE)]
    return torch.cat([_combine(groups[rows], dustbins[rows], sizes, within) for rows in parts])


def _combine(a: torch.Tensor, d: torch.Tensor, sizes: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    d = torch.where(d > SMALLEST, d, 0.0)
    problem = _Problem(a=torch.maximum(a, SMALLEST * sizes), d=d, within=within)
    q = problem.solve()
    # No dustbin has these, so they are known exactly, even where they are 0.
    return torch.where(d.sign() @ within > 0, q, a / problem.total)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Problem:
    """B problems: a [B, G] and d [B, S] as above, and which dustbins the groups are in, `within` [S, G]."""

    a: torch.Tensor
    d: torch.Tensor
    within: torch.Tensor

    @once
    def total(self) -> torch.Tensor:
        """M, [B, 1]: summed, since rounding left the distributions not exactly at 1."""
        return self.a.sum(1, keepdim=True) + self.d.sum(1, keepdim=True)

    @once
    def within_both(self) -> torch.Tensor:
        """Which groups are in the dustbins of two specialists, for all pairs of them, [G, S * S]."""
        return (self.within[:, None] * self.within).flatten(0, 1).T

    def solve(self) -> torch.Tensor:
        """Return the best q, [B, G]."""
        u = self.d
        q = self.a / (self.total - u @ self.within)
        for _ in range(MOST_STEPS):
            q = self.fixed_point(q / q.sum(1, keepdim=True))
            far = ~(self.excess(q) <= TOLERANCE)
            if not bool(far.any()):
                return q
            q, u = self.newton(q, u)
        raise TaskError(
            f"{int(far.sum()):,} rows of the specialists were not combined to within {TOLERANCE:g} nats in "
            f"{MOST_STEPS} steps; report this as a bug, with these rows' probabilities"
        )

    def slopes(self, q: torch.Tensor) -> torch.Tensor:
        """Return the derivatives of -F / M with respect to q, [B, G]. Their mean under q is 1."""
        return (self.a / q + (self.d / (q @ self.within.T)) @ self.within) / self.total

    def fixed_point(self, q: torch.Tensor) -> torch.Tensor:
        """Return q after a step of expectation-maximisation. It adds up to 1."""
        return q * self.slopes(q)

    def excess(self, q: torch.Tensor) -> torch.Tensor:
        """Return a bound of how far F(q) / M is above its minimum, [B].

        F is convex, so for the best q' F(q) - F(q') <= M (slopes(q) . q' - slopes(q) . q) <= M (max slope - 1).
        """
        return self.slopes(q).amax(1) - 1

    def newton(self, q: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return q and u after one of Newton's steps on q t = a and u q(D) = d, where t = M - u @ within."""
        t, in_dustbins = self.total - u @ self.within, q @ self.within.T
        missing_q, missing_u = self.a - q * t, self.d - u * in_dustbins
        # With change_q = (missing_q + q * change_t) / t put into the second equation, only the change of u is left.
        both = ((q / t) @ self.within_both).view(-1, len(self.within), len(self.within))
        matrix = torch.diag_embed(torch.where(self.d > 0, in_dustbins, 1.0)) + u[:, :, None] * both
        right = missing_u - u * ((missing_q / t) @ self.within.T)
        solved = torch.linalg.solve_ex(matrix, right[..., None])[0][..., 0]
        # The u of empty dustbins stay 0: a change by rounding would then cut every step short.
        change_u = torch.where(self.d > 0, solved, 0.0)
        change_t = change_u @ self.within
        change_q = (missing_q + q * change_t) / t
        losses_u = torch.cat([torch.where(self.d > 0, -change_u / u, 0.0), change_t / t], 1)
        return q + change_q * _short_enough(-change_q / q), u + change_u * _short_enough(losses_u)


def _short_enough(losses: torch.Tensor) -> torch.Tensor:
    """Return the share of a step that keeps all numbers positive, [B, 1].

    `losses` [B, n] says which part of each number the whole step would take away.
    """
    return _OF_THE_WAY / losses.amax(1, keepdim=True).clamp(min=_OF_THE_WAY)
