"""Imported before anything else: logging and threading do their work after a fork for the sake of other threads, of which we have none.

It would copy half a megabyte of memory in each worker.
"""

import os

_register = os.register_at_fork
del os.register_at_fork  # both look whether it is there
import logging  # noqa: E402, F401 - see above
import threading  # noqa: E402, F401

os.register_at_fork = _register
