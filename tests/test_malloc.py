"""What a batch gives back stays with the process, so that the next one need not ask for it anew."""

import platform
import subprocess
import sys

import pytest

BATCHES = """
import resource, sys
from pipelines.sync.malloc import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batch = [bytes(134_000) for _ in range(64)]
del batch
before = faults()
for _ in range(20):
    batch = [bytes(134_000) for _ in range(64)]
    del batch
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_of_a_batch_is_taken_from_the_kernel_once():
    """Pages of Lean come and go without a page fault for each 4 kB of them."""
    given, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", BATCHES, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("given back", "kept")
    )

    assert kept < given / 10
