"""A guest under plain QEMU, without libvirt: for tests of images."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import time
from pathlib import Path
from typing import Any

from tests.support.guest_networks import MAC_ADDRESS

QEMU_USER = "libvirt-qemu"


class Guest:
    """One machine under TCG: `disk`, perhaps a seed, a serial console, a power button.

    `folder` is given to QEMU's user, for sockets and the console's log. `tap`: what its network
    card is wired to (`GuestNetwork.plug`). `asset`: asset tag of its chassis.
    """

    def __init__(
        self,
        folder: Path,
        disk: Path,
        seed: Path | None,
        *,
        base: Path,
        tap: int | None = None,
        asset: str = "",
        memory_mib: int = 128,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._base = base
        self._seed = seed
        self._tap = tap
        self._asset = asset
        self._memory_mib = memory_mib
        self._process: asyncio.subprocess.Process | None = None
        self._serial: asyncio.StreamWriter | None = None
        self._drain: asyncio.Task[None] | None = None
        self.log = folder / "console.log"
        self.start_s = 0.0

    async def start(self, *, machine: str = "pc") -> None:
        """Power on."""
        entry = pwd.getpwnam(QEMU_USER)
        self._folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
        serial, monitor = self._folder / "serial", self._folder / "qmp"
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-machine", machine]
        command += ["-m", str(self._memory_mib), "-smp", "1", "-nodefaults", "-display", "none"]
        command += ["-sandbox", "on", "-qmp", f"unix:{monitor},server=on,wait=off"]
        command += ["-chardev", f"socket,id=c,path={serial},server=on,wait=on,logfile={self.log}"]
        command += ["-serial", "chardev:c"]
        command += ["-blockdev", f"driver=file,filename={self._base},node-name=bf,read-only=on"]
        command += ["-blockdev", "driver=qcow2,file=bf,node-name=base,read-only=on"]
        command += ["-blockdev", f"driver=file,filename={self._disk},node-name=df"]
        command += ["-blockdev", "driver=qcow2,file=df,backing=base,node-name=disk"]
        command += ["-device", "virtio-blk-pci,drive=disk"]
        if self._seed is not None:
            command += ["-blockdev", f"driver=file,filename={self._seed},node-name=sf,read-only=on"]
            command += ["-blockdev", "driver=raw,file=sf,node-name=seed,read-only=on"]
            command += ["-device", "virtio-blk-pci,drive=seed"]
        if self._tap is not None:
            command += ["-netdev", f"tap,id=n,fd={self._tap}"]
            command += ["-device", f"virtio-net-pci,netdev=n,mac={MAC_ADDRESS},romfile="]
        if self._asset:
            command += ["-smbios", f"type=3,asset={self._asset}"]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            cwd="/",
            pass_fds=() if self._tap is None else (self._tap,),
            user=entry.pw_uid if os.geteuid() == 0 else None,
            group=entry.pw_gid if os.geteuid() == 0 else None,
            extra_groups=os.getgrouplist(QEMU_USER, entry.pw_gid) if os.geteuid() == 0 else None,
        )
        reader, self._serial = await self._connect(serial)
        self.start_s = time.monotonic()
        self._drain = asyncio.create_task(_drain(reader))

    async def _connect(self, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(20):
            while True:
                try:
                    return await asyncio.open_unix_connection(path)
                except OSError:
                    assert self._process is not None
                    assert self._process.returncode is None, "QEMU ended; it says why above"
                    await asyncio.sleep(0.05)

    def text(self) -> str:
        """Return what the console has shown."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes().decode(errors="replace").replace("\r", "")

    def lines(self) -> list[str]:
        """Return the console's lines for machines."""
        return [line for line in self.text().splitlines() if line.startswith("unkai-tiny: ")]

    async def shows(self, text: str, *, times: int = 1, within_s: float = 60.0) -> float:
        """Wait until the console has shown a text; return the seconds since power-on."""
        try:
            async with asyncio.timeout(within_s):
                while self.text().count(text) < times:  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in:\n{self.text()}") from None
        return time.monotonic() - self.start_s

    async def type(self, text: str) -> None:
        """Type on the console."""
        assert self._serial is not None
        self._serial.write(text.encode())
        await self._serial.drain()

    async def press_power(self) -> None:
        """Press the power button (ACPI)."""
        reader, writer = await self._connect(self._folder / "qmp")
        try:
            for command in ("qmp_capabilities", "system_powerdown"):
                request: dict[str, Any] = {"execute": command}
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                while "return" not in json.loads(await reader.readline()):
                    pass
        finally:
            writer.close()

    async def ends(self, within_s: float = 30.0) -> float:
        """Wait until the machine is off; return the seconds that took."""
        assert self._process is not None
        since_s = time.monotonic()
        async with asyncio.timeout(within_s):
            assert await self._process.wait() == 0
        return time.monotonic() - since_s

    async def stop(self) -> None:
        """Cut the power."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])
        if self._serial is not None:
            self._serial.close()


async def _drain(reader: asyncio.StreamReader) -> None:
    """Read what the guest prints: its log is a file, but the socket must not fill."""
    while await reader.read(65536):
        pass
