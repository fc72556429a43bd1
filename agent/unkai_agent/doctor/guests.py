"""The checks of what runs guests: programs, KVM, libvirt and its settings."""

from __future__ import annotations

import importlib.util
import pwd
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress

from unkai_agent.doctor.checks import CHECKS
from unkai_agent.doctor.scene import EMULATOR, Scene
from unkai_wire.doctor.findings import Finding, Severity, finding

__all__ = ["CHECKS"]

LIBVIRT_LEAST, QEMU_LEAST = 9_000_000, 7_000_000
"""Debian 12's. What is older was never tried."""
_PROGRAMS = {EMULATOR: "qemu-system-x86", "qemu-img": "qemu-utils", "prlimit": "util-linux"}
_MODULES = ("libvirt", "pycdlib", "etcd3", "cryptography")
_LIBVIRT_FIX = "systemctl restart libvirtd; guests run on. Why: journalctl -u libvirtd -n 50"
_CONF_FIX = "in {path} set {line}; then: systemctl restart libvirtd"


@CHECKS.add("programs", "the programs that the agent runs are installed")
def programs(scene: Scene) -> Iterable[Finding]:
    """Judge PATH."""
    for program, package in ({} if scene.simulated else _PROGRAMS).items():
        if shutil.which(program) is None:
            yield finding(
                Severity.FAIL,
                f"{program} is not installed, or not in PATH",
                "no machine can be made here",
                f"apt install --no-install-recommends {package}",
            )


@CHECKS.add("python-modules", "the Python modules of the agent are installed")
def python_modules(scene: Scene) -> Iterable[Finding]:
    """Judge the environment."""
    for name in _MODULES:
        if importlib.util.find_spec(name) is None:
            yield finding(
                Severity.FAIL,
                f"the Python module {name} is not installed",
                "the agent does not start",
                "/opt/unkai/bin/pip install 'unkai[agent]'",
            )


@CHECKS.add("qemu-user", "the user that QEMU shall run as exists, and is not root")
def qemu_user(scene: Scene) -> Iterable[Finding]:
    """Judge the setting."""
    if scene.simulated:
        return
    name = scene.settings.libvirt.qemu_user
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        yield finding(
            Severity.FAIL,
            f"there is no user {name}, as libvirt.qemu_user says",
            "no disk can be given to QEMU",
            "apt install libvirt-daemon-system, which makes libvirt-qemu; or set libvirt.qemu_user",
        )
        return
    if uid == 0:
        yield finding(
            Severity.FAIL,
            f"libvirt.qemu_user = {name} is root",
            "a guest that breaks out of QEMU would own the host",
            "set libvirt.qemu_user = 'libvirt-qemu'; then: systemctl restart unkai-agent",
        )


@CHECKS.add("kvm", "a guest really runs on KVM, unless emulation was chosen")
def kvm(scene: Scene) -> Iterable[Finding]:
    """Judge KVM by running a few instructions of a guest's boot on it."""
    wanted = scene.settings.accelerator
    if scene.simulated or wanted == "tcg" or shutil.which(EMULATOR) is None:
        return
    severity = Severity.FAIL if wanted == "kvm" else Severity.WARN
    why = "guests run emulated, ten times slower" if wanted == "auto" else "guests do not start"
    if not scene.paths.kvm.exists():
        yield finding(
            severity,
            f"there is no {scene.paths.kvm}",
            why,
            "turn virtualisation on in the firmware, then: modprobe kvm_intel || modprobe kvm_amd; "
            "or say accelerator = 'tcg'",
        )
        return
    proof = scene.prove_kvm()
    if proof.name == "kvm":
        return
    user = scene.settings.libvirt.qemu_user
    denied = re.search("ermission denied|not permitted", proof.reason)
    yield finding(
        severity,
        f"KVM does not work: {proof.reason}",
        why,
        f"usermod -aG kvm {user}; systemctl restart libvirtd unkai-agent"
        if denied
        else "this machine is itself a guest whose host lends no working virtualisation: mend it "
        "there, or say accelerator = 'tcg' in agent.toml",
    )


@CHECKS.add("libvirt-answers", "libvirtd is reached and answers")
def libvirt_answers(scene: Scene) -> Iterable[Finding]:
    """Judge the daemon."""
    if scene.simulated:
        return
    found = scene.libvirt()
    if found.trouble:
        hangs = "libvirtd hangs: " if found.hangs else ""
        yield finding(
            Severity.FAIL,
            f"{hangs}{found.trouble}",
            "machines are neither made nor seen here; those that run go on",
            _LIBVIRT_FIX,
        )


@CHECKS.add("libvirt-version", "libvirt and QEMU are new enough")
def libvirt_version(scene: Scene) -> Iterable[Finding]:
    """Judge the versions that libvirtd tells."""
    facts = None if scene.simulated else scene.hypervisor()
    if facts is None:
        return
    for name, version, least in (
        ("libvirt", facts.libvirt_version, LIBVIRT_LEAST),
        ("QEMU", facts.qemu_version, QEMU_LEAST),
    ):
        if version < least:
            yield finding(
                Severity.FAIL,
                f"{name} is version {_dotted(version)}; {_dotted(least)} is the least",
                "what the agent asks of it may not be there",
                "upgrade the host to Debian 12 or newer",
            )


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}"


def qemu_settings(text: str) -> dict[str, str]:
    """Read what qemu.conf sets: names and values, quotes taken off; the last of a name counts."""
    pairs = re.findall(r'^\s*(\w+)\s*=\s*"?([^"#\n]*?)"?\s*(?:#.*)?$', text, re.MULTILINE)
    return dict(pairs)


@CHECKS.add("qemu-conf", "qemu.conf confines QEMU, leaves files to the agent, bounds logs")
def qemu_conf(scene: Scene) -> Iterable[Finding]:
    """Judge libvirt's settings of QEMU."""
    if scene.simulated or not scene.settings.libvirt.uri.startswith("qemu:///system"):
        return
    path, user = scene.paths.qemu_conf, scene.settings.libvirt.qemu_user
    found = {}
    with suppress(OSError):
        found = qemu_settings(path.read_text())

    def wrong(line: str, what: str, why: str) -> Finding:
        return finding(Severity.FAIL, what, why, _CONF_FIX.format(path=path, line=line))

    shown = found.get("user", "")
    if shown.lstrip("+") in ("root", "0"):
        yield wrong(
            f'user = "{user}"',
            f"{path} runs QEMU as root",
            "a guest that breaks out of QEMU would own the host; the agent refuses to start one",
        )
    elif shown and shown != user:
        yield wrong(
            f'user = "{user}"',
            f"{path} runs QEMU as {shown}, the agent's settings say {user}",
            "QEMU cannot open the disks that the agent gives to the other",
        )
    if found.get("dynamic_ownership", "1") != "0":
        yield wrong(
            "dynamic_ownership = 0",
            f"{path} lets libvirt change the owners of disks",
            "it gives them back to root when a machine stops, and the next start fails",
        )
    if found.get("seccomp_sandbox", "-1") == "0":
        yield wrong(
            "seccomp_sandbox = 1",
            f"{path} turns QEMU's sandbox off",
            "a guest that breaks out of QEMU may call all that the kernel offers",
        )
    if found.get("stdio_handler", "logd") != "logd":
        yield wrong(
            'stdio_handler = "logd"',
            f"{path} lets QEMU write console logs itself",
            "nothing bounds them then: one guest that prints without end fills the host's disk",
        )


@CHECKS.add("qemu-identity", "libvirtd that runs has taken qemu.conf's user")
def qemu_identity(scene: Scene) -> Iterable[Finding]:
    """Judge whom guests run as, by the libvirtd that runs."""
    facts = None if scene.simulated else scene.hypervisor()
    if facts is None or not facts.guest_uids:
        return
    user = scene.settings.libvirt.qemu_user
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return
    if facts.guest_uids != {uid}:
        shown = ", ".join(map(str, sorted(facts.guest_uids)))
        yield finding(
            Severity.FAIL,
            f"libvirtd runs guests as user {shown}, not as {user} ({uid})",
            "it has not read qemu.conf since that was changed, or it is set otherwise there",
            f'in {scene.paths.qemu_conf} set user = "{user}"; then: systemctl restart libvirtd',
        )
