import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from episodic.data.augment import Augment
from episodic.episodes.share import ALL, Share, for_whole_batch, present_share, sharing


@given(of=st.integers(1, 40), processes=st.integers(1, 9), each=st.integers(1, 5))
def test_shares_are_the_batch_in_its_order_and_differ_by_one_unit_at_most(of, processes, each):
    if of < processes:
        with pytest.raises(ValueError, match=f"{of} cannot be dealt to {processes} processes"):
            Share.dealt(of, 0, processes)
        return
    shares = [Share.dealt(of, number, processes) for number in range(processes)]
    sizes = [share.stop - share.start for share in shares]
    assert [unit for share in shares for unit in range(of)[share.slice]] == list(range(of))
    assert max(sizes) - min(sizes) <= 1
    rows = [row for share, size in zip(shares, sizes, strict=True) for row in range(of * each)[share.rows(size * each)]]
    assert rows == list(range(of * each))
    assert {share.whole(size * each) for share, size in zip(shares, sizes, strict=True)} == {of * each}


def test_a_share_is_present_only_while_it_is_entered():
    assert present_share() == ALL
    with sharing(Share(1, 2, 2)) as share:
        assert present_share() is share
    assert present_share() == ALL


def test_an_item_is_augmented_alike_whatever_share_it_is_in():
    images, augment = torch.rand(12, 3, 9, 9), Augment(crop_padding=0.25, smallest_crop=0.5, flip=True, jitter=0.4)
    whole = augment(images, torch.Generator().manual_seed(3))
    for processes in (2, 3):
        shares = [Share.dealt(4, number, processes) for number in range(processes)]  # of four episodes of three images
        parts = []
        for share in shares:
            with sharing(share):
                part = images[share.rows(3 * (share.stop - share.start))]
                parts.append(augment(part, torch.Generator().manual_seed(3)))
        assert torch.equal(torch.cat(parts), whole)


def test_draws_for_the_whole_batch_have_the_gradient_of_their_rows():
    x = torch.rand(4, 5, requires_grad=True)

    def dropped(rows):
        torch.manual_seed(1)
        return torch.nn.functional.dropout(rows, 0.5)

    dropped(x).square().sum().backward()
    whole, x.grad = x.grad, None
    for number in range(2):
        with sharing(Share.dealt(2, number, 2)) as share:
            for_whole_batch(dropped, x[share.rows(2)]).square().sum().backward()
    assert torch.equal(x.grad, whole)
