"""`desks.toml`: which desks it names, and that each mistake is one line with key, value and cure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.config.desks import checked_desks
from daemon.config.load import ConfigError
from daemon.engine.desks_file import NamedDesk


def written(folder: Path, text: str, **configs: str) -> Path:
    """The start file in `folder`, with a configuration file for each of `configs`."""
    for name, content in configs.items():
        (folder / f"{name}.toml").write_text(content)
    path = folder / "desks.toml"
    path.write_text(text)
    return path


def keys(folder: Path, name: str, key: str) -> Path:
    directory = folder / "credentials" / name
    directory.mkdir(parents=True)
    (directory / "APCA_API_KEY_ID").write_text(f"{key}\n")
    return directory


def test_what_is_left_out_is_found_next_to_the_file(tmp_path: Path) -> None:
    credentials = keys(tmp_path, "a", "KEYOFA")
    text = '[[desk]]\nname = "a"\n[[desk]]\nname = "b"\nconfig = "c.toml"\nstate_dir = "s/b"\n'
    text += '[[desk]]\nname = "old"\nstate_dir = "/s/o"\n'
    desks = checked_desks(written(tmp_path, text, a='[paths]\nstate_dir = "s/a"\n', c=""))
    assert desks == (
        NamedDesk("a", tmp_path / "s/a", tmp_path / "a.toml", credentials),
        NamedDesk("b", tmp_path / "s/b", tmp_path / "c.toml"),
        NamedDesk("old", Path("/s/o")),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("desk = 3", "desk is 3: expected one table [[desk]] or more, each with a name: add them"),
        ("", "desk is None: expected one table [[desk]] or more, each with a name: add them"),
        ("[desks]\n", "desks is unknown: expected [[desk]] tables alone: correct or remove it"),
        ("[[desk]\n", "is not valid TOML"),
        ("[[desk]]\nstate_dir = 's'\n", "desk[1].name is missing: expected a name such as"),
        ("[[desk]]\nname = 'A b'\nstate_dir = 's'\n", "desk[1].name is 'A b': expected a name such as"),
        ("[[desk]]\nname = 'a'\nstate_dri = 's'\n", "desk[1].state_dri is unknown: did you mean state_dir?"),
        ("[[desk]]\nname = 'a'\nstate_dir = 7\n", "desk[1].state_dir is 7: expected the folder of the desk's journal"),
        (
            "[[desk]]\nname = 'a'\nstate_dir = '~/a'\n",
            "desk[1].state_dir is '~/a': expected a whole path: nothing puts your home",
        ),
        ("[[desk]]\nname = 'a'\n", "desk[1] ('a') has neither config nor state_dir"),
        ("[[desk]]\nname = 'a'\nconfig = 'no.toml'\n", "desk[1].config is 'no.toml': no such file"),
        ("[[desk]]\nname = 'a'\nstate_dir = 's'\ncredentials = 'c'\n", "desk[1].credentials is 'c': no such folder"),
        ("[[desk]]\nname = 'a'\nstate_dir = 's'\n[[desk]]\nname = 'a'\nstate_dir = 't'\n", "have one name 'a'"),
        (
            "[[desk]]\nname = 'a'\nstate_dir = 's'\n[[desk]]\nname = 'b'\nstate_dir = './x/../s'\n",
            "'b' and 'a' have one state directory",
        ),
    ],
)
def test_a_mistake_is_named_with_its_cure(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        checked_desks(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_two_desks_on_one_account_are_refused_by_its_number_and_by_its_key(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "".join(f'[[desk]]\nname = "{name}"\nstate_dir = "{name}"\n' for name in ("a", "b", "c", "d")),
        a='[desk]\naccount_number = "PA1"\n',
        b='[desk]\naccount_number = "PA1"\n',
        c="",
        d="",
    )
    keys(tmp_path, "c", "SAMEKEY123")
    keys(tmp_path, "d", "SAMEKEY123")
    with pytest.raises(ConfigError) as refused:
        checked_desks(path)
    by_number, by_key = str(refused.value).splitlines()
    assert "'b' and 'a' have one account PA1 at https://paper-api.alpaca.markets: expected one for each" in by_number
    assert "'d' and 'c' have one account (the same APCA_API_KEY_ID" in by_key
    assert "SAMEKEY123" not in str(refused.value)
    (tmp_path / "b.toml").write_text('[desk]\naccount_number = "PA1"\n[alpaca]\ntrading_url = "http://127.0.0.1:1"\n')
    (tmp_path / "credentials/d/APCA_API_KEY_ID").write_text("OTHERKEY")
    assert len(checked_desks(path)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_keys_that_this_user_may_not_read_are_passed_over(tmp_path: Path) -> None:
    folder = keys(tmp_path, "a", "SAMEKEY123")
    (folder / "APCA_API_KEY_ID").chmod(0)
    assert checked_desks(written(tmp_path, '[[desk]]\nname = "a"\nstate_dir = "s"\n', a=""))[0].credentials == folder
