"""The settings. Only this module reads environment variables."""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import jwt
import limits
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.addresses import networks
from app.errors import StartupError
from app.origins import ALL, normalized

MINIMUM_SECRET_BYTES = 32
# The largest value of the integer column that counts a user's tasks.
MOST_COUNTED = 2**31 - 1
OFF = "off"
NO_AUDIENCE = "none"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of tokens, with a shared secret or the URL of its keys.

    `name` and `audience` are the required `iss` and `aud`; None if they are not checked. With `derives_ids`, `sub` is
    any text, and the user's id is derived from `iss` and `sub`.
    """

    name: str | None = None
    audience: str | None = None
    secret: str | None = field(default=None, repr=False)
    jwks_url: str | None = None
    derives_ids: bool = False


_PREFIX = re.compile(r"(/[\w.~-]+)*/?", re.ASCII)
_PLAIN = re.compile(r"[!-~]+")


class Settings(BaseSettings):
    """The operator's settings. Each field is read from the variable with its upper-case name, or from its alias."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True)

    database_url: SecretStr | None = Field(
        default=None,
        description="The database that serves requests: PostgreSQL 15 or newer. Without it, an embedded"
        " PostgreSQL is started.",
    )
    database_owner_url: SecretStr | None = Field(
        default=None, description="The same database as its owner, for `taskql migrate`. Never used to answer requests."
    )
    database_direct_url: SecretStr | None = Field(
        default=None,
        description="The same database without its pooler, for migrations and live changes. Not needed for hosts with"
        " `-pooler`.",
    )
    db_pooler: bool = Field(
        default=False,
        description="Whether DATABASE_URL goes through a transaction pooler. Detected for hosts with"
        " `-pooler` and URLs with `pgbouncer=true`.",
    )
    auth_secret: SecretStr | None = Field(
        default=None,
        description="Signs and verifies HS256 tokens; at least 32 bytes. DATABASE_URL requires this or AUTH_JWKS_URL.",
    )
    auth_jwks_url: str | None = Field(
        default=None,
        description="Where the issuer publishes the keys (JWKS) that verify its tokens; https. Instead of AUTH_SECRET.",
    )
    auth_issuer: str | None = Field(default=None, description="Required value of `iss`. Mandatory with AUTH_JWKS_URL.")
    auth_audience: str | None = Field(
        default=None,
        description="Value that `aud` must be or contain. Mandatory with AUTH_JWKS_URL, where `none` disables the"
        " check.",
    )
    auth_subject: str = Field(
        default="uuid", description="`uuid`: `sub` is the user's id. `derived`: the id is derived from `iss` and `sub`."
    )
    auth_provision: bool = Field(
        default=False, description="Whether the first token of an unknown user adds the user to the table `users`."
    )
    data_dir: Path = Field(
        default=Path(".taskql"),
        validation_alias="TASKQL_DATA_DIR",
        description="Directory of the embedded database and its signing secret.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    workers: int = Field(default=1, ge=1, description="Number of server processes that share the port.")
    root_path: str = Field(
        default="",
        description="Path prefix under which a proxy publishes the server, whether or not the proxy strips it.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose pages may call the API, separated by commas; * for all."
    )
    db_pool_size: int = Field(
        default=15, ge=1, description="Maximum number of database connections per process for requests. They stay open."
    )
    forwarded_allow_ips: str = Field(
        default="127.0.0.1",
        description="Proxies whose X-Forwarded-For is trusted: addresses, networks, or * for any peer.",
    )
    forwarded_hops: int = Field(
        default=1, ge=1, description="Number of proxies in front of the server, where FORWARDED_ALLOW_IPS is *."
    )
    introspection: Literal["on", "authenticated", "off"] = Field(
        default="on",
        description="Who may query the schema: `on` everybody, `authenticated` callers with a valid"
        " token, `off` nobody.",
    )
    persisted_queries: bool = Field(default=True, description="Whether to store documents that arrive with their hash.")
    trusted_documents: Path | None = Field(
        default=None, description="A JSON file of ids and documents. The server then runs only these."
    )
    limit_tokens: int = Field(default=1000, ge=1, description="Tokens in a document.")
    limit_depth: int = Field(default=10, ge=1, description="Levels of fields in an operation.")
    limit_fields: int = Field(default=500, ge=1, description="Fields in an operation, fragments expanded.")
    limit_root_fields: int = Field(default=20, ge=1, description="Fields of Query or Mutation in an operation.")
    limit_aliases: int = Field(default=100, ge=0, description="Aliases in an operation.")
    limit_directives: int = Field(default=50, ge=0, description="Directives in an operation.")
    limit_cost: int = Field(default=2000, ge=1, description="Rows that one operation may touch.")
    limit_concurrency: int = Field(
        default=1000, ge=1, description="Requests of users in progress per process; more get 503."
    )
    limit_sockets: int = Field(default=100, ge=1, description="Open WebSockets per user and process.")
    limit_tasks: int = Field(default=100_000, ge=1, le=MOST_COUNTED, description="Tasks per user, including the trash.")
    limit_lists: int = Field(default=500, ge=1, le=MOST_COUNTED, description="Lists per user, including the trash.")
    tombstone_days: int = Field(
        default=30,
        ge=1,
        le=3650,
        description="Days for which clients are told of permanent deletions, and ids of deleted tasks and lists cannot"
        " be used again. `taskql purge` then forgets them, and older copies sync from the beginning.",
    )
    limit_subscriptions: int = Field(
        default=100,
        ge=1,
        description="Live subscriptions per user and process, on WebSockets and event streams together.",
    )
    limit_idle_connections: int = Field(
        default=1000,
        ge=1,
        description="Idle HTTP connections per process, and separately connections with an incomplete request.",
    )
    keep_alive_seconds: float = Field(
        default=75.0,
        gt=0,
        le=3600,
        description="How long an idle HTTP connection stays open. Must exceed the idle timeout of the proxy in front.",
    )
    drain_seconds: float = Field(
        default=1.0,
        ge=0,
        le=300,
        description="How long a stopping server still accepts requests while /readyz answers 503. Ctrl-C skips it.",
    )
    rate_limit: str = Field(
        default="600000/minute", description="Rows that each user may request per time window; `off` for no limit."
    )
    rate_limit_anonymous: str = Field(
        default="6000/minute", description="The same for each address of callers without a valid token."
    )
    time_limit: str = Field(
        default="60/minute",
        description="Seconds of database and server time for each user, and for each address of callers without a"
        " valid token.",
    )
    rate_limit_redis_url: SecretStr | None = Field(
        default=None,
        description="Redis in which all processes share their counts. Without it each process counts on its own.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged. `info` includes a line for each request."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="`console`: readable lines. `json`: one object per line. `auto`: `console` on a"
        " terminal, otherwise `json`.",
    )
    metrics: Literal["local", "on", "off"] = Field(
        default="local", description="Where METRICS_PORT listens: `local` on loopback, `on` at HOST, `off` nowhere."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of /metrics; 0 picks a free one. Without it there are no metrics.",
    )
    otel_traces_exporter: Literal["otlp", "console", "none"] | None = Field(
        default=None, description="How traces are exported, with `taskql[otel]` installed: `otlp`, `console` or `none`."
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None,
        description="Collector for traces; setting it turns tracing on. OpenTelemetry reads its other"
        " variables itself.",
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, given: str | tuple[str, ...]) -> tuple[str, ...]:
        origins = (
            given if isinstance(given, tuple) else tuple(part.strip() for part in given.split(",") if part.strip())
        )
        for origin in origins:
            if origin != ALL and normalized(origin) is None:
                raise ValueError(f"{origin!r} is not an origin; write it like https://app.example.com, without a path.")
        return origins

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies(cls, given: str) -> str:
        try:
            networks(given)
        except ValueError:
            raise ValueError(f"{given!r} must be a list of addresses and networks, such as 10.0.0.0/8, or *.") from None
        return given

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, given: str) -> str:
        if not _PREFIX.fullmatch(given):
            raise ValueError(f"{given!r} is not a path prefix; write it like /tasks.")
        return given.rstrip("/")

    @field_validator("rate_limit_redis_url")
    @classmethod
    def _redis_url(cls, given: SecretStr | None) -> SecretStr | None:
        if given and not _is_redis_url(given.get_secret_value()):
            raise ValueError("write it like redis://host:6379/0, or rediss:// for TLS.")
        return given

    @field_validator("rate_limit", "rate_limit_anonymous", "time_limit")
    @classmethod
    def _rate(cls, given: str) -> str:
        try:
            one = given == OFF or len(limits.parse_many(given)) == 1
        except ValueError:
            one = False
        if not one:
            raise ValueError(f"write it like 1000/minute or 50/second, or {OFF}.")
        return given

    @property
    def quotas(self) -> dict[str, int]:
        """The numbers of rows that a user may own, including the trash, by the plural name of their kind."""
        return {"tasks": self.limit_tasks, "lists": self.limit_lists}

    @property
    def has_metrics(self) -> bool:
        """Whether metrics are served."""
        return self.metrics != OFF and self.metrics_port is not None

    @property
    def traces(self) -> str:
        """The exporter of traces: `otlp`, `console` or `none`."""
        return self.otel_traces_exporter or ("otlp" if self.otel_exporter_otlp_endpoint else "none")

    def issuers(self) -> list[Issuer]:
        """The accepted issuers; raises StartupError that names a missing or invalid variable."""
        if self.auth_jwks_url is None:
            return [self._own_issuer()]
        if self.auth_secret is not None:
            raise StartupError(
                "AUTH_SECRET and AUTH_JWKS_URL are both set: keep AUTH_JWKS_URL if the issuer publishes its keys,"
                " AUTH_SECRET if you share a secret with it"
            )
        urls = _listed(self.auth_jwks_url)
        count = len(urls)
        names = _fitting("AUTH_ISSUER", self.auth_issuer, count)
        audiences = _fitting("AUTH_AUDIENCE", self.auth_audience, count)
        subjects = _listed(self.auth_subject)
        subjects = _fitting("AUTH_SUBJECT", self.auth_subject, count) if len(subjects) > 1 else subjects * count
        if len(set(names)) < count:
            raise StartupError("AUTH_ISSUER names an issuer twice: each must have exactly one URL in AUTH_JWKS_URL")
        return [_key_set_issuer(*parts) for parts in zip(urls, names, audiences, subjects, strict=True)]

    def _own_issuer(self) -> Issuer:
        secret = self.auth_secret.get_secret_value() if self.auth_secret else ""
        if not _signs(secret):
            raise StartupError(
                f"AUTH_SECRET must be text of at least {MINIMUM_SECRET_BYTES} bytes, and not a PEM or JWK key;"
                " generate one with: openssl rand -hex 32. Or set AUTH_JWKS_URL to the key set of your issuer"
            )
        derives_ids = _derives_ids(self.auth_subject)
        if derives_ids and self.auth_issuer is None:
            raise StartupError("AUTH_SUBJECT=derived needs AUTH_ISSUER: ids are derived from `iss` and `sub`")
        return Issuer(self.auth_issuer, _audience(self.auth_audience), secret, derives_ids=derives_ids)


def _is_redis_url(url: str) -> bool:
    with suppress(ValueError):
        return urlsplit(url).scheme in {"redis", "rediss"} and urlsplit(url).port != 0
    return False


def _signs(secret: str) -> bool:
    """Whether a secret is long enough, and PyJWT accepts it: it rejects PEM and JWK."""
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
        return len(secret.encode()) >= MINIMUM_SECRET_BYTES
    except (jwt.InvalidKeyError, UnicodeEncodeError):
        return False


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",")]


def _fitting(variable: str, value: str | None, count: int) -> list[str]:
    """The parts of a setting that must have one part for each key set."""
    parts = _listed(value) if value else []
    if len(parts) != count or not all(parts):
        hint = f"; set AUTH_AUDIENCE={NO_AUDIENCE} if the tokens have none" if variable == "AUTH_AUDIENCE" else ""
        raise StartupError(
            f"{variable} must have as many parts as AUTH_JWKS_URL, separated by commas: {count}, not {len(parts)}{hint}"
        )
    return parts


def _key_set_issuer(url: str, name: str, audience: str, subject: str) -> Issuer:
    return Issuer(name, _audience(audience), jwks_url=_key_set_url(url), derives_ids=_derives_ids(subject))


def _key_set_url(url: str) -> str:
    """Check the URL of a key set: without TLS, anybody on the network could replace the keys."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        usable = (
            safe
            and bool(parts.hostname)
            and parts.username is None
            and parts.port != 0
            and _PLAIN.fullmatch(url) is not None
        )
    except ValueError:
        usable = False
    if not usable:
        raise StartupError(
            "AUTH_JWKS_URL must be an https:// URL with a host (http:// only for this machine), without user and"
            " password"
        )
    return url


def _audience(value: str | None) -> str | None:
    return None if value == NO_AUDIENCE else value


def _derives_ids(value: str) -> bool:
    if value not in {"uuid", "derived"}:
        raise StartupError(f"AUTH_SUBJECT must be uuid or derived, not {value!r}")
    return value == "derived"


def load(**overrides: object) -> Settings:
    """Read the settings from the environment, except for `overrides` that are not None."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checked by pydantic, not by its generated signature
    except ValidationError as error:
        raise StartupError("; ".join(_problem(dict(item)) for item in error.errors())) from None


def variable(field: str) -> str:
    """The environment variable of a field of the settings."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else field.upper()


def _problem(item: dict[str, object]) -> str:
    location = item["loc"]
    name = str(location[0]) if isinstance(location, tuple) else str(location)
    known = name if name not in Settings.model_fields else variable(name)
    return f"{known}: {str(item['msg']).removeprefix('Value error, ')}"
