import threading

import pytest

from episodic.demo.answer import Demo
from episodic.demo.server import DemoServer
from tests.assemble.small import small_run
from tests.demo.asking import configured


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def server(run):
    with DemoServer(Demo(configured(run)), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
