"""Settings: the only reader of the environment."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import StartupError

MINIMUM_SECRET_BYTES = 32
_ORIGIN = re.compile(r"https?://[^/\s,?#*]+")


class Settings(BaseSettings):
    """What the operator decides; each field is read from the variable of its upper-case name or alias."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    database_url: SecretStr | None = Field(
        None, description="The database that serves requests. Without it, an embedded PostgreSQL is started."
    )
    database_owner_url: SecretStr | None = Field(
        None, description="The same database as its owner, for `taskql migrate`. Never used to serve."
    )
    auth_secret: SecretStr | None = Field(
        None, description="Signs and verifies HS256 tokens; at least 32 bytes. Needed with DATABASE_URL."
    )
    auth_issuer: str | None = Field(None, description="When set, tokens must carry this `iss`.")
    auth_audience: str | None = Field(None, description="When set, tokens must carry this `aud`.")
    data_dir: Path = Field(
        Path(".taskql"),
        validation_alias="TASKQL_DATA_DIR",
        description="Where the embedded database and its signing secret live.",
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 picks a free one.")
    workers: int = Field(1, ge=1, description="Server processes that share the port.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, separated by commas; * for all."
    )
    db_pool_size: int = Field(15, ge=1, description="Database connections each process opens at most, and keeps.")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, given: str | tuple[str, ...]) -> tuple[str, ...]:
        origins = (
            given if isinstance(given, tuple) else tuple(part.strip() for part in given.split(",") if part.strip())
        )
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; write it as browsers do: https://app.example.com.")
        return origins

    def secret(self) -> str:
        """The HS256 secret, or a StartupError that says how to make one."""
        secret = self.auth_secret.get_secret_value() if self.auth_secret else ""
        if len(secret.encode()) < MINIMUM_SECRET_BYTES:
            raise StartupError(
                f"AUTH_SECRET must be at least {MINIMUM_SECRET_BYTES} bytes long; make one with: openssl rand -hex 32"
            )
        return secret


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
