"""`python -m rlhf_lib`: the command line, which stands in `running.command_line`."""

import sys

from .running.command_line import main

if __name__ == "__main__":
    sys.exit(main())
