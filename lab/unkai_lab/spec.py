"""What a lab consists of: its cells, addresses and paths. Pure.

A *cell* is one set of namespaces with a cgroup of its own: `control` (bridge, etcd, database,
scheduler), each host (`h1`, `h2`, ...) and, where simulated hosts were asked for, `fleet`. Several
schedulers have a cell each (`s1`, `s2`, ...), so that the network of one can fail alone. With
networks there is `external` too: the internet, which some hosts reach. The spec is kept in the
lab's folder, so that every later command finds the same lab.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from unkai_wire.errors import InvalidArgument

DEFAULT_NAME = "lab"
DEFAULT_ROOT = Path("/var/lib/unkai-lab")
CONTROL = "control"
FLEET = "fleet"
EXTERNAL = "external"
PHYSICAL_NETWORK, EXTERNAL_BRIDGE = "external", "br-ex"
"""What networks say for it, and the bridge on a host that leads there."""
PHYSICAL_MTU = 1500
"""Bytes that its cables carry."""
MAX_GATEWAYS = 2
"""Hosts that reach `external`, at most: the first ones, so that one of them may fail."""
EXTERNAL_RANGE = ipaddress.IPv4Network("192.0.2.0/24")
EXTERNAL_RANGE_V6 = ipaddress.IPv6Network("2001:db8:0:1::/64")
"""What `external` is on the link with. Ranges for documentation (RFC 5737, RFC 3849)."""
FAR_ADDRESS = ipaddress.IPv4Address("198.51.100.1")
FAR_ADDRESS_V6 = ipaddress.IPv6Address("2001:db8:ffff::1")
"""Addresses behind it, reached by a route alone."""
MAX_HOSTS = 32
"""Each host is a libvirtd and an agent: beyond this use simulated ones."""
MAX_SIMULATED = 10_000
MAX_SCHEDULERS = 5
SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"
DATABASES = (SQLITE, POSTGRESQL, MARIADB)
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,14}[a-z0-9])?")
_SOCKET_PATH_MAX = 107
"""sun_path of sockaddr_un has 108 bytes, one of them the final NUL (unix(7))."""


def lab_root() -> Path:
    """Return the folder that holds the labs: UNKAI_LAB_ROOT or the default."""
    return Path(os.environ.get("UNKAI_LAB_ROOT") or DEFAULT_ROOT)


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What was asked for."""

    name: str = DEFAULT_NAME
    hosts: int = 3
    simulated: int = 0
    host_cpus: int = 2
    """CPUs a host states."""
    host_memory_bytes: int = 4 << 30
    """Memory a host states."""
    host_disk_bytes: int = 64 << 30
    """Disk a host states; what lies below is the machine's and is not reserved."""
    cpu_quota_cores: float = 0.0
    """CPU time each host's cgroup may take; 0: no limit."""
    memory_limit_bytes: int = 0
    """Memory each host's cgroup may take; 0: no limit."""
    accelerator: str = "auto"
    """`auto`, `kvm` or `tcg`; what the agents are told."""
    etcd_members: int = 1
    """1, or 3, which go on while one is lost."""
    schedulers: int = 1
    database: str = SQLITE
    """`sqlite`, or a server that several schedulers can share: `postgresql`, `mariadb`."""
    networks: bool = False
    """Instances have ports on networks: OVN, a switch on each host, and `external`."""
    shares_file: bool = False
    """Lets several schedulers use one SQLite file: no set-up for users, but tests show by it that
    the fence holds there too."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument.field(
                "name", f"{self.name[:64]!r} must be 1 to 16 characters of a-z, 0-9 and -"
            )
        _within("hosts", self.hosts, 0, MAX_HOSTS)
        _within("simulated", self.simulated, 0, MAX_SIMULATED)
        if not self.hosts + self.simulated:
            raise InvalidArgument.field("hosts", "a lab needs a host, real or simulated")
        if self.accelerator not in ("auto", "kvm", "tcg"):
            raise InvalidArgument.field("accelerator", "must be auto, kvm or tcg")
        self._check_control_plane()

    def _check_control_plane(self) -> None:
        if self.etcd_members not in (1, 3):
            raise InvalidArgument.field("etcd", "must be 1 or 3: of two, both are needed")
        _within("schedulers", self.schedulers, 1, MAX_SCHEDULERS)
        if self.database not in DATABASES:
            raise InvalidArgument.field("database", f"must be one of {', '.join(DATABASES)}")
        if self.schedulers > 1 and self.database == SQLITE and not self.shares_file:
            raise InvalidArgument.field(
                "schedulers",
                f"{self.schedulers} schedulers cannot share an SQLite file",
                reason="DATABASE_NOT_SHARED",
                fix="add --database postgresql or --database mariadb",
            )

    @property
    def etcd_names(self) -> tuple[str, ...]:
        """Names of etcd's members, which are those of their programs in `control` too."""
        if self.etcd_members == 1:
            return ("etcd",)
        return tuple(f"etcd{number}" for number in range(1, self.etcd_members + 1))

    @property
    def scheduler_names(self) -> tuple[str, ...]:
        """Names of the schedulers."""
        if self.schedulers == 1:
            return ("scheduler",)
        return tuple(f"s{number}" for number in range(1, self.schedulers + 1))

    def scheduler_cell(self, name: str) -> str:
        """Return the cell a scheduler runs in: one alone is in `control`.

        Raise `InvalidArgument` for a name that no scheduler of the lab has.
        """
        if name not in self.scheduler_names:
            raise InvalidArgument.field(
                "scheduler",
                f"{name[:64]!r} is no scheduler of lab {self.name}: it has "
                f"{', '.join(self.scheduler_names)}",
                reason="NO_SUCH_SCHEDULER",
            )
        return CONTROL if self.schedulers == 1 else name

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names of the real hosts."""
        return tuple(f"h{number}" for number in range(1, self.hosts + 1))

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of all cells, control first."""
        schedulers = self.scheduler_names if self.schedulers > 1 else ()
        fleet = (FLEET,) if self.simulated else ()
        external = (EXTERNAL,) if self.networks else ()
        return (CONTROL, *external, *schedulers, *self.host_names, *fleet)

    @property
    def gateway_hosts(self) -> tuple[str, ...]:
        """Names of the hosts that reach `external`."""
        return self.host_names[:MAX_GATEWAYS] if self.networks else ()

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The lab's own range; it exists in the lab's namespaces only.

        Two labs may share one by chance and never meet: their bridges are in different namespaces.
        """
        return self._range(64)

    @property
    def tunnel_network(self) -> ipaddress.IPv4Network:
        """The range that hosts' tunnels run on: a second cable, as the first is the cloud's own."""
        return self._range(128)

    def _range(self, first: int) -> ipaddress.IPv4Network:
        digest = hashlib.sha256(self.name.encode()).digest()
        return ipaddress.IPv4Network((f"10.{first + digest[0] % 64}.{digest[1]}.0", 24))

    def tunnel_address(self, host: str) -> str:
        """Return the address that a host's tunnels end at."""
        return str(self.tunnel_network[10 + self.host_names.index(host) + 1])

    def address(self, cell: str) -> str:
        """Return the cell's address in the lab's network.

        Raise `InvalidArgument` for a cell that the lab has not.
        """
        if cell not in self.cells:
            raise InvalidArgument.field(
                "host",
                f"{cell[:64]!r} is not in lab {self.name}: it has {', '.join(self.cells)}",
                reason="NO_SUCH_CELL",
            )
        if cell == CONTROL:
            return str(self.network[1])
        if cell == FLEET:
            return str(self.network[2])
        if cell == EXTERNAL:
            return str(EXTERNAL_RANGE[1])
        if cell in self.scheduler_names:
            return str(self.network[2 + int(cell[1:])])
        return str(self.network[10 + int(cell[1:])])

    def to_json(self) -> str:
        """Return the spec as JSON; `from_json` is the way back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> LabSpec:
        """Read a spec."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Where the lab's files lie. All of them are below `folder`."""

    folder: Path

    @classmethod
    def of(cls, name: str, root: Path | None = None) -> LabPaths:
        """Return the paths of the lab of that name; raise `InvalidArgument` for too long ones."""
        paths = cls((root or lab_root()).absolute() / name)
        if len(str(paths.scheduler_socket)) > _SOCKET_PATH_MAX:
            raise InvalidArgument.field(
                "UNKAI_LAB_ROOT", "the path is too long for a unix socket", fix="use a shorter one"
            )
        return paths

    @property
    def group(self) -> str:
        """The lab's name among cgroups: two roots may each hold a lab of the same name."""
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()
        return f"{self.folder.name}.{digest[:8]}"

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def pki(self) -> Path:
        """The CA, the administrator's certificates, and those of a scheduler that is alone."""
        return self.folder / "pki"

    @property
    def scheduler_socket(self) -> Path:
        """The socket of the lab's one scheduler; of several each has its own."""
        return self.socket(CONTROL)

    def socket(self, cell: str) -> Path:
        """Return the unix socket of the scheduler in a cell."""
        return self.cell(cell) / "scheduler.sock"

    def cell(self, cell: str) -> Path:
        """Return the cell's folder."""
        return self.folder / cell

    def log(self, cell: str, program: str) -> Path:
        """Return the log of one of the cell's programs."""
        return self.cell(cell) / "log" / f"{program}.log"


def _within(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgument.field(field, f"{value} is not within {least} to {most}")
