"""The server's data: runs, files and artifacts, with answers to queries."""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from tests.helpers.wandb_server.records import WHEN, Artifact, Run, edges, entity_object, graphql_id, viewer

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


class Store:
    """All data of the server. A method in CamelCase answers the client's operation of this name."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[tuple[str, str], Run] = {}
        self.artifacts: list[Artifact] = []
        self.blobs: dict[str, bytes] = {}
        self.views: list[dict[str, Any]] = []  # saved workspaces
        self.sweep: list[dict[str, Any]] = []  # parameters of the runs that an agent has not made
        self.sweep_config = ""

    def run(self, project: str, name: str) -> Run:
        """Get or make the run of this name."""
        return self.runs.setdefault((project, name), Run(project, name))

    def artifact(self, project: str, collection: str, alias: str) -> Artifact | None:
        """The finished version with this alias, or with this number, as in `v0`."""
        versions = [a for a in self.artifacts if (a.project, a.collection) == (project, collection)]
        return next((a for a in versions if a.version is not None and alias in (*a.aliases, f"v{a.version}")), None)

    def Viewer(self) -> dict[str, Any]:
        return {"viewer": viewer()}

    def ServerFeaturesQuery(self) -> dict[str, Any]:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in _FEATURES]}}

    def OrganizationCoreWeaveOrganizationID(self, entityName: str) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def RunResumeStatus(self, project: str, entity: str, name: str) -> dict[str, Any]:
        run = self.runs.get((project, name))
        bucket = run.answer() if run else None
        return {
            "model": {
                "id": graphql_id("Project", project),
                "name": project,
                "entity": entity_object(),
                "bucket": bucket,
            }
        }

    def UpsertBucket(self, name: str | None = None, project: str | None = None, **variables: Any) -> dict[str, Any]:
        if name is None or project is None:
            run = next(run for run in self.runs.values() if run.answer()["id"] == variables["id"])
            inserted = False
        else:
            inserted = (project, name) not in self.runs
            run = self.run(project, name)
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        fields = {"displayName": "display_name", "groupName": "group", "jobType": "job_type", "notes": "notes"}
        for key, attribute in {**fields, "commit": "commit", "tags": "tags", "state": "state"}.items():
            if variables.get(key) is not None:
                setattr(run, attribute, variables[key])
        return {"upsertBucket": {"bucket": run.answer(), "inserted": inserted}}

    def CreateRunFiles(self, entity: str, project: str, run: str, files: list[str]) -> dict[str, Any]:
        urls = [{"name": name, "uploadUrl": f"{self.url}/storage/run/{project}/{run}/{name}"} for name in files]
        answer = {"runID": self.run(project, run).answer()["id"], "uploadHeaders": [], "files": urls}
        return {"createRunFiles": answer}

    def ArtifactType(self, entity: str, project: str, name: str) -> dict[str, Any]:
        artifact = self.artifact(project, *name.split(":"))
        return {"project": {"artifact": {"artifactType": {"name": artifact.kind}} if artifact else None}}

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

    def CreateArtifactManifest(self, artifactID: str, **variables: Any) -> dict[str, Any]:
        number = self._by_id(artifactID).number
        url = f"{self.url}/storage/manifest/{number}"
        file = {"id": graphql_id("File", number), "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": graphql_id("Manifest", number), "file": file}}}

    def CreateArtifactFiles(self, input: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in input["artifactFiles"]:
            md5 = base64.b64decode(file["md5"]).hex()
            node = {"storagePath": md5, "uploadUrl": f"{self.url}/storage/blob/{md5}", "uploadHeaders": []}
            nodes.append({**node, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}})
        return {"createArtifactFiles": {"files": edges(nodes)}}

    def CommitArtifact(self, artifactID: str) -> dict[str, Any]:
        artifact = self._by_id(artifactID)
        key = artifact.project, artifact.collection
        artifact.version = sum(
            (a.project, a.collection) == key and a.version is not None and a is not artifact for a in self.artifacts
        )
        self._move_aliases(artifact, ["latest", *artifact.aliases])
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def Run(self, project: str, entity: str, name: str) -> dict[str, Any]:
        run = self.runs.get((project, name))
        return {"project": {"run": run.answer() if run else None}}

    RunHistoryKeys = Run

    def RunFullHistory(self, samples: int, **variables: Any) -> dict[str, Any]:
        answer = self.Run(**variables)
        rows = answer["project"]["run"]["history"]
        answer["project"]["run"]["history"] = rows[:: -(-len(rows) // samples) or 1]
        return answer

    def Runs(self, project: str, entity: str, **variables: Any) -> dict[str, Any]:
        filters = json.loads(variables.get("filters") or "{}")
        assert not filters or filters.keys() == {"group"}, f"unknown filters: {filters}"
        runs = [run for (its_project, _), run in self.runs.items() if its_project == project]
        selected = [run for run in runs if run.group == filters.get("group", run.group)]
        if not runs:
            return {"project": None}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(selected),
                "readOnly": False,
                "runs": edges([run.answer() for run in selected]),
            }
        }

    def UpsertView2(self, **variables: Any) -> dict[str, Any]:
        view = {"id": graphql_id("View", len(self.views) + 1), **variables}
        self.views.append(view)
        return {"upsertView": {"view": view, "inserted": True}}

    def View(self, name: str, entityName: str, viewName: str, **variables: Any) -> dict[str, Any]:
        views = [view for view in self.views if (view["projectName"], view["name"]) == (name, viewName)]
        return {"project": {"allViews": edges(views)}}

    def GetDefaultEntity(self) -> dict[str, Any]:
        return {"viewer": viewer()}

    def RunFiles(self, project: str, entity: str, name: str, **variables: Any) -> dict[str, Any]:
        files = self.runs[project, name].files
        nodes = [
            {
                "id": graphql_id("File", file),
                "name": file,
                "url": f"{self.url}/storage/run/{project}/{name}/{file}",
                "directUrl": f"{self.url}/storage/run/{project}/{name}/{file}",
                "sizeBytes": len(content),
                "mimetype": None,
                "updatedAt": WHEN,
                "md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
            }
            for file, content in files.items()
            if not variables.get("fileNames") or file in variables["fileNames"]
        ]
        return {"project": {"internalId": "1", "run": {"fileCount": len(files), "files": edges(nodes)}}}

    def ArtifactMembershipByName(self, project: str, entity: str, name: str, **variables: Any) -> dict[str, Any]:
        artifact = self.artifact(project, *name.split(":"))
        return {"project": {"artifactCollectionMembership": self._membership(artifact) if artifact else None}}

    def FetchArtifactManifest(self, id: str) -> dict[str, Any]:
        url = f"{self.url}/storage/manifest/{self._by_id(id).number}"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def GetArtifactMembershipFileUrls(
        self, project: str, collection: str, alias: str, **variables: Any
    ) -> dict[str, Any]:
        artifact = self.artifact(project, collection, alias)
        assert artifact is not None
        files = [
            {"__typename": "File", "name": name, "directUrl": f"{self.url}/storage/blob/{_hex(entry['digest'])}"}
            for name, entry in artifact.contents.items()
        ]
        owner = {"__typename": "ArtifactSequence", "artifactMembership": {"files": edges(files)}}
        return {"project": {"artifactCollection": owner}}

    def UpsertSweep(self, config: str, projectName: str, **variables: Any) -> dict[str, Any]:
        """Store a grid of parameters for an agent."""
        grid = yaml.safe_load(config)
        assert grid["method"] == "grid", "unknown method"
        axes = [[(name, value) for value in values] for name, values in _axes(grid["parameters"])]
        self.sweep = [_nested(point) for point in itertools.product(*axes)]
        self.sweep_config = config
        project = {"id": graphql_id("Project", projectName), "name": projectName, "entity": entity_object()}
        return {"upsertSweep": {"sweep": {"name": "swept", "project": project}, "configValidationWarnings": []}}

    def SweepWithRuns(self, sweep: str, **variables: Any) -> dict[str, Any]:
        none = dict.fromkeys(("description", "bestLoss", "controller", "scheduler", "earlyStopJobRunning"))
        times = dict.fromkeys(("createdAt", "heartbeatAt", "updatedAt"), WHEN)
        fields = {"id": graphql_id("Sweep", sweep), "name": sweep, "method": "grid", "state": "RUNNING"}
        answer = {**fields, **none, **times, "config": self.sweep_config, "runs": edges([])}
        return {"project": {"sweep": answer}}

    def CreateAgent(self, sweep: str, **variables: Any) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": graphql_id("Agent", sweep)}}}

    def Heartbeat(self, id: str, runState: str, **variables: Any) -> dict[str, Any]:
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
        """Store an artifact's manifest, the list of its files."""
        self.artifacts[number - 1].contents = json.loads(content)["contents"]

    def manifest(self, number: int) -> bytes:
        """An artifact's manifest as a client downloads it."""
        contents = self.artifacts[number - 1].contents
        policy = {"storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": {"storageLayout": "V2"}}
        return json.dumps({"version": 1, **policy, "contents": contents}).encode()

    def take_blob(self, md5: str, content: bytes) -> None:
        """Store a file of an artifact."""
        assert hashlib.md5(content).hexdigest() == md5
        self.blobs[md5] = content

    def content(self, artifact: Artifact, name: str) -> bytes:
        """The bytes of an artifact's file."""
        return self.blobs[_hex(artifact.contents[name]["digest"])]

    def _by_id(self, artifact_id: str) -> Artifact:
        return next(artifact for artifact in self.artifacts if artifact.id == artifact_id)

    def _move_aliases(self, artifact: Artifact, aliases: list[str]) -> None:
        for version in self.artifacts:
            if (version.project, version.collection) == (artifact.project, artifact.collection):
                version.aliases = [alias for alias in version.aliases if alias not in aliases]
        artifact.aliases = sorted({*artifact.aliases, *aliases})

    def _membership(self, artifact: Artifact) -> dict[str, Any]:
        project = {"id": graphql_id("Project", artifact.project), "internalId": "1", "name": artifact.project}
        collection = {
            "__typename": "ArtifactSequence",
            "name": artifact.collection,
            "project": {**project, "entity": entity_object()},
        }
        aliases = [
            {"__typename": "ArtifactAlias", "id": graphql_id(alias), "alias": alias, "artifactCollection": collection}
            for alias in artifact.aliases
        ]
        version = {"versionIndex": artifact.version, "createdAt": WHEN, "aliases": aliases}
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
            "id": graphql_id("Membership", artifact.number),
            "artifactCollection": collection,
            **version,
            "artifact": {**details, **version},
        }


def _axes(parameters: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for name, parameter in parameters.items():
        if "parameters" in parameter:
            yield from _axes(parameter["parameters"], (*prefix, name))
        else:
            yield (*prefix, name), parameter.get("values", [parameter.get("value")])


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
