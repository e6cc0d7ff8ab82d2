"""Settings: the only reader of the environment."""

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
# What the integer column that counts a user's tasks can hold.
MOST_COUNTED = 2**31 - 1
OFF = "off"
NO_AUDIENCE = "none"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who makes tokens, and what verifies them: either a shared secret or the keys at an address.

    `name` and `audience` are what `iss` and `aud` must be; None where they are not checked. With `derives_ids`, `sub`
    is any text, and the user's id is made from it.
    """

    name: str | None = None
    audience: str | None = None
    secret: str | None = field(default=None, repr=False)
    jwks_url: str | None = None
    derives_ids: bool = False


_PREFIX = re.compile(r"(/[\w.~-]+)*/?", re.ASCII)
_PLAIN = re.compile(r"[!-~]+")


class Settings(BaseSettings):
    """What the operator decides; each field is read from the variable of its upper-case name or alias."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True)

    database_url: SecretStr | None = Field(
        default=None, description="The database that serves requests. Without it, an embedded PostgreSQL is started."
    )
    database_owner_url: SecretStr | None = Field(
        default=None, description="The same database as its owner, for `taskql migrate`. Never used to serve."
    )
    database_direct_url: SecretStr | None = Field(
        default=None,
        description="The same database without its pooler, for migrations. Not needed for hosts with `-pooler`.",
    )
    db_pooler: bool = Field(
        default=False, description="Whether DATABASE_URL leads through a transaction pooler; seen by itself on Neon."
    )
    auth_secret: SecretStr | None = Field(
        default=None,
        description="Signs and verifies HS256 tokens; at least 32 bytes. Needed with DATABASE_URL, or a key set.",
    )
    auth_jwks_url: str | None = Field(
        default=None,
        description="Where the issuer publishes the keys (JWKS) that verify its tokens; instead of AUTH_SECRET.",
    )
    auth_issuer: str | None = Field(default=None, description="What `iss` must be; needed with AUTH_JWKS_URL.")
    auth_audience: str | None = Field(
        default=None,
        description="What `aud` must be or hold; needed with AUTH_JWKS_URL, where `none` leaves it unchecked.",
    )
    auth_subject: str = Field(
        default="uuid", description="`uuid`: `sub` is the user's id. `derived`: the id is made from `iss` and `sub`."
    )
    auth_provision: bool = Field(
        default=False, description="Whether a user who is not there yet is made when her first token comes."
    )
    data_dir: Path = Field(
        default=Path(".taskql"),
        validation_alias="TASKQL_DATA_DIR",
        description="Where the embedded database and its signing secret live.",
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 picks a free one.")
    workers: int = Field(default=1, ge=1, description="Server processes that share the port.")
    root_path: str = Field(
        default="",
        description="The path prefix at which a proxy publishes the server, removed by it or not.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose pages may call the API, separated by commas; * for all."
    )
    db_pool_size: int = Field(
        default=15, ge=1, description="Database connections each process opens at most, and keeps."
    )
    forwarded_allow_ips: str = Field(
        default="127.0.0.1",
        description="Proxies whose X-Forwarded-For names the client: addresses, networks, or * for any peer.",
    )
    forwarded_hops: int = Field(
        default=1, ge=1, description="How many proxies stand before the server, where FORWARDED_ALLOW_IPS is *."
    )
    introspection: Literal["on", "authenticated", "off"] = Field(
        default="on", description="Who may ask for the schema."
    )
    persisted_queries: bool = Field(default=True, description="Whether documents are kept that come with their hash.")
    trusted_documents: Path | None = Field(
        default=None, description="A JSON file of ids and documents; the server answers these and no others."
    )
    limit_tokens: int = Field(default=1000, ge=1, description="Tokens of a document.")
    limit_depth: int = Field(default=10, ge=1, description="Levels of fields in an operation.")
    limit_fields: int = Field(default=500, ge=1, description="Fields of an operation, with those of its fragments.")
    limit_root_fields: int = Field(default=20, ge=1, description="Fields of Query or Mutation in an operation.")
    limit_aliases: int = Field(default=100, ge=0, description="Aliases of an operation.")
    limit_directives: int = Field(default=50, ge=0, description="Directives of an operation.")
    limit_cost: int = Field(default=2000, ge=1, description="Rows that one operation may touch.")
    limit_concurrency: int = Field(
        default=1000, ge=1, description="Requests each process answers at a time; more get 503."
    )
    limit_sockets: int = Field(
        default=100, ge=1, description="WebSockets that each user may have open with each process."
    )
    limit_tasks: int = Field(
        default=100_000, ge=1, le=MOST_COUNTED, description="Tasks each user may own, those in the trash included."
    )
    limit_subscriptions: int = Field(
        default=100,
        ge=1,
        description="Live subscriptions that each user may have with each process, however they come.",
    )
    limit_idle_connections: int = Field(
        default=1000,
        ge=1,
        description="Idle connections each process keeps, and as many whose request has not come whole.",
    )
    keep_alive_seconds: float = Field(
        default=75.0, gt=0, le=3600, description="How long an idle connection is kept; longer than a proxy keeps it."
    )
    drain_seconds: float = Field(
        default=1.0,
        ge=0,
        le=300,
        description="How long a server that is told to stop takes requests, while /readyz says 503; not with Ctrl-C.",
    )
    rate_limit: str = Field(
        default="600000/minute", description="Rows each user may ask for in a time; off for no limit."
    )
    rate_limit_anonymous: str = Field(
        default="6000/minute", description="The same for each address of callers whose token does not hold."
    )
    time_limit: str = Field(
        default="60/minute",
        description="Seconds of database and server time that each user may take, and each address of strangers.",
    )
    rate_limit_redis_url: SecretStr | None = Field(
        default=None, description="Where all processes share their counts; else each process counts for itself."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged; `info` has a line for each request."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`console`: lines for people. `auto`: those on a terminal, else JSON."
    )
    metrics: Literal["local", "on", "off"] = Field(
        default="local", description="Where METRICS_PORT listens: `local` on loopback, `on` at HOST, `off` nowhere."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="The port of /metrics; 0 picks a free one. Without it there are none.",
    )
    otel_traces_exporter: Literal["otlp", "console", "none"] | None = Field(
        default=None, description="Where traces go, with `taskql[otel]`; OpenTelemetry reads its other variables."
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, description="The collector that traces are sent to; naming one asks for traces."
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, given: str | tuple[str, ...]) -> tuple[str, ...]:
        origins = (
            given if isinstance(given, tuple) else tuple(part.strip() for part in given.split(",") if part.strip())
        )
        for origin in origins:
            if origin != ALL and normalized(origin) is None:
                raise ValueError(f"{origin!r} is no origin; write it as browsers do: https://app.example.com.")
        return origins

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies(cls, given: str) -> str:
        try:
            networks(given)
        except ValueError:
            raise ValueError(f"{given!r} must list addresses or networks, such as 10.0.0.0/8, or be *.") from None
        return given

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, given: str) -> str:
        if not _PREFIX.fullmatch(given):
            raise ValueError(f"{given!r} is no path prefix; write it as /tasks.")
        return given.rstrip("/")

    @field_validator("rate_limit_redis_url")
    @classmethod
    def _redis_url(cls, given: SecretStr | None) -> SecretStr | None:
        if given and not _is_redis_url(given.get_secret_value()):
            raise ValueError("write it as redis://host:6379/0, or rediss:// for TLS.")
        return given

    @field_validator("rate_limit", "rate_limit_anonymous", "time_limit")
    @classmethod
    def _rate(cls, given: str) -> str:
        try:
            one = given == OFF or len(limits.parse_many(given)) == 1
        except ValueError:
            one = False
        if not one:
            raise ValueError(f"write it as 1000/minute or 50/second, or {OFF}.")
        return given

    @property
    def has_metrics(self) -> bool:
        """Whether metrics are shown."""
        return self.metrics != OFF and self.metrics_port is not None

    @property
    def traces(self) -> str:
        """What sends traces: `otlp`, `console` or `none`."""
        return self.otel_traces_exporter or ("otlp" if self.otel_exporter_otlp_endpoint else "none")

    def issuers(self) -> list[Issuer]:
        """Whose tokens are taken; a StartupError names the variable that is missing or does not fit."""
        if self.auth_jwks_url is None:
            return [self._own_issuer()]
        if self.auth_secret is not None:
            raise StartupError(
                "AUTH_SECRET and AUTH_JWKS_URL are both set: keep AUTH_JWKS_URL where an issuer signs with keys of its"
                " own, AUTH_SECRET where it signs with a secret that you share"
            )
        urls = _listed(self.auth_jwks_url)
        count = len(urls)
        names = _fitting("AUTH_ISSUER", self.auth_issuer, count)
        audiences = _fitting("AUTH_AUDIENCE", self.auth_audience, count)
        subjects = _listed(self.auth_subject)
        subjects = _fitting("AUTH_SUBJECT", self.auth_subject, count) if len(subjects) > 1 else subjects * count
        if len(set(names)) < count:
            raise StartupError("AUTH_ISSUER names one issuer twice: each has one address in AUTH_JWKS_URL")
        return [_key_set_issuer(*parts) for parts in zip(urls, names, audiences, subjects, strict=True)]

    def _own_issuer(self) -> Issuer:
        secret = self.auth_secret.get_secret_value() if self.auth_secret else ""
        if not _signs(secret):
            raise StartupError(
                f"AUTH_SECRET must be text of at least {MINIMUM_SECRET_BYTES} bytes, and no key in a format of its own;"
                " make one with: openssl rand -hex 32. Or name the key set of your issuer in AUTH_JWKS_URL"
            )
        derives_ids = _derives_ids(self.auth_subject)
        if derives_ids and self.auth_issuer is None:
            raise StartupError("AUTH_SUBJECT=derived needs AUTH_ISSUER: ids are made from `iss` and `sub`")
        return Issuer(self.auth_issuer, _audience(self.auth_audience), secret, derives_ids=derives_ids)


def _is_redis_url(url: str) -> bool:
    with suppress(ValueError):
        return urlsplit(url).scheme in {"redis", "rediss"} and urlsplit(url).port != 0
    return False


def _signs(secret: str) -> bool:
    """Whether a secret is long enough, and taken by PyJWT, which refuses PEM and JWK."""
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
        return len(secret.encode()) >= MINIMUM_SECRET_BYTES
    except (jwt.InvalidKeyError, UnicodeEncodeError):
        return False


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",")]


def _fitting(variable: str, value: str | None, count: int) -> list[str]:
    """The parts of a setting that has one for each key set."""
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
    """Keys that came over an open line could be anybody's."""
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
            "AUTH_JWKS_URL must begin with https:// and name a host (http:// only for this machine), without user or"
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
    """Read the environment; `overrides` that are None leave a field to it."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checked by pydantic, not by its generated signature
    except ValidationError as error:
        raise StartupError("; ".join(_problem(dict(item)) for item in error.errors())) from None


def variable(field: str) -> str:
    """The environment variable a settings field is read from."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else field.upper()


def _problem(item: dict[str, object]) -> str:
    location = item["loc"]
    name = str(location[0]) if isinstance(location, tuple) else str(location)
    known = name if name not in Settings.model_fields else variable(name)
    return f"{known}: {item['msg']}"
