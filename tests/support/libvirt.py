"""A libvirtd of a test's own, in its own mount, network and process namespaces.

Nothing of the machine's libvirt is touched: the namespace has private folders bound over
libvirt's. Its sockets are reachable from outside through the private folder. Ending the
namespace's first process ends all in it: libvirtd, virtlogd, every QEMU.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

QEMU_USER = "libvirt-qemu"

_QEMU_CONF = f"""\
user = "{QEMU_USER}"
group = "{QEMU_USER}"
security_driver = "none"
seccomp_sandbox = 1
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
"""

_SCRIPT = """
set -eu
root=$1
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir /run/libvirt /run/lock
for folder in run/libvirt var/lib/libvirt var/cache/libvirt etc/libvirt; do
  mount --bind "$root/$folder" "/$folder"
done
# A device node that QEMU's user may open: libvirt probes it at each look-up otherwise.
if [ -e /dev/kvm ]; then
  mknod -m 0666 "$root/kvm" c 10 232
  mount --bind "$root/kvm" /dev/kvm
fi
. "$root/prelude"
virtlogd -d
while true; do
  libvirtd -f "$root/libvirtd.conf" -p "$root/libvirtd.pid" || true
  sleep 0.1
done
"""


def unavailable_reason() -> str:
    """Return why no private libvirtd can run here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [
        name
        for name in ("libvirtd", "virtlogd", "qemu-system-x86_64", "unshare")
        if shutil.which(name) is None
    ]
    return f"needs {', '.join(missing)}" if missing else ""


class PrivateLibvirt:
    """A running libvirtd. `folder` may hold files for its guests."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._process = process
        self.socket = root / "run/libvirt/libvirt-sock"
        self.uri = f"qemu:///system?socket={self.socket}"
        self.folder = root / "machines"

    def wait(self, deadline_s: float = 20.0) -> None:
        """Wait until libvirtd answers on its socket."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1.0)
                probe.connect(str(self.socket))
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"libvirtd did not come up:\n{self.log()}")

    def log(self) -> str:
        """Return what the namespace's programs complained about."""
        return (self.root / "log").read_text(errors="replace")[-4000:]

    def daemon_pid(self, name: str = "libvirtd") -> int:
        """Return the process id of the namespace's libvirtd or another, as seen from outside."""
        return _only(pid for pid in self._processes() if _program(pid) == name)

    @property
    def network_namespace(self) -> Path:
        """The network namespace that all of it is in."""
        outer = self._process.pid
        [first] = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return Path(f"/proc/{first}/ns/net")

    def qemu_pid(self, domain_uuid: uuid.UUID) -> int:
        """Return the process id of a domain's QEMU as seen from outside."""
        return _only(
            pid for pid in self._processes() if str(domain_uuid) in " ".join(_command(pid))
        )

    def stop_daemon(self) -> None:
        """Freeze libvirtd: it accepts connections and answers nothing."""
        os.kill(self.daemon_pid(), signal.SIGSTOP)

    def continue_daemon(self) -> None:
        """Let a frozen libvirtd go on."""
        os.kill(self.daemon_pid(), signal.SIGCONT)

    def restart_daemon(self, name: str = "libvirtd") -> None:
        """Kill libvirtd, or another, and wait for its successor. Guests go on."""
        old = self.daemon_pid(name)
        os.kill(old, signal.SIGKILL)
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):
                if self.daemon_pid(name) != old:
                    self.wait()
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not come back:\n{self.log()}")

    def kill(self, name: str) -> None:
        """Kill all processes of this name in the namespace."""
        for pid in self._processes():
            if _program(pid) == name:
                os.kill(pid, signal.SIGKILL)

    def _processes(self) -> Iterator[int]:
        """Yield the processes of the namespace."""
        namespace = os.readlink(f"/proc/{self._process.pid}/ns/pid_for_children")
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if os.readlink(entry / "ns/pid") == namespace:
                        yield int(entry.name)


@contextlib.contextmanager
def private_libvirt(
    qemu_user: str = QEMU_USER, *, within: Path = Path("/tmp"), prelude: str = ""
) -> Iterator[PrivateLibvirt]:
    """Run a libvirtd; everything of it is gone afterwards.

    `prelude`: lines of shell that the namespace's first process carries out before; `$root` is the
    private folder.
    """
    # A short path: a unix socket's is limited to 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="ukl-", dir=within))
    root.chmod(0o755)
    for folder in ("run/libvirt", "var/lib/libvirt", "var/cache/libvirt", "etc/libvirt"):
        (root / folder).mkdir(parents=True)
    (root / "machines").mkdir()
    (root / "prelude").write_text(prelude)
    conf = _QEMU_CONF.replace(f'"{QEMU_USER}"', f'"{qemu_user}"')
    (root / "etc/libvirt/qemu.conf").write_text(conf)
    (root / "libvirtd.conf").write_text(
        f'auth_unix_rw = "none"\nhost_uuid = "{uuid.uuid4()}"\nunix_sock_rw_perms = "0700"\n'
    )
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--mount-proc"),
                *("--kill-child", "--propagation", "private", "sh", "-c", _SCRIPT, "sh", str(root)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        libvirt = PrivateLibvirt(root, process)
        libvirt.wait()
        yield libvirt
    finally:
        process.kill()  # its child, the namespace's first process, dies with it, and all others
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


def give_to_qemu(path: Path) -> None:
    """Make a file or folder QEMU's."""
    entry = pwd.getpwnam(QEMU_USER)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _program(pid: int) -> str:
    command = _command(pid)
    return Path(command[0]).name if command else ""


def _only(pids: Iterator[int]) -> int:
    found = list(pids)
    if len(found) != 1:
        raise RuntimeError(f"expected one process, found {found}")
    return found[0]
