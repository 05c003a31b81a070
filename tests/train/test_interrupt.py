import os
import signal
import threading

import pytest

from episodic.train.interrupt import SIGNALS, StopRequest, end, handled

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.exit_code == CODES[number]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_signal_ends_the_process_with_its_own_code(first, second):
    before = [signal.getsignal(number) for number in SIGNALS]

    def twice():
        with StopRequest():
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), second)
            raise AssertionError("nothing runs after the second one")

    with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
        twice()
    assert ended.type is KeyboardInterrupt if second == signal.SIGINT else ended.value.code == CODES[second]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_two_signals_that_are_seen_together_end_the_process():
    """Both come while the interpreter is away, as in a long call of torch."""

    def together():
        with StopRequest():
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    with pytest.raises(SystemExit) as ended:
        together()
    assert ended.value.code == 143


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop, handled(end):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_a_signal_everything_is_as_before():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
    assert not stop.requested
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_it_does_nothing():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with StopRequest() as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]
