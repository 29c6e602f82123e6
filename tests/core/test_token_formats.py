"""
What tokens look like whose issuers give them a prefix. Made up here, in pieces: no file has a whole one.
"""

import pytest

from reconciler.core.token_formats import FORMATS, find_tokens, hide_tokens

MIXED = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6kL9nO2qR5tU8wX1zA4cD7fG0iJ3lM6oP9rS2uV5xY8"
LARGE = MIXED.upper()
HEX = "0123456789abcdef" * 8
TOKENS = {
    "GitHub token": ["ghp_" + MIXED[:36], "github_pat_" + MIXED[:22] + "_" + MIXED[:59]],
    "GitLab token": ["glpat-" + MIXED[:20], "glrt-" + MIXED[:10] + "-" + MIXED[:12]],
    "AWS access key": ["AKIA" + "Q2W3E4R5T6Y7UIOP"],
    "OpenAI key": ["sk-proj-" + MIXED[:48], "sk-" + MIXED[:20] + "T3BlbkFJ" + MIXED[:20]],
    "Anthropic key": ["sk-ant-api03-" + MIXED + MIXED[:14]],
    "Google key": ["AIza" + MIXED[:35], "GOCSPX-" + MIXED[:28]],
    "Slack token": ["xoxb-" + "123456789012-" + MIXED[:24], "xapp-1-" + MIXED[:30]],
    "Slack webhook": ["https://hooks.slack.com/services/T0AB12CD3/B0AB12CD3/" + MIXED[:24]],
    "Stripe key": ["sk_live_" + MIXED[:24], "rk_live_" + MIXED[:24]],
    "npm token": ["npm_" + MIXED[:36]],
    "PyPI token": ["pypi-AgE" + MIXED[:60]],
    "RubyGems key": ["rubygems_" + HEX[:48]],
    "Docker token": ["dckr_pat_" + MIXED[:27]],
    "Vault token": ["hvs." + MIXED[:24]],
    "DigitalOcean token": ["dop_v1_" + HEX[:64]],
    "Hugging Face token": ["hf_" + MIXED[:34]],
    "SendGrid key": ["SG." + MIXED[:22] + "." + MIXED[:43]],
    "Shopify token": ["shpat_" + HEX[:32]],
    "Telegram token": ["123456789:AA" + MIXED[:33]],
    "Databricks token": ["dapi" + HEX[:32]],
    "Grafana token": ["glsa_" + MIXED[:32] + "_" + HEX[:8]],
    "Azure storage key": ["AccountKey=" + (MIXED * 2)[:86] + "=="],
    "age key": ["AGE-SECRET-KEY-1" + LARGE[:58]],
    "private key": ["-----BEGIN " + kind + "-----" for kind in ("PRIVATE KEY", "OPENSSH PRIVATE KEY")],
}


@pytest.mark.parametrize(("name", "token"), [(name, token) for name in TOKENS for token in TOKENS[name]])
@pytest.mark.parametrize("around", ["{}", "key = '{}'", "KEY={}\n", "https://x:{}@host/", '{{"a":"{}"}}'])
def test_a_token_is_found_whole_wherever_it_stands(name, token, around):
    text = around.format(token)

    found = list(find_tokens(text))

    assert [(each.name, text[each.start : each.end]) for each in found] == [
        (name, token.split("https://")[-1])
    ]


def test_every_format_is_tried_here():
    assert TOKENS.keys() == {*FORMATS, "private key"}


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "x" * 36,
        "AKIA" + "IOSFODNN7" + "EXAMPLE",
        "a_ghp_" + MIXED[:36],
        "sk-learn-and-other-words-that-begin-so",
        "npm_config_registry_of_this_very_long_variable_name",
        "hf_hub_download_and_other_functions_of_a_module",
        HEX,
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "sk_live_" + "0" * 24,
    ],
)
def test_placeholders_names_and_hashes_are_no_tokens(text):
    assert list(find_tokens(text)) == []


def test_a_text_is_shown_without_its_tokens():
    assert hide_tokens(f"of {TOKENS['npm token'][0]}.txt") == f"of {'*' * 40}.txt"
