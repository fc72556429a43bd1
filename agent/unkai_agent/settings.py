"""The agent's settings: one frozen tree, from a TOML file and the environment, checked at start.

`UNKAI_AGENT_*` wins over the file, `__` nests: `UNKAI_AGENT_ETCD__ENDPOINTS`. An unknown key is
refused with its name and where it stands. Each field says its unit and why it has its default.
Nothing here opens or connects; who the host is comes from its certificate, not from here.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from unkai_wire.setting_values import problem_of, split_address
from unkai_wire.tls import TlsFiles
from unkai_wire.tracing import check_endpoint

DEFAULT_FILE = Path("/etc/unkai/agent.toml")
ENV_PREFIX = "UNKAI_AGENT_"
_PKI = Path("/etc/unkai/pki")


class InvalidSettings(Exception):
    """The settings cannot be used. `problems`: one sentence each, naming key and source."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _address(text: str) -> str:
    split_address(text)
    return text


def _optional_address(text: str) -> str:
    return _address(text) if text else text


Address = Annotated[str, AfterValidator(_address)]
OptionalAddress = Annotated[str, AfterValidator(_optional_address)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(_Part):
    """Where the PEM files lie that we show and check."""

    ca: Path = _PKI / "ca.crt"
    """Certificate of the CA that every party's certificate must come from."""
    certificate: Path = _PKI / "host.crt"
    """Our certificate; it says which host this is."""
    key: Path = _PKI / "host.key"
    """Our private key; readable by us alone."""

    def files(self) -> TlsFiles:
        """Return the three paths as the wire package wants them."""
        return TlsFiles(ca=self.ca, certificate=self.certificate, key=self.key)


class EtcdSettings(_Part):
    """Where this host registers. The host's certificate is shown to etcd too."""

    endpoints: tuple[Address, ...] = Field(default=("127.0.0.1:2379",), min_length=1)
    """Client addresses of the members, `HOST:PORT`; all are tried in turn."""
    timeout_s: float = Field(default=2.0, gt=0, le=30)
    """Seconds one call may take: shorter than the lease of 6 s, so that a slow member is seen."""


class CapacitySettings(_Part):
    """What this host offers to instances. 0 means: found out."""

    cpus: int = Field(default=0, ge=0, le=4096)
    """CPUs; 0: those this process may run on, or as many whole ones as the quota of the sampler's
    groups allows."""
    memory_bytes: int = Field(default=0, ge=0)
    """Memory in bytes; 0: the machine's or the limit of the sampler's group, less the reserve."""
    disk_bytes: int = Field(default=0, ge=0)
    """Disk in bytes; 0: the size of the file system of `state_dir`, less the reserve."""
    memory_reserve_bytes: int = Field(default=1 << 30, ge=0)
    """Memory in bytes kept for the host itself; at most half of it is taken."""
    disk_reserve_bytes: int = Field(default=4 << 30, ge=0)
    """Disk in bytes kept for the host itself and the image cache; at most half of it is taken."""


class LibvirtSettings(_Part):
    """The hypervisor."""

    uri: str = "qemu:///system"
    """libvirt's connection URI."""
    qemu_user: str = "libvirt-qemu"
    """User that QEMU runs as; disks and seeds are given to it. Never root."""
    timeout_s: float = Field(default=20.0, gt=0, le=300)
    """Seconds one call may take before its outcome counts as unknown."""


class SamplerSettings(_Part):
    """Where live figures come from. All empty: the whole machine's."""

    interval_s: float = Field(default=2.0, ge=0.1, le=60)
    """Seconds between samples; the scheduler takes no sample older than 10 s."""
    cgroup2: Path | None = None
    """Group of the unified hierarchy that holds all of this host's processes."""
    memory_v1: Path | None = None
    """Group of the version 1 memory controller."""
    blkio_v1: Path | None = None
    """Group of the version 1 blkio controller."""
    cpu_v1: Path | None = None
    """Group of the version 1 cpu controller."""


class ConvergeSettings(_Part):
    """How machines are brought to what they shall be."""

    permit_autonomy_s: float = Field(default=30.0, ge=0, le=3600)
    """Seconds without a leader's answer after which machines whose writable disks all lie here
    are started without its permit; twice as long while a leader is there, yet silent about them.
    Keep the latter above the leader's backoff, or a crashing guest is restarted sooner."""
    starts: int = Field(default=4, ge=1, le=64)
    """Machines made or started at once: more only makes all of them slower."""
    create_tries: int = Field(default=4, ge=1, le=100)
    """Tries for a machine that never ran; then it is FAILED for good and may go elsewhere."""
    backoff_base_s: float = Field(default=0.5, gt=0)
    """First wait before the next try; doubles each time, with jitter."""
    backoff_cap_s: float = Field(default=30.0, gt=0)
    """Longest such wait."""
    resync_s: float = Field(default=15.0, gt=0, le=600)
    """Seconds between looks at everything, whatever the hypervisor's events say."""
    poll_s: float = Field(default=1.0, gt=0, le=60)
    """Seconds between looks at a guest that was asked to shut down."""


class FleetSettings(_Part):
    """Simulated hosts in this process, for labs: `unkai-agent simulate`."""

    hosts: int = Field(default=0, ge=0, le=20_000)
    """How many."""
    cpus: int = Field(default=16, ge=1)
    """CPUs of each."""
    memory_bytes: int = Field(default=64 << 30, ge=1 << 20)
    """Memory in bytes of each."""
    disk_bytes: int = Field(default=1 << 40, ge=1 << 20)
    """Disk in bytes of each."""
    background_load_ratio: float = Field(default=0.05, ge=0, le=1)
    """CPU load that is not a machine's, as a share of the CPUs."""
    fetch_images: bool = False
    """Really fetch image bytes, to be checked and thrown away, once for each host."""


class TracingSettings(_Part):
    """This host's part of the traces that schedulers begin; needs `unkai[tracing]`."""

    endpoint: Annotated[str, AfterValidator(check_endpoint)] = ""
    """`https://HOST:PORT` of the collector (OTLP over gRPC, our certificates), or `http://` on this
    machine; empty: no traces, at no cost."""


class Settings(BaseSettings):
    """All settings of the agent."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    listen: Address = "0.0.0.0:7444"
    """`HOST:PORT` of the gRPC server (mTLS)."""
    advertise: OptionalAddress = ""
    """`IP:PORT` at which schedulers reach us; empty: `listen`, and where that is all addresses,
    the address from which this machine reaches etcd."""
    socket: Path = Path("/run/unkai/agent.sock")
    """Unix socket (mode 0600) for root on this machine."""
    metrics_listen: OptionalAddress = "0.0.0.0:9444"
    """`HOST:PORT` of the Prometheus endpoint (mTLS); empty: none."""
    state_dir: Path = Path("/var/lib/unkai/agent")
    """Holds the ledger, the image cache and the machines."""
    boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")
    """File that tells one boot from the next. Labs give each host its own."""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """What runs guests' CPUs; `auto` finds out by running whether KVM works."""
    traits: tuple[str, ...] = ()
    """Traits that this host has beside those found out."""
    log_format: Literal["json", "console"] = "json"
    """How log lines look on standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level logged."""
    shutdown_grace_s: float = Field(default=3.0, ge=0, le=120)
    """Seconds that calls under way get to end after SIGTERM. Guests are not touched."""
    tls: TlsSettings = TlsSettings()
    """Our credentials."""
    etcd: EtcdSettings = EtcdSettings()
    """Where this host registers."""
    capacity: CapacitySettings = CapacitySettings()
    """What this host offers."""
    libvirt: LibvirtSettings = LibvirtSettings()
    """The hypervisor."""
    sampler: SamplerSettings = SamplerSettings()
    """Live figures."""
    converge: ConvergeSettings = ConvergeSettings()
    """How machines are brought to what they shall be."""
    fleet: FleetSettings = FleetSettings()
    """Simulated hosts."""
    tracing: TracingSettings = TracingSettings()
    """Traces of API calls."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which arrives as init arguments."""
        return env_settings, init_settings


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings; raise `InvalidSettings` with every problem found.

    Without `path` the default file is read where it exists; a `path` given must exist.
    """
    file = path or DEFAULT_FILE
    values = _read_file(file, required=path is not None)
    problems = _unknown_variables()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        found = [_sentence(e, file) for e in error.errors()]
        raise InvalidSettings(problems + found) from error
    except SettingsError as error:
        raise InvalidSettings([*problems, f"environment: {error}"]) from error
    if problems:
        raise InvalidSettings(problems)
    return settings


def _read_file(file: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        if required:
            raise InvalidSettings([f"{file}: there is no such file"]) from error
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"{file}: cannot be read: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings([f"{file}: is not TOML: {error}"]) from error


def _unknown_variables() -> list[str]:
    """Find variables with our prefix that name no setting; pydantic passes over these."""
    names = set(Settings.model_fields)
    return [
        f"environment: {variable}: no such setting"
        for variable in sorted(os.environ)
        if variable.upper().startswith(ENV_PREFIX)
        and variable[len(ENV_PREFIX) :].lower().partition("__")[0] not in names
    ]


def _sentence(error: Any, file: Path) -> str:
    location = tuple(str(part) for part in error["loc"])
    variable = ENV_PREFIX + "__".join(location).upper()
    upper = {name.upper() for name in os.environ}
    source = f"environment: {variable}" if variable in upper else f"{file}: {'.'.join(location)}"
    if error["type"] == "extra_forbidden":
        return f"{source}: no such setting"
    return f"{source}: {problem_of(error)}"
