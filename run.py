"""Train by language self-play: ``python run.py method=lsp init=grpo``; the same as ``lsp train``.

Settings are ``key=value`` (conf/config.yaml lists them); ``dry_run=true`` prints what they come
to. Flags are Hydra's: ``-m`` for a multirun, ``--cfg job``.
"""

import sys

from lsp.cli.requirements import check_environment

if __name__ == "__main__":
    check_environment()
    from lsp.cli.main import run

    sys.exit(run("train", sys.argv[1:]))
