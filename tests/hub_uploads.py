"""What the double of the hub does for who pushes: repositories are made, large files come by LFS, commits put them in.

The steps are those of huggingface_hub: ``repos/create``, ``validate-yaml``, ``preupload`` (which files are large), LFS'
batch with an upload to the second server and a verification, and ``commit``, a line of JSON for each change.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from tests.hub_double import HubDouble

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".model", ".msgpack", ".h5")


def sha256(data: bytes) -> str:
    """Return the checksum by which the hub knows a large file."""
    return hashlib.sha256(data).hexdigest()


def card_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what the head of a README says, as the hub reads it; empty where there is none."""
    found = re.match(r"---\n(.*?)\n---\n", files.get("README.md", b"").decode(), re.DOTALL)
    return dict(yaml.safe_load(found[1])) if found else {}


class Uploads:
    """The part of the servers that writes; beside it stands what reads."""

    double: HubDouble
    is_cdn: bool

    def do_POST(self) -> None:
        """Take a step of a push."""
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (begun := self._begin()) is None:
            return None
        path, token = begun
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self._may_write(token):
            return None
        if path == "/api/repos/create":
            return self._create(json.loads(sent))
        if found := re.fullmatch(r"/api/models/(.+?)/(preupload|commit)/([^/]+)", path):
            repo, step, _ = found.groups()
            if repo not in self.double.repos:
                return self._send(404, headers={"X-Error-Code": "RepoNotFound"})
            return self._preupload(repo, json.loads(sent)) if step == "preupload" else self._commit(repo, sent)
        if found := re.fullmatch(r"/(.+?)\.git/info/lfs/(objects/batch|verify)", path):
            return self._batch(json.loads(sent)) if found[2] != "verify" else self._verify(json.loads(sent))
        return self._send(404)

    def do_PUT(self) -> None:
        """Keep a large file."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (begun := self._begin()) is None:
            return None
        oid = begun[0].removeprefix("/upload/")
        if not self.is_cdn or sha256(data) != oid:
            return self._send(400)
        self.double.objects[oid] = data
        return self._send(200)

    def _may_write(self, token: str) -> bool:
        if token == self.double.token:
            return True
        if token:
            self._json({"error": "You don't have the rights to write here"}, 403)
        else:
            self._json({"error": "Invalid username or password."}, 401)
        return False

    def _create(self, asked: dict[str, Any]) -> None:
        hub, repo = self.double, f"{asked['organization']}/{asked['name']}"
        about = {"url": f"{hub.endpoint}/{repo}", "name": repo}
        if repo in hub.repos:
            return self._json({**about, "error": "You already created this model repo"}, 409)
        hub.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        if asked.get("private") or asked.get("visibility") == "private":
            hub.private.add(repo)
        return self._json(about)

    def _preupload(self, repo: str, asked: dict[str, Any]) -> None:
        have = self.double.repos[repo]
        self._json(
            {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": etag_of(one["path"], have[one["path"]]) if one["path"] in have else None,
                    }
                    for one in asked["files"]
                ]
            }
        )

    def _batch(self, asked: dict[str, Any]) -> None:
        hub = self.double
        objects = []
        for one in asked["objects"]:
            own = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in hub.objects:
                verify = f"{hub.endpoint}/any.git/info/lfs/verify"
                own["actions"] = {"upload": {"href": f"{hub.cdn}/upload/{one['oid']}"}, "verify": {"href": verify}}
            objects.append(own)
        self._json({"transfer": "basic", "objects": objects})

    def _verify(self, asked: dict[str, Any]) -> None:
        self._send(200 if len(self.double.objects.get(asked["oid"], b"")) == asked["size"] else 404)

    def _commit(self, repo: str, sent: bytes) -> None:
        hub = self.double
        files = dict(hub.repos[repo])
        for line in map(json.loads, sent.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                if value["oid"] not in hub.objects:
                    return self._json({"error": f"LFS pointer pointed to a file that does not exist: {value}"}, 400)
                files[value["path"]] = hub.objects[value["oid"]]
            elif kind == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return self._json({"error": "A file with this name doesn't exist"}, 404)
        mangled = {name: bytes(byte ^ 255 for byte in data) for name, data in files.items() if name in hub.mangles}
        hub.repos[repo] = {**files, **mangled}
        commit = hub.commit(repo)
        return self._json({"success": True, "commitOid": commit, "commitUrl": f"{hub.endpoint}/{repo}/commit/{commit}"})


def etag_of(name: str, data: bytes) -> str:
    """Return by what the hub knows a file: SHA-256 of a large one, git's hash of another."""
    return sha256(data) if name.endswith(LARGE) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
