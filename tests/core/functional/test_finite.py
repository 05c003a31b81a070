import pytest
import torch
from torch import nn

from episodic.core.functional.finite import answered, why_not_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("logits", "wanted"),
    [
        ([[0.0, 1.0], [2.0, 3.0]], True),
        ([[0.0, -INF], [-INF, 3.0]], True),
        ([[0.0, 1.0], [NAN, 3.0]], False),
        ([[0.0, INF], [2.0, 3.0]], False),
        ([[0.0, 1.0], [-INF, -INF]], False),
        ([[NAN, NAN], [NAN, NAN]], False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_query_needs_a_largest_finite_logit(logits, wanted, dtype):
    good = torch.zeros(2, 2)
    found = answered(torch.stack([good, torch.tensor(logits)]).to(dtype))
    assert found.tolist() == [True, wanted]


def test_the_weights_that_are_not_finite_are_named():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert why_not_finite(module).startswith("its weights are finite")
    module[1].running_var[0] = INF
    assert why_not_finite(module) == "its weights hold NaN or infinity (1.running_var)"
    nn.init.constant_(module[0].weight, NAN)
    assert why_not_finite(module) == "its weights hold NaN or infinity (0.weight and 1 more)"
