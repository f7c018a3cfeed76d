"""``python -m harness``."""

from harness.cli import end, main

if __name__ == "__main__":
    end(main())
