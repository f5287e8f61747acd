"""Runs and artifacts of the server, and their GraphQL objects."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

ENTITY = "tester"
WHEN = "2026-01-01T00:00:00Z"


@dataclass
class Run:
    """The server's record of a run."""

    project: str
    name: str  # W&B's word for the id
    display_name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    commit: str | None = None
    tags: list[str] = field(default_factory=list)
    state: str = "running"
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The logged rows."""
        return [json.loads(line) for line in self.history]

    def stream(self, content: dict[str, Any]) -> None:
        """Store a transmission of lines, each block at its offset."""
        streams = {"wandb-history.jsonl": self.history, "wandb-events.jsonl": self.events, "output.log": self.console}
        for name, block in (content.get("files") or {}).items():
            start, lines = int(block.get("offset", 0)), block["content"]
            if name == "wandb-summary.json":
                self.summary = json.loads(lines[-1])
                continue
            stream = streams[name]
            assert start <= len(stream) or stream is self.console, f"{name}: lines before {start} are missing"
            stream.extend([""] * (start - len(stream)))
            stream[start : start + len(lines)] = lines
        if not content.get("complete"):
            self.state = "running"
            return
        self.exit_code = content.get("exitcode", 0)
        self.state = "finished" if self.exit_code == 0 else "failed"

    def answer(self) -> dict[str, Any]:
        """The run as a GraphQL object."""
        rows = self.rows
        return {
            "id": graphql_id("Run", self.project, self.name),
            "name": self.name,
            "displayName": self.display_name,
            "projectId": "1",
            "project": {"id": graphql_id("Project", self.project), "name": self.project, "entity": entity_object()},
            "state": self.state,
            "config": json.dumps(self.config),
            "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}",
            "historyLineCount": len(self.history),
            "eventsLineCount": len(self.events),
            "logLineCount": len(self.console),
            "historyTail": json.dumps(self.history[-1:]),
            "eventsTail": json.dumps(self.events[-1:]),
            "history": self.history,
            "historyKeys": {"sets": [], "keys": {}, "lastStep": rows[-1]["_step"] if rows else -1},
            "wandbConfig": json.dumps(self.config.get("_wandb", {}).get("value", {})),
            "tags": self.tags,
            "notes": self.notes,
            "description": None,
            "group": self.group,
            "jobType": self.job_type,
            "commit": self.commit,
            "sweepName": None,
            "readOnly": False,
            "createdAt": WHEN,
            "heartbeatAt": WHEN,
            "user": viewer(),
        }


@dataclass
class Artifact:
    """A version of an artifact; `contents` are the entries of its manifest."""

    project: str
    collection: str
    kind: str
    digest: str
    metadata: str | None
    aliases: list[str]
    number: int
    version: int | None = None
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The artifact's id in GraphQL."""
        return graphql_id("Artifact", self.number)


def viewer() -> dict[str, Any]:
    """The GraphQL object of the user who is logged in."""
    user = {
        "id": graphql_id("User", 1),
        "name": ENTITY,
        "username": ENTITY,
        "entity": ENTITY,
        "email": "tester@example.invalid",
    }
    return {**user, "flags": "{}", "teams": edges([{"name": ENTITY}])}


def entity_object() -> dict[str, Any]:
    """The GraphQL object of the only entity."""
    return {"id": graphql_id("Entity", ENTITY), "name": ENTITY}


def edges(nodes: list[Any]) -> dict[str, Any]:
    """A GraphQL connection of one page."""
    return {
        "totalCount": len(nodes),
        "edges": [{"node": node, "cursor": ""} for node in nodes],
        "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
    }


def graphql_id(*parts: object) -> str:
    """Encode an id as base64, which the client decodes from some ids."""
    return base64.b64encode(":".join(map(str, parts)).encode()).decode()
