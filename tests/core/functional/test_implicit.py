import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize

from episodic.core.functional.implicit import implicit_gradient, minimize


def quadratics(seed=0, problems=4, size=5):
    """`w H w / 2 - b w`, of condition numbers from 1 to 10,000."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(problems, size, size, dtype=torch.float64, generator=generator))[0]
    spread = torch.stack([torch.logspace(0, c, size, dtype=torch.float64) for c in range(problems)]) / 10
    hessian = basis @ torch.diag_embed(spread) @ basis.mT
    return hessian, torch.randn(problems, size, dtype=torch.float64, generator=generator)


def value(hessian, b):
    return lambda w: ((w[:, None] @ hessian)[:, 0] * w).sum(-1) / 2 - (b * w).sum(-1)


def test_the_minimum_of_quadratics_is_the_solution_of_their_systems():
    hessian, b = quadratics()
    start = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = minimize(value(hessian, b), start, tolerance=1e-9)
    torch.testing.assert_close(w, torch.linalg.solve(hessian, b), rtol=1e-6, atol=1e-7)


def test_problems_of_a_batch_do_not_see_each_other():
    hessian, b = quadratics()
    start = torch.zeros(4, 5, dtype=torch.float64)
    together = minimize(value(hessian, b), start)
    for i in range(4):
        alone = minimize(value(hessian[i : i + 1], b[i : i + 1]), start[:1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_a_curved_valley_ends_where_scipys_l_bfgs_ends():
    def rosenbrock(w):
        return (1 - w[..., 0]) ** 2 + 100 * (w[..., 1] - w[..., 0] ** 2) ** 2

    starts = torch.tensor([[-1.2, 1.0], [0.0, 3.0]], dtype=torch.float64)
    ours = minimize(rosenbrock, starts, tolerance=1e-8)
    for start, found in zip(starts.numpy(), ours, strict=True):
        peer = scipy_minimize(lambda w: float(rosenbrock(torch.from_numpy(w))), start, method="L-BFGS-B", tol=1e-12)
        np.testing.assert_allclose(found.numpy(), peer.x, atol=1e-4)
        np.testing.assert_allclose(found.numpy(), [1, 1], atol=1e-6)


def test_a_start_at_the_minimum_or_a_flat_objective_stays():
    start = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(minimize(lambda w: ((w - 1) ** 2).sum(-1), start), start)
    assert torch.equal(minimize(lambda w: 0 * w.sum(-1), start), start)


def test_gradient_of_quadratics_in_closed_form():
    hessian, b = quadratics()
    b.requires_grad_()
    w = implicit_gradient(value(hessian, b), torch.linalg.solve(hessian, b.detach()), tolerance=1e-12)
    weights = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((w * weights).sum(), b)
    torch.testing.assert_close(gradient, torch.linalg.solve(hessian, weights), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("damping", "expected"), [(0.0, 0.4), (0.1, 1 / 3)])
def test_scalar_example(damping, expected):
    # H = 0.5 and d2L / dw du = -0.2: dw / du = 0.2 / (0.5 + damping).
    u = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    objective = lambda w: (0.25 * w**2 - 0.2 * w * u).sum(-1)  # noqa: E731
    w = implicit_gradient(objective, 0.4 * u.detach(), damping=damping)
    (gradient,) = torch.autograd.grad(w.sum(), u)
    assert gradient.item() == pytest.approx(expected, abs=1e-12)


def test_it_is_what_recurrent_back_propagation_iterates_to():
    """The paper's iteration written out: v <- J'v - damping v with J = 1 - H, and g the sum of the v."""
    hessian, b = quadratics(problems=1)
    hessian = hessian / hessian[0].norm() + 0.05 * torch.eye(5, dtype=torch.float64)
    theta = b.clone().requires_grad_()

    def objective(w):
        return value(hessian, theta.sin())(w)

    solution = torch.linalg.solve(hessian, b.sin())
    weights = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v, g = weights[0].clone(), weights[0].clone()
    for _ in range(400):
        v = v - hessian[0] @ v - 0.1 * v
        g = g + v
    expected = g * theta.detach()[0].cos()  # - d2(objective) / dw dtheta = diag(cos)
    (gradient,) = torch.autograd.grad((implicit_gradient(objective, solution, damping=0.1) * weights).sum(), theta)
    torch.testing.assert_close(gradient[0], expected, rtol=1e-5, atol=1e-6)


def test_a_problem_that_does_not_matter_has_no_nan_in_float32():
    hessian, b = (x.float() for x in quadratics())
    b.requires_grad_()
    w = implicit_gradient(value(hessian, b), torch.linalg.solve(hessian, b.detach()))
    (gradient,) = torch.autograd.grad(w[0].sum(), b)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[1:], torch.zeros(3, 5))
