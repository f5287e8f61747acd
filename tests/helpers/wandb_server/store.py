"""What the server has been sent: runs, their files, artifacts; and the answers to queries about them."""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

ENTITY = "tester"
_FEATURES = (
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "FILESTREAM_GZIP",
    "LARGE_FILENAMES",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)
_WHEN = "2026-01-01T00:00:00Z"


def _id(*parts: object) -> str:
    """The client decodes some ids as base64."""
    return base64.b64encode(":".join(map(str, parts)).encode()).decode()


def _edges(nodes: list[Any]) -> dict[str, Any]:
    return {
        "totalCount": len(nodes),
        "edges": [{"node": node, "cursor": ""} for node in nodes],
        "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
    }


@dataclass
class Run:
    """A run as the server knows it."""

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
        """What was logged, row by row."""
        return [json.loads(line) for line in self.history]

    def stream(self, content: dict[str, Any]) -> None:
        """Take in one transmission of lines, each block with the place where it belongs."""
        places = {"wandb-history.jsonl": self.history, "wandb-events.jsonl": self.events, "output.log": self.console}
        for name, block in (content.get("files") or {}).items():
            start, lines = int(block.get("offset", 0)), block["content"]
            if name == "wandb-summary.json":
                self.summary = json.loads(lines[-1])
                continue
            place = places[name]
            assert start <= len(place) or place is self.console, f"{name}: lines before {start} have never come"
            place.extend([""] * (start - len(place)))
            place[start : start + len(lines)] = lines
        if not content.get("complete"):
            self.state = "running"
            return
        self.exit_code = content.get("exitcode", 0)
        self.state = "finished" if self.exit_code == 0 else "failed"

    def answer(self) -> dict[str, Any]:
        """The run as a GraphQL object."""
        rows = self.rows
        return {
            "id": _id("Run", self.project, self.name),
            "name": self.name,
            "displayName": self.display_name,
            "projectId": "1",
            "project": {"id": _id("Project", self.project), "name": self.project, "entity": _entity()},
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
            "createdAt": _WHEN,
            "heartbeatAt": _WHEN,
            "user": _viewer(),
        }


@dataclass
class Artifact:
    """A version of an artifact; `contents` are its files as the manifest lists them."""

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
        """Its id in GraphQL."""
        return _id("Artifact", self.number)


class Store:
    """Everything that the server has been sent. Methods named as the client's operations answer them."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[tuple[str, str], Run] = {}
        self.artifacts: list[Artifact] = []
        self.blobs: dict[str, bytes] = {}
        self.views: list[dict[str, Any]] = []  # saved workspaces
        self.sweep: list[dict[str, Any]] = []  # parameters of the runs that an agent is still to make
        self.sweep_config = ""

    def run(self, project: str, name: str) -> Run:
        """The run of this name, made where there is none."""
        return self.runs.setdefault((project, name), Run(project, name))

    def artifact(self, project: str, collection: str, alias: str) -> Artifact | None:
        """The finished version with this alias, or of this number, as in `v0`."""
        found = [a for a in self.artifacts if (a.project, a.collection) == (project, collection)]
        return next((a for a in found if a.version is not None and alias in (*a.aliases, f"v{a.version}")), None)

    def Viewer(self) -> dict[str, Any]:
        return {"viewer": _viewer()}

    def ServerFeaturesQuery(self) -> dict[str, Any]:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in _FEATURES]}}

    def OrganizationCoreWeaveOrganizationID(self, entityName: str) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def RunResumeStatus(self, project: str, entity: str, name: str) -> dict[str, Any]:
        found = self.runs.get((project, name))
        bucket = found.answer() if found else None
        return {"model": {"id": _id("Project", project), "name": project, "entity": _entity(), "bucket": bucket}}

    def UpsertBucket(self, name: str | None = None, project: str | None = None, **given: Any) -> dict[str, Any]:
        if name is None or project is None:
            run = next(run for run in self.runs.values() if run.answer()["id"] == given["id"])
            inserted = False
        else:
            inserted = (project, name) not in self.runs
            run = self.run(project, name)
        if given.get("config"):
            values = json.loads(given["config"])
            run.config = values
        if given.get("summaryMetrics"):
            run.summary = json.loads(given["summaryMetrics"])
        fields = {"displayName": "display_name", "groupName": "group", "jobType": "job_type", "notes": "notes"}
        for key, attribute in {**fields, "commit": "commit", "tags": "tags", "state": "state"}.items():
            if given.get(key) is not None:
                setattr(run, attribute, given[key])
        return {"upsertBucket": {"bucket": run.answer(), "inserted": inserted}}

    def CreateRunFiles(self, entity: str, project: str, run: str, files: list[str]) -> dict[str, Any]:
        urls = [{"name": name, "uploadUrl": f"{self.url}/storage/run/{project}/{run}/{name}"} for name in files]
        answer = {"runID": self.run(project, run).answer()["id"], "uploadHeaders": [], "files": urls}
        return {"createRunFiles": answer}

    def ArtifactType(self, entity: str, project: str, name: str) -> dict[str, Any]:
        found = self.artifact(project, *name.split(":"))
        return {"project": {"artifact": {"artifactType": {"name": found.kind}} if found else None}}

    def CreateArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        project, collection, digest = input["projectName"], input["artifactCollectionName"], input["digest"]
        aliases = [alias["alias"] for alias in input.get("aliases") or []]
        same = [a for a in self.artifacts if (a.project, a.collection, a.digest) == (project, collection, digest)]
        if same and same[0].version is not None:
            artifact = same[0]
            self._move_aliases(artifact, aliases)
        else:
            number = len(self.artifacts) + 1
            metadata = input.get("metadata")
            artifact = Artifact(project, collection, input["artifactTypeName"], digest, metadata, aliases, number)
            self.artifacts.append(artifact)
        latest = self.artifact(project, collection, "latest")
        state = "PENDING" if artifact.version is None else "COMMITTED"
        sequence = {"latestArtifact": {"id": latest.id} if latest else None}
        return {"createArtifact": {"artifact": {"id": artifact.id, "state": state, "artifactSequence": sequence}}}

    def CreateArtifactManifest(self, artifactID: str, **given: Any) -> dict[str, Any]:
        number = self._by_id(artifactID).number
        url = f"{self.url}/storage/manifest/{number}"
        file = {"id": _id("File", number), "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": _id("Manifest", number), "file": file}}}

    def CreateArtifactFiles(self, input: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in input["artifactFiles"]:
            md5 = base64.b64decode(file["md5"]).hex()
            node = {"storagePath": md5, "uploadUrl": f"{self.url}/storage/blob/{md5}", "uploadHeaders": []}
            nodes.append({**node, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}})
        return {"createArtifactFiles": {"files": _edges(nodes)}}

    def CommitArtifact(self, artifactID: str) -> dict[str, Any]:
        artifact = self._by_id(artifactID)
        key = artifact.project, artifact.collection
        artifact.version = sum(
            (a.project, a.collection) == key and a.version is not None and a is not artifact for a in self.artifacts
        )
        self._move_aliases(artifact, ["latest", *artifact.aliases])
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def Run(self, project: str, entity: str, name: str) -> dict[str, Any]:
        found = self.runs.get((project, name))
        return {"project": {"run": found.answer() if found else None}}

    RunHistoryKeys = Run

    def RunFullHistory(self, samples: int, **given: Any) -> dict[str, Any]:
        answer = self.Run(**given)
        rows = answer["project"]["run"]["history"]
        answer["project"]["run"]["history"] = rows[:: -(-len(rows) // samples) or 1]
        return answer

    def Runs(self, project: str, entity: str, **given: Any) -> dict[str, Any]:
        wanted = json.loads(given.get("filters") or "{}")
        assert not wanted or wanted.keys() == {"group"}, f"runs by {wanted} are not known"
        found = [
            run for (of, _), run in self.runs.items() if of == project and run.group == wanted.get("group", run.group)
        ]
        if not any(of == project for of, _ in self.runs):
            return {"project": None}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(found),
                "readOnly": False,
                "runs": _edges([run.answer() for run in found]),
            }
        }

    def UpsertView2(self, **given: Any) -> dict[str, Any]:
        view = {"id": _id("View", len(self.views) + 1), **given}
        self.views.append(view)
        return {"upsertView": {"view": view, "inserted": True}}

    def View(self, name: str, entityName: str, viewName: str, **given: Any) -> dict[str, Any]:
        found = [view for view in self.views if (view["projectName"], view["name"]) == (name, viewName)]
        return {"project": {"allViews": _edges(found)}}

    def GetDefaultEntity(self) -> dict[str, Any]:
        return {"viewer": _viewer()}

    def RunFiles(self, project: str, entity: str, name: str, **given: Any) -> dict[str, Any]:
        files = self.runs[project, name].files
        nodes = [
            {
                "id": _id("File", file),
                "name": file,
                "url": f"{self.url}/storage/run/{project}/{name}/{file}",
                "directUrl": f"{self.url}/storage/run/{project}/{name}/{file}",
                "sizeBytes": len(content),
                "mimetype": None,
                "updatedAt": _WHEN,
                "md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
            }
            for file, content in files.items()
            if not given.get("fileNames") or file in given["fileNames"]
        ]
        return {"project": {"internalId": "1", "run": {"fileCount": len(files), "files": _edges(nodes)}}}

    def ArtifactMembershipByName(self, project: str, entity: str, name: str, **given: Any) -> dict[str, Any]:
        found = self.artifact(project, *name.split(":"))
        return {"project": {"artifactCollectionMembership": self._membership(found) if found else None}}

    def FetchArtifactManifest(self, id: str) -> dict[str, Any]:
        url = f"{self.url}/storage/manifest/{self._by_id(id).number}"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def GetArtifactMembershipFileUrls(self, project: str, collection: str, alias: str, **given: Any) -> dict[str, Any]:
        artifact = self.artifact(project, collection, alias)
        assert artifact is not None
        files = [
            {"__typename": "File", "name": name, "directUrl": f"{self.url}/storage/blob/{_hex(entry['digest'])}"}
            for name, entry in artifact.contents.items()
        ]
        owner = {"__typename": "ArtifactSequence", "artifactMembership": {"files": _edges(files)}}
        return {"project": {"artifactCollection": owner}}

    def UpsertSweep(self, config: str, projectName: str, **given: Any) -> dict[str, Any]:
        """A grid, whose runs an agent is to make."""
        said = yaml.safe_load(config)
        assert said["method"] == "grid", "only grids are known"
        axes = [[(name, value) for value in values] for name, values in _axes(said["parameters"])]
        self.sweep = [_nested(point) for point in itertools.product(*axes)]
        self.sweep_config = config
        project = {"id": _id("Project", projectName), "name": projectName, "entity": _entity()}
        return {"upsertSweep": {"sweep": {"name": "swept", "project": project}, "configValidationWarnings": []}}

    def SweepWithRuns(self, sweep: str, **given: Any) -> dict[str, Any]:
        none = dict.fromkeys(("description", "bestLoss", "controller", "scheduler", "earlyStopJobRunning"))
        times = dict.fromkeys(("createdAt", "heartbeatAt", "updatedAt"), _WHEN)
        known = {"id": _id("Sweep", sweep), "name": sweep, "method": "grid", "state": "RUNNING"}
        found = {**known, **none, **times, "config": self.sweep_config, "runs": _edges([])}
        return {"project": {"sweep": found}}

    def CreateAgent(self, sweep: str, **given: Any) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": _id("Agent", sweep)}}}

    def Heartbeat(self, id: str, runState: str, **given: Any) -> dict[str, Any]:
        commands: list[dict[str, Any]] = []
        if not json.loads(runState):
            if self.sweep:
                values = {name: {"value": value} for name, value in self.sweep.pop(0).items()}
                run_id = f"swept{len(self.sweep)}"
                commands = [{"type": "run", "run_id": run_id, "program": "", "args": values, "logs": []}]
            else:
                commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": id}, "commands": json.dumps(commands)}}

    def take_manifest(self, number: int, content: bytes) -> None:
        """The list of an artifact's files."""
        self.artifacts[number - 1].contents = json.loads(content)["contents"]

    def manifest(self, number: int) -> bytes:
        """The same, as it is downloaded."""
        contents = self.artifacts[number - 1].contents
        policy = {"storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": {"storageLayout": "V2"}}
        return json.dumps({"version": 1, **policy, "contents": contents}).encode()

    def take_blob(self, md5: str, content: bytes) -> None:
        """A file of an artifact."""
        assert hashlib.md5(content).hexdigest() == md5
        self.blobs[md5] = content

    def content(self, artifact: Artifact, name: str) -> bytes:
        """What is in an artifact's file."""
        return self.blobs[_hex(artifact.contents[name]["digest"])]

    def _by_id(self, artifact_id: str) -> Artifact:
        return next(artifact for artifact in self.artifacts if artifact.id == artifact_id)

    def _move_aliases(self, artifact: Artifact, aliases: list[str]) -> None:
        for other in self.artifacts:
            if (other.project, other.collection) == (artifact.project, artifact.collection):
                other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases = sorted({*artifact.aliases, *aliases})

    def _membership(self, artifact: Artifact) -> dict[str, Any]:
        project = {"id": _id("Project", artifact.project), "internalId": "1", "name": artifact.project}
        collection = {
            "__typename": "ArtifactSequence",
            "name": artifact.collection,
            "project": {**project, "entity": _entity()},
        }
        aliases = [
            {"__typename": "ArtifactAlias", "id": _id(alias), "alias": alias, "artifactCollection": collection}
            for alias in artifact.aliases
        ]
        version = {"versionIndex": artifact.version, "createdAt": _WHEN, "aliases": aliases}
        details = {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": collection,
            "artifactType": {"name": artifact.kind},
            "description": None,
            "metadata": artifact.metadata,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": sum(entry["size"] for entry in artifact.contents.values()),
            "digest": artifact.digest,
            "commitHash": artifact.digest,
            "fileCount": len(artifact.contents),
            "updatedAt": None,
        }
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": _id("Membership", artifact.number),
            "artifactCollection": collection,
            **version,
            "artifact": {**details, **version},
        }


def _axes(parameters: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for name, said in parameters.items():
        if "parameters" in said:
            yield from _axes(said["parameters"], (*prefix, name))
        else:
            yield (*prefix, name), said.get("values", [said.get("value")])


def _nested(point: Sequence[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for (*groups, last), value in point:
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return values


def _hex(digest: str) -> str:
    return base64.b64decode(digest).hex()


def _entity() -> dict[str, Any]:
    return {"id": _id("Entity", ENTITY), "name": ENTITY}


def _viewer() -> dict[str, Any]:
    user = {
        "id": _id("User", 1),
        "name": ENTITY,
        "username": ENTITY,
        "entity": ENTITY,
        "email": "tester@example.invalid",
    }
    return {**user, "flags": "{}", "teams": _edges([{"name": ENTITY}])}
