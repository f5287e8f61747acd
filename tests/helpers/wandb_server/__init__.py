"""A W&B server on the loopback for tests; its part of the protocol suffices for runs of the real client."""

from tests.helpers.wandb_server.records import Artifact, Run
from tests.helpers.wandb_server.server import Fault, WandbServer

__all__ = ["Artifact", "Fault", "Run", "WandbServer"]
