"""Secrets are found in text, whatever their format and wherever they stand; harmless text is left
alone. The planted ones are made up when the tests run (tests/planted.py); the harmless lines are
of this project's own diffs, and written like those of others (innocent_lines.txt)."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import FORMATS, NAMED, PATHS, draw, planted_lines, private_key

from lsp.tools.secrets import HIDDEN, Finding, blank, findings, scrub

INNOCENT = Path(__file__).with_name("innocent_lines.txt").read_text(encoding="utf-8").splitlines()


def remains(secret, text, length=12):
    """Whether any ``length`` neighbouring characters of a secret stand in a text."""
    pieces = (secret[start : start + length] for start in range(len(secret) - length + 1))
    return any(piece in text for piece in pieces)


@pytest.mark.parametrize("seed", [1, 2])
def test_200_planted_secrets_of_60_formats_are_hidden_to_the_last_piece(seed):
    assert len(FORMATS) >= 60 and len(NAMED) == 7
    lines = planted_lines(200, seed)
    assert [line for _, secret, line in lines if remains(secret, scrub(line, {}))] == []


def test_200_innocent_lines_are_left_alone():
    assert len(set(INNOCENT)) == 200
    assert [(line, findings(line, {})) for line in INNOCENT if scrub(line, {}) != line] == []


def test_a_whole_diff_of_innocent_lines_is_left_alone_and_a_secret_in_it_is_found():
    diff = "\n".join(INNOCENT)
    assert findings(diff, {}) == ()
    secret = draw(FORMATS["Groq"], random.Random(3))
    (found,) = findings(f"{diff}\n+    {secret}\n{diff}", {})
    assert (found.start, found.end) == (len(diff) + 6, len(diff) + 6 + len(secret))


@pytest.mark.parametrize("prefix", ["", "+", "-", " ", "+        ", '+    "'])
@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
def test_the_body_of_a_private_key_is_hidden_also_in_a_diff(kind, prefix):
    lines = private_key(kind, random.Random(4), prefix)
    shown = scrub("\n".join(["before", *lines, "after"]), {})
    assert shown == f"before\n{prefix}{HIDDEN}\nafter"
    cut = "\n".join(["before", *lines[:5], "after"])  # its end is beyond the diff's context
    assert scrub(cut, {}) == f"before\n{prefix}{HIDDEN}\nafter"


def test_a_private_key_in_one_line_of_json_is_hidden_and_its_mere_mention_is_not():
    lines = private_key("", random.Random(5))
    assert scrub('"private_key": "{}\\n",'.format("\\n".join(lines)), {}) in (
        f'"private_key": "{HIDDEN}\\n",'
    )
    mention = "what stands between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----"
    assert scrub(mention, {}) == mention


@pytest.mark.parametrize("template", PATHS)
def test_an_address_that_is_a_key_itself_is_hidden(template):
    address = draw(template, random.Random(6))
    assert HIDDEN in scrub(f'post("{address}")', {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass-word@host:80/p?x=1", "http://[hidden]@host:80/p?x=1"),
        ("https://my-token@host/p", "https://[hidden]@host/p"),
        ("redis://:pass-word@host", "redis://[hidden]@host"),
        ("http://me:p@ssw@rd@host/", "http://[hidden]@host/"),
        ("https://host/p?x=1&key=my-own&y=2", "https://host/p?x=1&key=[hidden]&y=2"),
        ("https://host/p?token=my-own", "https://host/p?token=[hidden]"),
        ("https://host/p?sig=my-own#part", "https://host/p?sig=[hidden]#part"),
        ("https://host/p?access_token=my-own", "https://host/p?access_token=[hidden]"),
        ("Authorization: Bearer mine-alone", "Authorization: Bearer [hidden]"),
        ("{'authorization': 'Basic bWU6bWU='}", "{'authorization': 'Basic [hidden]'}"),
        ("Cookie: sid=abc123def", "Cookie: [hidden]"),
        ("curl -u me:pass-word host", "curl -u [hidden] host"),
        ("PASSWORD=correct-horse", "PASSWORD=[hidden]"),
        ("password = '$3cret!word'", "password = '[hidden]'"),
        ("https://me:@dm1n@host/", "https://[hidden]@host/"),
        ("DB_PASSWORD=correcthorse", "DB_PASSWORD=[hidden]"),
        ("password: correcthorse", "password: [hidden]"),
        ("serve --password correcthorse --port 80", "serve --password [hidden] --port 80"),
        ("API_KEY=ab(c[12)3\n", "API_KEY=[hidden]\n"),
        ('api_key: str | None = "abc12345"', 'api_key: str | None = "[hidden]"'),
        ('setenv("MY_TOKEN", "abc12345")', 'setenv("MY_TOKEN", "[hidden]")'),
        ('os.environ["MY_TOKEN"] = "abc12345"', 'os.environ["MY_TOKEN"] = "[hidden]"'),
        ("<apiKey>abc12345</apiKey>", "<apiKey>[hidden]</apiKey>"),
    ],
)
def test_what_stands_in_a_place_of_secrets_is_hidden_and_the_rest_stays(text, shown):
    assert scrub(text, {}) == shown
    assert scrub(shown, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://$USER:$PASSWORD@host/",
        "https://{user}:{password}@host/",
        "PASSWORD=$MY_PASSWORD",
        "api_key: ***********1",
        "password = '%(password1)s'",
        "https://host/p?key=<yours>&token=${TOKEN}",
        "ssh://git@host/team/project.git",
        'headers = {"Authorization": "Bearer " + token}',
        "password = get_password()",
        "token = tokens[17]",
        "secret = config.secret_2024",
        'login("somebody")',
        "if token > threshold_of_2024:",
        'names = ["token", "answer12", "key", "value_1"]',
        'names = ["PGPASSWORD", "MY_SECRET", "HF_TOKEN"]',
        "docker run -u 1000:1000 image",
    ],
)
def test_a_place_of_secrets_without_one_is_left_alone(text):
    assert scrub(text, {}) == text


WORDY = "my-very-own-words"


@pytest.mark.parametrize(
    "name", ["JUDGE_KEY", "HF_TOKEN", "PGPASSWORD", "MY_SECRET", "AWS_ACCESS_KEY_ID", "apiKey"]
)
def test_values_of_variables_that_name_a_secret_are_hidden_as_such(name):
    environment = {name: WORDY, "HOME": "/home/me"}
    assert scrub(f"run.py judge={WORDY} at /home/me", environment) == (
        f"run.py judge={HIDDEN} at /home/me"
    )
    (found,) = findings(WORDY, environment)
    assert found == Finding(f"value of {name}", 0, len(WORDY))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEY_DIR", "/some/path"),
        ("KEY_DIR", "keys/of/mine"),
        ("SSH_KEY_PATH", "~/.ssh/id_rsa"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/google/service.json"),
        ("SSH_AUTH_SOCK", "/tmp/ssh-1/agent.1234"),
        ("TOKENIZERS_PARALLELISM", "false" * 2),
        ("XDG_SESSION_ID", "session-42"),
        ("KEYBOARD", "german-latin1"),
        ("MONKEY_BUSINESS", "as-usual-here"),
        ("MAX_TOKENS", "1000000000"),
        ("SORT_KEY", "accuracy"),
        ("SHORT_KEY", "abc"),
        ("EMPTY_KEY", ""),
    ],
)
def test_values_that_are_no_secrets_by_whatever_name_are_left_alone(name, value):
    text = f"python run.py run_dir={value}/run"
    assert scrub(text, {name: value}) == text


def test_findings_say_of_what_kind_and_where_and_those_that_meet_are_one():
    secret = draw(FORMATS["GitHub"], random.Random(7))
    text = f"GITHUB_TOKEN={secret} and https://me:pass-word@host/"
    first, second = findings(text, {"CI_TOKEN": secret})
    assert first == Finding("value of CI_TOKEN", 13, 13 + len(secret))
    assert second.kind == "credentials in an address"
    assert blank(text, (first, second)) == (f"GITHUB_TOKEN={HIDDEN} and https://{HIDDEN}@host/")
    (by_itself,) = findings(secret, {})
    assert by_itself.kind == "github-pat"


PIECES = st.sampled_from(
    [
        *(
            "-----BEGIN PRIVATE KEY-----",
            "://",
            "@",
            "?key=",
            "token",
            "='",
            '"',
            "\n",
            "+",
            "AKIA",
        ),
        *("Authorization: Bearer ", "eyJ", ".", "a", "1", "/", "\\n", "é", "\ud800", "İ", "\x00"),
    ]
)


@given(st.text() | st.lists(PIECES).map("".join), st.dictionaries(st.text(), st.text()))
def test_any_text_has_findings_in_order_and_outside_of_them_nothing_changes(text, environment):
    found = findings(text, environment)
    ends = [0, *(place for finding in found for place in (finding.start, finding.end)), len(text)]
    assert ends == sorted(ends) and all(finding.start < finding.end for finding in found)
    kept = [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
    assert scrub(text, environment) == HIDDEN.join(kept)


@pytest.mark.parametrize(
    "unit",
    ["a", "aA1", "key=", "ey", "://", "a@", "?key=", " ", "token(",
     "-----BEGIN RSA PRIVATE KEY-----", "eyJaaaaaaaaaa.", "--token ", "http://a/hooks/",
     "authorization: ", "\n", "QUJD", "\\n"],
)  # fmt: skip
def test_a_text_of_one_thing_takes_time_in_proportion_to_its_length(unit):
    """A tenth of a second at this length; what grows with its square takes minutes. The time is
    the processor's, which does not count others' work."""
    text = (unit * 100_000)[:100_000]
    start = time.process_time()
    scrub(text, {"A_TOKEN": "aaaaaaaaaaa1"})
    assert time.process_time() - start < 30
