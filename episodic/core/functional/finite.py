"""Answers that are no numbers: which ones, and why."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn


def answered(logits: Float[Tensor, "*axes query way"]) -> Bool[Tensor, "*axes"]:
    """Whether all queries have an answer: a class whose logit is a finite number and the largest. Other classes may be impossible,
    with a logit of minus infinity.

    >>> import torch
    >>> nan, inf = torch.nan, torch.inf
    >>> answered(torch.tensor([[[0.0, 1.0]], [[0.0, -inf]], [[0.0, nan]], [[0.0, inf]]]))  # four episodes of one query
    tensor([ True,  True, False, False])
    """
    return logits.amax(-1).isfinite().all(-1)


def why_not_finite(module: nn.Module) -> str:
    """Why the answers of `module` are not finite, in words. It names the first of its weights that are not.

    >>> layer = nn.Linear(2, 1)
    >>> _ = nn.init.constant_(layer.bias, float("nan"))
    >>> why_not_finite(nn.Sequential(layer))
    'its weights hold NaN or infinity (0.bias)'
    """
    broken = [name for name, x in module.state_dict().items() if x.is_floating_point() and not x.isfinite().all()]
    if not broken:
        return "its weights are finite, so a number on the way overflows or is divided by 0"
    more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    return f"its weights hold NaN or infinity ({broken[0]}{more})"
