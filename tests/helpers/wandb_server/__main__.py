"""Serve until an interrupt; print the client's environment for `export`.   python -m tests.helpers.wandb_server"""

import threading

from tests.helpers.wandb_server import WandbServer

if __name__ == "__main__":
    with WandbServer() as server:
        print("export", *(f"{name}={value}" for name, value in server.environment().items()), flush=True)
        threading.Event().wait()
