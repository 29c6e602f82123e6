"""
Token formats: what tokens and keys look like whose issuers give them a fixed prefix.

A prefix is there so that such searches find it; each is documented by whoever
issues the token. What has none (passwords, plain hexadecimal digits) cannot be
told from other text and is not looked for.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_LOOKED_AT, _LEAST_DIFFERENT = 16, 6
"""Last characters of a token, and how many are different at least; `ghp_xxxxxxxx…` is a placeholder."""

FORMATS: Mapping[str, str] = {
    # docs.github.com: About authentication to GitHub, token formats
    "GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    # docs.gitlab.com: Token overview, token prefixes
    "GitLab token": r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_.-]{20,300}",
    # docs.aws.amazon.com: IAM identifiers, unique ID prefixes
    "AWS access key": r"A(?:KIA|SIA)[A-Z2-7]{16}",
    # platform.openai.com and platform.claude.com: API keys
    "OpenAI key": r"sk-(?:(?:proj|svcacct|admin)-[\w-]{40,200}|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20})",
    "Anthropic key": r"sk-ant-[a-z]{2,8}\d{2}-[A-Za-z0-9_-]{80,120}",
    # cloud.google.com: API keys; OAuth 2.0 client secrets
    "Google key": r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}",
    # api.slack.com: Token types; Incoming webhooks
    "Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{20,250}",
    "Slack webhook": r"hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,30}",
    # docs.stripe.com: API keys
    "Stripe key": r"[rs]k_live_[A-Za-z0-9]{16,250}",
    # docs.npmjs.com, docs.pypi.org, guides.rubygems.org, docs.docker.com: access tokens
    "npm token": r"npm_[A-Za-z0-9]{36}",
    "PyPI token": r"pypi-AgE[A-Za-z0-9_-]{50,300}",
    "RubyGems key": r"rubygems_[0-9a-f]{48}",
    "Docker token": r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{27,60}",
    # developer.hashicorp.com: Vault tokens
    "Vault token": r"hv[sbr]\.[A-Za-z0-9_-]{24,300}",
    # docs.digitalocean.com: API tokens
    "DigitalOcean token": r"do[opr]_v1_[0-9a-f]{64}",
    # huggingface.co: User access tokens
    "Hugging Face token": r"hf_[A-Za-z0-9]{34,40}",
    # docs.sendgrid.com: API keys
    "SendGrid key": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    # shopify.dev: access token formats
    "Shopify token": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    # core.telegram.org: bot tokens
    "Telegram token": r"\d{8,10}:AA[A-Za-z0-9_-]{33}",
    # docs.databricks.com: personal access tokens
    "Databricks token": r"dapi[0-9a-f]{32}(?:-\d)?",
    # grafana.com: service account tokens
    "Grafana token": r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}",
    # learn.microsoft.com: Azure Storage connection strings
    "Azure storage key": r"AccountKey=[A-Za-z0-9+/]{86}==",
    # github.com/FiloSottile/age
    "age key": r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
}
"""Name → how such a token is written. Regular expressions."""

# RFC 7468; OpenSSH and PGP write the same line.
_KEY = r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_KEY_NAME = "private key"
_EXAMPLE = re.compile(r"EXAMPLE(?:KEY)?$")
"""How the keys end that the documentation of AWS uses."""


class Token(NamedTuple):
    """What looks like a token in a text."""

    start: int
    end: int
    name: str
    """Of its format."""


def find_tokens(text: str) -> Iterator[Token]:
    """Yield what looks like a token or a private key, in order; placeholders are left out."""
    for match in _ANY.finditer(text):
        name = _NAMES[match.lastgroup or ""]
        if name == _KEY_NAME or _is_real(match[0]):
            yield Token(match.start(), match.end(), name)


def hide_tokens(text: str) -> str:
    """Return a text with asterisks for what looks like a token."""
    for token in find_tokens(text):
        text = text[: token.start] + "*" * (token.end - token.start) + text[token.end :]
    return text


def _is_real(text: str) -> bool:
    return len(set(text[-_LOOKED_AT:])) >= _LEAST_DIFFERENT and not _EXAMPLE.search(text)


_NAMES = {f"format{number}": name for number, name in enumerate([*FORMATS, _KEY_NAME])}
_WHOLE = [rf"(?<![A-Za-z0-9_])(?:{pattern})(?![A-Za-z0-9])" for pattern in FORMATS.values()]
_ANY = re.compile(
    "|".join(f"(?P<{group}>{pattern})" for group, pattern in zip(_NAMES, [*_WHOLE, _KEY], strict=True)),
    re.ASCII,
)
