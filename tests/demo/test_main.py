"""The command of the demo: it says where the page is, ends by Ctrl-C, and refuses what it cannot serve."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest

from episodic import FewShotClassifier
from episodic.demo.server import DemoServer
from tests.command import run_command


def called(folder, *options):
    code, out, err = run_command("demo", "device=cpu", *options, cwd=folder)
    return code, out + err


def test_the_command_says_where_the_page_is_and_ends_by_ctrl_c_with_a_line(run, tmp_path, monkeypatch):
    serve = DemoServer.serve_forever

    def interrupted(server):
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        serve(server)

    monkeypatch.setattr(DemoServer, "serve_forever", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have told to ignore it
    try:
        code, printed = called(tmp_path, f"run={run}", "port=0")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 0
    assert re.fullmatch(
        rf"{run}: Prototypical on Conv4, unlabeled pictures by label_propagation; 16 × 16 gray\.\n"
        r"Open http://127\.0\.0\.1:\d+/ in a browser on this machine\. Ctrl-C ends it\.\n\nStopped\.\n", printed
    )  # fmt: skip


def test_what_cannot_be_served_is_one_line(server, run, tmp_path):
    FewShotClassifier(device="cpu").fit(np.eye(4), [1, 1, 2, 2]).save(tmp_path / "features.safetensors")
    for options, said in (
        ([f"run={run}", f"port={server.server_port}"], f"port {server.server_port} cannot be used (Address already in"),
        ([f"run={run}", "port=65536"], "port must be a number from 0 (one that is free) to 65535, got 65536"),
        ([f"run={run}", "port=http"], "port must be an integer, got 'http'"),
        ([f"model={tmp_path}/features.safetensors"], "compares features, not pictures"),
        ([f"run={tmp_path}"], "is no run"),
        (["port=0"], "which model?"),
    ):
        code, printed = called(tmp_path, *options)
        assert (code, printed.count("\n")) == (2, 1), printed
        assert printed.startswith("episodic.demo: ")
        assert said in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["augment=crop_flip"], "augment would have no effect here: only training changes pictures"),
        (["data_dir=."], "data_dir would have no effect here: no data set is read"),
        (["trainer=episodes"], "trainer would have no effect here: nothing is trained"),
        (["task.n_way=3"], "task.n_way would have no effect here: no episodes are drawn"),
        (["task.train.n_shot=2"], "task.train.n_shot would have no effect here: no episodes are drawn"),
        (["seed=1"], "seed would have no effect here: all weights come from run="),
    ],
)
def test_what_the_demo_does_not_read_is_refused(run, tmp_path, options, said):
    code, printed = called(tmp_path, f"run={run}", "port=0", *options)
    assert code == 2, printed
    assert said in printed


def test_the_command_is_a_module_that_runs(run, tmp_path):
    """A real process, as a user starts it."""
    command = [sys.executable, "-m", "episodic.demo", f"run={run}", "device=cpu", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            url = next(line for line in process.stdout if "http://" in line).split()[1]
            with urllib.request.urlopen(url, timeout=60) as page:
                assert b"<html" in page.read()
        finally:
            process.kill()
