"""Reader of W&B's offline log: protobuf records in LevelDB's log format (7-byte headers, blocks of 32 KiB)."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

protobuf: Any = wandb_internal_pb2  # its classes are created at run time

_BLOCK, _HEADER = 32 * 1024, 7
_FULL, _LAST = 1, 4


@dataclass
class Log:
    """Records of a run."""

    project: str = ""
    name: str = ""
    id: str = ""
    job_type: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read_log(folder: Path) -> Log:
    """Read the log of the offline run in a W&B folder `offline-run-...`."""
    wandb.teardown()  # W&B's process writes the last records at its end, after the run's `finish`
    (path,) = folder.glob("run-*.wandb")
    log = Log()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                log.project, log.name, log.id, log.job_type = run.project, run.display_name, run.run_id, run.job_type
                log.config |= _items(run.config.update)
            case "config":
                log.config |= _items(record.config.update)
            case "history":
                log.rows.append(_items(record.history.item))
            case "summary":
                log.summary |= _items(record.summary.update)
            case "exit":
                log.exit_code = record.exit.exit_code
    return log


def _records(data: bytes) -> Iterator[Any]:
    ident, magic, _ = struct.unpack("<4sHB", data[:_HEADER])
    assert (ident, magic) == (b":W&B", 0xBEE1), "no W&B log"
    at, message = _HEADER, b""
    while True:
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # no space for a header: zeros up to the end of the block
            at += left
        if at + _HEADER > len(data):
            return
        _, size, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        at += _HEADER
        if kind == 0 or at + size > len(data):  # an unflushed tail
            return
        message += data[at : at + size]
        at += size
        if kind in (_FULL, _LAST):
            record = protobuf.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def _items(update: Any) -> dict[str, Any]:
    """Merge items to a dict; nested keys become nested dicts."""
    values: dict[str, Any] = {}
    for item in update:
        *outer, key = item.nested_key or [item.key]
        inner = values
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[key] = json.loads(item.value_json)
    return values
