"""The scheduler's commands: settings are checked aloud, `init` keeps what exists."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from unkai_scheduler.main import main
from unkai_scheduler.settings import InvalidSettings, load_settings


def a_file(folder: Path, text: str) -> Path:
    path = folder / "scheduler.toml"
    path.write_text(text)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(path)
    return caught.value.problems


def test_defaults_are_whole() -> None:
    settings = load_settings()
    assert settings.listen == "0.0.0.0:7443"
    assert settings.placement.ratios.cpu == 4.0


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("listn = 'x'", "listn"),
        ("[placement]\npolcy = 'pack'", "placement.polcy"),
        ("[etcd.tls]\nkeyy = 'x'", "etcd.tls.keyy"),
    ],
)
def test_an_unknown_key_is_refused_with_its_name_and_file(
    tmp_path: Path, text: str, key: str
) -> None:
    path = a_file(tmp_path, text)
    assert problems(path) == [f"{path}: {key}: no such setting"]


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    path = a_file(
        tmp_path,
        "listen = 'nowhere'\n[placement]\npolicy = 'heap'\n[database]\nurl = 'oracle://x'\n",
    )
    found = problems(path)
    assert [p.split(": ")[1] for p in found] == ["listen", "database.url", "placement.policy"]


def test_the_environment_wins_and_its_mistakes_name_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_file(tmp_path, "log_level = 'info'\n[placement.ratios]\ncpu = 2.0\nmemory = 1.5\n")
    monkeypatch.setenv("UNKAI_SCHEDULER_PLACEMENT__RATIOS__CPU", "8")
    ratios = load_settings(path).placement.ratios
    assert (ratios.cpu, ratios.memory) == (8.0, 1.5)

    monkeypatch.setenv("UNKAI_SCHEDULER_PLACEMENT__RATIOS__CPU", "many")
    (problem,) = problems(path)
    assert problem.startswith("environment: UNKAI_SCHEDULER_PLACEMENT__RATIOS__CPU: ")


def test_an_unknown_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_SCHEDULER_LISTN", "x")
    assert problems(a_file(tmp_path, "")) == ["environment: UNKAI_SCHEDULER_LISTN: no such setting"]


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == [f"{tmp_path / 'none.toml'}: there is no such file"]
    path = a_file(tmp_path, "= 1")
    assert problems(path)[0].startswith(f"{path}: is not TOML")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_settings().name = "other"  # type: ignore[misc]


def test_check_config_prints_each_error_and_fails(tmp_path: Path) -> None:
    path = a_file(tmp_path, "listn = 1\nlisten = 'x'\n")
    result = CliRunner().invoke(main, ["--config", str(path), "--check-config"])
    assert result.exit_code == 1
    assert result.stderr.count(str(path)) == 2


def test_init_makes_what_check_config_wants_and_keeps_it_when_repeated(tmp_path: Path) -> None:
    runner = CliRunner()
    first = runner.invoke(main, ["init", "--dir", str(tmp_path), "--name", "s1"])
    assert first.exit_code == 0, first.output
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    again = runner.invoke(main, ["init", "--dir", str(tmp_path), "--name", "s1"])
    checked = runner.invoke(main, ["run", "--config", str(tmp_path / "scheduler.toml"),
                                   "--check-config"])  # fmt: skip

    assert again.exit_code == 0
    assert again.output.count("kept") == 8
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert (checked.exit_code, checked.output) == (0, "the settings are fine\n")


def test_check_config_names_a_missing_certificate(tmp_path: Path) -> None:
    path = a_file(tmp_path, f"[tls]\nkey = '{tmp_path}/none.key'\n")
    result = CliRunner().invoke(main, ["--config", str(path), "--check-config"])
    assert result.exit_code == 1
    assert f"{tmp_path}/none.key: cannot be read" in result.stderr


def test_cert_host_writes_a_bundle_and_refuses_to_write_over_it(tmp_path: Path) -> None:
    runner = CliRunner()
    runner.invoke(main, ["init", "--dir", str(tmp_path), "--name", "s1"])
    command = ["cert", "host", "h1", "--address", "10.0.0.1", "--dir", str(tmp_path),
               "--out", str(tmp_path / "h1")]  # fmt: skip

    made = runner.invoke(main, command)
    assert made.exit_code == 0, made.output
    assert sorted(p.name for p in (tmp_path / "h1").iterdir()) == ["ca.crt", "host.crt", "host.key"]
    assert runner.invoke(main, command).exit_code == 1


@pytest.mark.parametrize(
    "words",
    [["init", "--name", "s1", "--dir"], ["cert", "host", "h1", "--dir", "ca", "--out"]],
    ids=["init", "cert"],
)
def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["init", "--name", "s1", "--dir", "ca"]).exit_code == 0
    (tmp_path / "file").touch()

    result = CliRunner().invoke(main, [*words, str(tmp_path / "file" / "x")])

    assert result.exit_code == 1
    assert "Error: " in result.output
    assert str(tmp_path / "file" / "x") in result.output
    assert "fix: run as root" in result.output


def test_a_folders_name_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "here" \\ 雲'
    made = CliRunner().invoke(main, ["init", "--name", "s1", "--dir", str(folder)])

    checked = CliRunner().invoke(
        main, ["run", "--check-config", "--config", str(folder / "scheduler.toml")]
    )

    assert (made.exit_code, checked.exit_code, checked.output) == (0, 0, "the settings are fine\n")


def test_revoking_who_has_no_rights_in_etcd_says_that_the_certificate_is_still_good(
    tmp_path: Path,
) -> None:
    runner, where = CliRunner(), ["--dir", str(tmp_path)]
    runner.invoke(main, ["init", "--name", "s1", *where])
    made = runner.invoke(main, ["cert", "monitor", "m1", "--out", str(tmp_path / "m1"), *where])
    assert made.exit_code == 0, made.output

    revoked = runner.invoke(main, ["etcd", "revoke", "monitor-m1", *where])

    assert revoked.exit_code == 0, revoked.output
    assert revoked.output.startswith("forgot monitor-m1: it never had rights in etcd")
