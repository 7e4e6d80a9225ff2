"""Every name in deploy/k3s has its other end, and the promises of deploy/README.md hold in the manifests."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest

from daemon.config.load import KEYS, defaults, load
from daemon.gateway.config import load_gateway
from daemon.host.pod.keeper import MARGIN_S, Times
from strategies.registry import STRATEGIES
from tests.support.deploy.manifests import (
    DEPLOY,
    GATEWAY,
    IMAGES,
    K3S,
    Container,
    Object,
    containers,
    find,
    kustomization,
    labels_of,
    names,
    objects,
    pod_of,
    project,
    secrets_of,
    users,
    workload,
    workloads,
)
from tests.support.paths import REPOSITORY

OF_THE_CLUSTER = {"kube-root-ca.crt"}  # every namespace has it
EACH = pytest.mark.parametrize("container", [*containers(), *containers(GATEWAY)], ids=lambda container: container.name)
FOLDERS = pytest.mark.parametrize("folder", [K3S, GATEWAY], ids=lambda folder: folder.name)
TRADERS = pytest.mark.parametrize(
    ("folder", "name"),
    [(K3S, "rltraderd/daemon"), (GATEWAY, "rltrader-gateway/gateway")],
    ids=("daemon", "gateway"),
)
SECRETS = re.compile(r"kubectl -n rltrader create secret generic (\S+)((?:\s+\\?\s*--from-file=\S+)+)")


def matched(selector: Object) -> list[str]:
    """The workloads of both folders, which share a namespace, whose pods this selector matches."""
    labels, both = selector.get("matchLabels", {}).items(), [*workloads(), *workloads(GATEWAY)]
    return [document["metadata"]["name"] for document in both if labels <= labels_of(document).items()]


def of_the_manual() -> dict[str, set[str]]:
    """Secret -> keys, as the manual lets the operator make them."""
    text = (DEPLOY / "README.md").read_text()
    return {name: set(re.findall(r"--from-file=([^=\s]+)", files)) for name, files in SECRETS.findall(text)}


@FOLDERS
def test_every_file_of_the_folder_is_applied(folder: Path) -> None:
    read = kustomization(folder)
    files = {file for generator in read["configMapGenerator"] for file in generator["files"]}
    assert {path.name for path in folder.iterdir()} == {*read["resources"], *files, "kustomization.yaml"}


@FOLDERS
def test_a_workload_s_selector_matches_its_own_pods_alone(folder: Path) -> None:
    for document in workloads(folder):
        assert matched(document["spec"]["selector"]) == [document["metadata"]["name"]]


@FOLDERS
def test_services_and_budgets_select_pods_that_there_are(folder: Path) -> None:
    for service in objects("Service", folder):
        assert matched({"matchLabels": service["spec"]["selector"]}) == [service["metadata"]["name"]]
    for document in objects("StatefulSet", folder):
        assert document["spec"]["serviceName"] in names("Service", folder)
    for budget in objects("PodDisruptionBudget", folder):
        assert matched(budget["spec"]["selector"]) == [budget["metadata"]["name"]]


def test_what_shares_a_volume_is_kept_on_one_node() -> None:
    everyone = sorted(document["metadata"]["name"] for document in workloads())
    for document in workloads():  # whoever comes first matches itself: also while the desk is scaled to 0
        for term in find(pod_of(document), "requiredDuringSchedulingIgnoredDuringExecution"):
            among = [sorted(set(matched(rule["labelSelector"])) & set(everyone)) for rule in term]
            assert among == [everyone]


def test_a_service_s_ports_are_ports_of_its_containers() -> None:
    for service in objects("Service"):
        (name,) = matched({"matchLabels": service["spec"]["selector"]})
        open_there = {port["containerPort"] for ports in find(pod_of(workload(name)), "ports") for port in ports}
        assert {port["targetPort"] for port in service["spec"].get("ports", [])} <= open_there


def test_nothing_comes_in_and_what_trades_alone_has_a_way_out() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in objects("NetworkPolicy")}
    closed = policies.pop("nothing-in-nothing-out")
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (opened,) = policies.values()
    assert matched(opened["podSelector"]) == ["rltraderd", "rltrader-gateway"]
    assert not objects("NetworkPolicy", GATEWAY)
    assert opened["policyTypes"] == ["Egress"]
    assert all(rule["to"] for rule in opened["egress"])
    assert {(port["protocol"], port["port"]) for rule in opened["egress"] for port in rule["ports"]} == {
        ("TCP", 443),
        ("TCP", 6443),
        ("TCP", 53),
        ("UDP", 53),
    }


@EACH
def test_every_volume_and_what_it_is_of_is_there(container: Container) -> None:
    claims, configs = (
        names("PersistentVolumeClaim", container.folder),
        {generator["name"] for generator in kustomization(container.folder)["configMapGenerator"]},
    )
    for mount, volume in container.mounts().values():
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in claims
        for config in find(volume, "configMap"):
            assert config["name"] in configs | OF_THE_CLUSTER
        for secret, keys in secrets_of(volume).items():
            assert keys <= of_the_manual()[secret]
        assert mount.get("readOnly", False) or volume.keys() & {"persistentVolumeClaim", "emptyDir"}


def test_nothing_is_defined_that_nothing_uses() -> None:
    both = [*workloads(), *workloads(GATEWAY)]
    assert set(of_the_manual()) == {secret for document in both for secret in secrets_of(pod_of(document))}
    assert names("PriorityClass") == {name for document in both for name in find(document, "priorityClassName")}
    for folder in (K3S, GATEWAY):
        used = {
            claim["claimName"] for document in workloads(folder) for claim in find(document, "persistentVolumeClaim")
        }
        assert names("PersistentVolumeClaim", folder) == used
        for document in workloads(folder):
            mounted = {mount["name"] for mounts in find(pod_of(document), "volumeMounts") for mount in mounts}
            assert {volume["name"] for volume in pod_of(document)["volumes"]} == mounted
        assert names("ServiceAccount", folder) == {
            name for document in workloads(folder) for name in find(document, "serviceAccountName")
        }


@EACH
def test_every_image_is_one_that_is_built_with_this_version(container: Container) -> None:
    images = kustomization(container.folder)["images"]
    (taken,) = (image for image in images if image["name"] == container.spec["image"])
    assert taken["newName"] == f"localhost/{taken['name']}"
    assert taken["newTag"] == project()["version"]
    image = taken["name"].removeprefix("rltrader-")
    assert (DEPLOY / "images" / f"{image}.Containerfile").is_file()
    assert str(container.spec["securityContext"]["runAsUser"]) in users(image).values()


@EACH
def test_every_container_is_locked_down_bounded_and_looked_at(container: Container) -> None:
    security, pod = container.spec["securityContext"], container.pod["securityContext"]
    assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert (pod["runAsNonRoot"], pod["runAsGroup"], pod["fsGroup"]) == (True, 10000, 10000)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (
        container.spec["resources"]["limits"].keys()
        == container.spec["resources"]["requests"].keys()
        == {"cpu", "memory"}
    )
    if container.spec not in container.pod.get("initContainers", []) or "restartPolicy" in container.spec:
        assert {"livenessProbe", "readinessProbe"} <= container.spec.keys()


@TRADERS
def test_the_lease_that_it_holds_is_the_one_that_it_may_renew(folder: Path, name: str) -> None:
    (daemon,) = (container for container in containers(folder) if container.name == name)
    arguments = daemon.spec["args"]
    lease = arguments[arguments.index("--lease") + 1]
    assert {lease} == names("Lease", folder)
    (role,), (binding,) = objects("Role", folder), objects("RoleBinding", folder)
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [lease],
            "verbs": ["get", "update"],
        }
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": daemon.pod["serviceAccountName"]}]
    account = daemon.mounts()["/var/run/secrets/kubernetes.io/serviceaccount"][1]
    assert set(find(account, "path")) == {"token", "ca.crt", "namespace"}


@TRADERS
def test_the_account_of_the_cluster_is_in_one_container_alone(folder: Path, name: str) -> None:
    assert all(pod_of(document)["automountServiceAccountToken"] is False for document in workloads(folder))
    holders = [c.name for c in containers(folder) if any("serviceaccount" in path for path in c.mounts())]
    assert holders == [name]


def test_the_broker_s_keys_reach_the_daemon_alone_and_by_the_names_that_it_reads() -> None:
    holders = [
        container.name
        for container in containers()
        if any("rltrader-broker-keys" in secrets_of(volume) for _, volume in container.mounts().values())
    ]
    assert holders == ["rltraderd/daemon"]
    assert of_the_manual()["rltrader-broker-keys"] == set(KEYS)


def test_the_gateway_has_all_keys_and_a_desk_its_sub_account_s_alone() -> None:
    settings = load_gateway(GATEWAY / "gateway.toml")
    subs = {name: [f"sub_{name}_{key}" for key in KEYS] for name in settings.sub_accounts}
    assert of_the_manual()["rltrader-gateway-keys"] == {*KEYS, *(key for keys in subs.values() for key in keys)}
    given = {
        container.spec["name"]: volume["secret"].get("items")
        for container in containers(GATEWAY)
        for _, volume in container.mounts().values()
        if "secret" in volume
    }
    assert given.pop("gateway") is None  # all of them, by the names that it reads
    assert given == {
        name: [{"key": key, "path": path} for key, path in zip(keys, KEYS, strict=True)] for name, keys in subs.items()
    }


def test_each_sub_account_of_the_gateway_has_its_desk_in_the_pod_and_a_state_of_its_own() -> None:
    settings, parts = load_gateway(GATEWAY / "gateway.toml"), {c.spec["name"]: c for c in containers(GATEWAY)}
    assert parts.keys() == {"models", "gateway", *settings.sub_accounts}
    places = [parts["gateway"].mounts()[str(PurePosixPath(settings.gateway.state_dir).parent)][0]["subPath"]]
    for name in settings.sub_accounts:
        arguments, mounts = parts[name].spec["args"], parts[name].mounts()
        file = PurePosixPath(arguments[arguments.index("--config") + 1])
        desk = load(GATEWAY / file.name, {}, {})
        assert (desk.desk.name, desk.desk.account, file.stem) == (name, settings.gateway.account, name)
        assert desk.desk.strategy in STRATEGIES
        for address in ("trading_url", "data_url", "stream_url", "trade_stream_url", "option_stream_url"):
            assert getattr(desk.alpaca, address).startswith(("http://127.0.0.1:8433", "ws://127.0.0.1:8433/"))
        assert settings.gateway.port == 8433
        assert str(desk.paths.models_dir) in mounts
        assert str(file.parent) in mounts
        places.append(mounts["/var/lib/rltrader"][0]["subPath"])
    assert len(set(places)) == len(places)


@TRADERS
def test_what_trades_is_one_and_never_two(folder: Path, name: str) -> None:
    daemon = workload(name.partition("/")[0], folder)
    assert (daemon["kind"], daemon["spec"]["replicas"]) == ("StatefulSet", 1)
    assert daemon["spec"]["updateStrategy"] == {"type": "OnDelete"}
    (budget,) = objects("PodDisruptionBudget", folder)
    assert budget["spec"]["maxUnavailable"] == 0


@TRADERS
def test_the_kubelet_waits_longer_than_rltrader_pod_and_that_longer_than_the_daemon(folder: Path, name: str) -> None:
    grace_s = pod_of(workload(name.partition("/")[0], folder))["terminationGracePeriodSeconds"]
    deadline_s = defaults()["service"]["stop_deadline_s"]
    assert isinstance(deadline_s, float)
    one_after_another = 2 if folder == GATEWAY else 1  # the desks, then their gateway
    assert grace_s >= one_after_another * (Times().stop_s + MARGIN_S)
    assert Times().stop_s >= 2 * deadline_s


def test_the_gateway_is_there_before_its_desks_and_until_they_have_stopped() -> None:
    pod = pod_of(workload("rltrader-gateway", GATEWAY))
    *first, sidecar = pod["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("gateway", "Always")
    assert not any("restartPolicy" in spec for spec in first)
    assert {spec["name"] for spec in pod["containers"]} == load_gateway(GATEWAY / "gateway.toml").sub_accounts.keys()


@EACH
def test_what_a_command_writes_lies_on_a_volume(container: Container) -> None:
    mounts = container.mounts()
    options = [text for text in container.spec.get("args", []) if text.startswith(("/var", "--"))]
    for text in options:
        path = PurePosixPath(text.partition("=")[2] or text)
        if path.is_relative_to("/var/lib"):
            assert [parent for parent in path.parents if str(parent) in mounts] or str(path) in mounts, text
        if text.startswith("--own-dir="):
            assert not mounts[str(path.parent)][0].get("readOnly", False)
    if container.spec.get("args"):
        assert "/tmp" in mounts or container.workload == "rltrader-redis"


@EACH
def test_a_state_directory_is_no_volume_s_own_folder_which_the_kubelet_makes_as_root(container: Container) -> None:
    arguments = [word for text in container.spec.get("args", []) for word in text.partition("=")[::2] if word]
    options = {option: value for option, value in pairwise(arguments) if option.startswith("--")}
    state_dirs = [options[option] for option in ("--state-dir", "--own-dir") if option in options]
    if container.name == "rltrader-gateway/gateway":
        state_dirs.append(load_gateway(GATEWAY / "gateway.toml").gateway.state_dir)
    assert not set(state_dirs) & container.mounts().keys()


def test_the_configuration_of_the_pod_is_found_where_it_is_mounted() -> None:
    (daemon,) = (container for container in containers() if container.name == "rltraderd/daemon")
    arguments = daemon.spec["args"]
    path = PurePosixPath(arguments[arguments.index("--config") + 1])
    volume = daemon.mounts()[str(path.parent)][1]
    (config_map,) = (
        generator
        for generator in kustomization()["configMapGenerator"]
        if generator["name"] == volume["configMap"]["name"]
    )
    assert path.name in config_map["files"]
    settings = load(K3S / path.name, {})
    assert str(settings.paths.models_dir) in daemon.mounts()
    assert settings.desk.strategy in STRATEGIES
    assert settings.policy.wait_for_first


def test_the_store_begins_with_the_shipped_models_and_an_empty_shelf_for_the_trainer(tmp_path: Path) -> None:
    shipped, shelf = REPOSITORY / "onnx_models", load(K3S / "config.toml", {}).desk.strategy
    (tmp_path / "option_scalper").mkdir()
    (tmp_path / "option_scalper" / "current").write_text("mine")
    for _ in range(2):  # each start of the pod
        subprocess.run([IMAGES / "put-models", tmp_path, shipped], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in shipped.iterdir()}
    assert not any((tmp_path / shelf).iterdir())
    assert (tmp_path / shelf).stat().st_mode & 0o7777 == 0o3771
    others = [path for path in shipped.rglob("*") if path.is_file() and path.relative_to(shipped).parts[0] != shelf]
    files = {path.relative_to(shipped): (tmp_path / path.relative_to(shipped)).read_bytes() for path in others}
    assert files.pop(Path("option_scalper/current")) == b"mine"
    assert all(content == (shipped / name).read_bytes() for name, content in files.items())


def test_the_trainer_can_write_to_its_shelf_alone_and_no_client_to_the_folder_of_the_socket() -> None:
    (trainer,) = (container for container in containers() if container.name == "rltrader-trainer/trainer")
    models = [mount for mount, volume in trainer.mounts().values() if volume["name"] == "models"]
    writable = [(mount["mountPath"], mount["subPath"]) for mount in models if not mount.get("readOnly")]
    assert writable == [("/var/lib/rltrader-models/online_dqn", "online_dqn")]
    for container in containers():
        for place, (mount, _) in container.mounts().items():
            if place == "/run/rltrader-redis":
                assert mount.get("readOnly", False) == (container.name != "rltrader-redis/redis")


def test_redis_is_reached_by_a_socket_that_its_pod_and_its_clients_share() -> None:
    sharing = {
        container.name
        for container in containers()
        for _, volume in container.mounts().values()
        if volume.get("persistentVolumeClaim") == {"claimName": "rltrader-redis-socket"}
    }
    clients = {"rltraderd/daemon", "rltraderd/publisher", "rltrader-trainer/trainer"}
    assert sharing == {*clients, "rltrader-redis/redis"}
    known_as = [
        (item["key"], item["path"])
        for container in containers()
        if container.name in clients
        for _, volume in container.mounts().values()
        for secret in find(volume, "secret")
        if "rltrader-redis-passwords" in (secret.get("secretName"), secret.get("name"))
        for item in secret["items"]
    ]
    assert known_as == [(user, "REDIS_PASSWORD") for user in ("rltraderd", "rltrader-publisher", "rltrader-trainer")]


def test_a_desk_of_the_pod_can_be_served_by_the_socket_that_is_mounted() -> None:
    (daemon,) = (container for container in containers() if container.name == "rltraderd/daemon")
    text = (K3S / "config.toml").read_text()
    served = text.replace('# answers = "served"', 'answers = "served"').replace("# redis = ", "redis = ")
    policy = tomllib.loads(served)["policy"]
    assert policy["answers"] == "served"
    assert str(PurePosixPath(policy["redis"].removeprefix("unix://")).parent) in daemon.mounts()
