"""Train by language self-play: ``python run.py method=lsp init=grpo``.

Settings are ``key=value`` (conf/config.yaml lists them); ``dry_run=true`` prints what they come
to. Flags are Hydra's: ``-m`` for a multirun, ``--cfg job``, ``--help``.
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lsp.compose import compose
from lsp.config import ConfigError
from lsp.start import main


@hydra.main(version_base=None, config_path="conf", config_name="config")
def hydra_main(cfg: DictConfig) -> float | None:
    """One job of a multirun: ours are the overrides, composed and checked by ``lsp.compose``."""
    return main(list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if any(argument.startswith("-") for argument in arguments):
        try:
            compose([text for text in arguments if "=" in text and not text.startswith("-")])
        except ConfigError as error:
            sys.exit(f"error: {error}")
        hydra_main()
    else:
        main(arguments)
