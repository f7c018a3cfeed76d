"""``python -m harness.reward_bench``."""

from harness.cli import end
from harness.reward_bench.command import main

if __name__ == "__main__":
    end(main())
