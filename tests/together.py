"""Runs a function in several processes that work as one."""

import contextlib
import multiprocessing
import os
import traceback

import torch
from torch import distributed

FORK = multiprocessing.get_context("fork")


def in_processes(count, function, place):
    """What `function(number)` returns in each of `count` processes. They meet in the folder `place`."""
    meeting = place / f"meeting-{len(list(place.iterdir()))}"
    workers = [FORK.Process(target=_work, args=(function, number, count, meeting)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        worker.kill()
    told = [meeting.with_name(f"{meeting.name}-{number}") for number in range(count)]
    assert all(path.exists() for path in told), "a process ended without a result, or hangs"
    return [torch.load(path, weights_only=False) for path in told]


def _work(function, number, count, meeting):
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=count)
        found = function(number)
        torch.save(found, f"{meeting}-{number}")
        with contextlib.suppress(RuntimeError):  # or the first to leave breaks a connection that another still makes
            distributed.barrier()
    except BaseException:
        traceback.print_exc()
    os._exit(0)  # what pytest does at an end is not theirs
