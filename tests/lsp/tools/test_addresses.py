"""Which addresses of servers may stand in settings, which are stored and shown."""

import random
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.errors import ConfigError
from lsp.settings.compose import compose
from lsp.tools.addresses import address_problem, is_openai, without_addresses

INNOCENT = [
    "http://localhost:8000/score",
    "http://10.0.0.7:8000",
    "https://[::1]:8443/v1/",
    "https://api.openai.com/v1",
    "https://eu.api.openai.com/v1",
    "https://rewards.example.org/v2/llama3instruct/score?model=skywork-v2-llama-8b&batch=32",
    "https://x.openai.azure.com/openai/deployments/gpt-4o-2024-11-20?api-version=2024-10-21",
    "https://api.runpod.ai/v2/vllm-k0g6c60zor9xuu/openai/v1",
    "https://generativelanguage.googleapis.com/v1beta/openai/",
    "https://host/rewards?encode=true&author=me",
    f"https://host/endpoints/{uuid.UUID(int=0x123E4567E89B12D3A456426614174000)}/score",
    "https://host/MyRewardServerForTests",
]


@pytest.mark.parametrize("url", INNOCENT)
def test_addresses_as_people_write_them_are_taken(url):
    assert address_problem(url) == ""


def made(alphabet, length, seed=0):
    """A secret that opens nothing."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


HEX, MIXED = "0123456789abcdef", string.ascii_letters + string.digits
PLACES = {
    "a user": "https://{}@host/v1",
    "a password": "https://me:{}@host/v1",
    "a segment": "https://hooks.example.org/services/{}/score",
    "the last segment": "https://host/v1/{}",
    "?key": "https://host/v1?key={}",
    "?model": "https://host/v1?model={}",
    "&x": "https://host/v1?a=b&x={}",
    "the query": "https://host/v1?{}",
    ";jsessionid": "https://host/v1;jsessionid={}",
    "the fragment": "https://host/v1#{}",
}
NAMES = ["token", "api_key", "apiKey", "code", "X-Amz-Signature", "sig", "subscription-key",
         "access_token", "password", "client_secret", "auth", "sessionid"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("alphabet", "length"), [(HEX, 32), (HEX, 40), (MIXED, 20), (MIXED, 43)])
def test_a_credential_in_any_part_is_found_and_never_said(place, alphabet, length):
    for seed in range(20):
        secret = made(alphabet, length, seed)
        problem = address_problem(PLACES[place].format(secret))
        assert problem and secret not in problem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["abc", "hunter2", "%61bc"])
def test_a_parameter_that_is_called_a_credential_is_one_however_short(name, value):
    assert "credential in a parameter" in address_problem(f"https://host/v1?a=b&{name}={value}")


@pytest.mark.parametrize(
    "url", ["", "host:80/r", "ftp://host/r", "http:///r", "http://[::1", "http://h:99999/", "//h/r",
            "http://h\x00/", "http://h/\x1b[31m"]
)  # fmt: skip
def test_what_addresses_no_server_is_refused(url):
    assert address_problem(url) == "is no address of a server"


@given(st.text())
def test_any_text_has_an_outcome(text):
    assert isinstance(address_problem(text), str)
    assert isinstance(address_problem(f"https://{text}"), str)


GIVEN = [
    "https://host/r?token=SECRET",  # unquoted: no value, as Hydra reads it
    "'https://host/r?token=SECRET'",
    "https://SECRET@host/r",
    "'https://me:SECRET@host/r'",
    "https://host/SECRET",
    "[https://SECRET@host/r]x{",
]


@pytest.mark.parametrize("url", GIVEN)
@pytest.mark.parametrize("key", ["reward.url", "reward.urll"])
def test_no_error_about_a_setting_shows_the_credential(url, key):
    secret = made(MIXED, 24)
    with pytest.raises(ConfigError) as raised:
        compose(["reward=http", f"{key}={url.replace('SECRET', secret)}"])
    assert secret not in str(raised.value)


def test_openai_is_its_own_host_over_tls():
    assert is_openai("https://api.openai.com/v1") and is_openai("https://us.api.openai.com/v1")
    others = ["http://api.openai.com/v1", "https://api.openai.com.evil.org/v1", "http://h/",
              "https://evil.org/api.openai.com", "https://xapi.openai.com/"]  # fmt: skip
    assert not any(map(is_openai, others))


def test_addresses_are_left_out_of_what_cannot_be_read():
    assert without_addresses("reward.url=https://a:b@h/c?d=e: no") == "reward.url=https://… no"
