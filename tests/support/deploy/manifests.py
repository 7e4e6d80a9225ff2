"""The manifests of deploy/k3s and deploy/k3s-gateway as data: what kustomize would read, joined by name and label."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
K3S, GATEWAY = DEPLOY / "k3s", DEPLOY / "k3s-gateway"
IMAGES = DEPLOY / "images"
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod, the pod, the workload's name, and the folder of its manifest."""

    folder: Path
    workload: str
    pod: Object
    spec: Object

    @property
    def name(self) -> str:
        """`workload/container`."""
        return f"{self.workload}/{self.spec['name']}"

    def mounts(self) -> dict[str, tuple[Object, Object]]:
        """Path -> the mount, and the volume of the pod that it names."""
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        return {mount["mountPath"]: (mount, volumes[mount["name"]]) for mount in self.spec.get("volumeMounts", [])}


@functools.cache
def kustomization(folder: Path = K3S) -> Object:
    """The kustomization."""
    read: Object = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return read


@functools.cache
def objects(kind: str = "", folder: Path = K3S) -> list[Object]:
    """All objects of this kind, or all."""
    if kind:
        return [document for document in objects(folder=folder) if document["kind"] == kind]
    texts = ((folder / name).read_text() for name in kustomization(folder)["resources"])
    return [document for text in texts for document in yaml.safe_load_all(text)]


def names(kind: str, folder: Path = K3S) -> set[str]:
    """The names of all objects of this kind."""
    return {document["metadata"]["name"] for document in objects(kind, folder)}


def workloads(folder: Path = K3S) -> list[Object]:
    """What has pods."""
    return [*objects("StatefulSet", folder), *objects("Deployment", folder)]


def workload(name: str, folder: Path = K3S) -> Object:
    """The workload of this name."""
    (document,) = (document for document in workloads(folder) if document["metadata"]["name"] == name)
    return document


def pod_of(document: Object) -> Object:
    """The pod's specification of a workload."""
    pod: Object = document["spec"]["template"]["spec"]
    return pod


def labels_of(document: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    labels: dict[str, str] = document["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(folder: Path = K3S) -> list[Container]:
    """Every container, initial ones included."""
    return [
        Container(folder, document["metadata"]["name"], pod_of(document), spec)
        for document in workloads(folder)
        for spec in (*pod_of(document).get("initContainers", []), *pod_of(document)["containers"])
    ]


def find(tree: Any, key: str) -> Iterator[Any]:
    """Every value below this key, anywhere in the tree."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from find(value, key)
    if isinstance(tree, list):
        for value in tree:
            yield from find(value, key)


def secrets_of(tree: Any) -> dict[str, set[str]]:
    """Secret -> the keys that are named, of all volumes below; a projected volume names them otherwise."""
    secrets: dict[str, set[str]] = {}
    for secret in find(tree, "secret"):
        name = secret.get("secretName") or secret["name"]
        secrets.setdefault(name, set()).update(item["key"] for item in secret.get("items", []))
    return secrets


@functools.cache
def compose() -> Object:
    """The compose file, merge keys resolved."""
    read: Object = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


def containerfile(name: str) -> str:
    """The last stage of an image's Containerfile."""
    return (IMAGES / f"{name}.Containerfile").read_text().rpartition("\nFROM ")[2]


def instruction(name: str, word: str) -> list[str]:
    """Everything that follows this instruction in the image's last stage, continued lines joined."""
    text = containerfile(name).replace("\\\n", " ")
    return [line.removeprefix(f"{word} ") for line in text.splitlines() if line.startswith(f"{word} ")]


def users(name: str) -> dict[str, str]:
    """User name -> number, of the users that the image has."""
    return {user: uid for uid, user in re.findall(r"useradd --uid (\d+) .* --shell \S+ (\S+)", containerfile(name))}


def project() -> Object:
    """The table [project] of pyproject.toml."""
    table: Object = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return table
