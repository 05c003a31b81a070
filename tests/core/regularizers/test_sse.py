import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.nn.functional import cross_entropy

from episodic.core.regularizers.sse import SSE, GraphSSE, SharedEmbedding, edges_of_file, edges_of_groups

DRAWS = 40_000
# Of 9 rows: a triangle, an edge, a row joined to all others but one, rows joined to that alone, a lone row.
EDGES = torch.tensor([[0, 1], [1, 2], [2, 0], [3, 4], *([5, k] for k in (0, 1, 2, 3, 4, 6, 7))])


def law(n_rows, probability, edges=(), ratio=1.0):
    """The paper's probabilities, row by row."""
    joined = {(int(a), int(b)) for a, b in edges} | {(int(b), int(a)) for a, b in edges}
    rows = []
    for j in range(n_rows):
        d = sum((j, k) in joined for k in range(n_rows) if k != j)
        one = probability / (ratio * d + n_rows - 1 - d)
        rows.append([1 - probability if k == j else one * ratio if (j, k) in joined else one for k in range(n_rows)])
    return torch.tensor(rows, dtype=torch.float64)


def check_frequencies(label_swap, expected):
    """Every row, asked for many times in one call, is read as often as expected."""
    torch.manual_seed(0)
    n = len(expected)
    drawn = label_swap(torch.arange(n).expand(DRAWS, n))
    assert drawn.shape == (DRAWS, n)
    for j in range(n):
        found = drawn[:, j].bincount(minlength=n)
        assert len(found) == n
        possible = expected[j] > 0
        assert (found[~possible] == 0).all()
        if possible.sum() > 1:
            assert chisquare(found[possible], DRAWS * expected[j][possible]).pvalue > 1e-4


@pytest.mark.parametrize("probability", [0.3, 1.0])
@pytest.mark.parametrize("n_rows", [2, 3, 7])
def test_rows_are_exchanged_evenly(n_rows, probability):
    check_frequencies(SSE(n_rows, probability), law(n_rows, probability))


@pytest.mark.parametrize("probability", [0.3, 1.0])
@pytest.mark.parametrize("ratio", [1.0, 4.0, 100.0])
@pytest.mark.parametrize("edges", [EDGES, torch.cat([EDGES, torch.tensor([[5, 8]])])], ids=["", "one joined to all"])
def test_neighbors_are_drawn_more_often(edges, ratio, probability):
    label_swap = GraphSSE(9, probability, edges, ratio)
    expected = law(9, probability, edges, ratio)
    check_frequencies(label_swap, expected)
    torch.testing.assert_close(label_swap.transition_matrix(), expected, atol=1e-12, rtol=0)


def test_repeated_edges_and_loops_add_nothing():
    more = torch.cat([EDGES, EDGES[:3].flip(1), EDGES[:2], torch.tensor([[8, 8], [1, 1]])])
    check_frequencies(GraphSSE(9, 0.5, more, 10.0), law(9, 0.5, EDGES, 10.0))


def test_graphs_at_the_limits():
    everyone = edges_of_groups(torch.zeros(4, dtype=torch.long))
    check_frequencies(GraphSSE(4, 0.5, everyone, 10.0), law(4, 0.5))
    nobody = torch.empty(0, 2, dtype=torch.long)
    check_frequencies(GraphSSE(4, 0.5, nobody, 10.0), law(4, 0.5))


def test_draws_are_independent():
    """Whether an entry is exchanged says nothing about the one beside it, and another seed draws anew."""
    torch.manual_seed(0)
    indices = torch.zeros(DRAWS, 2, dtype=torch.long)
    label_swap = SSE(3, 0.5)
    first = label_swap(indices)
    assert not torch.equal(first, label_swap(indices))
    torch.manual_seed(0)
    assert torch.equal(first, label_swap(indices))
    assert (
        chisquare(
            (3 * first[:, 0] + first[:, 1]).bincount(), DRAWS * law(3, 0.5)[0].outer(law(3, 0.5)[0]).flatten()
        ).pvalue
        > 1e-4
    )


@pytest.mark.parametrize("make", [lambda p: SSE(9, p), lambda p: GraphSSE(9, p, EDGES, 10.0)], ids=["se", "graph"])
def test_nothing_is_exchanged_in_evaluation_or_with_probability_0(make):
    indices = torch.arange(9).repeat(50)
    state = torch.get_rng_state()
    assert torch.equal(make(0.0)(indices), indices)
    assert torch.equal(make(1.0).eval()(indices), indices)
    assert torch.equal(torch.get_rng_state(), state)
    assert not (make(1.0)(indices) == indices).any()


def test_groups_of_cifar_100():
    """20 super-classes of 5, by hand."""
    edges = edges_of_groups(torch.arange(100) % 20)
    assert len(edges) == 20 * 10
    even = GraphSSE(100, 0.1, edges, 1.0).transition_matrix()
    torch.testing.assert_close(even, SSE(100, 0.1).transition_matrix())
    assert even[0, 20].item() == pytest.approx(0.0010101, abs=1e-7)
    matrix = GraphSSE(100, 0.1, edges, 100.0).transition_matrix()
    assert matrix[3, 3].item() == pytest.approx(0.9)
    assert matrix[3, 23].item() == pytest.approx(0.0202020, abs=1e-7)
    assert matrix[3, 4].item() == pytest.approx(0.00020202, abs=1e-8)
    assert matrix[3, [23, 43, 63, 83]].sum().item() == pytest.approx(0.0808081, abs=1e-7)
    torch.testing.assert_close(matrix.sum(1), torch.ones(100, dtype=torch.float64))


def test_exchanged_labels_are_smoothed_labels():
    n, probability = 7, 0.3
    logits = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = torch.stack([cross_entropy(logits, torch.full((n,), k), reduction="none") for k in range(n)], dim=1)
    average = (SSE(n, probability).transition_matrix() * each).sum(1).mean()
    smoothed = cross_entropy(logits, torch.arange(n), label_smoothing=probability * n / (n - 1))
    assert average.item() == pytest.approx(smoothed.item(), abs=1e-12)


def test_gradient_goes_to_the_row_that_was_used():
    table = SharedEmbedding(2, 3, label_swap=SSE(2, 1.0))  # the other row is the only one there is
    out = table(torch.tensor([0, 0]))
    assert torch.equal(out, table.weight[[1, 1]])
    out.sum().backward()
    assert torch.equal(table.weight.grad, torch.tensor([[0.0] * 3, [2.0] * 3]))


@pytest.mark.parametrize("label_swap", [None, SSE(8, 0.0), SSE(8, 1.0).eval()])
@pytest.mark.parametrize("padding", [0, 4, 8])
def test_without_exchange_it_is_an_embedding(label_swap, padding):
    indices = torch.arange(9).view(3, 3)
    torch.manual_seed(0)
    plain = nn.Embedding(9, 4, padding_idx=padding)
    torch.manual_seed(0)
    shared = SharedEmbedding(9, 4, padding_idx=padding, label_swap=label_swap)
    assert torch.equal(shared(indices), plain(indices))


@pytest.mark.parametrize("padding", [0, 2, -1])
def test_padding_is_neither_exchanged_nor_drawn(padding):
    n = 5
    numbered = torch.arange(n)[:, None].float()
    table = SharedEmbedding(n, 1, padding_idx=padding, label_swap=SSE(n - 1, 0.6), _weight=numbered)
    expected = torch.eye(n, dtype=torch.float64)
    others = torch.arange(n)[torch.arange(n) != padding % n]
    expected[others[:, None], others] = law(n - 1, 0.6)
    check_frequencies(lambda indices: table(indices)[..., 0].long(), expected)


def test_padding_leaves_the_graph_its_rows():
    """Rows of the graph are numbered without padding: 0, 1, 2 are those of the table 0, 2, 3."""
    table = SharedEmbedding(
        4,
        1,
        padding_idx=1,
        label_swap=GraphSSE(3, 1.0, torch.tensor([[0, 2]]), 1e6),
        _weight=torch.arange(4.0)[:, None],
    )
    torch.manual_seed(0)
    drawn = table(torch.tensor([0, 1, 3]).expand(100, 3))[..., 0]
    assert (drawn == torch.tensor([3.0, 1.0, 0.0])).all()


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="an exchange needs at least 2 rows, got 1"):
        SSE(1, 0.5)
    with pytest.raises(ValueError, match=r"probability, of an exchange, must lie in 0..1, got 1.5"):
        SSE(3, 1.5)
    with pytest.raises(ValueError, match=r"must be finite and at least 1, got 0.5"):
        GraphSSE(9, 0.1, EDGES, 0.5)
    with pytest.raises(ValueError, match=r"edges must join rows 0..6, got 0..7"):
        GraphSSE(7, 0.1, EDGES, 2.0)
    with pytest.raises(ValueError, match="the exchange is of 5 rows, the table has 4"):
        SharedEmbedding(5, 2, padding_idx=0, label_swap=SSE(5, 0.1))


def test_edges_are_read_from_a_file_of_names(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text('cat,dog\n"cat, big",cat\n')
    assert edges_of_file(path, ["dog", "cat", "cat, big"]).tolist() == [[1, 0], [2, 1]]
    path.write_text("")
    assert edges_of_file(path, ["dog"]).shape == (0, 2)
    for wrong in ("cat,dog\ncat,cow\n", "cat,dog\ncat\n"):
        path.write_text(wrong)
        with pytest.raises(
            ValueError, match=r"edges\.csv, line 2: expected the names of two training classes, got \['cat'"
        ):
            edges_of_file(path, ["dog", "cat"])
    for wrong in (b"x" * 200_000, b"\xff,cat\n"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"edges\.csv cannot be read as a CSV file in UTF-8"):
            edges_of_file(path, ["dog", "cat"])
