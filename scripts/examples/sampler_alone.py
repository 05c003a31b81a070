"""Use the sampler alone: it gives a plain `DataLoader` the episodes, and the training loop is your own.
Everything else is plain torch.

Only `EpisodeSampler` and `EpisodeCollate` are needed. Any map-style data set of `(image, label)` will do; here it is the letters
that come with the package. A prototypical network trains for 100 steps, 20-way. Prints its accuracy on 300 5-way 1-shot tasks of
letters of other scripts, beside the accuracy of the pixels themselves.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader

from episodic import EpisodeCollate, EpisodeSampler
from episodic.data.sets.glyphs import Glyphs


def block(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.LazyConv2d(channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2))


def loader(dataset, **settings) -> DataLoader:
    sampler = EpisodeSampler(dataset.labels, seed=0, **settings)  # the labels are all that it needs
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))


def logits(network: nn.Module, support: torch.Tensor, query: torch.Tensor, n_way: int) -> torch.Tensor:
    """Minus the squared distance of each query to the mean of each class's support: `[n_query, n_way]`."""
    images = torch.cat([support, query]).float() / 255
    embedded = network(images)
    prototypes = embedded[: len(support)].unflatten(0, (n_way, -1)).mean(1)  # items lie class by class
    return -torch.cdist(embedded[len(support) :], prototypes).square()


def accuracies(network: nn.Module, episodes: DataLoader) -> torch.Tensor:
    network.eval()
    right = []
    with torch.inference_mode():
        for support, _, query, query_y, _ in (episode.as_tuple() for episode in episodes):
            right.append((logits(network, support[0], query[0], 5).argmax(-1) == query_y[0]).float().mean())
    return torch.stack(right)


def main() -> None:
    torch.manual_seed(0)
    train, test = Glyphs().store("train"), Glyphs().store("test")
    network = nn.Sequential(block(32), block(32), block(32), nn.Flatten())
    network(torch.zeros(1, 1, 28, 28))  # makes the weights: their sizes follow from the first image
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for episode in loader(train, n_way=20, n_shot=1, n_query=5, episodes=100):
        answers = logits(network, episode.task.support[0], episode.task.query[0], 20)
        loss = nn.functional.cross_entropy(answers, episode.query_y[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, embedding in (("pixels", nn.Flatten()), ("prototypical network", network)):
        right = accuracies(embedding, loader(test, n_way=5, n_shot=1, n_query=15, episodes=300))
        print(f"{name}: {100 * right.mean():.2f} ± {196 * right.std() / len(right) ** 0.5:.2f} %")


if __name__ == "__main__":
    main()
