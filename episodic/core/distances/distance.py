"""What a distance is: a matrix of all pairs, and its properties."""

from __future__ import annotations

import abc

from jaxtyping import Float
from torch import Tensor


class AbstractDistance(abc.ABC):
    """How far embeddings lie apart, or how similar they are. Each subclass is one way to compare two vectors.

    `matrix` compares all pairs in the distance's own terms. `distances` and `similarities` give the same comparison in the
    direction that the caller needs, so that a loss of distances can take a cosine and a loss of similarities a Euclidean distance.

    Subclasses compute at least in float32 and accept any leading axes.

    **Attributes:**

    - `larger_is_closer`: whether `matrix` holds similarities. Default: it holds distances.
    - `ignores_length`: whether the length of vectors makes no difference, so that normalizing them is not needed.
    - `degree`: how the comparison grows where all vectors become longer: by this power of the factor.
    - `has_distances`: whether a pair's comparison can be read as a distance of 0 or more; false for the inner product.

    >>> import torch
    >>> from episodic.core.distances.cosine import Cosine
    >>> from episodic.core.distances.euclidean import Euclidean
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> Euclidean().distances(x, x)[0, 1], Euclidean().similarities(x, x)[0, 1]
    (tensor(4.2426), tensor(-4.2426))
    >>> Cosine().distances(x, x)[0, 1], Cosine().similarities(x, x)[0, 1]
    (tensor(0.2000), tensor(0.8000))
    """

    larger_is_closer: bool = False
    ignores_length: bool = False
    degree: int
    has_distances: bool = True

    @abc.abstractmethod
    def matrix(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        """All pairs of rows of `x` and `y`: distances, or similarities where `larger_is_closer`."""

    @abc.abstractmethod
    def flip(self, matrix: Tensor) -> Tensor:
        """Similarities from distances, or distances from similarities, whichever `matrix` holds."""

    @abc.abstractmethod
    def to_euclidean(self, distances: Tensor) -> Tensor | None:
        """Euclidean distances of unit vectors, computed from their `distances`; None where that is not possible."""

    @abc.abstractmethod
    def points(self, x: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"] | None:
        """Vectors whose Euclidean distances rank pairs as this distance ranks those of `x`; None where there are none."""

    def distances(self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]) -> Float[Tensor, "*axes n m"]:
        """All pairs, smaller where closer.

        **Raises:** `ValueError` where there is no such reading.
        """
        if not self.has_distances:
            raise ValueError(f"{type(self).__name__} is a similarity that cannot be read as a distance")
        return self.flip(self.matrix(x, y)) if self.larger_is_closer else self.matrix(x, y)

    def similarities(
        self, x: Float[Tensor, "*axes n dim"], y: Float[Tensor, "*axes m dim"]
    ) -> Float[Tensor, "*axes n m"]:
        """All pairs, larger where closer."""
        return self.matrix(x, y) if self.larger_is_closer else self.flip(self.matrix(x, y))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
