"""What a team may leak: the table of secrets. Each entry has the shape that its issuer documents."""

from __future__ import annotations

from collections.abc import Iterable

from asm_core.domain.secret_pattern import units_of
from asm_core.domain.secret_rule import AnyRule, Armour, Assignment, Rule, rule_of


def _tokens(category: str, *patterns: str, any_case: bool = False, joiner: str = "") -> list[AnyRule]:
    return [rule_of(category, pattern, any_case=any_case, joiner=joiner) for pattern in patterns]


def _named(category: str, names: str, triggers: str) -> list[AnyRule]:
    return [Assignment(category=category, names=tuple(names.split()), triggers=tuple(triggers.split()))]


def _keys(category: str) -> list[AnyRule]:
    """Key files: RSA, EC, OPENSSH, ENCRYPTED, PGP, …: up to two words before, one behind."""
    return [
        Rule(
            category=category,
            pattern=f"-----BEGIN {words}PRIVATE KEY[A-Z ]{{0,16}}-----",
            anchors=("-----BEGIN ",),
            any_case=False,
            rest=tuple(units_of(f"{words}PRIVATE KEY[A-Z ]{{0,16}}-{{5}}")),
            tail=Armour(),
        )
        for words in ("", "[A-Z0-9]{1,16} ", "[A-Z0-9]{1,16} [A-Z0-9]{1,16} ")
    ]


_URL = r"[^\s\"'`<>\\{}|^]"
_ID = "[A-Za-z0-9_-]"
_USER, _USER_INFO = r"[^\s/:@\"'`<>\\\[\]]", r"[^\s/@\"'`<>\\\[\]]"
_SCHEME = r"\\{0,31}[\"'`]?\s{0,4}[:=]\s{0,4}\\{0,31}[\"'`]?[a-z]{3,16}\s{1,4}"
"""Of an authorization header, up to the credentials."""
_OPTION = r"[^\s\"'`,;}\]\\{\[-][^\s\"'`,;}\]\\]+"
_GITLAB = ("dt", "rt", "ptt", "ft", "soat", "cbt", "agent", "oas")
_STRIPE = ("sk_live", "sk_test", "rk_live", "rk_test")
_SCHEMES = ("postgres", "mysql", "redis", "mongodb", "amqp", "mssql")
_MORE_SCHEMES = ("mariadb", "cockroachdb", "clickhouse", "sqlserver", "snowflake", "oracle", "nats", "kafka")


def _dsns(category: str, schemes: Iterable[str]) -> list[AnyRule]:
    return _tokens(category, *(f"{scheme}[+a-z0-9]{{0,16}}://{_URL}+" for scheme in schemes), any_case=True)


DEFAULT: tuple[AnyRule, ...] = (
    *_tokens("aws_access_key", "AKIA[0-9A-Z]{16}"),
    *_named("aws_secret_key", "aws_secret_access_key", "aws"),
    *_tokens("gcp_api_key", f"AIza{_ID}{{35}}"),
    *_tokens("anthropic_key", f"sk-ant-{_ID}{{16,}}"),
    *_tokens("openai_key", f"sk-proj-{_ID}{{20,}}", f"sk-svcacct-{_ID}{{20,}}", f"sk-admin-{_ID}{{20,}}"),
    *_tokens("openai_legacy_key", "sk-[a-zA-Z0-9]{40,}"),
    *_tokens("github_pat", "ghp_[a-zA-Z0-9]{36,}"),
    *_tokens("github_oauth", "gho_[a-zA-Z0-9]{36,}"),
    *_tokens("github_app", "ghs_[a-zA-Z0-9]{36,}"),
    *_tokens("github_refresh", "ghr_[a-zA-Z0-9]{36,}"),
    *_tokens("github_fine_pat", "github_pat_[a-zA-Z0-9_]{22,}"),
    *_tokens("gitlab_token", f"glpat-{_ID}{{20,}}", joiner="."),
    # two parts are enough: signed cookies have no third, and a long payload would keep the stream waiting for it
    *_tokens("jwt_token", rf"eyJ{_ID}{{10,240}}\.{_ID}{{10,}}", joiner="."),
    *_tokens("bearer_token", r"bearer\s{1,16}[a-z0-9._~+/=-]{20}[a-z0-9_~+/=-]*", any_case=True, joiner="."),
    *_named("password", "password passwd pwd", "pass pwd"),
    *_named("api_key_generic", "api_key", "api"),
    *_named("secret_key", "secret_key", "secret"),
    *_named("access_token", "access_token", "access"),
    *_named("auth_token", "auth_token", "auth"),
    *_dsns("connection_string", _SCHEMES),
    *_keys("private_key"),
    *_named(
        "env_secret",
        "database_url redis_url secret_key_base encryption_key private_key",
        "url base encryption private",
    ),
)
"""The 22 categories of the reference, in its order (spec/02 §16.2), each as wide as W22 asks for."""

EXTENDED: tuple[AnyRule, ...] = (
    *_tokens("aws_temporary_key", "ASIA[0-9A-Z]{16}"),
    *_tokens("github_user_token", "ghu_[a-zA-Z0-9]{36,}"),
    *_tokens(
        "gitlab_other_token",
        *(f"gl{kind}-{_ID}{{20,}}" for kind in _GITLAB),
    ),
    *_tokens("slack_token", *(f"xox{kind}-[A-Za-z0-9-]{{10,}}" for kind in "abceoprs"), "xapp-[A-Za-z0-9-]{10,}"),
    *_tokens("slack_webhook", r"hooks\.slack\.com/[a-z]{1,12}/[A-Za-z0-9/]{20,}"),
    *_tokens("discord_webhook", rf"/api/webhooks/[0-9]{{15,20}}/{_ID}{{40,}}"),
    *_tokens("npm_token", "npm_[A-Za-z0-9]{36,}"),
    *_tokens("pypi_token", f"pypi-AgE{_ID}{{32,}}"),
    *_tokens("rubygems_key", "rubygems_[a-f0-9]{40,}"),
    *_tokens("docker_token", f"dckr_pat_{_ID}{{20,}}", f"dckr_oat_{_ID}{{20,}}"),
    *_tokens("stripe_key", *(f"{kind}_[A-Za-z0-9]{{16,}}" for kind in _STRIPE)),
    *_tokens("stripe_webhook", "whsec_[A-Za-z0-9+/=]{24,}"),
    *_tokens("google_oauth", rf"ya29\.{_ID}{{20,}}", f"GOCSPX-{_ID}{{20,}}", f"1//0{_ID}{{30,}}", joiner="."),
    *_tokens("azure_client_secret", r"7Q~[A-Za-z0-9_.~-]{31,}", r"8Q~[A-Za-z0-9_.~-]{31,}"),
    *_tokens("azure_signature", "sig=[A-Za-z0-9%/+]{30,}"),
    *_tokens("huggingface_token", "hf_[A-Za-z0-9]{30,}", "api_org_[A-Za-z0-9]{30,}"),
    *_tokens("groq_key", "gsk_[A-Za-z0-9]{40,}"),
    *_tokens("xai_key", f"xai-{_ID}{{60,}}"),
    *_tokens("perplexity_key", "pplx-[A-Za-z0-9]{40,}"),
    *_tokens("openrouter_key", "sk-or-[a-z0-9]{1,4}-[a-f0-9]{40,}"),
    *_tokens("replicate_token", "r8_[A-Za-z0-9]{36,}"),
    *_tokens("nvidia_key", f"nvapi-{_ID}{{40,}}"),
    *_tokens("langsmith_key", "lsv2_[a-z]{2}_[a-f0-9_]{32,}"),
    *_tokens("telegram_token", f":AA{_ID}{{32,}}"),
    *_tokens("sendgrid_key", rf"SG\.{_ID}{{16,32}}\.{_ID}{{16,}}"),
    *_tokens("twilio_key", "SK[a-f0-9]{32}"),
    *_tokens("mailgun_key", "key-[a-f0-9]{32}"),
    *_tokens("shopify_token", *(f"shp{kind}_[a-fA-F0-9]{{32,}}" for kind in ("at", "ca", "pa", "ss"))),
    *_tokens("square_token", f"sq0atp-{_ID}{{22,}}", f"sq0csp-{_ID}{{22,}}"),
    *_tokens("digitalocean_token", *(f"do{kind}_v1_[a-f0-9]{{40,}}" for kind in "por")),
    *_tokens("databricks_token", "dapi[a-h0-9]{32,}"),
    *_tokens("vault_token", *(rf"hv{kind}\.{_ID}{{24,}}" for kind in "sbr"), joiner="."),
    *_tokens("terraform_token", rf"atlasv1\.{_ID}{{30,}}"),
    *_tokens("grafana_token", "glsa_[A-Za-z0-9_]{32,}", "glc_[A-Za-z0-9+/=]{32,}"),
    *_tokens("sentry_token", "sntrys_[A-Za-z0-9+/=_]{40,}", "sntryu_[a-f0-9]{40,}"),
    *_tokens("newrelic_key", "NRAK-[A-Z0-9]{27}"),
    *_tokens("atlassian_token", f"ATATT3{_ID}{{40,}}", f"ATBB{_ID}{{28,}}"),
    *_tokens("notion_token", "ntn_[A-Za-z0-9]{40,}", "secret_[A-Za-z0-9]{43}"),
    *_tokens("linear_key", "lin_api_[A-Za-z0-9]{32,}"),
    *_tokens("figma_token", f"figd_{_ID}{{36,}}"),
    *_tokens("postman_key", "PMAK-[a-f0-9]{24}-[a-f0-9]{30,}"),
    *_tokens("supabase_key", "sbp_[a-f0-9]{40,}", f"sb_secret_{_ID}{{20,}}"),
    *_tokens("planetscale_token", rf"pscale_tkn_{_ID}{{32,}}", rf"pscale_pw_{_ID}{{32,}}", joiner="."),
    *_tokens("doppler_token", r"dp\.pt\.[A-Za-z0-9]{40,}"),
    *_tokens("tailscale_key", f"tskey-{_ID}{{20,}}"),
    *_tokens("age_key", "AGE-SECRET-KEY-1[0-9A-Z]{50,}"),
    *_named(
        "named_secret",
        "client_secret app_secret api_secret api_token bot_token refresh_token session_token private_token secret_token"
        " secret_access_key jwt_secret signing_key signing_secret webhook_secret master_key consumer_secret account_key"
        " shared_access_key passphrase",
        "secret token key phrase",
    ),
    *_dsns("other_connection_string", _MORE_SCHEMES),
    rule_of("url_credentials", rf"{_USER}{{0,64}}:{_USER_INFO}{{1,128}}", kept=("://", "@")),
    rule_of("authorization", "[a-z0-9_+/=~-]{6,}", any_case=True, joiner=".", kept=(rf"authorization{_SCHEME}", "")),
    rule_of("password_option", _OPTION, any_case=True, kept=("--pass[a-z]{2,6} {1,4}", "")),
)
"""What else a team leaks today. Each with the shape that its issuer documents."""


def secret_named(key: str, rules: Iterable[AnyRule] = (*DEFAULT, *EXTENDED)) -> str | None:
    """The category of the secret that a key of structured data names, if it does."""
    return next((rule.category for rule in rules if isinstance(rule, Assignment) and rule.names_it(key)), None)
