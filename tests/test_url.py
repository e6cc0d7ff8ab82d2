"""Database URLs as hosting providers show them, and settings of issuers: what is accepted and what is rejected."""

import ssl
from typing import Any

import pytest
from conftest import SECRET, Server, connect, made_settings, running
from issuer import made_key
from pydantic import SecretStr

from app import settings as configuration
from app.database.database import SESSION
from app.database.url import CONNECT_TIMEOUT, DatabaseURL, owner_url, server_url
from app.errors import StartupError
from app.settings import Issuer, Settings

NEON = "postgresql://neondb_owner:npg_abc@ep-cool-rain-123.eu-central-1.aws.neon.tech/neondb"
NEON_POOLED = "postgresql://neondb_owner:npg_abc@ep-cool-rain-123-pooler.eu-central-1.aws.neon.tech/neondb"
PRINTED = "?sslmode=require&channel_binding=require"
HEROKU = "postgres://u9abc:p1a2b3@ec2-52-1-2-3.compute-1.amazonaws.com:5432/d5xyz"
RDS = "postgresql://app:s3cret@db.abc123.eu-west-1.rds.amazonaws.com:5432/app"
SUPABASE = "postgresql://postgres.abc:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres"


def arguments(url: str, **more: Any) -> dict[str, Any]:
    return DatabaseURL(url, **more).connect_arguments(SESSION)


@pytest.mark.parametrize("url", [NEON + PRINTED, NEON_POOLED + PRINTED, NEON + "?sslmode=require", NEON])
def test_neon_is_verified(url: str) -> None:
    """Neon's public certificate and host name are verified, whatever sslmode is given."""
    tls = arguments(url)["ssl"]

    assert isinstance(tls, ssl.SSLContext)
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_neons_pooler() -> None:
    """A host with -pooler gets no statement cache, and no settings that the pooler would reject."""
    pooled, direct = arguments(NEON_POOLED + PRINTED), arguments(NEON + PRINTED)

    assert pooled["statement_cache_size"] == 0
    assert set(pooled["server_settings"]) == {"application_name", "timezone"}
    assert "statement_cache_size" not in direct
    assert set(SESSION) < set(direct["server_settings"])


def test_the_way_around_neons_pooler() -> None:
    """The direct URL is the same without -pooler, with the password."""
    direct = DatabaseURL(NEON_POOLED + PRINTED).direct

    assert direct.sqlalchemy.render_as_string(hide_password=False) == NEON.replace("postgresql:", "postgresql+asyncpg:")
    assert not direct.pooled
    assert isinstance(direct.tls, ssl.SSLContext)
    assert direct.direct is direct


def test_neons_endpoint_option() -> None:
    """`options=endpoint…`, Neon's option for clients without SNI, is passed to the server."""
    for url in (
        f"{NEON}?options=endpoint%3Dep-cool-rain-123&sslmode=require",
        f"{NEON}?options=endpoint=ep-cool-rain-123",
    ):
        assert arguments(url)["server_settings"]["options"] == "endpoint=ep-cool-rain-123"


def test_a_sleeping_database_has_time_to_wake() -> None:
    """Neon gets a longer connection timeout, and connect_timeout overrides it."""
    assert arguments(NEON)["timeout"] > CONNECT_TIMEOUT == arguments(HEROKU)["timeout"]
    assert arguments(NEON + "?connect_timeout=15")["timeout"] == 15


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_schemes(scheme: str) -> None:
    """All common schemes select the same driver."""
    url = DatabaseURL(f"{scheme}://app:secret@host:6000/db")

    assert url.sqlalchemy.render_as_string(hide_password=False) == "postgresql+asyncpg://app:secret@host:6000/db"


def test_herokus_url() -> None:
    """A Heroku URL has no parameters: TLS is used if the server supports it."""
    assert arguments(HEROKU)["ssl"] == "prefer"
    assert DatabaseURL(HEROKU).role == "u9abc"


@pytest.mark.parametrize(
    ("mode", "verifies", "names"),
    [
        ("sslmode=verify-full", True, True),
        ("sslmode=verify-full&sslrootcert=system", True, True),
        ("sslmode=verify-full&sslrootcert={ca}", True, True),
        ("sslmode=verify-ca&sslrootcert={ca}", True, False),
        ("sslmode=require&sslrootcert={ca}", True, False),
    ],
)
def test_rds_with_its_bundle(mode: str, verifies: bool, names: bool) -> None:  # noqa: FBT001 - test parameters
    """The parameters sslmode and sslrootcert have libpq's meaning."""
    ca = ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile
    tls = arguments(f"{RDS}?{mode.format(ca=ca)}")["ssl"]

    assert isinstance(tls, ssl.SSLContext)
    assert (tls.verify_mode is ssl.CERT_REQUIRED, tls.check_hostname) == (verifies, names)


@pytest.mark.parametrize(
    ("mode", "given"), [("disable", False), ("allow", "allow"), ("prefer", "prefer"), ("require", "require")]
)
def test_encryption_without_verification(mode: str, given: object) -> None:
    """Other sslmodes are passed to the driver."""
    assert arguments(f"{RDS}?sslmode={mode}")["ssl"] == given


def test_a_declared_pooler() -> None:
    """DB_POOLER=1 and Prisma's pgbouncer=true declare a pooler that the host name does not show."""
    for told in (arguments(SUPABASE, pooled=True), arguments(SUPABASE + "?pgbouncer=true")):
        assert told["statement_cache_size"] == 0
        assert "statement_timeout" not in told["server_settings"]
    assert "statement_cache_size" not in arguments(SUPABASE)
    assert "statement_cache_size" not in arguments(SUPABASE + "?pgbouncer=false")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (RDS + "?sslmod=require", "sslmod"),
        (RDS + "?connection_limit=1&pool_timeout=0", "connection_limit, pool_timeout"),
        (NEON_POOLED + "?sslmode=require&channel_bindings=require", "channel_bindings"),
        (RDS + "?sslmode=verify", "sslmode, 'verify'; use one of allow"),
        (RDS + "?connect_timeout=soon", "connect_timeout"),
        (RDS + "?sslmode=verify-full&sslrootcert=/nope", "/nope"),
        ("mysql://u:s3cret@host/db", "postgresql://"),
        (RDS + "?connect_timeout=nan", "connect_timeout"),
        (RDS + "?connect_timeout=0", "connect_timeout"),
        ("postgresql://u:s3cret@host:5x/db", "postgresql://user:password@host:5432/database"),
        ("postgresql://u:a@s3cret@host/db", "%40"),
        ("postgresql://u:s3cret@host:65536/db", "port"),
        ("postgresql://u:s3cret@/db?host=/tmp&port=http", "port"),
        ("s3cret", "postgresql://user:password@host:5432/database"),
        ("", "postgresql://user:password@host:5432/database"),
    ],
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_OWNER_URL"])
def test_what_is_wrong_is_named(url: str, words: str, variable: str) -> None:
    """An error names the variable and the problem, but never the password."""
    with pytest.raises(StartupError) as caught:
        DatabaseURL(url, variable=variable)

    assert str(caught.value).startswith(variable)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_printing_a_url_hides_its_password() -> None:
    assert "npg_abc" not in f"{DatabaseURL(NEON)} {DatabaseURL(NEON_POOLED).direct}"


def test_which_url_migrates() -> None:
    """Migrations use the owner's URL or else the server's, and the direct URL of a pooler."""

    def host(**given: str) -> str:
        return owner_url(Settings(**{name: SecretStr(value) for name, value in given.items()})).host  # type: ignore[arg-type]  # all are URLs

    direct = "ep-cool-rain-123.eu-central-1.aws.neon.tech"
    assert host(database_url=NEON_POOLED) == direct
    assert host(database_url=RDS, database_owner_url=NEON_POOLED) == direct
    assert host(database_url=SUPABASE, database_direct_url=HEROKU) == DatabaseURL(HEROKU).host
    assert server_url(Settings(database_url=SecretStr(SUPABASE), db_pooler=True)).direct.pooled


@pytest.mark.parametrize("query", ["&options=-c%20search_path%3Dpublic", "&application_name=mine", "&sslmode=prefer"])
async def test_parameters_reach_a_real_server(server: Server, settings: Settings, query: str) -> None:
    """PostgreSQL accepts the parameters that are passed on."""
    del settings
    given = Server(server.owner_url, server.app_url + query)
    async with running(made_settings(given)) as application:
        assert (await application.http.get("/readyz")).status_code == 200
        if "application_name" in query:
            owner = await connect(server.owner_url)
            seen = await owner.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'")
            await owner.close()
            assert seen == 1


JWKS = {"AUTH_JWKS_URL": "https://auth.example/jwks", "AUTH_ISSUER": "https://auth.example", "AUTH_AUDIENCE": "taskql"}


def issuers(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[Issuer]:
    """The issuers in an environment."""
    for name in (*JWKS, "AUTH_SECRET", "AUTH_SUBJECT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return configuration.load().issuers()


def test_an_issuer_with_a_key_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key set needs an issuer and an audience."""
    (issuer,) = issuers(monkeypatch, **JWKS)

    assert issuer == Issuer("https://auth.example", "taskql", None, "https://auth.example/jwks")


def test_an_audience_is_left_out_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTH_AUDIENCE=none accepts tokens without an audience, like Clerk's."""
    (issuer,) = issuers(monkeypatch, **JWKS | {"AUTH_AUDIENCE": "none"})

    assert issuer.audience is None


def test_lists_of_issuers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several issuers are lists of equal length."""
    found = issuers(
        monkeypatch,
        AUTH_JWKS_URL="https://a.example/jwks, https://b.example/jwks",
        AUTH_ISSUER="https://a.example,https://b.example",
        AUTH_AUDIENCE="taskql,none",
        AUTH_SUBJECT="uuid,derived",
    )

    assert found == [
        Issuer("https://a.example", "taskql", None, "https://a.example/jwks"),
        Issuer("https://b.example", None, None, "https://b.example/jwks", derives_ids=True),
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AUTH_ISSUER": ""}, "AUTH_ISSUER must have as many parts"),
        ({"AUTH_AUDIENCE": ""}, "AUTH_AUDIENCE must have as many parts .* set AUTH_AUDIENCE=none"),
        ({"AUTH_SECRET": SECRET}, "AUTH_SECRET and AUTH_JWKS_URL are both set"),
        ({"AUTH_ISSUER": "https://a.example,https://b.example"}, "AUTH_ISSUER must have as many parts.* 1, not 2"),
        ({"AUTH_AUDIENCE": "taskql,,"}, "AUTH_AUDIENCE must have as many parts"),
        ({"AUTH_SUBJECT": "uuid,derived"}, "AUTH_SUBJECT must have as many parts"),
        ({"AUTH_SUBJECT": "email"}, "AUTH_SUBJECT must be uuid or derived"),
        ({"AUTH_JWKS_URL": "http://auth.example/jwks"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "ftp://auth.example/jwks"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "https://"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "https://u:p@auth.example/jwks"}, "without user and password"),
        ({"AUTH_JWKS_URL": "https://auth.example:port/jwks"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "http://localhost.example/jwks"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "https://auth example/jwks"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "https://auth.example/\x7f"}, "AUTH_JWKS_URL must be an https:// URL"),
        ({"AUTH_JWKS_URL": "jwks"}, "AUTH_JWKS_URL must be an https:// URL"),
        (
            {"AUTH_JWKS_URL": "https://a.example/1,https://a.example/2", "AUTH_ISSUER": "a,a", "AUTH_AUDIENCE": "b,c"},
            "AUTH_ISSUER names an issuer twice",
        ),
    ],
)
def test_invalid_issuers(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], words: str) -> None:
    """An error names the missing or inconsistent variable and the fix."""
    with pytest.raises(StartupError, match=words):
        issuers(monkeypatch, **JWKS | changed)


@pytest.mark.parametrize("url", ["http://localhost:3000/jwks", "http://127.0.0.1/jwks", "http://[::1]:3000/jwks"])
def test_a_local_key_set_needs_no_tls(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A key set on localhost may use plain HTTP."""
    assert issuers(monkeypatch, **JWKS | {"AUTH_JWKS_URL": url})[0].jwks_url == url


@pytest.mark.parametrize(
    "secret",
    [
        "short",
        "\udcff" * 40,
        made_key("EdDSA").pem().decode(),
        '{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}',
    ],
)
def test_an_invalid_secret(secret: str) -> None:
    """A secret that is short, not text, a PEM key or a JWK is rejected at startup."""
    with pytest.raises(StartupError, match="openssl rand"):
        Settings(auth_secret=SecretStr(secret)).issuers()


def test_derived_ids_need_an_issuer() -> None:
    """Ids cannot be derived without AUTH_ISSUER."""
    with pytest.raises(StartupError, match="AUTH_SUBJECT=derived needs AUTH_ISSUER"):
        Settings(auth_secret=SecretStr(SECRET), auth_subject="derived").issuers()


def test_settings_show_no_secret() -> None:
    """The representations of settings and issuers contain no secret."""
    given = Settings(auth_secret=SecretStr(SECRET), database_url=SecretStr(NEON))

    assert SECRET not in repr(given) + repr(given.issuers())
    assert "npg_abc" not in repr(given)
