"""``python -m lsp``: the same as ``lsp``."""

import sys

from lsp.cli.requirements import check_environment

check_environment()

from lsp.cli.main import main  # noqa: E402

sys.exit(main())
