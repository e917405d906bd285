"""What all tests share: this library on the path, and no network."""

from __future__ import annotations

import os
import signal

from book.build import kernel_environment

os.environ.update(kernel_environment())  # processes that tests start inherit it too
if "PYTEST_XDIST_WORKER" in os.environ:  # tests share the cores: a process has one
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    set_num_threads = torch.set_num_threads
    # and keeps to it where a chapter or a benchmark asks for more, and where it asked before
    torch.set_num_threads = lambda number: set_num_threads(min(number, 1))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs behind it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests of Ctrl-C would wait for ever
