"""The scheduler's settings: one frozen tree, from a TOML file and the environment.

`UNKAI_SCHEDULER_*` wins over the file, `__` nests: `UNKAI_SCHEDULER_ETCD__ENDPOINTS`. An unknown
key is refused with its name and where it stands, so that a misspelt one is never silently
ignored. Each field says its unit and why it has its default. All is checked at start; nothing
here opens or connects.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.network_settings import NetworkSettings
from unkai_scheduler.tls_settings import PKI, TlsSettings
from unkai_wire.setting_values import problem_of, split_address
from unkai_wire.tracing import check_endpoint

DEFAULT_FILE = Path("/etc/unkai/scheduler.toml")
ENV_PREFIX = "UNKAI_SCHEDULER_"
_STATE = Path("/var/lib/unkai/scheduler")
_DAY_S = 86_400.0


class InvalidSettings(Exception):
    """The settings cannot be used. `problems`: one sentence each, naming key and source."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def default_name() -> str:
    """Return the machine's host name as a scheduler's name: lower case, at most 50 characters."""
    return socket.gethostname().lower()[:50]


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,49}", text):
        raise ValueError(f"{text[:64]!r} is not 1 to 50 of a-z, 0-9, . and -")
    return text


def _address(text: str) -> str:
    split_address(text)
    return text


def _optional_address(text: str) -> str:
    return _address(text) if text else text


def _image_url(text: str) -> str:
    parts = urlsplit(text)
    if not (parts.scheme == "file" and parts.path) and not (parts.scheme == "s3" and parts.netloc):
        raise ValueError(f"{text!r} is neither file:///DIRECTORY nor s3://BUCKET/PREFIX")
    return text


def _decision_log_url(text: str) -> str:
    return _image_url(text) if text else text


Address = Annotated[str, AfterValidator(_address)]
OptionalAddress = Annotated[str, AfterValidator(_optional_address)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EtcdTlsSettings(TlsSettings):
    """Where the PEM files lie that we show to etcd."""

    certificate: Path = PKI / "etcd-client.crt"
    key: Path = PKI / "etcd-client.key"


class EtcdSettings(_Part):
    """Where membership and leadership are kept."""

    endpoints: tuple[Address, ...] = Field(default=("127.0.0.1:2379",), min_length=1)
    """Client addresses of the members, `HOST:PORT`; all are tried in turn."""
    tls: EtcdTlsSettings = EtcdTlsSettings()
    """Our credentials towards etcd."""


class ImageSettings(_Part):
    """Where image bytes live, and how large they may be."""

    url: Annotated[str, AfterValidator(_image_url)] = f"file://{_STATE}/images"
    """`file:///absolute/path`, or `s3://bucket/prefix` (credentials by the AWS_* environment)."""
    max_size_bytes: int = Field(default=64 << 30, ge=1 << 20)
    """Largest upload in bytes: one user must not fill the store for all."""
    upload_idle_s: float = Field(default=60.0, gt=0)
    """Seconds an upload may be silent before it is given up: a dead client must not hold it."""
    upload_wait_s: float = Field(default=86_400.0, ge=60)
    """Seconds after its creation for which an image may wait for its bytes; then it is FAILED."""
    reserve_bytes: int = Field(default=512 << 20, ge=0)
    """Room that uploads leave free on a directory's disk: the database is on it too, by default."""
    max_uploads: int = Field(default=16, ge=1, le=1024)
    """Uploads taken at once; more are told to come back. Each may hold 48 MiB of memory."""


class RatioSettings(_Part):
    """How far claims may exceed what a host has."""

    cpu: float = Field(default=4.0, ge=0.1, le=64)
    """Virtual CPUs per CPU: guests rarely all compute at once, and live load steers the rest."""
    memory: float = Field(default=1.0, ge=0.1, le=4)
    """Memory is not overcommitted by default: guests do not give it back."""
    disk: float = Field(default=1.0, ge=0.1, le=16)
    """Disks grow into their claims; above 1 they may run out."""


class WeightSettings(_Part):
    """Weights of the score's terms, each 0 to 255.

    CPU, memory and I/O count the same; CPU's share is split between its two terms. The policy's is
    small on purpose: one load term gone bad outweighs all that packing or spreading can say, so
    that a loaded host loses to any idle one that fits.
    """

    policy: int = Field(default=12, ge=0, le=255)
    """Packing or spreading: decides among hosts whose load is much the same."""
    cpu_load: int = Field(default=60, ge=0, le=255)
    """CPU in use, and what machines just placed will use."""
    cpu_wait: int = Field(default=60, ge=0, le=255)
    """Waiting for CPUs."""
    memory_pressure: int = Field(default=120, ge=0, le=255)
    """Memory running out, held by what is not ours, or waited for."""
    io_pressure: int = Field(default=120, ge=0, le=255)
    """Waiting for I/O."""
    preferred_traits: int = Field(default=60, ge=0, le=255)
    """The share of the traits that an instance prefers; counts only where it prefers any. It
    outweighs packing and spreading, and none of CPU, memory and I/O gone bad."""
    group: int = Field(default=60, ge=0, le=255)
    """Being where a soft placement group wants it; counts only for instances of one. It outweighs
    packing and spreading, and none of CPU, memory and I/O gone bad."""


class PlacementSettings(_Part):
    """How hosts are chosen."""

    policy: Literal["pack", "spread"] = "spread"
    """For instances that name none: spread keeps a host's loss small."""
    ratios: RatioSettings = RatioSettings()
    """Allocation ratios."""
    weights: WeightSettings = WeightSettings()
    """Weights of the score's terms."""
    max_metric_age_s: float = Field(default=10.0, ge=2, le=120)
    """Seconds after which a sample is no number any more; agents send one every 2 s."""


class ReconcileSettings(_Part):
    """The leader's rhythm."""

    resync_s: float = Field(default=2.0, gt=0, le=60)
    """Seconds between looks for due rows without a wake: what a lost hint costs at most."""
    batch_size: int = Field(default=256, ge=1, le=4096)
    """Rows taken in one look: bounds one placement transaction."""
    agent_calls: int = Field(default=64, ge=1, le=1024)
    """Calls to agents under way at once, over all hosts."""
    backoff_base_s: float = Field(default=0.5, gt=0)
    """First wait before a step is tried again; doubles each time, with jitter."""
    backoff_cap_s: float = Field(default=30.0, gt=0)
    """Longest such wait."""
    create_hosts: int = Field(default=3, ge=1, le=16)
    """Hosts a create is tried on before it fails."""
    sequencer_s: float = Field(default=0.05, gt=0, le=1)
    """Seconds between stampings of new events: what a watcher waits at most."""
    audit_s: float = Field(default=60.0, gt=0)
    """Seconds between audits of database against hosts."""


class RetentionSettings(_Part):
    """How long histories are kept, so that the database does not grow for ever."""

    prune_s: float = Field(default=300.0, gt=0, le=86_400)
    """Seconds between prunings: what is too old goes in small pieces."""
    events: int = Field(default=100_000, ge=1000)
    """Newest events kept, by number; a watcher further behind must list anew."""
    operations_s: float = Field(default=30 * _DAY_S, ge=3600)
    """Seconds an operation is kept after its end: who asks what happened asks within a month."""
    requests_s: float = Field(default=7 * _DAY_S, ge=3600)
    """Seconds the answer to a request id is kept: callers repeat within minutes, and a week covers
    the longest wait for capacity."""
    tombstones_s: float = Field(default=365 * _DAY_S, ge=7 * _DAY_S)
    """Seconds a removal is remembered. A machine that a host brings back later counts as an orphan:
    kept and reported, never removed. So as long as a host may be away."""


class DecisionLogSettings(_Part):
    """The log from which placement decisions are replayed."""

    enabled: bool = True
    """Whether decisions are logged."""
    url: Annotated[str, AfterValidator(_decision_log_url)] = ""
    """Where its segments live, as `images.url`; empty: beside the images, `images.url` with
    `-decisions` after it (in a bucket without a prefix: `decisions`). Schedulers share it, or each
    replays its own decisions alone."""
    segment_s: float = Field(default=300.0, ge=1, le=86_400)
    """Seconds after which a segment is stored: what a crash of the leader loses at most."""
    segment_bytes: int = Field(default=8 << 20, ge=1 << 16, le=64 << 20)
    """Bytes of memory after which it is stored: a replay plays a whole segment, in a second."""
    kept_s: float = Field(default=7 * _DAY_S, ge=60)
    """Seconds a segment is kept after its last decision: who asks why asks within a week."""
    kept_bytes: int = Field(default=2 << 30, ge=1 << 20)
    """Bytes of all segments kept: the oldest go first, so that a disk is never full of them."""


class TracingSettings(_Part):
    """Traces of API calls, sent to an OpenTelemetry collector; needs `unkai[tracing]`."""

    endpoint: Annotated[str, AfterValidator(check_endpoint)] = ""
    """`https://HOST:PORT` of the collector (OTLP over gRPC, our certificates), or `http://` on this
    machine; empty: no traces, at no cost."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of the calls without a trace of their own that begin one."""


class Settings(BaseSettings):
    """All settings of the scheduler."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    name: Annotated[str, AfterValidator(_name)] = Field(default_factory=default_name)
    """This scheduler's name, unique among schedulers; the machine's host name by default."""
    listen: Address = "0.0.0.0:7443"
    """`HOST:PORT` of the gRPC server (mTLS)."""
    advertise: OptionalAddress = ""
    """`HOST:PORT` at which agents and schedulers reach us; empty: `listen`, and where that is
    all addresses, the machine's host name."""
    socket: Path = Path("/run/unkai/scheduler.sock")
    """Unix socket (mode 0600) for root on this machine."""
    metrics_listen: OptionalAddress = "0.0.0.0:9443"
    """`HOST:PORT` of the Prometheus endpoint (mTLS); empty: none."""
    tls: TlsSettings = TlsSettings()
    """Our credentials."""
    database: DatabaseSettings = DatabaseSettings()
    """Desire and ownership."""
    images: ImageSettings = ImageSettings()
    """Image bytes."""
    etcd: EtcdSettings = EtcdSettings()
    """Membership and leadership."""
    network: NetworkSettings = NetworkSettings()
    """Virtual networks."""
    placement: PlacementSettings = PlacementSettings()
    """How hosts are chosen."""
    decision_log: DecisionLogSettings = DecisionLogSettings()
    """The log from which placement decisions are replayed."""
    reconcile: ReconcileSettings = ReconcileSettings()
    """The leader's rhythm."""
    retention: RetentionSettings = RetentionSettings()
    """How long histories are kept."""
    tracing: TracingSettings = TracingSettings()
    """Traces of API calls."""
    log_format: Literal["json", "console"] = "json"
    """How log lines look on standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level logged."""
    shutdown_grace_s: float = Field(default=5.0, ge=0, le=120)
    """Seconds that calls under way get to end after SIGTERM."""

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

    @property
    def decision_log_url(self) -> str:
        """Where segments of the decision log live."""
        images = self.images.url.rstrip("/")
        suffix = "-decisions" if urlsplit(images).path else "/decisions"  # else: a whole bucket
        return self.decision_log.url or images + suffix

    @property
    def advertise_metrics_address(self) -> str:
        """`HOST:PORT` at which Prometheus reaches us; empty when it does not."""
        if not self.metrics_listen:
            return ""
        host, port = split_address(self.metrics_listen)
        if host in ("0.0.0.0", "::"):
            host, _ = split_address(self.advertise_address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def advertise_address(self) -> str:
        """`HOST:PORT` at which others reach us."""
        if self.advertise:
            return self.advertise
        host, port = split_address(self.listen)
        return f"{socket.gethostname() if host in ('0.0.0.0', '::') else host}:{port}"


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
        raise InvalidSettings(
            problems + [_sentence(e, values, file) for e in error.errors()]
        ) from error
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


def _sentence(error: Any, values: dict[str, Any], file: Path) -> str:
    location = tuple(str(part) for part in error["loc"])
    variable = ENV_PREFIX + "__".join(location).upper()
    in_environment = any(
        variable == name.upper() or variable.startswith(name.upper() + "__") for name in os.environ
    ) and not (_contains(values, location) and variable not in os.environ)
    source = f"environment: {variable}" if in_environment else f"{file}: {'.'.join(location)}"
    if error["type"] == "extra_forbidden":
        return f"{source}: no such setting"
    return f"{source}: {problem_of(error)}"


def _contains(values: Any, location: tuple[str, ...]) -> bool:
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
