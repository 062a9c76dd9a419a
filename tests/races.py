"""Random networks by teams of three lanes, whose text ThreadSanitizer watches: test_device_text.py preloads its library.

A stage that does not wait for what it reads is a race of two lanes.
"""

from __future__ import annotations

import os
import sys

os.environ.pop("LD_PRELOAD")  # it is not for the compiler

from random_networks import check_case

import fastmeta as fm
from fastmeta.backends import cuda_host

cuda_host.TEXT = True
cuda_host.FLAGS += ["-fsanitize=thread", "-g1"]
cuda_host.OPTIONS.update(way=sys.argv[1], lanes=3)
with fm.set_backend("cuda-host"):
    print("cases", sum(check_case(seed) for seed in range(int(sys.argv[2]))))
