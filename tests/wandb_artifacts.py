"""The artifacts of the W&B server on loopback (tests/wandb_stub.py): versions, manifests, files."""

import json
from dataclasses import dataclass, field

ENTITY = "tester"


@dataclass
class StubArtifact:
    """One version of an artifact; ``files`` maps names to contents."""

    id: str
    name: str
    type: str
    version: int
    run: str | None
    metadata: dict
    digest: str
    aliases: list[str]
    manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class Artifacts:
    """The operations on artifacts; the server that inherits them has ``artifacts``, ``runs``,
    ``_numbers`` and ``_upload_url``."""

    def versions(self, name: str) -> list[StubArtifact]:
        """Committed versions of an artifact, the oldest first."""
        found = [a for a in self.artifacts.values() if a.name == name and a.committed]
        return sorted(found, key=lambda artifact: artifact.version)

    def _op_ArtifactType(self, v: dict) -> dict:
        found = self._find(v["name"])
        artifact = found and {"artifactType": {"name": found.type}}
        return {"project": {"artifact": artifact}}

    def _find(self, name: str) -> StubArtifact | None:
        """``name``, ``name:v3`` or ``name:alias``, with or without entity and project."""
        base, _, version = name.rpartition("/")[2].partition(":")
        for artifact in reversed(self.versions(base)):
            if version in ("", f"v{artifact.version}", *artifact.aliases):
                return artifact
        return None

    def _op_CreateArtifact(self, v: dict) -> dict:
        names = [a for a in self.artifacts.values() if a.name == v["artifactCollectionName"]]
        same = [a for a in names if a.digest == v["digest"] and a.committed]
        if same:
            artifact = same[0]
        else:
            artifact = StubArtifact(
                id=f"artifact-{next(self._numbers)}",
                name=v["artifactCollectionName"],
                type=v["artifactTypeName"],
                version=len(names),
                run=v.get("runName"),
                metadata=json.loads(v.get("metadata") or "{}"),
                digest=v["digest"],
                aliases=[alias["alias"] for alias in v.get("aliases") or []],
            )
            self.artifacts[artifact.id] = artifact
        state = "COMMITTED" if same else "PENDING"
        sequence = {"id": f"seq-{artifact.name}", "latestArtifact": None}
        node = {"id": artifact.id, "state": state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": node}}

    def _op_CreateArtifactManifest(self, v: dict) -> dict:
        artifact = self.artifacts[v["artifactID"]]
        holder = {"manifest": b""}
        url = self._upload_url(_Manifest(artifact, holder), "manifest")
        file = {"id": "f", "name": v["name"], "displayName": v["name"], "uploadUrl": url,
                "uploadHeaders": []}  # fmt: skip
        manifest = {"id": f"manifest-{artifact.id}", "file": file}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _op_CreateArtifactFiles(self, v: dict) -> dict:
        edges = []
        for spec in v["artifactFiles"]:
            artifact = self.artifacts[spec["artifactID"]]
            node = {"id": "f", "name": spec["name"], "displayName": spec["name"],
                    "uploadUrl": self._upload_url(artifact.files, spec["name"]),
                    "uploadHeaders": [], "storagePath": f"x/{artifact.id}/{spec['name']}",
                    "uploadMultipartUrls": None, "artifact": {"id": artifact.id}}  # fmt: skip
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _op_CommitArtifact(self, v: dict) -> dict:
        artifact = self.artifacts[v["artifactID"]]
        artifact.committed = True
        if "latest" in artifact.aliases or not artifact.aliases:
            for other in self.versions(artifact.name)[:-1]:
                other.aliases = [alias for alias in other.aliases if alias != "latest"]
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _op_UseArtifact(self, v: dict) -> dict:
        artifact = self.artifacts[v["artifactID"]]
        run = self.runs[v["runName"]]
        run.uses.append(f"{artifact.name}:v{artifact.version}")
        return {"useArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest,
                                             "description": None, "state": "COMMITTED",
                                             "createdAt": "2026-01-01T00:00:00Z",
                                             "metadata": "{}"}}}  # fmt: skip

    def _node(self, artifact: StubArtifact) -> dict:
        """The client's ArtifactFragment."""
        project = {"id": "p", "internalId": "1", "name": "project", "entity": {"name": ENTITY}}
        collection = {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}
        aliases = [
            {"__typename": "ArtifactAlias", "id": alias, "alias": alias,
             "artifactCollection": collection}
            for alias in artifact.aliases
        ]  # fmt: skip
        return {"__typename": "Artifact", "id": artifact.id, "artifactSequence": collection,
                "versionIndex": artifact.version, "artifactType": {"name": artifact.type},
                "description": None, "metadata": json.dumps(artifact.metadata),
                "ttlDurationSeconds": -1, "ttlIsInherited": False, "tags": [],
                "historyStep": None, "state": "COMMITTED", "size": 1, "commitHash": None,
                "digest": artifact.digest, "fileCount": len(artifact.files),
                "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None,
                "aliases": aliases}  # fmt: skip

    def _op_ArtifactMembershipByName(self, v: dict) -> dict:
        artifact = self._find(v["name"])
        member = None
        if artifact is not None:
            node = self._node(artifact)
            member = {"__typename": "ArtifactCollectionMembership", "id": f"m-{artifact.id}",
                      "versionIndex": artifact.version, "createdAt": "2026-01-01T00:00:00Z",
                      "aliases": node["aliases"], "artifactCollection": node["artifactSequence"],
                      "artifact": node}  # fmt: skip
        return {"project": {"artifactCollectionMembership": member}}

    def _op_GetArtifactMembershipFileUrls(self, v: dict) -> dict:
        """Where an artifact's files are to be had."""
        artifact = self._find(f"{v['collection']}:{v['alias']}")
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        edges = [
            {"node": {"__typename": "File", "id": name, "name": name,
                      "directUrl": self._upload_url(artifact.files, name)}}
            for name in artifact.files
        ]  # fmt: skip
        files = {"pageInfo": page, "edges": edges}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}

    def _op_ArtifactByID(self, v: dict) -> dict:
        return {"artifact": self._node(self.artifacts[v["id"]])}

    def _op_RunOutputArtifacts(self, v: dict) -> dict:
        own = [a for a in self.artifacts.values() if a.committed and a.run == v["run"]]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        edges = [{"node": self._node(artifact)} for artifact in own]
        artifacts = {"totalCount": len(own), "pageInfo": page, "edges": edges}
        return {"project": {"run": {"artifacts": artifacts}}}

    def _op_FetchArtifactManifest(self, v: dict) -> dict:
        url = self._upload_url({"manifest": self.artifacts[v["id"]].manifest}, "manifest")
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}


class _Manifest(dict):
    """Where a manifest's upload goes."""

    def __init__(self, artifact: StubArtifact, holder: dict):
        super().__init__(holder)
        self.artifact = artifact

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, value)
        self.artifact.manifest = value
