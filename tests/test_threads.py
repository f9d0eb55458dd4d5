import os
import threading

import pytest
import torch

from invariances.threads import cores, in_threads


def test_there_is_a_core_and_no_more_than_the_machine_has():
    assert 1 <= cores() <= os.cpu_count()


def test_threads_are_started_for_several_items_only_and_keep_the_order():
    seen = in_threads(
        lambda i: (i, threading.current_thread() is threading.main_thread(), torch.get_num_threads()), [2, 1, 0], 2
    )
    assert seen == [(2, False, 1), (1, False, 1), (0, False, 1)]
    assert in_threads(lambda i: threading.current_thread() is threading.main_thread(), [0], 2) == [True]


def test_an_error_in_a_thread_is_raised_and_the_callers_threads_stay_as_they_were():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda i: 1 / i, [1, 0], 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
