import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import chisquare, wasserstein_distance

from episodic.core.functional.batches import density_gaps, frechet_gaps, greedy_coreset, hard_negatives


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
    everything = points.flatten(0, 2).numpy()
    for found, own, items in zip(density_gaps(points), distances, points.flatten(1, 2).numpy(), strict=True):
        moments = np.linalg.norm(items.mean(0) - everything.mean(0))
        moments += np.linalg.norm(items.std(0, ddof=1) - everything.std(0, ddof=1))
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


def test_with_a_pool_of_one_the_negatives_are_the_nearest_items_of_the_nearest_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(5)
    centers = torch.randn(8, 6, generator=generator)
    bank = centers[labels] + 0.5 * torch.randn(40, 6, generator=generator)
    signatures = torch.stack([bank[labels == c].mean(0) for c in range(8)])
    anchors = torch.tensor([10, 12, 14])
    cosine = lambda a, b: torch.cosine_similarity(a, b, dim=0).item()  # noqa: E731
    near = {c: max(cosine(bank[a], signatures[c]) for a in anchors) for c in range(8) if c != 2}
    classes = sorted(near, key=near.get)[-2:]
    items = {i: max(cosine(bank[a], bank[i]) for a in anchors) for i in range(40) if labels[i] in classes}
    wanted = sorted(items, key=items.get)[-6:]
    assert sorted(hard_negatives(bank, labels, signatures, anchors, 2, 1).tolist()) == sorted(wanted)


def test_with_a_pool_of_everything_negatives_are_drawn_evenly_from_all_other_classes():
    labels = torch.arange(6).repeat_interleave(4)
    bank, signatures = torch.randn(24, 3), torch.randn(6, 3)
    counts = torch.zeros(24)
    torch.manual_seed(0)
    for _ in range(2000):
        counts[hard_negatives(bank, labels, signatures, torch.tensor([4, 5]), 3, 100)] += 1
    assert (counts[4:8] == 0).all()
    others = counts[labels != 1].numpy()
    assert others.sum() == 2000 * 6
    assert chisquare(others).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    candidates = draw().to(dtype)
    assert torch.equal(
        greedy_coreset(candidates, torch.arange(24).view(6, 4)),
        greedy_coreset(candidates.float(), torch.arange(24).view(6, 4)),
    )
    for gaps in (density_gaps, frechet_gaps):
        torch.testing.assert_close(gaps(candidates), gaps(candidates.float()))
