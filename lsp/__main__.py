"""``python -m lsp``: the same as ``lsp``."""

import sys

from lsp.cli.requirements import check_environment

if __name__ == "__main__":
    check_environment()
    from lsp.cli.main import main

    sys.exit(main())
