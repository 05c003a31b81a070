import torch
from sklearn.preprocessing import StandardScaler, normalize

from episodic.core.transforms.cl2n import CL2N
from tests.core.transforms.laws import body, check


def test_it_is_a_transform():
    check(CL2N)


def test_it_is_centering_and_then_normalizing_of_scikit_learn():
    train, x = torch.rand(40, 5), torch.rand(6, 5)
    transform = CL2N(body(5)).eval()
    transform.fit(train)
    centered = StandardScaler(with_std=False).fit(train.numpy()).transform(x.numpy())
    torch.testing.assert_close(transform(x), torch.from_numpy(normalize(centered)))


def test_nearest_centroids_of_simpleshot_by_hand():
    """Two classes in a cone: their cosine is 0.98 before and -1 after."""
    transform = CL2N(body(2)).eval()
    transform.fit(torch.tensor([[5.0, 4.0], [5.0, 6.0]]))
    torch.testing.assert_close(
        transform(torch.tensor([[5.0, 4.5], [5.0, 5.5]])), torch.tensor([[0.0, -1.0], [0.0, 1.0]])
    )
