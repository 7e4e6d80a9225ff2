"""The Containerfiles and the compose file: users, programs, options, variables and files that there really are."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import PurePosixPath

import pytest

from rltrader import PROGRAMS
from tests.support.deploy.manifests import (
    DEPLOY,
    IMAGES,
    Object,
    compose,
    containerfile,
    containers,
    instruction,
    project,
    users,
)
from tests.support.paths import REPOSITORY

NAMES = ("daemon", "dashboard", "redis", "trainer")
IMAGE = pytest.mark.parametrize("name", NAMES)
OURS = "localhost/rltrader-"
OF_LIBRARIES = {"PATH", "LANG", "PYTHONDONTWRITEBYTECODE"}
OF_OTHERS = re.compile(r"GF_\w+")  # Grafana's own


def services() -> dict[str, Object]:
    """The services of the compose file whose images are built here."""
    by_name: dict[str, Object] = {
        name: service for name, service in compose()["services"].items() if service["image"].startswith(OURS)
    }
    return by_name


def image_of(service: Object) -> str:
    """The short name of a service's image."""
    return str(service["image"]).removeprefix(OURS).partition(":")[0]


def commands() -> dict[str, list[str]]:
    """Where it stands -> the words with which a container starts, whatever the image adds before them."""
    by_name = {
        container.name: (container.spec["image"].removeprefix("rltrader-"), container.spec.get("args"))
        for container in containers()
    }
    by_name |= {f"compose/{name}": (image_of(service), service.get("command")) for name, service in services().items()}
    started = {name: json.loads(instruction(name, "ENTRYPOINT")[0]) for name in NAMES}
    default = {name: json.loads((instruction(name, "CMD") or ["[]"])[0]) for name in NAMES}
    return {
        place: started[image] + (default[image] if given is None else given)
        for place, (image, given) in by_name.items()
        if given != []
    }


def test_there_is_a_containerfile_for_each_image_and_the_build_knows_it() -> None:
    assert {path.name.removesuffix(".Containerfile") for path in IMAGES.glob("*.Containerfile")} == set(NAMES)
    (default,) = re.findall(r"\|\| set -- (.*)", (IMAGES / "build").read_text())
    assert set(default.split()) == set(NAMES)


@IMAGE
def test_an_image_ends_as_a_user_that_is_not_root_and_that_no_other_image_has(name: str) -> None:
    (user,) = instruction(name, "USER")
    uid, _, gid = user.partition(":")
    assert (uid in users(name).values(), gid) == (True, "10000")
    assert [other for other in NAMES if uid in users(other).values()] == [name]


@IMAGE
def test_every_library_has_the_version_of_the_constraints(name: str) -> None:
    text = (IMAGES / f"{name}.Containerfile").read_text()
    for install in re.findall(r"pip install .*", text):
        assert "-c constraints.txt" in install
        (extras,) = re.findall(r"'\.\[([\w,]+)\]'", install)
        assert set(extras.split(",")) <= project()["optional-dependencies"].keys()
    assert text.count("apt-get install -y --no-install-recommends") == text.count("apt-get install")


@IMAGE
def test_the_files_of_an_image_are_there_and_not_left_out_of_what_is_sent_to_the_build(name: str) -> None:
    lines = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)", (IMAGES / f"{name}.Containerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (REPOSITORY / source).exists(), source
            assert source in lines


def test_torch_is_in_the_trainer_s_image_alone() -> None:
    extras = {name: re.findall(r"'\.\[([\w,]+)\]'", (IMAGES / f"{name}.Containerfile").read_text()) for name in NAMES}
    assert [name for name, given in extras.items() if any("training" in word for word in given)] == ["trainer"]


def test_every_program_that_a_container_starts_is_one_of_ours_with_these_options() -> None:
    scripts, helps = project()["scripts"], {}
    for place, words in commands().items():
        for index, word in enumerate(words):
            if word not in scripts or (index and words[index - 1] == "--lease"):
                continue
            module = PROGRAMS[word]
            if module not in helps:
                helps[module] = subprocess.run(
                    [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True, timeout=120
                ).stdout
            rest = words[index + 1 :]
            arguments = rest[: rest.index("--")] if "--" in rest else rest
            for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
                assert re.search(rf"{option}\b", helps[module]), f"{place}: {word} has no {option}"
        assert words[0] == "redis-server" or words[0] in scripts, place
        if "--" in words:
            assert words[words.index("--") + 1] in scripts, place


def test_every_variable_is_one_that_the_programs_read() -> None:
    given = {variable["name"] for container in containers() for variable in container.spec.get("env", [])}
    for name in NAMES:
        given |= {word.partition("=")[0] for line in instruction(name, "ENV") for word in line.split()}
    for service in compose()["services"].values():
        given |= service.get("environment", {}).keys()
    code = "".join(path.read_text() for path in (REPOSITORY / "daemon").rglob("*.py"))
    unread = {name for name in given - OF_LIBRARIES if f'"{name}"' not in code}
    assert {name for name in unread if not OF_OTHERS.fullmatch(name)} == set()


def test_compose_runs_the_same_images_as_the_same_users_with_a_root_that_is_read_only() -> None:
    version = project()["version"]
    for name, service in services().items():
        assert service["image"] == f"{OURS}{image_of(service)}:{version}", name
        assert service.get("user", "").partition(":")[0] in {"", *users(image_of(service)).values()}
    for name, service in compose()["services"].items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert "mem_limit" in service
        assert re.fullmatch(r"[a-z0-9./-]+:[\w.-]+", service["image"]), f"{name} has no tag"


def test_in_compose_volumes_and_secrets_meet_their_other_ends() -> None:
    read = compose()
    volumes, secrets = set(), set()
    for service in read["services"].values():
        secrets |= {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])}
        volumes |= {
            source for source in (volume.split(":")[0] for volume in service.get("volumes", [])) if source[0] != "."
        }
        assert set(service.get("depends_on", {})) <= read["services"].keys()
    assert (volumes, secrets) == (set(read["volumes"]), set(read["secrets"]))
    manual = (DEPLOY / "README.md").read_text()
    for secret in read["secrets"].values():
        assert f"deploy/{secret['file'].removeprefix('./')}" in manual or PurePosixPath(secret["file"]).name in manual


def test_in_compose_trainer_publisher_and_redis_have_no_network() -> None:
    closed = {name for name, service in compose()["services"].items() if service.get("network_mode") == "none"}
    assert closed == {"redis", "publisher", "trainer", "models"}


def test_compose_and_k3s_start_the_publisher_and_the_trainer_alike() -> None:
    started = commands()
    assert started["compose/publisher"] == started["rltraderd/publisher"]
    assert started["compose/trainer"] == started["rltrader-trainer/trainer"]


def test_an_image_s_folders_are_those_that_are_mounted_there() -> None:
    for name, service in services().items():
        for place in (volume.split(":")[1] for volume in service.get("volumes", [])):
            if place.startswith(("/var/lib", "/run")) and not service["volumes"][0].startswith("."):
                text = containerfile(image_of(service))
                assert place in text or image_of(service) == "dashboard", f"{name}: {place}"


def of_the_manual() -> dict[str, list[str]]:
    """Name -> the words of each `docker run` of the manual."""
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    lines = [shlex.split(line) for line in re.findall(r"^ *docker run (.+)$", text, re.MULTILINE)]
    return {words[words.index("--name") + 1]: words for words in lines}


@pytest.mark.parametrize("name", ["gateway", "guard"])
def test_a_container_of_the_manual_finds_a_writable_folder_for_whatever_it_writes(name: str) -> None:
    words = of_the_manual()[name]
    options = list(pairwise(words[: words.index("--")]))
    in_memory = [value.partition(":")[0] for option, value in options if option == "--tmpfs"]
    volumes = [value.split(":")[1] for option, value in options if option == "-v" and not value.endswith(":ro")]
    variables = dict(line.split("=") for line in instruction("daemon", "ENV")[0].split())
    variables |= dict(value.split("=") for option, value in options if option == "-e")
    assert "--read-only" in words
    assert sorted(in_memory) == ["/run/rltrader", "/tmp"]  # of rltrader-pod's probes, and of libraries
    owned = re.findall(r"install -d -o 10001 -g 10000 -m \d+ ([^\\\n]+)", containerfile("daemon"))
    assert set(volumes) <= set(" ".join(owned).split())  # else a new volume belongs to root
    if name == "gateway":  # it locks the account
        assert PurePosixPath(variables["RUNTIME_DIRECTORY"]).parent in map(PurePosixPath, volumes)


def test_no_group_can_put_another_shelf_or_socket_in_the_place_of_the_real_one() -> None:
    for name in ("daemon", "trainer", "redis"):
        for mode, place in re.findall(r"install -d -o \d+ -g \d+ -m (\d+) ([^\\\n]+)", containerfile(name)):
            assert not int(mode, 8) & 0o022, f"{name}: {place}"
