import os

import pytest
import torch
from torch import nn

from episodic.episodes.share import Share
from episodic.run import distributed
from tests.together import in_processes


def test_values_of_processes_come_together(tmp_path):
    def work(number):
        x = torch.zeros(7, 2)
        bounds = distributed.shares(7, 2)
        x[bounds[number] : bounds[number + 1]] = number + 1
        distributed.fill_from_all(x, bounds)
        return {
            "count": distributed.processes(),
            "first": distributed.is_first(),
            "from_first": distributed.from_first(lambda: ["of", number]),
            "from_all": distributed.from_all(10 * number),
            "largest": distributed.largest(5 - number),
            "mean": distributed.mean_over_processes(torch.tensor([1.0, float(number)])).tolist(),
            "filled": x[:, 1].tolist(),
        }

    found = in_processes(3, work, tmp_path)
    assert [values.pop("first") for values in found] == [True, False, False]
    expected = {"count": 3, "from_first": ["of", 0], "from_all": [0, 10, 20], "largest": 5, "mean": [1.0, 1.0]}
    assert found == [expected | {"filled": [1, 1, 2, 2, 3, 3, 3]}] * 3  # whole pieces of two


def test_pieces_are_dealt_whole_and_all_of_them():
    assert distributed.shares(600, 256) == [0, 600]
    assert distributed.shares(0) == [0, 0]


def test_an_error_of_the_first_process_is_an_error_of_all(tmp_path):
    def work(number):
        def fail():
            raise ValueError(f"told by {number}")

        with pytest.raises(ValueError, match="told by 0"):
            distributed.from_first(fail)
        return True

    assert in_processes(2, work, tmp_path) == [True, True]


def test_the_first_process_goes_ahead_even_where_it_fails(tmp_path):
    def work(number):
        try:
            with distributed.first_ahead():
                seen = (tmp_path / "filled").exists()
                (tmp_path / "filled").touch()
                if number == 0:
                    raise ValueError
        except ValueError:
            pass
        return seen

    assert in_processes(3, work, tmp_path) == [False, True, True]


@pytest.mark.parametrize("units", [4, 5])
def test_gradients_are_those_of_one_process_with_the_whole_batch(units, tmp_path):
    """A loss of each unit, and one of all pairs of embeddings, which has a weight of its own."""
    torch.manual_seed(0)
    items, net, scale = torch.randn(units, 3, 6), nn.Linear(6, 4), nn.Parameter(torch.tensor(0.5))

    def loss_of(share):
        x = net(items[share.slice])
        own = distributed.mean_of_batch(x.square().sum((1, 2)), share)
        every = distributed.gathered(x.flatten(0, 1), share)
        labels = distributed.gathered(torch.arange(3 * units)[share.rows(len(x) * 3)], share)
        return own + scale * (labels[:, None] * torch.cdist(every, every)).mean()

    parameters = [*net.parameters(), scale]
    loss_of(Share(0, units, units)).backward()
    expected = [parameter.grad.clone() for parameter in parameters]

    def work(number):
        for parameter in parameters:
            parameter.grad = None

        def loss():
            with distributed.dealt(units, "units") as share:
                return loss_of(share)

        averaged = distributed.averaged(loss, parameters)
        value = averaged()
        value.backward()
        return distributed.mean_over_processes(value.detach()), [parameter.grad for parameter in parameters]

    for value, found in in_processes(3, work, tmp_path):
        torch.testing.assert_close(value, loss_of(Share(0, units, units)).detach())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_weights_that_a_step_does_not_use_have_no_gradient(tmp_path):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def work(number):
        averaged = distributed.averaged(lambda: (used * number).sum(), [used, unused])
        averaged().backward()
        return used.grad.tolist(), unused.grad

    assert in_processes(2, work, tmp_path) == [([0.5, 0.5], None)] * 2


def test_a_batch_that_is_too_small_is_refused(tmp_path):
    def work(number):
        with pytest.raises(ValueError, match="2 processes share the batch of a step, and it has 1 things: take 2 or a"):
            distributed.check_can_be_dealt(1, "things")
        return True

    assert in_processes(2, work, tmp_path) == [True, True]


def test_a_lost_process_is_told_in_words(tmp_path):
    def work(number):
        distributed.wait_for_all()  # until all are connected
        if number == 1:
            torch.save(None, next(tmp_path.glob("meeting-?")).with_name("meeting-0-1"))
            os._exit(1)
        with (
            pytest.raises(distributed.LostProcessError, match="another process of this command has ended"),
            distributed.peers(),
        ):
            distributed.from_all(number)
        return True

    assert in_processes(2, work, tmp_path)[0]


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="timed out of mind"), distributed.peers():
        raise RuntimeError("timed out of mind")


def test_alone_there_is_one_process_which_tells_everything(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not distributed.launched()
    with distributed.joined() as tells:
        assert tells("something")
        assert tells("something")
    assert distributed.launcher() == "python"
