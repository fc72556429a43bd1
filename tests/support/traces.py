"""What labs leave in the system: looked for without using any of the lab's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROGRAMS = ("etcd", "libvirtd", "virtlogd", "unkai-agent", "unkai-scheduler", "qemu-system")


def traces_of_labs() -> set[str]:
    """Return every process, namespace, mount, link, cgroup and file that looks like a lab's."""
    found: set[str] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        names = {Path(word).name for word in words[:3]}
        if any(name.startswith(PROGRAMS) for name in names):
            found.add(f"process {folder.name} {' '.join(words[:3])}")
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    found |= {f"namespace {line}" for line in listed.stdout.split("\n") if line}
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False)
    for line in links.stdout.splitlines():
        name = line.split(":")[1].strip()
        found.add(f"link {name}")
    found |= {
        f"mount {line.split()[1]}"
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if "unkai" in line or "/run/netns" in line or "libvirt" in line
    }
    found |= {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("**/*unkai*")}
    for root in ("/var/lib/unkai-lab", "/run/unkai", "/tmp"):
        found |= {f"file {path}" for path in Path(root).glob("*unkai*" if root == "/tmp" else "*")}
    return found
