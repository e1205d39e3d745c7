"""The same Python program in two processes whose hashes and time zones differ."""

import os
import subprocess
import sys


def printed_in_two_places(program: str) -> set[str]:
    """What ``program`` prints in both: one text if it depends on neither."""
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed, zone in (("1", "Asia/Tokyo"), ("2", "America/Los_Angeles"))
    }
