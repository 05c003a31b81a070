"""Inner problems solved to convergence, and the gradient of the solution, for a batch of problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Objective = Callable[[Float[Tensor, "episode parameter"]], Float[Tensor, " episode"]]  # one value a problem
Pair = tuple[Tensor, Tensor, Tensor]


def to_float64(x: Tensor) -> Tensor:
    """`x` in the precision in which inner problems are solved: float64 where the device has it, else float32."""
    return x.float() if x.device.type == "mps" else x.double()


def minimize(
    objective: Objective,
    start: Float[Tensor, "episode parameter"],
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    memory: int = 10,
) -> Float[Tensor, "episode parameter"]:
    """The minimum of each of a batch of problems, by L-BFGS with backtracking. Every problem has its own history, step and end.

    A problem ends when no entry of its gradient is above `tolerance`, or when no step along its direction makes the value
    smaller, which happens at the precision of the type of `start`. The result carries no gradient; see `implicit_gradient`.

    >>> targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> minimize(lambda w: (w - targets).square().sum(-1), torch.zeros(2, 2)).round(decimals=3)
    tensor([[1., 2.],
            [3., 4.]])
    """

    def value_and_gradient(w: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            w = w.detach().requires_grad_()
            value = objective(w)
            return value.detach(), torch.autograd.grad(value.sum(), w)[0]

    w = start.detach()
    value, gradient = value_and_gradient(w)
    pairs: list[Pair] = []
    stalled = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(max_iterations):
        active = (gradient.abs().amax(-1) > tolerance) & ~stalled
        if not active.any():
            break
        direction = torch.where(active[:, None], -_inverse_hessian_times(gradient, pairs), 0.0)
        slope = (direction * gradient).sum(-1)
        step, accepted = active.to(w.dtype), ~active
        for _ in range(40):
            candidate = w + step[:, None] * direction
            next_value, next_gradient = value_and_gradient(candidate)
            accepted = accepted | (next_value <= value + 1e-4 * step * slope)
            if accepted.all():
                break
            step = torch.where(accepted, step, step / 2)
        stalled = stalled | ~accepted
        moved = (accepted & active)[:, None]
        change, bend = torch.where(moved, candidate - w, 0.0), torch.where(moved, next_gradient - gradient, 0.0)
        curvature = (change * bend).sum(-1)
        # A problem without positive curvature along its step adds nothing to its history.
        useful = curvature > 1e-10 * bend.square().sum(-1).clamp(min=1e-30)
        pairs.append((change, bend, torch.where(useful, 1 / curvature.where(useful, 1.0), 0.0)))
        del pairs[:-memory]
        w, gradient = torch.where(moved, candidate, w), torch.where(moved, next_gradient, gradient)
        value = torch.where(moved[:, 0], next_value, value)
    return w


def implicit_gradient(
    objective: Objective,
    solution: Float[Tensor, "episode parameter"],
    *,
    damping: float = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Float[Tensor, "episode parameter"]:
    """The minimum `solution` of `objective`, with a gradient to the tensors that `objective` uses. Its value stays the same.

        d(solution) / d(theta) = -(H + damping I)^-1 d2(objective) / d(w) d(theta)

    It is the fixed point of damped recurrent back-propagation (Liao et al., 2018, https://arxiv.org/abs/1803.06396), which
    iterates `v <- v - H v - damping v` and sums the v; that diverges where H has an eigenvalue above `2 - damping`. Here the
    same linear system is solved by conjugate gradients. H is never made: only its products with a vector.

    >>> target = torch.tensor([[3.0]], requires_grad=True)
    >>> objective = lambda w: (w - 2 * target).square().sum(-1)
    >>> solution = minimize(objective, torch.zeros(1, 1))
    >>> implicit_gradient(objective, solution).sum().backward()
    >>> target.grad.round(decimals=3)
    tensor([[2.]])
    """
    with torch.enable_grad():
        w = solution.detach().requires_grad_()
        gradient = torch.autograd.grad(objective(w).sum(), w, create_graph=True)[0]

        def solve(v: Tensor) -> Tensor:
            def times(x: Tensor) -> Tensor:
                return torch.autograd.grad(gradient, w, x, retain_graph=True)[0] + damping * x

            return _conjugate_gradients(times, v, tolerance, max_iterations)

        # This adds 0 to the value, and the derivative of the gradient by theta to its derivative.
        carrier = solution.detach() - (gradient - gradient.detach())
        if carrier.requires_grad:
            carrier.register_hook(solve)
        return carrier


def _inverse_hessian_times(gradient: Tensor, pairs: list[Pair]) -> Tensor:
    """The two loops of L-BFGS; steepest descent of length 1 at most where there is no history."""
    q, weights = gradient, []
    for change, bend, inverse in reversed(pairs):
        weight = inverse * (change * q).sum(-1)
        q = q - weight[:, None] * bend
        weights.append(weight)
    scale = 1 / gradient.norm(dim=-1).clamp(min=1)
    for _, bend, inverse in pairs:  # the scale of the last useful pair
        square = bend.square().sum(-1)
        scale = torch.where(inverse > 0, 1 / (inverse * square).where(inverse > 0, 1.0), scale)
    q = scale[:, None] * q
    for (change, bend, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - inverse * (bend * q).sum(-1))[:, None] * change
    return q


def _conjugate_gradients(times: Callable[[Tensor], Tensor], b: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """`x` with `times(x) = b`, for each row, to a residual of `tolerance` times that of zero."""
    x, residual = torch.zeros_like(b), b
    direction, square = residual, residual.square().sum(-1)
    goal, done = tolerance**2 * square, torch.zeros_like(square, dtype=torch.bool)
    for _ in range(max_iterations):
        active = (square > goal) & ~done
        if not active.any():
            break
        image = times(direction)
        bent = (direction * image).sum(-1)
        done = done | (bent <= 0)  # no minimum along this direction: what was found stays
        length = torch.where(active & (bent > 0), square / bent.where(bent > 0, 1.0), 0.0)
        x = x + length[:, None] * direction
        residual = residual - length[:, None] * image
        next_square = residual.square().sum(-1)
        direction = (
            residual + torch.where(square > 0, next_square / square.where(square > 0, 1.0), 0.0)[:, None] * direction
        )
        square = next_square
    return x
