"""What all tests share: this library on the path, and no network."""

from __future__ import annotations

import os

from book.build import kernel_environment

os.environ.update(kernel_environment())  # processes that tests start inherit it too
