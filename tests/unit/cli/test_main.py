"""The command line as a whole: its tree and its docs, exit statuses, faults, what it loads."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cxrnode.cli import main
from tests.unit.cli.clinic import Clinic, run

REPOSITORY = Path(__file__).resolve().parents[3]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(leaves(main))
LISTINGS = ("ls", "show", "query", "verify", "test", "check")


def sections() -> dict[str, str]:
    text = (REPOSITORY / "docs" / "cli.md").read_text()
    parts = re.split(r"^### `cxrnode ([a-z -]+?)(?: [\[A-Z].*)?`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_commands_are_those_of_the_design() -> None:
    assert sorted(COMMANDS) == sorted(
        (
            *("init", "check", "serve", "health", "demo", "bench", "echo", "send", "rules test"),
            *("instances ls", "instances show"),
            *("jobs ls", "jobs show", "jobs retry", "jobs resend", "jobs withdraw", "jobs decide"),
            *(
                "model ls",
                "model show",
                "model verify",
                "model admit",
                "model activate",
                "model shadow",
                "model disable",
            ),
            *("queue pause", "queue resume", "changes ls", "changes consent", "changes refuse"),
            *("users add", "users ls", "users role", "users password", "users disable", "users enable", "users token"),
            *(
                "model pull",
                "model import",
                "model calibrate",
                "model export",
                "train",
                "evaluate",
                "explain",
                "audit query",
                "audit export",
                "audit stats",
                "audit verify",
                "audit seal",
                "audit erase",
                "audit rebuild",
                "audit feedback import",
                "alerts ls",
                "alerts test",
                "db upgrade",
                "db backup",
                "db restore",
                "db migrate-to",
                "fleet ls",
                "plan",
            ),
        )
    )


def test_the_docs_name_each_command_and_no_other() -> None:
    assert sorted(sections()) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_docs_name_each_option_of_a_command(name: str) -> None:
    own = {o for p in COMMANDS[name].params if isinstance(p, click.Option) for o in p.opts} - {"--config", "--json"}
    assert {option for option in own if f"`{option}" not in sections()[name]} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_configuration(name: str) -> None:
    assert "--config" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize(
    "name", [n for n in COMMANDS if n.split()[-1] in ("ls", "show", "query", "verify", "test", "check")]
)
def test_every_listing_speaks_json(name: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = run(*name.split(), "--help")
    assert (result.exit_code, result.stdout.splitlines()[0].startswith(f"Usage: cxrnode {name}")) == (0, True)


def test_an_unknown_command_and_an_unknown_option_are_usage() -> None:
    assert (run("fly").exit_code, run("jobs", "ls", "--fast").exit_code) == (2, 2)


def test_without_a_configuration_one_line_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cxrnode.config.SEARCH", (Path("cxrnode.toml"),))
    result = run("jobs", "ls")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "cxrnode: no configuration found in ./cxrnode.toml; `cxrnode init` writes one, --config FILE names one\n"
    )


def test_each_wrong_key_is_a_line_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "cxrnode.toml"
    config.write_text('[node]\nae_titel = "A"\n[listen]\nport = 0\n')
    result = run("jobs", "ls", "--config", config)
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines), {line.split(": ")[0] for line in lines}) == (1, 2, {"cxrnode"})
    assert "did you mean ae_title?" in result.stderr


def test_the_configuration_may_be_named_before_or_after_the_command(clinic: Clinic) -> None:
    before = run("--config", clinic.config, "jobs", "ls", "--json")
    after = run("jobs", "ls", "--json", "--config", clinic.config)
    assert (before.stdout, after.stdout) == ("[]\n", "[]\n")


def test_the_variable_names_the_configuration(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRNODE_CONFIG", str(clinic.config))
    assert run("jobs", "ls", "--json").stdout == "[]\n"


def test_a_database_of_another_schema_is_told_with_its_remedy(clinic: Clinic) -> None:
    import sqlalchemy as sa

    with clinic.database.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    result = clinic.run("jobs", "ls")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "run `cxrnode db upgrade`" in result.stderr


def test_a_relative_database_or_spool_that_lies_where_it_used_to_start_is_not_begun_anew(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it started at the file's folder it started at the working folder, and a site may have one there."""
    clinic.database.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (clinic.folder / "data" / "cxrnode.sqlite").rename(elsewhere / "old.sqlite")
    monkeypatch.setenv("CXRNODE__DATABASE__URL", "sqlite:///old.sqlite")
    for command in ("jobs ls", "db upgrade", "serve"):
        result = clinic.run(*command.split())
        assert (result.exit_code, result.stdout) == (1, ""), command
        assert f"database.url: a relative path starts at the configuration's folder, {clinic.folder}" in result.stderr
        assert f"{elsewhere / 'old.sqlite'} is there" in result.stderr
    assert [one.name for one in clinic.folder.iterdir() if "sqlite" in one.name] == []
    (elsewhere / "old.sqlite").rename(clinic.folder / "old.sqlite")
    assert clinic.json("jobs", "ls") == []
    (elsewhere / "films").mkdir()
    monkeypatch.setenv("CXRNODE__SPOOL__URL", "films")
    assert "spool.url: a relative path starts at" in clinic.run("jobs", "ls").stderr
    monkeypatch.setenv("CXRNODE__SPOOL__URL", str(elsewhere / "films"))
    assert clinic.json("jobs", "ls") == []


def test_reading_commands_make_no_database(clinic: Clinic) -> None:
    clinic.database.close()
    file = clinic.folder / "data" / "cxrnode.sqlite"
    file.unlink()
    result = clinic.run("instances", "ls")
    assert (result.exit_code, "cxrnode db upgrade" in result.stderr, file.exists()) == (1, True, False)


def test_a_url_that_is_none_is_told_without_the_password(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRNODE__DATABASE__URL", "postgres//user:hunter2@host/db")
    result = clinic.run("jobs", "ls")
    assert (result.exit_code, "database.url" in result.stderr, "hunter2" in result.output) == (1, True, False)


def test_db_upgrade_makes_the_database_and_says_when_there_is_nothing_to_do(clinic: Clinic) -> None:
    clinic.database.close()
    (clinic.folder / "data" / "cxrnode.sqlite").unlink()
    first, second = clinic.run("db", "upgrade"), clinic.run("db", "upgrade")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert ("now up to date" in first.stdout, "nothing to do" in second.stdout) == (True, True)
    assert clinic.json("jobs", "ls") == []


@pytest.mark.parametrize(
    ("umask", "file", "folder"),
    [
        (0o022, 0o600, 0o700),
        (0o002, 0o600, 0o700),
        (0o077, 0o600, 0o700),
        (0o027, 0o640, 0o750),  # somebody's choice, as that of our systemd unit: the group may read
    ],
)
def test_a_database_and_a_backup_are_closed_to_others(
    clinic: Clinic, tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    clinic.database.close()
    data, backup = clinic.folder / "data", tmp_path / "backup"
    (data / "cxrnode.sqlite").unlink()
    for made in (data, backup):
        made.mkdir(exist_ok=True)
        made.chmod(0o755)
    program = f"import os, sys; os.umask({umask}); sys.argv[0] = 'cxrnode'; from cxrnode.cli import main; main()"
    for command in (("upgrade",), ("backup", str(backup))):
        done = script("-c", program, "--config", str(clinic.config), "db", *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    assert (mode(data), mode(backup)) == (0o755, 0o755)  # an administrator's folder stays as it is
    assert mode(data / "cxrnode.sqlite") == file
    assert (mode(backup / "backup.json"), mode(backup / "spool")) == (file, folder)
    assert [path.name for path in (*data.glob("*.sqlite*"), *backup.rglob("*")) if mode(path) & 0o007] == []


def test_init_writes_a_configuration_that_can_be_read_and_never_overwrites_one_unasked(tmp_path: Path) -> None:
    from cxrnode.config import load_config, template

    target = tmp_path / "cxrnode.toml"
    first = run("init", target)
    assert (first.exit_code, target.read_text(), "cxrnode check" in first.stdout) == (0, template(), True)
    assert load_config(target, environ={}).node.ae_title == "CXRNODE"
    target.write_text("# mine\n")
    second = run("init", target)
    assert (second.exit_code, target.read_text(), "--force" in second.stderr) == (1, "# mine\n", True)
    assert (run("init", target, "--force").exit_code, target.read_text()) == (0, template())
    assert [path.name for path in tmp_path.iterdir()] == ["cxrnode.toml"]


def test_init_takes_a_folder_and_says_what_it_cannot_write(tmp_path: Path) -> None:
    assert run("init", tmp_path).exit_code == 0
    result = run("init", tmp_path / "missing" / "cxrnode.toml")
    assert (result.exit_code, result.stderr.startswith("cxrnode: cannot write")) == (1, True)


def test_a_store_that_cannot_be_opened_is_no_traceback(clinic: Clinic) -> None:
    clinic.database.close()
    (clinic.folder / "data" / "cxrnode.sqlite").write_bytes(b"no database at all, but some text" * 100)
    result = clinic.run("jobs", "ls")
    assert (result.exit_code, "Traceback" in result.output, result.stderr.startswith("cxrnode: ")) == (1, False, True)


def script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def seconds(*arguments: str, cwd: Path) -> float:
    """What a program takes of the processor: the machine is shared with other tests."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = script(*arguments, cwd=cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_comes_at_once(tmp_path: Path) -> None:
    """It takes two to three times as long as what reads the command line takes to load, on whatever machine."""
    click: list[float] = []
    ours: list[float] = []
    for _ in range(5):
        click.append(seconds("-c", "import click", cwd=tmp_path))
        ours.append(seconds("-m", "cxrnode.cli", "--help", cwd=tmp_path))
    assert min(ours) < 6 * min(click)


def test_help_loads_no_library_that_a_command_needs(tmp_path: Path) -> None:
    heavy = "pydantic sqlalchemy pydicom pynetdicom numpy torch rich.console structlog"
    program = f"import sys, cxrnode.cli; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert script("-c", program, cwd=tmp_path).stdout == "[]\n"


def test_no_command_but_model_verify_loads_torch(clinic: Clinic, tmp_path: Path) -> None:
    clinic.receive()
    film = tmp_path / "film.dcm"
    film.write_bytes(b"no film")
    commands = [
        *("check", "jobs ls", "jobs show 1", "instances ls", "instances show 1", "audit query", "model ls"),
        *("model show chest", f"rules test {film}", "echo PACS", "jobs retry 1 --reason x"),
    ]
    program = f"""
import sys
from cxrnode.cli import main
for command in {commands!r}:
    try:
        main(["--config", {str(clinic.config)!r}, *command.split()], prog_name="cxrnode")
    except SystemExit as end:
        assert end.code in (0, 1), command
print("torch" in sys.modules)
"""
    done = script("-c", program, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr.count("Traceback")) == (0, "False", 0), (
        done.stderr
    )


def test_the_exit_status_of_the_process_is_that_of_the_answer(clinic: Clinic, tmp_path: Path) -> None:
    def status(*arguments: str) -> int:
        return script("-m", "cxrnode.cli", "--config", str(clinic.config), *arguments, cwd=tmp_path).returncode

    assert (status("jobs", "ls"), status("jobs", "show", "9"), status("jobs", "show", "x")) == (0, 1, 2)
