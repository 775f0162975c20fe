"""What a judge's server can say, and what is made of it."""

import json
import math

import pytest
from bad_answers import completion, logprobs_of
from hypothesis import given
from hypothesis import strategies as st

from lsp.judging.replies import (
    Fault,
    NoVerdict,
    expected,
    fault_of,
    label_of,
    of_fault,
    read_from,
    read_response,
    setting_that_mends,
    tokens_of,
)

LABELS = ("m", "M")
SECOND_WINS = {"m": 1.0, "M": 2.0}
REQUEST = {"model": "j", "messages": [], "max_tokens": 1, "temperature": 0.0, "logprobs": True,
           "top_logprobs": 5}  # fmt: skip
SURE = logprobs_of(
    {"token": "M", "logprob": math.log(0.75)}, {"token": " m", "logprob": math.log(0.25)}
)


@pytest.mark.parametrize(
    "text",
    ["M", " M\n", "M.", "**M**", "**M.**", "**M**.", '"M"', "`M`", "'M'.", "<think>m?</think>M",
     "\n<think>\nm or M\n</think>\n\n**M**", "m is shorter, so\n</think>\nM"],
)  # fmt: skip
def test_a_label_is_read_by_one_strict_rule(text):
    assert label_of(text, LABELS) == "M" and label_of(text.replace("M", "m"), LABELS) == "m"


@pytest.mark.parametrize(
    "text",
    ["", "M or m?", "M?", "M m", "mM", "M..", "**M", "M**", "'M\"", "Output M", "output_M", "N",
     "М", "M</think>", "<think>M", "M<think></think>m", "I choose <think>m</think>M", "M!", "(M)"],
)  # fmt: skip
def test_what_is_not_a_label_alone_is_none(text):
    assert label_of(text, LABELS) is None


@given(st.text())
def test_a_label_is_never_made_up(text):
    label = label_of(text, LABELS)
    assert label is None or label in text


def test_log_probs_decide_and_else_the_text():
    by_logprobs = read_response(completion(logprobs=SURE), REQUEST, LABELS)
    # P(m) = 1/4: the second output is preferred by 2 - 1/4.
    assert expected(by_logprobs, SECOND_WINS) == pytest.approx(1.75)
    assert read_from(by_logprobs, LABELS) == "logprobs"


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": None}, {"content": []}, {"content": [{}]}, {"content": "x"}, [], "no",
     {"content": [{"top_logprobs": None}]}, {"content": [{"top_logprobs": []}]}],
)  # fmt: skip
def test_without_log_probs_a_readable_label_is_a_verdict_of_text(logprobs):
    response = read_response(completion("M.", logprobs=logprobs), REQUEST, LABELS)
    assert response == {"text": "M.", "top_logprobs": []} and read_from(response, LABELS) == "text"
    assert expected(response, SECOND_WINS) == 2.0


@pytest.mark.parametrize("more", [{"reasoning": "Maybe"}, {"reasoning_content": "Maybe"}])
def test_log_probs_of_reasoning_are_not_those_of_the_label(more):
    """Their first token may be the M of "Maybe"."""
    for told in (
        completion("m", logprobs=SURE, **more),
        completion("<think>M</think>m", logprobs=SURE),
    ):
        response = read_response(told, REQUEST, LABELS)
        assert (read_from(response, LABELS), expected(response, SECOND_WINS)) == ("text", 1.0)


NO_VERDICTS = {
    "length": (
        completion("", "length"),
        True,
        "cut at max_tokens=1 before any answer; raise",
    ),
    "refusal": (completion(None, refusal="I can't."), True, "refusal: I can't."),
    "content_filter": (completion("", "content_filter"), True, "content filter"),
    "unreadable": (completion("Both", "stop"), False, "unreadable answer 'Both'"),
    "shape": ({"choices": [{}]}, False, "no choices[0].message in {'choices': [{}]}"),
}


@pytest.mark.parametrize("reason", NO_VERDICTS)
def test_each_reason_has_a_word_and_says_whether_asking_again_helps(reason):
    body, final, says = NO_VERDICTS[reason]
    found = read_response(body, REQUEST, LABELS)
    assert (found.reason, found.final) == (reason, final) and says in found.text


def test_what_was_cut_after_a_word_names_the_setting_too():
    found = read_response(completion("The", "length"), REQUEST, LABELS)
    assert found.text == "unreadable answer 'The' (cut at max_tokens=1)" and not found.final


def test_an_unfinished_thought_that_was_cut_is_the_limits_fault():
    assert read_response(completion("<think>Let me", "length"), REQUEST, LABELS).reason == "length"


def test_an_error_inside_a_200_is_an_error():
    for body in ({"error": {"message": "overloaded", "code": 502}},
                 {"choices": [{"error": {"message": "overloaded", "code": 502}}]}):  # fmt: skip
        fault = read_response(body, REQUEST, LABELS)
        assert fault == Fault(502, "", "", "overloaded", of_status=False)
        assert of_fault(fault) == NoVerdict("http_502", "an error inside a 200: overloaded")


REFUSED_PARAMETERS = [
    ("Unsupported parameter: 'max_tokens' is not supported with this model. Use"
     " 'max_completion_tokens' instead.", "max_tokens_name=max_completion_tokens"),
    ("Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1)"
     " value is supported.", "temperature=null"),
    ("`temperature` is deprecated for this model.", "temperature=null"),
    ("You are not allowed to request logprobs from this model.", "logprobs=false"),
    ("logprobs is not supported with this model", "logprobs=false"),
    ("Unrecognized request argument supplied: top_logprobs", "logprobs=false"),
    ("max_tokens is too large: 1. This model supports at most 0", "max_tokens=<less>"),
    ("Invalid 'max_tokens': integer below minimum value. Expected a value >= 16, but got 1",
     "max_tokens=<more>"),
    # These are about one prompt, or about nothing that we send.
    ("This model's maximum context length is 8192 tokens. 'max_tokens' is not supported", None),
    ("'max_tokens' or 'max_completion_tokens' is too large: 1. This model's maximum context length"
     " is 32 tokens and your request has 99 input tokens", None),
    ("Unsupported parameter: 'reasoning_effort'", None),
    ("the temperature outside is 20 degrees", None),
    ("bad request", None),
]  # fmt: skip


@pytest.mark.parametrize(("message", "mends"), REFUSED_PARAMETERS)
@pytest.mark.parametrize("form", ["openai", "plain", "detail"])
def test_a_refused_parameter_names_the_setting_that_mends_it(message, mends, form):
    body = {"openai": {"error": {"message": message, "param": None, "code": None}},
            "plain": {"message": message}, "detail": {"detail": message}}[form]  # fmt: skip
    assert setting_that_mends(fault_of(400, json.dumps(body).encode()), REQUEST) == mends
    assert setting_that_mends(fault_of(500, json.dumps(body).encode()), REQUEST) is None


def test_the_other_name_of_the_limit_is_found_in_both_directions():
    request = {"max_completion_tokens": 1}
    body = b'{"error": {"message": "Unrecognized request argument: max_completion_tokens"}}'
    assert setting_that_mends(fault_of(400, body), request) == "max_tokens_name=max_tokens"


def test_the_parameter_that_the_server_names_is_the_one():
    error = {"message": "invalid, see temperature and logprobs", "param": "messages"}
    assert setting_that_mends(fault_of(400, json.dumps({"error": error}).encode()), REQUEST) is None
    named = {**error, "param": "temperature"}
    fault = fault_of(400, json.dumps({"error": named}).encode())
    assert setting_that_mends(fault, REQUEST) == "temperature=null"


def test_the_prompt_that_a_422_says_back_is_not_read():
    detail = [{"loc": ["body", "seed"], "msg": "Field required", "input": "temperature invalid"}]
    fault = fault_of(422, json.dumps({"detail": detail}).encode())
    assert fault.message == "['body', 'seed']: Field required"
    assert setting_that_mends(fault, REQUEST) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"code": "content_filter", "message": "triggered"}}, "content_filter"),
        ({"error": {"message": "Azure OpenAI's content management policy"}}, "content_filter"),
        ({"error": {"message": "max_tokens or model output limit was reached"}}, "length"),
        ({"error": {"message": "context length exceeded"}}, "refused"),
    ],
)
def test_a_400_leaves_one_pair_out_by_its_reason(body, reason):
    found = of_fault(fault_of(400, json.dumps(body).encode()))
    assert found.reason == reason and found.final


NAMES = st.sampled_from(
    ["error", "choices", "message", "content", "detail", "code", "param", "logprobs",
     "top_logprobs", "token", "logprob", "finish_reason"]
)  # fmt: skip
PLAIN = st.none() | st.booleans() | st.floats() | st.integers() | st.text()


@given(st.recursive(PLAIN, lambda part: st.lists(part) | st.dictionaries(NAMES, part)))
def test_any_json_has_an_outcome(body):
    found = read_response(body, REQUEST, LABELS)
    if isinstance(found, dict):
        assert expected(found, SECOND_WINS) is not None
    fault = found if isinstance(found, Fault) else fault_of(400, json.dumps(body).encode())
    assert setting_that_mends(fault, REQUEST) or of_fault(fault)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        "x",
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": -(10**9)},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 10**400, "completion_tokens": 1},
        {"prompt_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 5.5, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": 17},
    ],
)
def test_counts_that_cannot_be_are_no_counts(usage):
    assert tokens_of(usage, most_prompt=100, most_answer=16) is None
    assert tokens_of({"prompt_tokens": 100, "completion_tokens": 16}, 100, 16) == (100, 16)


DIGITS = {str(digit): digit for digit in range(10)}


def test_a_grade_is_the_mean_over_the_digits_that_are_listed():
    top = [("7", 0.6), (" 7", 0.1), ("3", 0.2), ("Well", 0.1)]
    entries = [{"token": token, "logprob": math.log(p)} for token, p in top]
    response = read_response(completion("7", logprobs=logprobs_of(*entries)), REQUEST, DIGITS)
    # 7 with 0.7 and 3 with 0.2, of 0.9.
    assert expected(response, DIGITS) == pytest.approx((0.7 * 7 + 0.2 * 3) / 0.9)
    assert expected({"text": "**7**."}, DIGITS) == 7


@pytest.mark.parametrize("text", ["7/9", "3.5", "10", "seven", "７", "-1", "7 8"])
def test_what_is_no_digit_alone_is_no_grade(text):
    found = read_response(completion(text), REQUEST, DIGITS)
    assert (found.reason, found.of_texts) == ("unreadable", True)


@given(
    st.lists(st.floats(-1e9, 0), min_size=1, max_size=10),
    st.floats(-1e6, 1e6), st.floats(-1e6, 1e6),
)  # fmt: skip
def test_a_mean_lies_among_its_values(logprobs, low, high):
    top = [[str(digit), logprob] for digit, logprob in enumerate(logprobs)]
    values = {str(digit): low if digit % 2 else high for digit in range(10)}
    mean = expected({"text": "0", "top_logprobs": top}, values)
    assert min(low, high) <= mean <= max(low, high)


def test_without_labels_any_text_is_an_answer_and_kept_whole():
    text = "a long answer,\nin lines " * 100
    assert read_response(completion(text), REQUEST, None) == {"text": text.strip()}
    thought = completion("<think>so</think> yes")
    assert read_response(thought, REQUEST, None) == {"text": "yes"}
    assert read_response(completion(" "), REQUEST, None) == NoVerdict(
        "unreadable", "an empty answer"
    )


@pytest.mark.parametrize("reason", ["shape", "no_answer", "http_500"])
def test_what_a_server_does_is_not_about_texts(reason):
    assert not NoVerdict(reason, "it failed").of_texts
