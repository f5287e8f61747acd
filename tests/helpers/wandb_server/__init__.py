"""A W&B server on the loopback, for tests: enough of the protocol for real runs of the real client."""

from tests.helpers.wandb_server.server import Fault, WandbServer
from tests.helpers.wandb_server.store import Artifact, Run

__all__ = ["Artifact", "Fault", "Run", "WandbServer"]
