"""The process that holds a Ray of this machine: it starts one, prints its address, and ends when its input ends.

Ray's servers end with the process that started them. So a start that fails, or hangs, is ended with this process, and
the next one begins anew; and no Ray outlives the process that holds the other end of the input, however that one ends.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Start Ray with the options of `ray.init` in the first argument (JSON), and hold it."""
    import ray

    ray.init(**json.loads(sys.argv[1]))
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
