"""Networks of one's own that end a worker process, or cannot be built there."""

import multiprocessing
import os

from medaegis.errors import ConfigError
from medaegis.experiments.tiny import network


def kills(classes):
    """Ends any process but the one that owns the store."""
    if multiprocessing.parent_process() is not None:
        os._exit(7)
    return network(classes)


def refuses(classes):
    raise ConfigError("network", "will not be built", "take another")
