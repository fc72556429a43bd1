"""A backup's file: nobody else has a hand in it."""

from __future__ import annotations

import stat
from pathlib import Path

from unkai_scheduler.store import backup_files


def test_what_lies_under_a_likely_name_of_the_part_is_neither_written_nor_removed(
    tmp_path: Path,
) -> None:
    file, victim = tmp_path / "b", tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / ".b.part"
    link.symlink_to(victim)

    with backup_files.whole(file) as part:
        part.write_bytes(b"secrets")

    assert victim.read_bytes() == b"precious"
    assert link.is_symlink()
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"secrets"


def test_two_backups_to_one_file_do_not_write_into_each_other(tmp_path: Path) -> None:
    with backup_files.whole(tmp_path / "b") as one:
        with backup_files.whole(tmp_path / "c") as other:
            assert one != other
        with backup_files.whole(tmp_path / ".." / tmp_path.name / "b") as same:
            assert same.name != one.name
            same.write_bytes(b"whole")
            one.write_bytes(b"x")
        assert (tmp_path / "b").read_bytes() == b"whole"
        (tmp_path / "b").unlink()
