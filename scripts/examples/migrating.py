"""Use tasks of this package in code that was written for easyfsl, learn2learn or torchmeta.
Only the line that draws the tasks changes; the loop below it stays.

None of the three packages need be installed. Each loop is written as their users write it, here on the pixels of scikit-learn's
digits. Prints the 5-way 1-shot accuracy of nearest prototypes over 600 tasks, for each loop.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from episodic import EpisodeSampler
from episodic.evaluate.intervals import mean_interval
from episodic.evaluate.tables import percent
from episodic.interop import BatchMetaDataLoader, Tasks, TaskSampler


class Digits(Dataset):
    def __init__(self):
        digits = load_digits()
        self.images, self.labels = torch.tensor(digits.data, dtype=torch.float32), digits.target.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]

    def get_labels(self) -> list[int]:  # what easyfsl asks of a data set
        return self.labels


def accuracy(support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor) -> float:
    prototypes = torch.stack([support[support_y == c].mean(0) for c in range(5)])
    return (torch.cdist(query, prototypes).argmin(-1) == query_y).float().mean().item()


def easyfsl(dataset: Digits) -> list[float]:
    sampler = TaskSampler(dataset, n_way=5, n_shot=1, n_query=15, n_tasks=600)  # from easyfsl.samplers
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    return [accuracy(*task) for *task, class_ids in loader]


def learn2learn(dataset: Digits) -> list[float]:
    tasks = Tasks(dataset, EpisodeSampler(dataset.labels, 5, 1, 15, episodes=600))  # was learn2learn.data.TaskDataset
    found = []
    for data, labels in tasks:
        adaptation = torch.zeros(len(data), dtype=torch.bool)
        adaptation[torch.arange(5) * (1 + 15)] = True  # the first shot of each class
        found.append(accuracy(data[adaptation], labels[adaptation], data[~adaptation], labels[~adaptation]))
    return found


def torchmeta(dataset: Digits) -> list[float]:
    sampler = EpisodeSampler(dataset.labels, 5, 1, 15, episodes=600, episodes_per_batch=4)
    loader = BatchMetaDataLoader(dataset, sampler)  # from torchmeta.utils.data
    return [accuracy(*task) for batch in loader for task in zip(*batch["train"], *batch["test"], strict=True)]


def main() -> None:
    for way in (easyfsl, learn2learn, torchmeta):
        print(f"{way.__name__}'s loop: {percent(mean_interval(way(Digits())))} %")


if __name__ == "__main__":
    main()
