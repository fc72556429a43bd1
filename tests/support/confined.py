"""Run a program under a unit's restrictions, as far as they can be had without systemd.

`python confined.py UNIT [--writable FOLDER]... -- PROGRAM ARGUMENT...` reads the unit itself, so
that what a test shows holds for the unit as shipped: the read-only file system with its writable
folders, the capabilities, no new privileges, and the filters of system calls, of address families
and of memory that is both writable and executable. Source: systemd.exec(5), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
_CLONE_NEWNS = 0x00020000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 38, 22, 24
_SECCOMP_MODE_FILTER = 2
_ALLOW, _EPERM, _EAFNOSUPPORT = 0x7FFF0000, 0x00050001, 0x00050061
_PROT_WRITE, _PROT_EXEC = 2, 4
# linux/bpf_common.h: load a word, jump if equal, jump if bits set, return.
_LOAD, _EQUAL, _SET, _RETURN, _AND = 0x20, 0x15, 0x45, 0x06, 0x54
_NR, _FIRST, _THIRD = 0, 16, 32  # offsets in struct seccomp_data: number, arguments 1 and 3
_CAPABILITIES = [  # in the order of linux/capability.h
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]


def settings(unit: Path) -> dict[str, list[str]]:
    """Return what the unit's [Service] says; a name may stand more than once.

    So may the section: a unit with what goes beside it is the two texts, one after the other.
    """
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        section = line if line.startswith("[") else section
        name, equals, value = line.partition("=") if section == "[Service]" else ("", "", "")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value.strip())
    return found


def system_calls(filters: Sequence[str]) -> set[str]:
    """Return the calls that `SystemCallFilter=` lines leave."""
    allowed: set[str] = set()
    for line in filters:
        takes_away = line.startswith("~")
        for name in line.removeprefix("~").split():
            named = _group(name) if name.startswith("@") else {name}
            allowed = allowed - named if takes_away else allowed | named
    # systemd always leaves what it needs itself to start the program.
    return allowed | _group("@default") | {"execve"}


def _group(name: str) -> set[str]:
    lines = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found: set[str] = set()
    for entry in (line.strip() for line in lines[1:]):
        if entry.startswith("@"):
            found |= _group(entry)
        elif entry and not entry.startswith("#"):
            found.add(entry)
    return found


def _numbers() -> dict[str, int]:
    pairs = re.findall(r"#define __NR_(\w+) (\d+)", _NUMBERS.read_text())
    return {name: int(number) for name, number in pairs}


def _code(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", operation, yes, no, value)


def filters(rules: dict[str, list[str]]) -> list[bytes]:
    """Return the seccomp programs of a unit; the kernel takes the strictest answer."""
    numbers, made = _numbers(), []
    if lines := rules.get("SystemCallFilter"):
        program = _code(_LOAD, _NR)
        for name in sorted(system_calls(lines) & set(numbers)):
            program += _code(_EQUAL, numbers[name], 0, 1) + _code(_RETURN, _ALLOW)
        made.append(program + _code(_RETURN, _EPERM))
    if families := rules.get("RestrictAddressFamilies"):
        program = _code(_LOAD, _NR) + _code(_EQUAL, numbers["socket"], 1, 0)
        program += _code(_RETURN, _ALLOW) + _code(_LOAD, _FIRST)
        for family in " ".join(families).split():
            program += _code(_EQUAL, int(getattr(socket, family)), 0, 1) + _code(_RETURN, _ALLOW)
        made.append(program + _code(_RETURN, _EAFNOSUPPORT))
    if rules.get("MemoryDenyWriteExecute") == ["yes"]:
        both = _PROT_WRITE | _PROT_EXEC
        for name, bits in (("mmap", both), ("mprotect", _PROT_EXEC)):
            program = _code(_LOAD, _NR) + _code(_EQUAL, numbers[name], 1, 0)
            program += _code(_RETURN, _ALLOW) + _code(_LOAD, _THIRD) + _code(_AND, bits)
            program += _code(_EQUAL, bits, 1, 0)
            made.append(program + _code(_RETURN, _ALLOW) + _code(_RETURN, _EPERM))
    return made


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def read_only(writable: Sequence[Path]) -> None:
    """Let this process see every file system read-only but these folders, /dev, /proc, /sys."""
    _checked(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    subprocess.run(["mount", "--make-rslave", "/"], check=True)
    for folder in writable:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
    left = ("/dev", "/proc", "/sys", *map(str, writable))
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in dict.fromkeys(places):
        if not any(place == path or place.startswith(f"{path}/") for path in left):
            # What another mount hides cannot be reached, and need not be.
            subprocess.run(
                ["mount", "-o", "remount,bind,ro", place], check=False, stderr=subprocess.DEVNULL
            )


class _Filter(ctypes.Structure):
    """struct sock_fprog (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def confine(unit: Path, writable: Sequence[Path]) -> None:
    """Bring this process under the unit's restrictions for good."""
    rules = settings(unit)
    programs = filters(rules)
    if rules.get("ProtectSystem") == ["strict"]:
        read_only(writable)
    if "CapabilityBoundingSet" in rules:
        kept = " ".join(rules["CapabilityBoundingSet"]).split()
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for number, name in enumerate(_CAPABILITIES[: last + 1]):
            if f"CAP_{name}" not in kept:
                _checked(_LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), name)
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    for program in programs:
        text = ctypes.create_string_buffer(program, len(program))
        wanted = _Filter(len(program) // 8, ctypes.addressof(text))
        _checked(
            _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0),
            "seccomp",
        )


def main(arguments: list[str]) -> None:
    """Confine, then become the program."""
    end = arguments.index("--")
    unit, options, command = arguments[0], arguments[1:end], arguments[end + 1 :]
    writable = [Path(word) for word in options if word != "--writable"]
    confine(Path(unit), writable)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
