"""Secrets are taken out of text; harmless text stays as it is."""

import pytest

from lsp.tools.secrets import HIDDEN, scrub

# Made up; none of them opens anything.
PLANTED = {
    "by name": "zzTop" + "SecretValue123",
    "openai": "sk-proj-" + "abcDEF0123456789abcDEF",
    "hub": "hf_" + "abcdefghijKLMNOP1234",
    "github": "ghp_" + "abcdefghij0123456789KLMNOPqrst",
    "url": "hunter2" * 2,
    "assigned": "f00dface" * 2,
}


@pytest.mark.parametrize(
    "text",
    [
        f"run.py judge={PLANTED['by name']}",
        f"key {PLANTED['openai']} in a sentence",
        f"+TOKEN = '{PLANTED['hub']}'",
        f"git clone {PLANTED['github']}",
        f"https://me:{PLANTED['url']}@host/path?x=1",
        f'{{"api_key": "{PLANTED["assigned"]}"}}',
        f"my_password: {PLANTED['assigned']}",
        f"Authorization: Bearer {PLANTED['assigned']}",
    ],
)
def test_secrets_are_hidden(text):
    found = scrub(text, {"MY_SERVICE_KEY": PLANTED["by name"], "HOME": "/home/me"})
    assert HIDDEN in found
    assert not any(secret in found for secret in PLANTED.values())


@pytest.mark.parametrize(
    "text",
    [
        "num_tokens = 3",
        "python run.py method=lsp method.beta=0.1",
        "self.tokenizer = tokenizer",
        "the key to the door",
        "https://host/path",
        "token: null",
    ],
)
def test_harmless_text_is_left_alone(text):
    assert scrub(text, {"KEY": "", "SHORT_KEY": "abc"}) == text
