import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from episodic.core.batches import density_gaps, frechet_gaps, greedy_coreset


def draw(candidates=6, groups=4, items=3, dim=5, seed=0):
    return torch.randn(candidates, groups, items, dim, generator=torch.Generator().manual_seed(seed)).double()


def test_a_coreset_is_the_farthest_point_of_another_class_again_and_again():
    points = draw()
    classes = torch.randint(7, (6, 4), generator=torch.Generator().manual_seed(1))
    classes[0] = torch.arange(4)
    first, labels = points[:, :, 0].reshape(24, 5), classes.flatten().tolist()
    chosen = [0]
    while len(chosen) < 4:
        taken = {labels[c] for c in chosen}
        others = [i for i in range(24) if labels[i] not in taken]
        chosen.append(max(others, key=lambda i: min((first[i] - first[c]).norm() for c in chosen)))
    assert greedy_coreset(points, classes).tolist() == chosen


def test_a_coreset_of_a_line_takes_its_ends_and_its_middle():
    line = torch.tensor([0.0, 1, 5, 9, 10, 4])[None, :, None, None].expand(2, -1, 2, 1)
    assert greedy_coreset(line, torch.arange(12).view(2, 6))[:3].tolist() == [0, 4, 2]


def test_frechet_distances_are_those_of_matrix_roots():
    points = draw(items=20)
    everything = points.reshape(-1, 5).numpy()
    for found, own in zip(frechet_gaps(points), points.flatten(1, 2).numpy(), strict=True):
        s, t = np.cov(own.T, bias=True), np.cov(everything.T, bias=True)
        root = sqrtm(s)
        shift = ((own.mean(0) - everything.mean(0)) ** 2).sum()
        assert found.item() == pytest.approx(shift + np.trace(s + t - 2 * sqrtm(root @ t @ root).real), abs=1e-8)


def test_the_distance_of_distributions_of_distances_is_scipys():
    points = draw(candidates=5, groups=10, items=4)
    distances = [torch.pdist(own).numpy() for own in points.flatten(1, 2)]
    wanted = torch.pdist(points.flatten(0, 2)[::5]).numpy()
    for found, own in zip(density_gaps(points), distances, strict=True):
        moments = abs(own.mean() - wanted.mean()) + abs(own.std(ddof=1) - wanted.std(ddof=1))
        assert found.item() == pytest.approx(moments + wasserstein_distance(own, wanted), abs=0.02)


@pytest.mark.parametrize("gaps", [density_gaps, frechet_gaps])
def test_the_odd_one_out_is_farthest_from_all(gaps):
    points = draw(items=10)
    points[4] *= 3
    assert gaps(points).argmax() == 4
    copies = points[:1].expand(6, -1, -1, -1)
    torch.testing.assert_close(gaps(copies), gaps(copies)[:1].expand(6))


def test_a_candidate_that_is_like_all_has_no_frechet_distance():
    assert frechet_gaps(draw()[:1].expand(6, -1, -1, -1)).abs().max() < 1e-9
