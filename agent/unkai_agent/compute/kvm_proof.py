"""Find out whether KVM works by running a guest on it.

Neither the device node nor libvirt's capabilities can be trusted: under some nested
virtualisations `/dev/kvm` opens, QEMU starts, and the guest hangs in its firmware for ever. So
QEMU boots real firmware and a boot sector of ours under a deadline. The sector writes a word to
the debug console and ends QEMU through the debug-exit device; both must be seen.

Runs as the user that QEMU will run as, since it is that user who must be able to open `/dev/kvm`.
The boot sector is in a memory file handed over by number, so no file's permissions matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd

from unkai_agent.domain.hosts import Accelerator

PROOF_DEADLINE_S = 5.0
"""SeaBIOS reaches a boot sector in about 0.1 s on working KVM."""

_WORD = b"unkai runs"
_EXIT_PORT = 0xF4
_EXIT_VALUE = 0x2A
_EXIT_STATUS = _EXIT_VALUE << 1 | 1
"""isa-debug-exit ends QEMU with `value << 1 | 1` (QEMU, hw/misc/debugexit.c)."""
_DEBUG_PORT = 0xE9
_SECTOR_BYTES = 512
_FLOPPY_BYTES = 1_474_560


def boot_sector() -> bytes:
    """Return 512 bytes of 16-bit code that say the word and leave.

    The firmware loads it to 0000:7C00 and jumps there (BIOS Boot Specification 1.01, 6.5.1).
    """
    code = bytearray(b"\xfa\xfc\x31\xc0\x8e\xd8")  # cli; cld; xor ax,ax; mov ds,ax
    code += b"\xbe\x00\x00"  # mov si, text (patched below)
    code += bytes([0xB9, len(_WORD), 0x00])  # mov cx, length
    code += bytes([0xAC, 0xE6, _DEBUG_PORT, 0xE2, 0xFB])  # again: lodsb; out port,al; loop again
    code += bytes([0xB0, _EXIT_VALUE, 0xE6, _EXIT_PORT])  # mov al,value; out port,al
    code += b"\xf4\xeb\xfd"  # hlt; jmp to hlt
    code[7:9] = (0x7C00 + len(code)).to_bytes(2, "little")
    code += _WORD
    return bytes(code.ljust(_SECTOR_BYTES - 2, b"\0") + b"\x55\xaa")


async def prove_kvm(
    emulator: str, user: str, *, accelerator: str = "kvm", deadline_s: float = PROOF_DEADLINE_S
) -> Accelerator:
    """Return `kvm` when a guest ran on it as `user`, else `tcg` with the reason.

    `accelerator` lets tests run the same proof on `tcg`. When we are not root, it runs as us.
    """
    try:
        image = _floppy()
    except OSError as error:
        return Accelerator("tcg", f"no room for a boot sector: {_plain(error)}")
    try:
        reason = await _failure(emulator, user, accelerator, image, deadline_s)
    except (OSError, KeyError) as error:
        reason = f"{emulator} cannot be run as {user}: {_plain(error)}"
    finally:
        os.close(image)
    return Accelerator(accelerator) if reason is None else Accelerator("tcg", reason)


def _floppy() -> int:
    """Return a file descriptor of a bootable floppy in memory.

    Opened anew for reading: QEMU takes a descriptor only if its mode is the one it wants.
    """
    writable = os.memfd_create("unkai-proof")
    try:
        os.write(writable, boot_sector())
        os.ftruncate(writable, _FLOPPY_BYTES)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY)
    finally:
        os.close(writable)


async def _failure(
    emulator: str, user: str, accelerator: str, image: int, deadline_s: float
) -> str | None:
    """Run the guest; return what went wrong, or None."""
    uid, gid, groups = _identity(user)
    program = await asyncio.create_subprocess_exec(
        emulator,
        *_arguments(accelerator, image),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(image,),
        cwd="/",
        user=uid,
        group=gid,
        extra_groups=groups,
    )
    try:
        async with asyncio.timeout(deadline_s):
            said, complaint = await program.communicate()
    except TimeoutError:
        return f"a guest on {accelerator} did not finish booting within {deadline_s:g} s"
    finally:
        if program.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            await program.wait()
    if program.returncode == _EXIT_STATUS and said.strip() == _WORD:
        return None
    lines = complaint.decode(errors="replace").strip().splitlines()
    last = lines[-1][-200:] if lines else f"status {program.returncode}"
    return f"a guest on {accelerator} did not run: {last}"


def _arguments(accelerator: str, image: int) -> list[str]:
    return [
        *("-machine", f"pc,accel={accelerator}"),
        *("-cpu", "host" if accelerator == "kvm" else "max"),
        *("-m", "16", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-add-fd", f"fd={image},set=1"),
        *("-drive", "if=floppy,index=0,format=raw,readonly=on,file=/dev/fdset/1"),
        *("-boot", "a", "-chardev", "stdio,id=said,signal=off"),
        *("-device", f"isa-debugcon,iobase={_DEBUG_PORT:#x},chardev=said"),
        *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=0x04"),
    ]


def _identity(user: str) -> tuple[int | None, int | None, list[int] | None]:
    """Return user, group and groups for the child; None each when we may not change them."""
    if os.geteuid() != 0:
        return None, None, None
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid)


def _plain(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "there is no such user"
