"""Stochastic shared embeddings: in training, some lookups in a table read another row than the one asked for.

Wu, Li, Hsieh, Sharpnack: *Stochastic Shared Embeddings: Data-driven Regularization of Embedding Layers*, NeurIPS 2019,
https://arxiv.org/abs/1905.10630. Each training step draws the exchanges anew. The row that is read gets the gradient, the one asked
for gets none. Nothing is rescaled, and in evaluation nothing is exchanged.

Tables of inputs (word vectors of class names) are read by a `SharedEmbedding`. Tables of outputs (proxies, weights of a
classifier) exchange the label itself, once an item, and use it for positives and negatives alike: a softmax then has, on
average, the loss of label smoothing by `probability * n / (n - 1)` in PyTorch's convention, for n rows.

**Departures**: the authors' code draws the other row among all rows, so that it may be the same row again. Here, as in the paper's
formula, it never is.
"""

from __future__ import annotations

import abc
import csv
import math
import os
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class AbstractLabelSwap(nn.Module, abc.ABC):
    """Exchanges indices of a table at random. In training each entry becomes another of the `n_rows` rows with `probability`; in
    evaluation it stays.

    It is called with indices of any shape, and each entry has a draw of its own, from PyTorch's generator of the indices' device.
    Subclasses write `another`, which draws the other rows, and `odds`, which says how likely each of them is.

    **Arguments:** `n_rows`: at least 2. `probability`: in 0..1.

    **Raises:** `ValueError` for numbers outside of these.

    >>> class Next(AbstractLabelSwap):
    ...     def another(self, indices):
    ...         return (indices + 1) % self.n_rows
    ...     def odds(self):
    ...         return torch.eye(self.n_rows).roll(1, dims=1)
    >>> swap = Next(n_rows=3, probability=1.0)
    >>> swap(torch.tensor([0, 2])), swap.eval()(torch.tensor([0, 2]))
    (tensor([1, 0]), tensor([0, 2]))
    """

    def __init__(self, n_rows: int, probability: float):
        super().__init__()
        if n_rows < 2:
            raise ValueError(f"an exchange needs at least 2 rows, got {n_rows}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability, of an exchange, must lie in 0..1, got {probability}")
        self.n_rows = n_rows
        self.probability = probability

    def forward(self, indices: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        if not self.training or self.probability == 0:
            return indices
        exchanged = torch.rand(indices.shape, device=indices.device) < self.probability
        return torch.where(exchanged, self.another(indices), indices)

    @abc.abstractmethod
    def another(self, indices: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        """A row for each entry, never the entry itself."""

    @abc.abstractmethod
    def odds(self) -> Float[Tensor, "row row"]:
        """How likely each other row is, up to a factor for each row. The diagonal does not count."""

    def transition_matrix(self) -> Float[Tensor, "row row"]:
        """The probability `p(j, k)` that row k is read in the place of row j, in float64."""
        odds = self.odds().double().fill_diagonal_(0)
        others = self.probability * odds / odds.sum(1, keepdim=True)
        return others.fill_diagonal_(1 - self.probability)


class SSE(AbstractLabelSwap):
    """SSE-SE, which needs no knowledge of the rows. Every other row k is equally likely: `p(j, k) = probability / (n_rows - 1)`.

    >>> swap = SSE(n_rows=3, probability=0.1)
    >>> swap.transition_matrix()[0]
    tensor([0.9000, 0.0500, 0.0500], dtype=torch.float64)
    >>> swap.eval()(torch.tensor([2, 0]))  # nothing is swapped in evaluation
    tensor([2, 0])
    """

    def another(self, indices: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        rank = torch.randint(self.n_rows - 1, indices.shape, device=indices.device)
        return rank + (rank >= indices)

    def odds(self) -> Float[Tensor, "row row"]:
        return torch.ones(self.n_rows, self.n_rows)


class GraphSSE(AbstractLabelSwap):
    """SSE-Graph, which prefers neighbors in a graph of the rows. A neighbor k is `ratio` times as likely as another row l:
    `p(j, k) / p(j, l) = ratio`.

    A row with d neighbors, when exchanged, becomes one of them with probability `ratio d / (ratio d + n_rows - 1 - d)`.

    **Arguments:** `edges`: pairs of rows, each for both directions; repeated pairs and loops add nothing. `ratio`: at least 1,
    and 1 is `SSE`.

    >>> swap = GraphSSE(n_rows=3, probability=0.5, edges=torch.tensor([[0, 1]]), ratio=4.0)
    >>> swap.transition_matrix()[0]
    tensor([0.5000, 0.4000, 0.1000], dtype=torch.float64)
    """

    def __init__(self, n_rows: int, probability: float, edges: Int64[Tensor, "n_edges 2"], ratio: float):
        super().__init__(n_rows, probability)
        if not 1 <= ratio < math.inf:
            raise ValueError(
                f"ratio, of a neighbor's probability to another's, must be finite and at least 1, got {ratio}"
            )
        if ((edges < 0) | (edges >= n_rows)).any():
            raise ValueError(f"edges must join rows 0..{n_rows - 1}, got {edges.min()}..{edges.max()}")
        self.ratio = ratio
        # Each row's neighbors and itself, in order, one row after the other.
        loops = torch.arange(n_rows, device=edges.device)[:, None].expand(-1, 2)
        row, column = torch.cat([edges, edges.flip(1), loops]).unique(dim=0).unbind(1)
        counts = row.bincount(minlength=n_rows)
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(row), device=row.device) - starts[row]
        near = ratio * (counts - 1) / (ratio * (counts - 1) + n_rows - counts)
        # These follow from the edges, so they are not part of the state.
        self.register_buffer("columns", column, persistent=False)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("degrees", counts - 1, persistent=False)
        self.register_buffer("near", near, persistent=False)
        self.register_buffer("gaps", row * n_rows + column - place, persistent=False)

    def another(self, indices: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        degree = self.degrees[indices]
        near = torch.rand(indices.shape, device=indices.device) < self.near[indices]
        size = torch.where(near, degree, self.n_rows - 1 - degree)
        rank = torch.randint(2**62, indices.shape, device=indices.device) % size.clamp(min=1)
        # A rank that points out of the other set is not used: keep it inside the table.
        neighbor = self._neighbor(indices, rank.minimum(degree))
        return torch.where(near, neighbor, self._stranger(indices, rank))

    def _neighbor(self, rows: Int64[Tensor, "*axes"], rank: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        """The neighbor number `rank` of each row. The list holds the row itself too: its place stands for the last neighbor."""
        start = self.starts[rows]
        drawn = self.columns[start + rank]
        return torch.where(drawn == rows, self.columns[start + self.degrees[rows]], drawn)

    def _stranger(self, rows: Int64[Tensor, "*axes"], rank: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        """Row number `rank` among the rows that are neither neighbors of a row nor the row itself.

        The row plus its neighbors are c_0 < c_1 < ..., and `c_i - i` strangers come before c_i. The result is `rank` plus the
        number of c_i with `c_i - i <= rank`.
        """
        passed = torch.searchsorted(self.gaps, rows * self.n_rows + rank, right=True) - self.starts[rows]
        return rank + passed

    def odds(self) -> Float[Tensor, "row row"]:
        odds = torch.ones(self.n_rows, self.n_rows, device=self.columns.device)
        rows = torch.arange(self.n_rows, device=self.columns.device).repeat_interleave(self.degrees + 1)
        odds[rows, self.columns] = self.ratio
        return odds


def edges_of_groups(groups: Int64[Tensor, " row"]) -> Int64[Tensor, "n_edges 2"]:
    """Edges between all rows of a group, such as the classes of a super-class. `groups` says which group each row is in.

    >>> edges_of_groups(torch.tensor([0, 1, 0, 0])).tolist()
    [[0, 2], [0, 3], [2, 3]]
    """
    return (groups[:, None] == groups).triu(1).nonzero()


def edges_of_file(path: str | os.PathLike, names: Sequence[str]) -> Int64[Tensor, "n_edges 2"]:
    """Edges from a CSV file without a header. Each line holds two of the `names` of the rows.

    **Raises:** `ValueError` for a line that is something else; `OSError` for a file that cannot be read.
    """
    rows, edges = {name: row for row, name in enumerate(names)}, []
    with open(path, newline="", encoding="utf-8") as file:
        try:
            lines = list(csv.reader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from None
        for number, line in enumerate(lines, start=1):
            if len(line) != 2 or not rows.keys() >= set(line):
                raise ValueError(f"{path}, line {number}: expected the names of two training classes, got {line}")
            edges.append([rows[name] for name in line])
    return torch.tensor(edges, dtype=torch.long).reshape(-1, 2)


def label_swap_of(n_rows: int, label_swap: nn.Module | None) -> nn.Module:
    """The `label_swap` to use for a table of `n_rows` rows. Where none is given it is the identity.

    **Raises:** `ValueError` if it was made for another number of rows.
    """
    if isinstance(label_swap, AbstractLabelSwap) and label_swap.n_rows != n_rows:
        raise ValueError(f"the exchange is of {label_swap.n_rows} rows, the table has {n_rows}")
    return nn.Identity() if label_swap is None else label_swap


class SharedEmbedding(nn.Embedding):
    """An `nn.Embedding` that exchanges its indices at random first. It does so in training only, and each entry has a draw of its
    own.

    **Arguments:** those of `nn.Embedding`. `label_swap` (default None): the exchange, of all rows; None for none. With a
    `padding_idx` it is of all other rows, numbered without it, and padding is never exchanged.

    >>> table = SharedEmbedding(5, 3, label_swap=SSE(n_rows=5, probability=0.1))
    >>> table(torch.tensor([[0, 4]])).shape
    torch.Size([1, 2, 3])
    """

    def __init__(self, *args, label_swap: nn.Module | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.label_swap = label_swap_of(self.num_embeddings - (self.padding_idx is not None), label_swap)

    def forward(self, indices: Int64[Tensor, "*axes"]) -> Float[Tensor, "*axes dim"]:
        return super().forward(self._exchanged(indices))

    def _exchanged(self, indices: Int64[Tensor, "*axes"]) -> Int64[Tensor, "*axes"]:
        pad = self.padding_idx
        if pad is None:
            return self.label_swap(indices)
        padding = indices == pad
        rows = (indices - (indices > pad).long()).masked_fill(
            padding, 0
        )  # padding is looked up as row 0, then restored
        rows = self.label_swap(rows)
        return torch.where(padding, indices, rows + (rows >= pad))
